"""Line ends and dot-stuffing (RFC 5321 §4.1.1.4, §4.5.2), incremental.

Three thin filters, each fed octets in pieces of any size: `Unstuffer` finds
the end of data and takes the stuffed dots away, `Normalizer` makes every line
end CRLF, `Stuffer` puts dots back.  A door runs them in this order, so a bare
CR or LF that becomes a line end is stuffed like any other (SMTP smuggling).
"""

from batchmail.core.value import Iterable, Iterator

CRLF = b"\r\n"


class Unstuffer:
    """Takes stuffed data up to the line that is a single dot; `eol` is the one line end that counts."""

    def __init__(self, eol: bytes):
        self._eol = eol
        self._end = eol + b"." + eol
        self._held = eol  # as if a line had ended just before the data; not part of the content
        self._virtual = len(eol)
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The content in `data`, unstuffed.  When `done` turns true, `rest` is what followed the end."""
        buffer = self._held + data
        found = buffer.find(self._end)
        if found >= 0:
            self.done = True
            self.rest = buffer[found + len(self._end) :]
            return self._release(buffer[: found + len(self._eol)])
        keep = next((n for n in range(len(self._end) - 1, 0, -1) if buffer.endswith(self._end[:n])), 0)
        self._held = buffer[len(buffer) - keep :]
        return self._release(buffer[: len(buffer) - keep])

    def end(self) -> bytes:
        """What was held back, where data may also end without its dot.  Raises ValueError within a line of one dot."""
        if self._held.startswith(self._eol + b"."):
            raise ValueError("the data ends behind a dot that is neither doubled nor a line")
        return self._release(self._held)

    def _release(self, piece: bytes) -> bytes:
        unstuffed = piece.replace(self._eol + b".", self._eol)
        if self._virtual and unstuffed:
            unstuffed, self._virtual = unstuffed[self._virtual :], 0
        return unstuffed


class Normalizer:
    """Makes CRLF, LF and CR alike into CRLF; counts the CRs and LFs that stood alone."""

    def __init__(self) -> None:
        self._held = b""
        self.bare_cr = self.bare_lf = 0

    def feed(self, data: bytes) -> bytes:
        data = self._held + data
        self._held = b""
        if data.endswith(b"\r"):  # its LF may come with the next piece
            data, self._held = data[:-1], b"\r"
        pairs = data.count(CRLF)
        bare_cr, bare_lf = data.count(b"\r") - pairs, data.count(b"\n") - pairs
        self.bare_cr += bare_cr
        self.bare_lf += bare_lf
        if not bare_cr and not bare_lf:
            return data
        if bare_cr or pairs:
            data = data.replace(CRLF, b"\n").replace(b"\r", b"\n")
        return data.replace(b"\n", CRLF)

    def end(self) -> bytes:
        """What was held back: a CR at the very end."""
        self.bare_cr += len(self._held)
        return CRLF if self._held else b""


class Stuffer:
    """Doubles the dot at the start of every line of CRLF content."""

    def __init__(self) -> None:
        self._last = CRLF

    def feed(self, data: bytes) -> bytes:
        if not data:
            return b""
        stuffed = data.replace(b"\r\n.", b"\r\n..")
        if (self._last == CRLF and data.startswith(b".")) or (self._last.endswith(b"\r") and data.startswith(b"\n.")):
            stuffed = stuffed[: stuffed.index(b".")] + b"." + stuffed[stuffed.index(b".") :]
        self._last = (self._last + data)[-2:]
        return stuffed

    def end(self) -> bytes:
        """The end of data: a line end where the content lacks its last one, and the dot."""
        return b".\r\n" if self._last == CRLF else b"\r\n.\r\n"


def to_lf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """CRLF content with LF line ends, for what keeps lines the Unix way."""
    held = b""
    for piece in pieces:
        data = held + piece
        held = b"\r" if data.endswith(b"\r") else b""  # its LF may come with the next piece
        yield data[: len(data) - len(held)].replace(CRLF, b"\n")
    yield held
