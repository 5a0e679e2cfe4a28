"""The short forms of version 2: the same events in fewer octets, for whoever reads them.

    10 OPEN      kind (1 octet), stream (16), identity (32); number, octets, offset; the encoding is the rest
    11 DATA      the piece alone, of the file that its sender opened last, from where that stands
    12 CUSTODY   the number alone, of the stream of the first file that the other side opened in this call
    13 RECEIVED  octets, clock
    14 DONE      the count of OPENs

A number is its length (1 octet) and so many octets, the highest first.  What
has no short form here goes in that of version 1, and both may come at any time.
"""

import struct

from batchmail.core.errors import PeerError
from batchmail.core.jsontext import INT_MAX, is_text
from batchmail.core.names import SEQ_MAX, is_stream
from batchmail.core.numbered import KINDS, Number
from batchmail.proto.frames import Custody, Data, Done, Event, Open, Received

VERSION = 2
OPEN, DATA, CUSTODY, RECEIVED, DONE = range(10, 15)
_OPEN_HEAD = struct.Struct(">B16s32s")
_MAX_ENCODING = 20
_MAX_LENGTH = 8
_ANY = 2**64 - 1


class Memory:
    """One side's files as the short forms name them: what it opened first and last, and how far the last has come."""

    def __init__(self) -> None:
        self.first = ""  # stream
        self.last: tuple[str, int] = ("", 0)
        self._offset = 0

    def opened(self, event: Open) -> None:
        self.first = self.first or event.number.stream
        self.last, self._offset = event.number[:2], event.offset

    def piece(self, event: Data) -> bool:
        """A piece is sent; whether it goes on where the file opened last stands."""
        if (event.stream, event.seq, event.offset) != (*self.last, self._offset):
            return False
        self._offset += len(event.octets)
        return True


def write(event: Event, ours: Memory, theirs: Memory) -> tuple[int, bytes] | None:
    """The frame's type and payload; None: it has no short form."""
    if isinstance(event, Open):
        number = event.number
        head = _OPEN_HEAD.pack(KINDS.index(number.kind), number.stream.encode(), bytes.fromhex(event.identity))
        return OPEN, head + _numbers(number.seq, event.octets, event.offset) + event.encoding.encode()
    if isinstance(event, Data) and ours.piece(event):
        return DATA, event.octets
    if isinstance(event, Custody) and event.stream == theirs.first:
        return CUSTODY, _numbers(event.seq)
    if isinstance(event, Received):
        return RECEIVED, _numbers(*event)
    if isinstance(event, Done):
        return DONE, _numbers(*event)
    return None


def read(kind: int, payload: bytes, ours: Memory) -> Open | Custody | Received | Done | None:
    """The event of a frame; None: it is no short form.  `ours` is what we opened.  Raises PeerError."""
    if kind == OPEN:
        return _read_open(payload)
    if kind == CUSTODY:
        return _read_custody(payload, ours.first)
    if kind == RECEIVED:
        return Received(*_read_numbers(payload, _ANY, _ANY))
    return Done(*_read_numbers(payload, _ANY)) if kind == DONE else None


def _read_custody(payload: bytes, stream: str) -> Custody:
    (seq,) = _read_numbers(payload, SEQ_MAX)
    if not seq or not stream:
        raise PeerError("CUSTODY: of a file that was not opened")
    return Custody(stream, seq)


def _read_open(payload: bytes) -> Open:
    if len(payload) < _OPEN_HEAD.size:
        raise PeerError("OPEN: shorter than it may be")
    kind, name, identity = _OPEN_HEAD.unpack_from(payload)
    (seq, octets, offset), rest = _take_numbers(payload[_OPEN_HEAD.size :], SEQ_MAX, INT_MAX, INT_MAX)
    stream, encoding = name.decode("ascii", "replace"), rest.decode("ascii", "replace")
    if kind >= len(KINDS) or not is_stream(stream) or len(encoding) > _MAX_ENCODING or not is_text(encoding):
        raise PeerError("OPEN: malformed stream, kind or encoding")
    if not seq or not octets or offset > octets:
        raise PeerError("OPEN: a number is not what it should be")
    return Open(Number(stream, seq, KINDS[kind]), identity.hex(), encoding, octets, offset)


def _numbers(*values: int) -> bytes:
    found = b""
    for value in values:
        octets = value.to_bytes((value.bit_length() + 7) // 8, "big")
        found += bytes([len(octets)]) + octets
    return found


def _read_numbers(payload: bytes, *most: int) -> list[int]:
    values, rest = _take_numbers(payload, *most)
    if rest:
        raise PeerError("a frame is longer than it may be")
    return values


def _take_numbers(octets: bytes, *most: int) -> tuple[list[int], bytes]:
    """The numbers that octets begin with, none larger than its `most`, and the rest."""
    values = []
    for largest in most:
        length = octets[0] if octets else _MAX_LENGTH + 1
        value = int.from_bytes(octets[1 : 1 + length], "big")
        if length > _MAX_LENGTH or len(octets) <= length or value > largest:
            raise PeerError("a number in a frame is missing or not what it should be")
        values.append(value)
        octets = octets[1 + length :]
    return values, octets
