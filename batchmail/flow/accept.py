"""Accept: what comes in at a door becomes transactions in the spool, all of one input or none.

An `Intake` is told the envelope, then the content in pieces, then the end, of
each transaction; `commit` makes them wait for their peer, durably.  Until then
nothing counts: a crash leaves drafts, and the MTA has its mail.
"""

from batchmail.core.envelope import Client, Envelope, Recipient
from batchmail.core.errors import MalformedInput
from batchmail.core.lines import CRLF, Unstuffer
from batchmail.core.names import next_id
from batchmail.core.value import TYPE_CHECKING, Callable, NamedTuple
from batchmail.flow.body import MAX_HELD_OCTETS, Body, identity_of, imply, offer_name, priority_of
from batchmail.store.arrivals import Arrivals
from batchmail.store.durable import Draft
from batchmail.store.room import check_room
from batchmail.store.spool import Door, Spool

if TYPE_CHECKING:
    from batchmail.core.beside import Beside

CHUNK_OCTETS = 1 << 16  # what a pipe holds
MAX_TRANSACTIONS = 10_000  # in one input

Read = Callable[[int], bytes]  # up to so many octets; none at the end of the input


class Origin(NamedTuple):
    """What a door knows of its input beside the text."""

    queue_id: str = ""  # the MTA's; the same input under the same one is accepted once
    client: Client = Client()
    priority: int = 0  # where MT-PRIORITY says nothing
    beside: "Beside | None" = None


class Message(NamedTuple):
    """How a single message is to be read; `sender` is None where its From_ line says it."""

    sender: bytes | None
    recipients: tuple[bytes, ...]
    dot_stuffed: bool = False
    from_lines: bool = False  # all those on top, as rmail takes them
    from_line: bool = False  # the one that an MTA has put on top


class Accepted(NamedTuple):
    """A transaction in the spool."""

    id: str
    envelope: Envelope
    size_octets: int
    bare_cr: int  # the line ends that were mended
    bare_lf: int


class Intake:
    """One input of a door on its way into the spool."""

    def __init__(self, spool: Spool, door: Door, origin: Origin, first_id: str, now_ms: int):
        """`first_id` becomes the first transaction's ID, those that follow are counted on from it."""
        check_room(spool.root, door.reserve_octets)
        self._spool, self._door, self._origin = spool, door, origin
        self._first_id, self._now_ms = first_id, now_ms
        self._room = Arrivals(spool, door.peer)
        self.begin(Envelope(b"", (), ()), b"")  # of no weight, nothing ends it
        self._drafts: list[tuple[Draft, str]] = []
        self._accepted: list[Accepted] = []
        self._priorities: list[int] = []
        self._digests: list[str] = []

    def begin(self, envelope: Envelope, eol: bytes) -> None:
        """A transaction's envelope is known; `eol` is the line end of the content that follows."""
        self._envelope = envelope
        self._body = Body(self._spool, self._door, eol)

    def content(self, octets: bytes) -> None:
        self._body.add(octets)

    def end(self) -> None:
        """The transaction is whole: make a draft of it, under a name that does not count yet."""
        if len(self._drafts) == MAX_TRANSACTIONS:
            raise MalformedInput(f"more than {MAX_TRANSACTIONS} transactions in one input")
        for draft, _ in self._drafts[-1:]:
            draft.sync()  # closes it: there may be many; the only one is synced with its name
        body = self._body
        body.end()
        check_room(self._spool.root, self._door.reserve_octets, body.size_octets)  # for the copy below its envelope
        beside = self._origin.beside
        envelope = imply(beside.complete(self._envelope) if beside else self._envelope, body.ascii)
        priority = priority_of(envelope, self._origin.priority)
        identifier = next_id(self._first_id, len(self._drafts))
        draft, writer = self._room.write(
            identifier, self._now_ms, priority, self._origin.queue_id, self._origin.client, envelope
        )
        self._drafts.append((draft, ""))  # from here on `discard` finds it
        for octets in body.pieces():
            writer.content(octets)
        name, digest = writer.end()
        self._drafts[-1] = (draft, name)
        self._digests.append(identity_of(envelope, body, digest))
        self._priorities.append(priority)
        self._accepted.append(Accepted(identifier, envelope, body.size_octets, body.bare_cr, body.bare_lf))
        body.discard()

    def commit(self) -> list[Accepted]:
        """Accept all of it: when this returns a power cut cannot undo it.  Before, a crash costs nothing;
        after it, one that keeps the MTA from hearing so costs a duplicate unless there was a queue id."""
        if not self._drafts:
            raise MalformedInput("the input holds no message: its writer was cut off, or wrote nothing")
        check_room(self._spool.root, self._door.reserve_octets)
        offered = offer_name(self._origin.queue_id, self._digests)
        priority = max(self._priorities)
        if len(self._drafts) == 1:
            identifiers = [self._room.put(*self._drafts[0], priority, offered, self._now_ms)]
        else:
            identifiers = self._room.put_all(self._drafts, priority, offered, self._now_ms)
        return [was._replace(id=now) for was, now in zip(self._accepted, identifiers, strict=True)]

    def discard(self) -> None:
        """Leave nothing behind of what was not committed."""
        try:
            self._body.discard()
            for draft, _ in self._drafts:
                draft.discard()
        except OSError:
            pass  # the sweep does it later


def read_message(read: Read, intake: Intake, message: Message) -> None:
    """Take a single message: what its From_ lines leave, to the end of the input.

    Dot-stuffed ones may end with a dot or without: Postfix's flag `.` doubles
    the dots and writes no last one.  Behind a last dot nothing may follow.
    """
    text = _read_top(read)
    eol = _eol_of(text)
    sender = message.sender
    if message.from_lines or message.from_line:
        from batchmail.core import rmail  # seldom

        top = rmail.take(text, eol, False, message.from_line)
        while top is None:
            data = read(CHUNK_OCTETS)
            text += data
            top = rmail.take(text, eol, not data, message.from_line)
        text = text[top.length_octets :]
        sender = top.sender if sender is None else sender
    if sender is None:
        raise MalformedInput("the message does not begin with a From_ line, which would say its sender")
    intake.begin(Envelope(sender, (), tuple(map(Recipient, message.recipients))), eol)
    unstuffer = Unstuffer(eol) if message.dot_stuffed else None
    data = text or read(CHUNK_OCTETS)
    while data:
        intake.content(_unstuff(unstuffer, data) if unstuffer else data)
        data = read(CHUNK_OCTETS)
    if unstuffer and not unstuffer.done:
        try:
            intake.content(unstuffer.end())
        except ValueError as error:
            raise MalformedInput(str(error)) from None
    intake.end()


def _read_top(read: Read) -> bytes:
    """The input up to its first line end at least."""
    text = b""
    while b"\n" not in text and len(text) < MAX_HELD_OCTETS and (data := read(CHUNK_OCTETS)):
        text += data
    return text


def _eol_of(text: bytes) -> bytes:
    """The line end of an input is that of its first line; MTAs write LF or CRLF to pipes."""
    end = text.find(b"\n")
    return CRLF if end > 0 and text[end - 1 : end] == b"\r" else b"\n"


def _unstuff(unstuffer: Unstuffer, data: bytes) -> bytes:
    was_done = unstuffer.done
    content = b"" if was_done else unstuffer.feed(data)
    if was_done or unstuffer.rest:
        raise MalformedInput("there is input after the final dot of the message")
    return content
