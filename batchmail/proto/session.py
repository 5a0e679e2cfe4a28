"""The call as a machine without I/O, the same at both ends.

A greeting line that a person can read, then frames (`proto.frames`).  The
machine knows their order and their bounds; it does not know what a file is,
nor what carries its octets.  What it takes and gives are events.  After an
error it stays in error.
"""

import re

from batchmail.core.errors import PeerError
from batchmail.proto import frames, short
from batchmail.proto.frames import (
    DATA_HEAD,
    HEAD,
    MAX_PAYLOAD_OCTETS,
    Bye,
    Custody,
    Data,
    Done,
    Event,
    Note,
    Open,
    Ping,
    Received,
    Refuse,
)
from batchmail.proto.hello import Hello

_MAX_PREAMBLE_OCTETS = 4096
_MAX_OPEN = 64
_MAX_ANSWERED = 4096  # files refused before their end: what was on its way may still come
_GREETING = re.compile(rb"(?:^|\n)BATCHMAIL [0-9]{1,3} [^\n]{1,300}\n")
_MAX_GREETING_OCTETS = 316

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
    (READY, Note): READY,
    (READY, Done): DONE,
    (READY, Bye): CLOSED,
    (DONE, Open): READY,
    (DONE, Received): DONE,
    (DONE, Custody): DONE,
    (DONE, Refuse): DONE,
    (DONE, Ping): DONE,
    (DONE, Note): DONE,
    (DONE, Done): DONE,
    (DONE, Bye): CLOSED,
}


def greeting(site: str) -> bytes:
    """The line before the first frame."""
    return f"BATCHMAIL 1 {site}: see batchmail(1)\n".encode()


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
        self._sent, self._heard = short.Memory(), short.Memory()
        self._is_short = False  # the other side reads short forms
        self._opens_sent = 0
        self.opens_received = 0

    def start(self, hello: Hello) -> bytes:
        """Our first octets: greeting and HELLO."""
        return greeting(hello.site) + self.send(hello)

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
            if len(self._buffer) < HEAD.size:
                return None
            kind, length = HEAD.unpack_from(self._buffer)
            if length > MAX_PAYLOAD_OCTETS:
                raise PeerError(f"a frame of {length} octets; is the line clean for all octets?")
            if kind == frames.TYPES[Data]:
                whole = self._begin_piece(length)
            elif kind == short.DATA:
                whole = self._begin_rest(length)
            else:
                whole = len(self._buffer) >= HEAD.size + length
            if not whole:
                return None
            if self._piece is not None:
                continue
            payload = self._take(length)
            event = short.read(kind, payload, self._sent) or frames.decode(kind, payload)
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
            self._sent.opened(event)
            self._opens_sent += 1
            self.theirs = READY if self.theirs == DONE else self.theirs
        if isinstance(event, Refuse | Custody) and (event.stream, event.seq) in self._coming:
            self._coming[event.stream, event.seq].answered = True
        written = short.write(event, self._sent, self._heard) if self._is_short else None
        return frames.encode(event) if written is None else HEAD.pack(written[0], len(written[1])) + written[1]

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
        return " / ".join(map(frames.show, bytes(self._buffer[:300]).strip().splitlines()))

    def _take(self, length: int) -> bytes:
        payload = bytes(self._buffer[HEAD.size : HEAD.size + length])
        del self._buffer[: HEAD.size + length]
        return payload

    def _begin_piece(self, length: int) -> bool:
        """Whether a data frame's head is here; its pieces follow, however little of it has come."""
        if len(self._buffer) < HEAD.size + DATA_HEAD.size:
            return False
        if length <= DATA_HEAD.size:
            raise PeerError("a data frame without data")
        name, seq, offset = DATA_HEAD.unpack_from(self._buffer, HEAD.size)
        del self._buffer[: HEAD.size + DATA_HEAD.size]
        self._expect(name.decode("ascii", "replace"), seq, offset, length - DATA_HEAD.size)
        return True

    def _begin_rest(self, length: int) -> bool:
        """The same where the frame is the piece alone."""
        coming = self._coming.get(self._heard.last)
        if coming is None or not length:
            raise PeerError("data of no file that was opened")
        del self._buffer[: HEAD.size]
        self._expect(*self._heard.last, coming.offset, length)
        return True

    def _expect(self, stream: str, seq: int, offset: int, left: int) -> None:
        coming = self._coming.get((stream, seq))
        if (
            coming is None
            or offset != coming.offset
            or offset + left > coming.octets
            or NEXT.get((self.theirs, Data)) is None
        ):
            raise PeerError(f"data at {offset} of a file that was not opened so")
        self._piece = (stream, seq, offset, left)

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
        if isinstance(event, Hello):
            self._is_short = short.VERSION in event.versions
        if isinstance(event, Open):
            self._heard.opened(event)
            self.opens_received += 1
            self.ours = READY if self.ours == DONE else self.ours
            open_count = sum(not coming.answered for coming in self._coming.values())
            if open_count >= _MAX_OPEN or len(self._coming) >= _MAX_ANSWERED:
                raise PeerError(f"more than {_MAX_OPEN} files open at once")
            if event.offset < event.octets:
                self._coming[event.number.stream, event.number.seq] = _Coming(event)
