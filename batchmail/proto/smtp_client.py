"""The client's side of SMTP and LMTP: octets in, answers out.

One machine for both protocols (RFC 5321, 2033).  Commands go out in groups
where PIPELINING is offered (RFC 2920); answers are assigned by counting, never
by what they say.  A group is small enough for the buffers in between, so it can
be written before its answers are read.  Behind a final dot the next
transaction's may go out before the dot is answered (§3.1).

What an answer means for a recipient is not decided here.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import Final, NamedTuple, NoReturn

from batchmail.core.errors import PeerError
from batchmail.core.lines import Stuffer
from batchmail.core.reply import Reply, ReplyReader, show
from batchmail.proto.smtp_offer import Offer, parse_offer

GROUP_OCTETS = 8192  # of commands in one group, below the smallest buffer of a socket or pipe


class State(Enum):
    GREETING = auto()  # connected, the server has not spoken
    GREETED = auto()  # EHLO is due: at the start, and again after TLS
    SECURING = auto()  # the TLS handshake is the caller's
    READY = auto()  # no transaction
    AUTHENTICATING = auto()
    OPEN = auto()  # MAIL was taken
    CONTENT = auto()  # 354: content and its end are due
    CLOSED = auto()  # the conversation is over
    ERROR = auto()  # the server broke the protocol


class Verb(Enum):
    CONNECT = auto()  # not sent: the greeting answers it
    HELLO = auto()  # EHLO or LHLO
    STARTTLS = auto()
    AUTH = auto()  # also the further lines of its dialogue
    XFORWARD = auto()  # Postfix's own: whom the next transaction is from
    MAIL = auto()
    RCPT = auto()
    DATA = auto()
    PART = auto()  # not sent: LMTP's answer for one recipient that is not the last
    END = auto()  # the final dot
    RSET = auto()
    QUIT = auto()


class Command(NamedTuple):
    verb: Verb
    line: bytes = b""  # without its line end
    recipient: int = -1  # whom it is about, in the caller's numbers


class Answer(NamedTuple):
    """The server's reply to a command."""

    command: Command
    reply: Reply


class Unasked(NamedTuple):
    """A reply to nothing: the server says why it goes (mostly 421), or has lost count.  The session is over."""

    reply: Reply


class NeedData(Enum):
    NEED_DATA = auto()


NEED_DATA: Final = NeedData.NEED_DATA
Event = Answer | Unasked

# (state, command): what the first digit of the answer makes of the state.  A digit that is missing breaks the protocol.
NEXT: dict[tuple[State, Verb], dict[int, State]] = {
    (State.GREETING, Verb.CONNECT): {2: State.GREETED, 4: State.CLOSED, 5: State.CLOSED},
    (State.GREETED, Verb.HELLO): {2: State.READY, 4: State.CLOSED, 5: State.CLOSED},
    (State.READY, Verb.STARTTLS): {2: State.SECURING, 4: State.READY, 5: State.READY},
    (State.READY, Verb.AUTH): {2: State.READY, 3: State.AUTHENTICATING, 4: State.READY, 5: State.READY},
    (State.AUTHENTICATING, Verb.AUTH): {2: State.READY, 3: State.AUTHENTICATING, 4: State.READY, 5: State.READY},
    (State.READY, Verb.XFORWARD): {2: State.READY, 4: State.READY, 5: State.READY},
    (State.READY, Verb.MAIL): {2: State.OPEN, 4: State.READY, 5: State.READY},
    (State.OPEN, Verb.RCPT): {2: State.OPEN, 4: State.OPEN, 5: State.OPEN},
    (State.OPEN, Verb.DATA): {3: State.CONTENT, 4: State.OPEN, 5: State.OPEN},
    # The rest of a group whose MAIL was refused; DATA may get its 354 all the same (RFC 2920 §3.1).
    (State.READY, Verb.RCPT): {4: State.READY, 5: State.READY},
    (State.READY, Verb.DATA): {3: State.CONTENT, 4: State.READY, 5: State.READY},
    (State.CONTENT, Verb.PART): {2: State.CONTENT, 4: State.CONTENT, 5: State.CONTENT},
    (State.CONTENT, Verb.END): {2: State.READY, 4: State.READY, 5: State.READY},
    (State.READY, Verb.RSET): {2: State.READY, 4: State.CLOSED, 5: State.CLOSED},
    (State.OPEN, Verb.RSET): {2: State.READY, 4: State.CLOSED, 5: State.CLOSED},
    (State.GREETED, Verb.QUIT): dict.fromkeys((2, 4, 5), State.CLOSED),
    (State.READY, Verb.QUIT): dict.fromkeys((2, 4, 5), State.CLOSED),
    (State.OPEN, Verb.QUIT): dict.fromkeys((2, 4, 5), State.CLOSED),
}
_IN_GROUPS = (Verb.XFORWARD, Verb.MAIL, Verb.RCPT, Verb.DATA)


class SmtpClient:
    """One conversation, from the greeting to QUIT."""

    def __init__(self) -> None:
        self.state = State.GREETING
        self.offer = Offer()
        self._greeting: Reply | None = None
        self._replies = ReplyReader()
        self._expected: deque[Command] = deque([Command(Verb.CONNECT)])
        self._stuffer: Stuffer | None = None

    @property
    def is_waiting(self) -> bool:
        """An answer is due."""
        return bool(self._expected)

    def receive(self, data: bytes) -> None:
        """Octets from the server; b"" when it closed the connection."""
        if not data:
            self._fail("the server closed the connection")
        self._replies.receive(data)

    def next_event(self) -> Event | NeedData:
        """The next answer, or NEED_DATA.  Raises PeerError, after which the state is ERROR for good."""
        if self.state is State.ERROR:
            self._fail("the conversation had ended in an error")
        try:
            reply = self._replies.next_reply()
        except PeerError as error:
            self._fail(str(error))
        if reply is None:
            return NEED_DATA
        if not self._expected:
            self.state = State.CLOSED
            return Unasked(reply)
        command = self._expected.popleft()
        self._advance(command, reply)
        return Answer(command, reply)

    def send(self, *group: Command) -> bytes:
        """The octets of commands; several only as `groups` cuts them.

        All answers must be read before the next, but those to a final dot: whatever they are, MAIL may follow.
        """
        is_behind_dot = bool(self._expected) and self._expected[-1].verb is Verb.END and group[0].verb in _IN_GROUPS
        if self.state is State.ERROR or (self._expected and not is_behind_dot):
            raise ValueError(f"{group[0].verb.name} in state {self.state.name} before all was answered")
        if (State.READY if is_behind_dot else self.state, group[0].verb) not in NEXT:
            raise ValueError(f"{group[0].verb.name} in state {self.state.name}")
        self._expected.extend(group)
        return b"".join(command.line + b"\r\n" for command in group)

    def secured(self) -> None:
        """The TLS handshake is done: what the server said before does not count any more (RFC 3207 §4.2)."""
        if self.state is not State.SECURING:
            raise ValueError(f"TLS in state {self.state.name}")
        self.state, self.offer = State.GREETED, Offer()

    def content(self, data: bytes) -> bytes:
        """The octets of a piece of CRLF content."""
        if self.state is not State.CONTENT or self._expected:
            raise ValueError(f"content in state {self.state.name}")
        self._stuffer = self._stuffer or Stuffer()
        return self._stuffer.feed(data)

    def end(self, *parts: int) -> bytes:
        """The octets that end the content.  LMTP: `parts` are the accepted recipients, answered one by one."""
        if self.state is not State.CONTENT or self._expected:
            raise ValueError(f"end of content in state {self.state.name}")
        octets = (self._stuffer or Stuffer()).end()
        self._stuffer = None
        self._expected.extend(Command(Verb.PART, recipient=number) for number in parts[:-1])
        self._expected.append(Command(Verb.END, recipient=parts[-1] if parts else -1))
        return octets

    def _advance(self, command: Command, reply: Reply) -> None:
        becomes = NEXT.get((self.state, command.verb), {}).get(reply.digit)
        if reply.code == 421:  # answers anything, and the server goes (RFC 5321 §4.3.2)
            becomes = State.CLOSED
            self._expected.clear()
        if becomes is None:
            self._fail(f"the server answered {command.verb.name} with {show(reply)}")
        self.state = becomes
        if command.verb is Verb.CONNECT:
            self._greeting = reply
        elif command.verb is Verb.HELLO and self._greeting:
            self.offer = parse_offer(self._greeting, reply)
        elif becomes is State.SECURING and not self._replies.is_empty:
            self._fail("the server sent text between STARTTLS and TLS, which could be somebody else's")

    def _fail(self, text: str) -> NoReturn:
        self.state = State.ERROR
        raise PeerError(text)


def groups(commands: Iterable[Command], pipelining: bool) -> Iterator[list[Command]]:
    """Cut XFORWARD…, MAIL, RCPT… and DATA into the groups they are sent in."""
    group: list[Command] = []
    room = GROUP_OCTETS
    for command in commands:
        needed = len(command.line) + 2
        if group and (not pipelining or needed > room or command.verb not in _IN_GROUPS):
            yield group
            group, room = [], GROUP_OCTETS
        group.append(command)
        room -= needed
    if group:
        yield group
