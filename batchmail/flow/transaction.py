"""A transaction out of its text: the envelope, and the content to be read as often as needed."""

from collections.abc import Iterable, Iterator

from batchmail.core import bsmtp
from batchmail.core.envelope import Envelope
from batchmail.core.errors import MalformedInput, SpoolError
from batchmail.store.spill import Spill

MAX_HEADER_OCTETS = 256 << 10  # looked at for loops and non-ASCII octets


def read_envelope(text: Iterator[bytes]) -> Envelope:
    """The envelope at the start of a transaction's text; no more of it is read."""
    reader = bsmtp.Reader(b"\r\n")
    for octets in text:
        reader.receive(octets)
        event = reader.next_event()
        if isinstance(event, bsmtp.Start):
            return event.envelope
    raise SpoolError("a transaction's text holds no envelope")


def check_text(text: Iterable[bytes]) -> bytes:
    """Read a transaction's text to its end, and its envelope as the far side will; its first octets.

    Raises SpoolError: there no transaction behind it could be read.  What is damaged is called so first, by the text
    at its end.
    """
    first, reader, envelope, malformed = b"", bsmtp.Reader(b"\r\n"), None, None
    for octets in text:
        first = first or octets
        if envelope is None and malformed is None:
            try:
                reader.receive(octets)
                envelope = reader.next_event()
            except MalformedInput as error:
                malformed = error
    if malformed is not None:
        raise SpoolError(f"its envelope cannot be read: {malformed}")
    if envelope is None:
        raise SpoolError("it has no envelope")
    return first


class Transaction:
    """An envelope with its content; a context manager, since large content lies in a draft."""

    def __init__(self, text: Iterable[bytes], tmp_dir: str):
        """Read `text` from MAIL to the final dot.  Raises SpoolError when it is not a whole transaction."""
        self._spill = Spill(tmp_dir)
        self.header = b""
        self.eightbit = False
        try:
            self.envelope = self._read(text)
        except BaseException:
            self._spill.discard()
            raise
        end = (b"\r\n" + self.header).find(b"\r\n\r\n")  # at once where the header is empty
        if end >= 0:
            self.header = self.header[:end]

    def _read(self, text: Iterable[bytes]) -> Envelope:
        reader = bsmtp.Reader(b"\r\n")
        envelope, whole = None, False
        try:
            for octets in text:
                reader.receive(octets)
                while (event := reader.next_event()) is not None:
                    if isinstance(event, bsmtp.Start):
                        envelope = event.envelope
                    elif isinstance(event, bsmtp.Content):
                        self._take(event.octets)
                    whole = isinstance(event, bsmtp.End)
        except MalformedInput as error:
            raise SpoolError(f"a transaction's text is damaged: {error}") from None
        if envelope is None or not whole:
            raise SpoolError("a transaction's text is damaged: it has no envelope or no end")
        return envelope

    def _take(self, octets: bytes) -> None:
        self._spill.write(octets)
        self.eightbit = self.eightbit or not octets.isascii()
        if len(self.header) < MAX_HEADER_OCTETS:
            self.header += octets[: MAX_HEADER_OCTETS - len(self.header)]

    @property
    def size_octets(self) -> int:
        return self._spill.size_octets

    def content(self) -> Iterator[bytes]:
        """CRLF content, not stuffed."""
        return self._spill.read()

    def discard(self) -> None:
        """Its content is not needed any more."""
        self._spill.discard()

    def __enter__(self) -> "Transaction":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
