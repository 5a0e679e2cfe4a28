"""The call as a machine without I/O, the same at both ends.

A greeting line that a person can read, then frames: type (1 octet), length
(4 octets), payload.  The machine knows frames, their order and their bounds;
it does not know what a file is, nor what carries its octets.  What it takes
and gives are events.  After an error it stays in error.
"""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from batchmail.core import jsontext
from batchmail.core.errors import PeerError
from batchmail.core.names import SEQ_MAX, is_stream
from batchmail.core.numbered import KINDS, Number
from batchmail.proto import hello as hellos
from batchmail.proto.hello import Hello

MAX_PAYLOAD_OCTETS = 65536 - 5
_MAX_PREAMBLE_OCTETS = 4096
_MAX_OPEN = 64
_MAX_ANSWERED = 4096  # files refused before their end: what was on its way may still come
_HEAD = struct.Struct(">BI")
_DATA = struct.Struct(">16sQQ")
DATA_HEAD_OCTETS = _HEAD.size + _DATA.size
_GREETING = re.compile(rb"(?:^|\n)BATCHMAIL [0-9]{1,3} [^\n]{1,300}\n")
_MAX_GREETING_OCTETS = 316


class Open(NamedTuple):
    """A numbered file is to come, or to go on from `offset`."""

    number: Number
    identity: str
    encoding: str
    octets: int  # of the whole file, as it is sent
    offset: int


class Data(NamedTuple):
    """A piece of a file."""

    stream: str
    seq: int
    offset: int
    octets: bytes


class Received(NamedTuple):
    """How many octets of Data have come in this call."""

    octets: int


class Custody(NamedTuple):
    """The file is on stable storage here."""

    stream: str
    seq: int


class Refuse(NamedTuple):
    """The file is not taken: for good, or not in this call."""

    stream: str
    seq: int
    for_good: bool
    text: str


class Done(NamedTuple):
    """Nothing more to send, and nothing awaited, after so many Opens of the other side; an Open of either undoes it."""

    after_opens: int


class Ping(NamedTuple):
    """Is the line alive?  Answered by Received."""


class Bye(NamedTuple):
    """The call ends: done, takeover, crossed, later, error."""

    reason: str
    text: str


Event = Hello | Open | Data | Received | Custody | Refuse | Done | Ping | Bye

GREETING, HELLO, READY, DONE, CLOSED, ERROR = "greeting", "hello", "ready", "done", "closed", "error"

# One side's state, by what it has said: ours and theirs are kept apart and follow the same table.
NEXT: dict[tuple[str, type], str] = {
    (HELLO, Hello): READY,
    (HELLO, Bye): CLOSED,
    (READY, Open): READY,
    (READY, Data): READY,
    (READY, Received): READY,
    (READY, Custody): READY,
    (READY, Refuse): READY,
    (READY, Ping): READY,
    (READY, Done): DONE,
    (READY, Bye): CLOSED,
    (DONE, Open): READY,
    (DONE, Received): DONE,
    (DONE, Custody): DONE,
    (DONE, Refuse): DONE,
    (DONE, Ping): DONE,
    (DONE, Done): DONE,
    (DONE, Bye): CLOSED,
}


class _Coming:
    """A file that the other side has opened."""

    def __init__(self, opened: Open):
        self.octets, self.offset = opened.octets, opened.offset
        self.answered = False  # by us, refused or had before: what is on its way counts for nothing


class Session:
    """One end of a call."""

    def __init__(self) -> None:
        self.ours, self.theirs = HELLO, GREETING
        self._buffer = bytearray()
        self._piece: tuple[str, int, int, int] | None = None  # stream, seq, offset, octets left of a Data frame
        self._coming: dict[tuple[str, int], _Coming] = {}
        self._opens_sent = 0
        self.opens_received = 0

    def start(self, hello: Hello) -> bytes:
        """Our first octets: greeting and HELLO."""
        line = f"BATCHMAIL 1 {hello.site}: a batchmail call, see batchmail-session(7)\n"
        return line.encode() + self.send(hello)

    def receive(self, data: bytes) -> None:
        self._buffer += data

    def next_event(self) -> Event | None:
        """The next event, or None: more octets are needed.  Raises PeerError, and nothing else."""
        try:
            event = self._next_event()
        except PeerError:
            self.theirs = ERROR
            raise
        return event

    def _next_event(self) -> Event | None:
        if self.theirs == ERROR:
            raise PeerError("the call has failed before")
        if self.theirs == GREETING and not self._read_greeting():
            return None
        while True:
            if self._piece:
                return self._read_piece(*self._piece)
            frame = self._read_frame()
            if frame is None:
                return None
            event = self._parse(*frame)
            if event is not None:
                self._follow(event)
                return event

    def send(self, event: Event) -> bytes:
        """The octets of an event of ours."""
        state = NEXT.get((self.ours, type(event)))
        if state is None:
            raise ValueError(f"{type(event).__name__} cannot be sent in state {self.ours}")
        self.ours = state
        if isinstance(event, Open):
            self._opens_sent += 1
            self.theirs = READY if self.theirs == DONE else self.theirs
        if isinstance(event, Refuse | Custody) and (event.stream, event.seq) in self._coming:
            self._coming[event.stream, event.seq].answered = True
        payload = _payload(event)
        return _HEAD.pack(_TYPES[type(event)], len(payload)) + payload

    def _read_greeting(self) -> bool:
        match = _GREETING.search(self._buffer)
        if match and match.start() <= _MAX_PREAMBLE_OCTETS:
            del self._buffer[: match.end()]
            self.theirs = HELLO
            return True
        if match or len(self._buffer) > _MAX_PREAMBLE_OCTETS + _MAX_GREETING_OCTETS:
            raise PeerError(f"the other side is not batchmail; it said: {self.preamble()}")
        return False

    def preamble(self) -> str:
        """What came before a greeting, for people."""
        return " / ".join(map(_show, bytes(self._buffer[:300]).strip().splitlines()))

    def _read_frame(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < _HEAD.size:
            return None
        kind, length = _HEAD.unpack_from(self._buffer)
        if length > MAX_PAYLOAD_OCTETS:
            raise PeerError(f"a frame of {length} octets; is the line clean for all octets?")
        if kind == _TYPES[Data]:
            return self._begin_piece(length)
        if len(self._buffer) < _HEAD.size + length:
            return None
        payload = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
        del self._buffer[: _HEAD.size + length]
        return kind, payload

    def _begin_piece(self, length: int) -> tuple[int, bytes] | None:
        if len(self._buffer) < DATA_HEAD_OCTETS:
            return None
        if length <= _DATA.size:
            raise PeerError("a data frame without data")
        name, seq, offset = _DATA.unpack_from(self._buffer, _HEAD.size)
        del self._buffer[:DATA_HEAD_OCTETS]
        stream = name.decode("ascii", "replace")
        coming = self._coming.get((stream, seq))
        left = length - _DATA.size
        if (
            coming is None
            or offset != coming.offset
            or offset + left > coming.octets
            or NEXT.get((self.theirs, Data)) is None
        ):
            raise PeerError(f"data at {offset} of a file that was not opened so")
        self._piece = (stream, seq, offset, left)
        return _PIECE, b""

    def _read_piece(self, stream: str, seq: int, offset: int, left: int) -> Data | None:
        if not self._buffer:
            return None
        octets = bytes(self._buffer[:left])
        del self._buffer[: len(octets)]
        end = offset + len(octets)
        self._piece = (stream, seq, end, left - len(octets)) if left > len(octets) else None
        coming = self._coming[stream, seq]
        coming.offset = end
        if end == coming.octets:
            del self._coming[stream, seq]
        return Data(stream, seq, offset, octets)

    def _follow(self, event: Event) -> None:
        state = NEXT.get((self.theirs, type(event)))
        if state is None:
            raise PeerError(f"{type(event).__name__} came in state {self.theirs}")
        if isinstance(event, Done) and event.after_opens != self._opens_sent:
            return  # said before it had seen what we opened
        self.theirs = state
        if isinstance(event, Open):
            self.opens_received += 1
            self.ours = READY if self.ours == DONE else self.ours
            open_count = sum(not coming.answered for coming in self._coming.values())
            if open_count >= _MAX_OPEN or len(self._coming) >= _MAX_ANSWERED:
                raise PeerError(f"more than {_MAX_OPEN} files open at once")
            if event.offset < event.octets:
                self._coming[event.number.stream, event.number.seq] = _Coming(event)

    def _parse(self, kind: int, payload: bytes) -> Event | None:
        reader = _READERS.get(kind)
        if reader is None:
            if kind < 128 and kind != _PIECE:
                raise PeerError(f"a frame of unknown type {kind}: the other side is newer and needs it understood")
            return None
        return reader(payload)


def _read_open(payload: bytes) -> Open:
    fields = jsontext.read(payload, "OPEN")
    number = Number(fields.text("stream"), fields.integer("seq", 1, SEQ_MAX), fields.text("kind", 20))
    octets = fields.integer("octets", 1)
    if not is_stream(number.stream) or number.kind not in KINDS:
        raise PeerError("OPEN: malformed stream or kind")
    return Open(
        number, fields.digest("identity"), fields.text("encoding", 20), octets, fields.integer("offset", 0, octets)
    )


def _read_custody(payload: bytes) -> Custody:
    fields = jsontext.read(payload, "CUSTODY")
    return Custody(fields.text("stream"), fields.integer("seq", 1, SEQ_MAX))


def _read_refuse(payload: bytes) -> Refuse:
    fields = jsontext.read(payload, "REFUSE")
    text = _show(fields.octets("text", 1000))
    return Refuse(fields.text("stream"), fields.integer("seq", 1, SEQ_MAX), fields.integer("good", 0, 1) == 1, text)


def _read_bye(payload: bytes) -> Bye:
    fields = jsontext.read(payload, "BYE")
    return Bye(fields.text("reason", 20), _show(fields.octets("text", 1000)))


def _read_count(payload: bytes) -> int:
    if len(payload) != 8:
        raise PeerError("a frame that should hold a number has the wrong length")
    return int.from_bytes(payload, "big")


def _show(octets: bytes) -> str:
    """What the other side chose, for people: no control octet of it gets to a terminal."""
    return "".join(chr(octet) if 32 <= octet < 127 else f"\\x{octet:02x}" for octet in octets)


def _text(text: str) -> str:
    return jsontext.octets(text.encode("ascii", "backslashreplace")[:300])


def _payload(event: Event) -> bytes:
    if isinstance(event, Data):
        return _DATA.pack(event.stream.encode(), event.seq, event.offset) + event.octets
    if isinstance(event, Hello):
        return hellos.write(event)
    if isinstance(event, Received | Done):
        return event[0].to_bytes(8, "big")
    if isinstance(event, Open):
        number = event.number
        fields = {"stream": number.stream, "seq": number.seq, "kind": number.kind, "identity": event.identity}
        return jsontext.write(fields | {"encoding": event.encoding, "octets": event.octets, "offset": event.offset})
    if isinstance(event, Custody):
        return jsontext.write({"stream": event.stream, "seq": event.seq})
    if isinstance(event, Refuse):
        fields = {"stream": event.stream, "seq": event.seq, "good": int(event.for_good), "text": _text(event.text)}
        return jsontext.write(fields)
    if isinstance(event, Bye):
        return jsontext.write({"reason": event.reason, "text": _text(event.text)})
    return b""


# From 128 on a type may be ignored by who does not know it.
_TYPES: dict[type, int] = {
    Hello: 1,
    Open: 2,
    Data: 3,
    Received: 4,
    Custody: 5,
    Refuse: 6,
    Done: 7,
    Ping: 8,
    Bye: 9,
}
_PIECE = -1  # not a frame type: a data frame has begun, its pieces follow
_READERS: dict[int, Callable[[bytes], Event]] = {
    1: hellos.read,
    2: _read_open,
    4: lambda payload: Received(_read_count(payload)),
    5: _read_custody,
    6: _read_refuse,
    7: lambda payload: Done(_read_count(payload)),
    8: lambda _payload: Ping(),
    9: _read_bye,
}
