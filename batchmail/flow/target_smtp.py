"""Giving transactions to an SMTP or LMTP server, and learning what became of each recipient.

Sources: RFC 5321 §4.2 to §4.5, 2033 §4, 2920 §3.1.  Beyond them: a session that
ends before the final dot is gone on with in a fresh one, as long as that brings
something.  After the final dot only a reply counts: without one the recipients
are in doubt, which is temporary.
"""

from collections.abc import Callable, Iterable, Iterator

from batchmail.core.envelope import Recipient, format_mail, format_rcpt
from batchmail.core.errors import LineError, PeerError, TargetDown
from batchmail.core.outcome import DELAYED, FAILED
from batchmail.core.reply import Reply, show
from batchmail.flow.delivery import Attempt, BeforeDot, Delivery, Settled
from batchmail.flow.smtp_session import Session, SessionEnded
from batchmail.flow.target_spec import TargetSpec
from batchmail.proto.smtp_client import Command, Verb, groups
from batchmail.proto.smtp_offer import Content, Plan, plan
from batchmail.proto.smtp_verdict import Verdict, later, names_too_many, refused, refused_recipient, taken

BLOCK_OCTETS = 65_536  # content is written in blocks of at least this much
_DATA = Command(Verb.DATA, b"DATA")
Numbered = tuple[tuple[int, Recipient], ...]


class SmtpTarget:
    """A server, and the session with it that is open."""

    def __init__(self, spec: TargetSpec, me: str, now_ms: Callable[[], int]):
        self._spec, self._me, self._now_ms = spec, me, now_ms
        self._session: Session | None = None

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        attempt = Attempt(delivery, settled, self._now_ms)
        try:
            while attempt.pending:
                self._try(attempt, before_dot)
        except TargetDown as down:
            if not attempt.has_settled:
                raise
            attempt.settle_pending(DELAYED, down.status, str(down).encode())
        except BaseException:
            self._drop()
            raise

    def close(self) -> None:
        session, self._session = self._session, None
        if session:
            session.quit()

    def _try(self, attempt: Attempt, before_dot: BeforeDot) -> None:
        """One transaction; who is still pending after it needs another."""
        session = self._open()
        was_fresh, were_pending = session.transactions == 0, len(attempt.pending)
        try:
            _Transaction(self._spec, session, attempt, before_dot).run()
        except (LineError, PeerError) as error:
            self._drop()
            if was_fresh and len(attempt.pending) == were_pending:  # another session would fare no better
                _delay(attempt, error, session.offer.mta)

    def _open(self) -> Session:
        session = self._session
        if session and not session.is_full and session.is_usable():
            return session
        self.close()
        self._session = Session(self._spec, self._me)
        return self._session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session:
            session.drop()


def _delay(attempt: Attempt, error: LineError | PeerError, mta: bytes) -> None:
    if isinstance(error, SessionEnded):
        reply = error.reply
        for number in tuple(attempt.pending):
            attempt.settle(number, DELAYED, reply.code, later(reply).status, reply.text, mta)
    else:
        attempt.settle_pending(DELAYED, "4.4.2", str(error).encode(), mta)


class _Transaction:
    """MAIL to the final dot, for the recipients pending, or as many of them as go together."""

    def __init__(self, spec: TargetSpec, session: Session, attempt: Attempt, before_dot: BeforeDot):
        self._spec, self._session, self._attempt, self._before_dot = spec, session, attempt, before_dot
        self._offer = session.offer
        self._mail_taken = False
        self._accepted: list[int] = []
        self._is_full = False  # the server takes no further recipients in this transaction

    def run(self) -> None:
        planned = self._plan()
        for number, status, text in planned.refusals:
            self._attempt.settle(number, FAILED, 0, status, text, self._offer.mta)
        if not planned.recipients:
            return
        if self._session.needs_reset:
            self._reset()
        self._session.transactions += 1
        self._send_envelope(planned)
        if self._session.wants_content and self._accepted:
            self._send_content()
        elif self._session.wants_content:
            self._withdraw()

    def _plan(self) -> Plan:
        delivery = self._attempt.delivery
        content = Content(delivery.size_octets, delivery.eightbit, delivery.utf8_header)
        return plan(
            delivery.envelope,
            self._attempt.pending,
            content,
            self._offer,
            self._session.authenticated,
            self._spec.send_eightbit,
        )

    def _reset(self) -> None:
        reply = self._session.ask(Command(Verb.RSET, b"RSET"))
        if reply.digit != 2:
            raise SessionEnded(reply)

    def _withdraw(self) -> None:
        """DATA went out with the envelope and got its 354, but nobody was accepted."""
        if self._spec.scheme == "lmtp":  # how many answers the end of data would get now, nobody can say
            raise LineError("the server wants content although it accepted nobody")
        # RFC 2920 §3.1: a lone dot, and whatever the answer is, nobody was accepted.
        self._session.finish_content(b"")
        for _ in self._session.answers_to_end():
            pass

    # The envelope

    def _send_envelope(self, planned: Plan) -> None:
        recipients = self._together(planned.recipients)
        mail = Command(Verb.MAIL, format_mail(planned.sender, planned.parameters))
        rcpts = [Command(Verb.RCPT, format_rcpt(recipient), number) for number, recipient in recipients]
        for group in groups([mail, *rcpts, _DATA], self._offer.has(b"PIPELINING")):
            if group == [_DATA]:
                break
            for command, reply in self._session.exchange(group):
                self._read_answer(command, reply, recipients)
            if not self._mail_taken or self._is_full or group[-1] == _DATA:
                break
        if self._accepted and not self._session.wants_content:
            self._read_answer(_DATA, self._session.ask(_DATA), recipients)

    def _together(self, recipients: Numbered) -> Numbered:
        """Those that may share a transaction with the first."""
        if not self._offer.habits.mixed_dsn:
            first = recipients[0][1].parameters
            recipients = tuple((n, r) for n, r in recipients if r.parameters == first)
        return recipients[: self._offer.limit(b"RCPTMAX") or None]

    def _read_answer(self, command: Command, reply: Reply, recipients: Numbered) -> None:
        if command.verb is Verb.MAIL:
            self._read_mail(reply, recipients)
        elif command.verb is Verb.RCPT and self._mail_taken:
            self._read_rcpt(reply, command.recipient)
        elif command.verb is Verb.DATA and reply.digit > 3:
            self._settle_accepted(reply)

    def _read_mail(self, reply: Reply, recipients: Numbered) -> None:
        self._mail_taken = reply.digit == 2
        if reply.code == 452 and reply.status == "4.5.3":  # too many messages in this session
            raise SessionEnded(reply)
        if not self._mail_taken:
            for number, _ in recipients:
                self._settle(number, refused(reply), reply)

    def _read_rcpt(self, reply: Reply, number: int) -> None:
        if reply.digit == 2:
            self._accepted.append(number)
        elif not names_too_many(reply, len(self._accepted)):
            self._settle(number, refused_recipient(reply), reply)
        elif self._accepted:
            self._is_full = True  # it stays pending, for another transaction
        else:
            self._settle(number, later(reply), reply)

    # The content

    def _send_content(self) -> None:
        early = self._write_content()
        if early:
            self._settle_accepted(early)
            raise SessionEnded(early)
        try:
            self._read_end()
        except (LineError, PeerError) as error:
            text = f"in doubt, it may have been accepted: no reply to the final dot: {error}".encode()
            for number in self._accepted:
                self._attempt.settle(number, DELAYED, 0, "4.4.2", text, self._offer.mta)
            raise

    def _write_content(self) -> Reply | None:
        """Content and final dot; or the server's refusal when it did not wait for the dot, which is not sent then."""
        blocks = _blocks(self._attempt.delivery.content())
        last = next(blocks)
        try:
            for block in blocks:
                self._session.write_content(last)
                last = block
        except LineError:
            if early := self._early_refusal():
                return early
            raise
        if early := self._early_refusal():
            return early
        self._before_dot()
        self._session.finish_content(last, self._accepted if self._spec.scheme == "lmtp" else ())
        return None

    def _early_refusal(self) -> Reply | None:
        reply = self._session.overheard()
        if reply is None or reply.digit > 3:
            return reply
        raise PeerError(f"the server answered before the message had ended: {show(reply)}")

    def _read_end(self) -> None:
        for command, reply in self._session.answers_to_end():
            if command.recipient < 0 or reply.code == 421:  # SMTP's one answer, or the last that comes
                self._settle_accepted(reply)
            else:
                self._accepted.remove(command.recipient)
                self._settle_end(command.recipient, reply)

    def _settle_accepted(self, reply: Reply) -> None:
        while self._accepted:
            self._settle_end(self._accepted.pop(0), reply)

    def _settle_end(self, number: int, reply: Reply) -> None:
        is_taken = reply.digit == 2
        verdict = taken(reply, self._offer.has(b"DSN"), self._spec.final) if is_taken else refused(reply)
        self._settle(number, verdict, reply)

    def _settle(self, number: int, verdict: Verdict, reply: Reply) -> None:
        self._attempt.settle(number, verdict.action, reply.code, verdict.status, reply.text, self._offer.mta)


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same octets in blocks fit for writing; at least one, if only an empty one."""
    block = bytearray()
    for piece in pieces:
        block += piece
        if len(block) >= BLOCK_OCTETS:
            yield bytes(block)
            block.clear()
    yield bytes(block)
