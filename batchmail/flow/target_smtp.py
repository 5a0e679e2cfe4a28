"""Giving transactions to an SMTP or LMTP server, and learning what became of each recipient.

Sources: RFC 5321 §4.2 to §4.5, 2033 §4, 2920 §3.1.  Where commands are pipelined
the next envelope follows a final dot at once; it commits nobody to anything.
Beyond them: a session that ends before the final dot is gone on with in a fresh
one, as long as that brings something.  After the final dot only a reply counts:
without one the recipients are in doubt, which is temporary.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from batchmail.core.deliverby import deliver_by
from batchmail.core.errors import LineError, PeerError, TargetDown
from batchmail.core.outcome import DELAYED, FAILED, PASSED, RELAYED
from batchmail.core.reply import Reply, show
from batchmail.flow.delivery import Attempt, BeforeDot, Delivery, Settled
from batchmail.flow.smtp_envelope import DATA, Prepared, prepare
from batchmail.flow.smtp_session import Session, SessionEnded
from batchmail.flow.target_spec import TargetSpec
from batchmail.proto.smtp_client import Command, Verb
from batchmail.proto.smtp_offer import relayed_is_told
from batchmail.proto.smtp_verdict import Verdict, later, names_too_many, refused, refused_recipient, taken

BLOCK_OCTETS = 65_536  # content is written in blocks of at least this much


class SmtpTarget:
    """A server, and the session with it that is open; the one before may still wait for the answer to its QUIT."""

    def __init__(self, spec: TargetSpec, me: str, now_ms: Callable[[], int]):
        self._spec, self._me, self._now_ms = spec, me, now_ms
        self._session: Session | None = None
        self._leaving: Session | None = None
        self._ahead: Prepared | None = None  # its envelope was sent behind the last dot
        self._goes_ahead = True
        self.offers = ""

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
        self._leave()
        self._leave()

    def _leave(self) -> None:
        self._ahead = None
        if self._leaving:
            self._leaving.quit()
        self._leaving, self._session = self._session, None
        if self._leaving:
            self._leaving.leave()

    def _try(self, attempt: Attempt, before_dot: BeforeDot) -> None:
        """One transaction; who is still pending after it needs another."""
        session = self._open(attempt.delivery)
        was_fresh, were_pending = session.transactions == 0, len(attempt.pending)
        ahead, self._ahead = self._ahead, None
        transaction = _Transaction(self._spec, session, attempt, before_dot, ahead)
        try:
            self._ahead = transaction.run(self._goes_ahead)
            if self._ahead and not session.is_ahead:  # 421
                self._goes_ahead = False
        except (LineError, PeerError) as error:
            # A server that takes offence at what comes so early, or loses it, does it again.
            if transaction.went_ahead or (ahead and not isinstance(error, SessionEnded)):
                self._goes_ahead = False
            self._drop()
            if was_fresh and len(attempt.pending) == were_pending:  # another session would fare no better
                _delay(attempt, error, session.offer.mta)

    def _open(self, delivery: Delivery) -> Session:
        session = self._session
        if session and self._ahead:
            if session.is_ahead and self._ahead.delivery is delivery:
                return session
            self._drop()  # it waits for the content of another
        elif session and not session.is_full and session.is_usable():
            return session
        self._leave()
        self._session = Session(self._spec, self._me)
        by_itself = {b"DELIVERBY"} if self._spec.final else set()  # in time or not: it goes no further
        self.offers = b" ".join(sorted(self._session.offer.keywords.keys() | by_itself)).decode("ascii", "replace")
        return self._session

    def _drop(self) -> None:
        session, self._session, self._ahead = self._session, None, None
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

    def __init__(
        self, spec: TargetSpec, session: Session, attempt: Attempt, before_dot: BeforeDot, ahead: Prepared | None
    ):
        self._spec, self._session, self._attempt, self._before_dot = spec, session, attempt, before_dot
        self._offer = session.offer
        self._is_sent = ahead is not None  # its envelope
        self._prepared = ahead or prepare(spec, session, attempt.delivery, attempt.pending)
        self._mail_taken = False
        self._accepted: list[int] = []
        self._is_full = False  # the server takes no further recipients in this transaction
        self._ahead: Prepared | None = None
        self.went_ahead = False  # the next envelope was sent, or a part of it

    def run(self, goes_ahead: bool) -> Prepared | None:
        """The transaction that follows, when its envelope was sent already."""
        for number, status, text in self._prepared.plan.refusals:
            self._attempt.settle(number, FAILED, 0, status, text, self._offer.mta)
        if not self._prepared.recipients:
            return None
        if not self._is_sent:
            if self._session.needs_reset:
                self._reset()
            self._session.transactions += 1
        self._exchange_envelope()
        if self._session.wants_content and self._accepted:
            self._send_content(goes_ahead)
        elif self._session.wants_content:
            self._withdraw()
        return self._ahead

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

    def _exchange_envelope(self) -> None:
        for group in self._prepared.groups:
            if group == [DATA]:
                break
            for command, reply in self._session.answers(group) if self._is_sent else self._session.exchange(group):
                self._read_answer(command, reply)
            if group[-1].verb is Verb.XFORWARD:  # only told, whatever the answer was
                continue
            if not self._mail_taken or self._is_full or group[-1] == DATA:
                break
        if self._accepted and not self._session.wants_content:
            self._read_answer(DATA, self._session.ask(DATA))

    def _read_answer(self, command: Command, reply: Reply) -> None:
        if command.verb is Verb.MAIL:
            self._read_mail(reply)
        elif command.verb is Verb.RCPT and self._mail_taken:
            self._read_rcpt(reply, command.recipient)
        elif command.verb is Verb.DATA and reply.digit > 3:
            self._settle_accepted(reply)

    def _read_mail(self, reply: Reply) -> None:
        self._mail_taken = reply.digit == 2
        if reply.code == 452 and reply.status == "4.5.3":  # too many messages in this session
            raise SessionEnded(reply)
        if not self._mail_taken:
            for number, _ in self._prepared.recipients:
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

    def _send_content(self, goes_ahead: bool) -> None:
        early = self._write_content()
        if early:
            self._settle_accepted(early)
            raise SessionEnded(early)
        if goes_ahead:
            self._ahead = self._send_ahead()
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

    def _send_ahead(self) -> Prepared | None:
        """Send the next envelope behind the dot (RFC 2920 §3.1): the server goes on with it as soon as it has answered.

        Only where it is one group, and the session has nothing else to do before.  None, whatever the reason: then it
        is sent in its turn.  A dot is out that is not answered yet, so nothing here may raise.
        """
        if self._session.is_full or len(self._attempt.pending) > len(self._accepted):
            return None
        if self._spec.scheme == "lmtp" and len(self._accepted) > 1:
            return None  # a server that gives one answer for all of them must not be taken to have given the others
        with contextlib.suppress(Exception):
            delivery = self._attempt.delivery.following()
            if delivery is None or deliver_by(delivery.envelope):  # its time would run while the dot is waited for
                return None
            prepared = prepare(self._spec, self._session, delivery, delivery.recipients)
            if prepared.recipients and prepared.groups[0][-1] == DATA:
                self._session.transactions += 1
                self.went_ahead = True
                self._session.send(prepared.groups[0])
                return prepared
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
        if verdict.action == PASSED and not self._spec.final:
            is_ours = relayed_is_told(self._attempt.delivery.envelope, self._offer)
            verdict = verdict._replace(action=RELAYED) if is_ours else verdict
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
