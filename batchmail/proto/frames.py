"""The frames of a call and the events that they carry: octets and values, both ways.

A frame is type (1 octet), length (4 octets), payload.  Data is binary, since
its pieces are given before the frame is whole; the rest is JSON or a number.
In which order they may come is `proto.session`'s.
"""

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
HEAD = struct.Struct(">BI")
_MAX_NOTE_OCTETS = 1000
DATA_HEAD = struct.Struct(">16sQQ")  # stream, number, offset; the octets follow
_RECEIVED = struct.Struct(">QQ")


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
    """How many octets of Data have come in this call, and when that was said, by the speaker's own steady clock."""

    octets: int
    clock_us: int  # since any moment


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
    """The call ends: done, takeover, later, error, config."""

    reason: str
    text: str


class Note(NamedTuple):
    """Something for the people at the other side, such as why this one sends nothing."""

    text: str


Event = Hello | Open | Data | Received | Custody | Refuse | Done | Ping | Bye | Note


def payload_of(event: Event) -> bytes:
    """What stands behind the head of the event's frame."""
    if isinstance(event, Data):
        return DATA_HEAD.pack(event.stream.encode(), event.seq, event.offset) + event.octets
    if isinstance(event, Hello):
        return hellos.write(event)
    if isinstance(event, Received):
        return _RECEIVED.pack(*event)
    if isinstance(event, Done):
        return event.after_opens.to_bytes(8, "big")
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
    if isinstance(event, Note):
        return jsontext.write({"text": _text(event.text, _MAX_NOTE_OCTETS)})
    return b""


def encode(event: Event) -> bytes:
    """The frame of an event."""
    payload = payload_of(event)
    return HEAD.pack(TYPES[type(event)], len(payload)) + payload


def decode(kind: int, payload: bytes) -> Event | None:
    """The event of a frame, but Data; None for one that may be ignored.  Raises PeerError."""
    reader = _READERS.get(kind)
    if reader is None and kind < 128:
        raise PeerError(f"a frame of unknown type {kind}: the other side is newer and needs it understood")
    return reader(payload) if reader else None


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
    text = show(fields.octets("text", 1000))
    return Refuse(fields.text("stream"), fields.integer("seq", 1, SEQ_MAX), fields.integer("good", 0, 1) == 1, text)


def _read_bye(payload: bytes) -> Bye:
    fields = jsontext.read(payload, "BYE")
    return Bye(fields.text("reason", 20), show(fields.octets("text", 1000)))


def _read_received(payload: bytes) -> Received:
    if len(payload) != _RECEIVED.size:
        raise PeerError("RECEIVED: two numbers of 8 octets are wanted")
    return Received(*_RECEIVED.unpack(payload))


def _read_done(payload: bytes) -> Done:
    if len(payload) != 8:
        raise PeerError("DONE: a number of 8 octets is wanted")
    return Done(int.from_bytes(payload, "big"))


def show(octets: bytes) -> str:
    """What the other side chose, for people: no control octet of it gets to a terminal."""
    return "".join(chr(octet) if 32 <= octet < 127 else f"\\x{octet:02x}" for octet in octets)


def _read_note(payload: bytes) -> Note:
    return Note(show(jsontext.read(payload, "NOTE").octets("text", 3 * _MAX_NOTE_OCTETS)))


def _text(text: str, most_octets: int = 300) -> str:
    return jsontext.octets(text.encode("ascii", "backslashreplace")[:most_octets])


# From 128 on a type may be ignored by who does not know it.
TYPES: dict[type, int] = {
    Hello: 1,
    Open: 2,
    Data: 3,
    Received: 4,
    Custody: 5,
    Refuse: 6,
    Done: 7,
    Ping: 8,
    Bye: 9,
    Note: 128,
}
_READERS: dict[int, Callable[[bytes], Event]] = {
    1: hellos.read,
    2: _read_open,
    4: _read_received,
    5: _read_custody,
    6: _read_refuse,
    7: _read_done,
    8: lambda _payload: Ping(),
    9: _read_bye,
    128: _read_note,
}
