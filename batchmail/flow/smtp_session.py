"""One conversation with an SMTP or LMTP server, or with a `sendmail -bs`: connected, secured, authenticated, at hand.

It moves octets between a stream and the machine of `proto.smtp_client` and
gives every step its time.  What answers mean for recipients is `target_smtp`'s.
"""

import contextlib
from collections.abc import Iterator, Sequence

from batchmail.core.errors import LineError, PeerError, TargetDown
from batchmail.core.reply import Reply, show
from batchmail.flow.target_spec import MUST, NEVER, TargetSpec
from batchmail.proto import smtp_auth
from batchmail.proto.smtp_client import NEED_DATA, Answer, Command, SmtpClient, State, Unasked, Verb
from batchmail.proto.smtp_offer import Offer
from batchmail.wire import smtp
from batchmail.wire.child import ChildStream

READ_OCTETS = 65_536
_ANSWER_S = {Verb.DATA: smtp.DATA_S, Verb.PART: smtp.END_S, Verb.END: smtp.END_S, Verb.QUIT: smtp.QUIT_S}


class SessionEnded(LineError):
    """The server ended the session and gave a reply as its reason."""

    def __init__(self, reply: Reply):
        super().__init__(f"the server ended the session: {show(reply)}")
        self.reply = reply


class Session:
    """A session that takes transactions.  Raises TargetDown when there can be none.

    `answer_s`: the longest that an answer is waited for, where that is less than what RFC 5321 §4.5.3.2 asks for.
    """

    def __init__(self, spec: TargetSpec, me: str, answer_s: float = smtp.END_S):
        self._spec, self._me, self._answer_s = spec, me, answer_s
        self._machine = SmtpClient()
        self.authenticated = self._has_left = False
        self.transactions = 0  # begun with MAIL
        try:
            self._stream = self._connect()
        except LineError as error:
            raise TargetDown(f"{spec.text}: {error}") from None
        try:
            self._begin()
        except (LineError, PeerError) as error:
            said = self._stream.stderr_tail() if isinstance(self._stream, ChildStream) else ""
            self.drop()
            raise TargetDown(f"{spec.text}: {error}" + (f" ({said})" if said else "")) from None
        except BaseException:
            self.drop()
            raise

    @property
    def offer(self) -> Offer:
        return self._machine.offer

    @property
    def needs_reset(self) -> bool:
        return self._machine.state is State.OPEN

    @property
    def wants_content(self) -> bool:
        return self._machine.state is State.CONTENT

    @property
    def _is_at_rest(self) -> bool:
        return self._machine.state in (State.READY, State.OPEN) and not self._machine.is_waiting

    @property
    def is_ahead(self) -> bool:
        """Between transactions: the envelope of the next one was sent behind the dot of the last."""
        return self._machine.is_waiting

    @property
    def is_full(self) -> bool:
        """It has carried as many transactions as it may."""
        limits = [self._spec.session or self.offer.habits.transactions, self.offer.limit(b"MAILMAX")]
        return any(limit and self.transactions >= limit for limit in limits)

    def is_usable(self) -> bool:
        """For another transaction: the server has neither gone nor spoken out of turn in the meantime."""
        try:
            return self._is_at_rest and self.overheard() is None
        except (LineError, PeerError):
            return False

    def overheard(self) -> Reply | None:
        """What the server says although nothing was asked; the session is over then.  Raises when it has gone."""
        data = self._stream.read_ready(READ_OCTETS)
        if data is None:
            return None
        self._machine.receive(data)
        self._stream.allow(smtp.QUIT_S)
        while (event := self._machine.next_event()) is NEED_DATA:
            self._machine.receive(self._stream.read(READ_OCTETS))
        return event.reply

    def ask(self, command: Command) -> Reply:
        return next(self.exchange([command])).reply

    def exchange(self, group: Sequence[Command]) -> Iterator[Answer]:
        """Send a group of commands; their answers as they come.  Raises SessionEnded at a 421."""
        self.send(group)
        yield from self.answers(group)

    def send(self, group: Sequence[Command]) -> None:
        octets = self._machine.send(*group)
        self._stream.allow(smtp.BLOCK_S)
        self._stream.write(octets)

    def answers(self, group: Sequence[Command]) -> Iterator[Answer]:
        """To a group that was sent, as they come.  Raises SessionEnded at a 421."""
        for command in group:
            answer = self._answer(command.verb)
            if answer.reply.code == 421:
                raise SessionEnded(answer.reply)
            yield answer

    def write_content(self, data: bytes) -> None:
        self._stream.allow(smtp.BLOCK_S)
        self._stream.write(self._machine.content(data))

    def finish_content(self, data: bytes, parts: Sequence[int] = ()) -> None:
        """The last of the content and the final dot.  When this raises, the server cannot have seen the whole dot."""
        octets = self._machine.content(data) + self._machine.end(*parts)
        self._stream.allow(smtp.BLOCK_S)
        self._stream.write(octets)

    def answers_to_end(self) -> Iterator[Answer]:
        """The answers to the final dot: one, or one per part."""
        is_last = False
        while not is_last:
            answer = self._answer(Verb.END)
            is_last = answer.command.verb is Verb.END or answer.reply.code == 421
            if is_last and self.is_ahead and isinstance(self._stream, smtp.SmtpStream):
                self._stream.acknowledge()  # servers keep their next answers back until then (Nagle), for 40 ms
            yield answer

    def leave(self) -> None:
        """Say QUIT where that is possible; `quit` waits for the answer.

        Exim keeps it back until it sees the end of what we send, 200 ms at most.
        """
        with contextlib.suppress(LineError, PeerError):
            if self._is_at_rest and self.overheard() is None:
                self._stream.allow(smtp.QUIT_S)
                self._stream.write(self._machine.send(Command(Verb.QUIT, b"QUIT")))
                self._stream.end_input()
                self._has_left = True

    def quit(self) -> None:
        """End in order where that is possible."""
        if not self._has_left:
            self.leave()
        if self._has_left:
            with contextlib.suppress(LineError, PeerError):
                self._answer(Verb.QUIT)
        self.drop()

    def drop(self) -> None:
        """Hang up: what has not got its final dot is not accepted."""
        self._stream.close()

    def _connect(self) -> smtp.SmtpStream | ChildStream:
        if self._spec.scheme == "sendmail":
            return ChildStream([self._spec.path, *self._spec.args])
        if self._spec.path:
            return smtp.connect_unix(self._spec.path, min(self._answer_s, smtp.CONNECT_S))
        return smtp.connect_tcp(self._spec.host, self._spec.port, min(self._answer_s, smtp.CONNECT_S))

    def _begin(self) -> None:
        greeting = self._answer(Verb.CONNECT).reply
        if greeting.digit != 2:
            raise LineError(f"refused: {show(greeting)}")
        self._hello()
        if isinstance(self._stream, smtp.SmtpStream):
            self._secure(self._stream)
        if self._spec.user:
            self._authenticate()

    def _hello(self) -> None:
        verb = b"LHLO " if self._spec.scheme == "lmtp" else b"EHLO "
        self._require(Command(Verb.HELLO, verb + self._me.encode()))  # HELO could carry no parameter: not tried

    def _secure(self, stream: smtp.SmtpStream) -> None:
        if self._spec.starttls == NEVER:
            return
        if not self.offer.has(b"STARTTLS"):
            if self._spec.starttls == MUST:
                raise LineError("the server does not offer STARTTLS, and starttls=must")
            return
        self._require(Command(Verb.STARTTLS, b"STARTTLS"))
        stream.allow(min(self._answer_s, smtp.COMMAND_S))
        stream.start_tls(self._spec.host or "localhost", self._spec.tls_verify)
        self._machine.secured()
        self._hello()

    def _authenticate(self) -> None:
        who = smtp_auth.Credentials(self._spec.user.encode(), smtp.read_password(self._spec.password_file))
        private = self._spec.is_private or (isinstance(self._stream, smtp.SmtpStream) and self._stream.is_secured)
        mechanism = smtp_auth.choose(self.offer.mechanisms, private)
        if mechanism is None:
            offered = b" ".join(self.offer.mechanisms).decode("ascii", "replace") or "nothing"
            raise LineError(
                f"no way to authenticate {'' if private else 'without TLS '}among what is offered: {offered}"
            )
        reply = self._require(Command(Verb.AUTH, smtp_auth.first_line(mechanism, who)))
        steps = 1
        while reply.digit == 3:
            reply = self._require(Command(Verb.AUTH, smtp_auth.next_line(mechanism, who, steps, reply)))
            steps += 1
        self.authenticated = True

    def _require(self, command: Command) -> Reply:
        reply = self.ask(command)
        if reply.digit > 3:
            name = command.line.split(b" ")[0].decode() if command.verb is not Verb.AUTH else "AUTH"
            raise LineError(f"{name} refused: {show(reply)}")
        return reply

    def _answer(self, verb: Verb) -> Answer:
        self._stream.allow(min(self._answer_s, _ANSWER_S.get(verb, smtp.COMMAND_S)))
        while (event := self._machine.next_event()) is NEED_DATA:
            self._machine.receive(self._stream.read(READ_OCTETS))
        if isinstance(event, Unasked):  # not while an answer is due
            raise PeerError(f"the server spoke out of turn: {show(event.reply)}")
        return event
