"""What a server's transaction gathers from MAIL on, and where its content ends: at a dot, or where BDAT said."""

from batchmail.core.envelope import Envelope, Parameters, Recipient
from batchmail.core.lines import CRLF, Unstuffer
from batchmail.proto.smtp_events import Answer


class Transaction:
    """What MAIL began."""

    def __init__(self, sender: bytes, parameters: Parameters):
        self.sender, self.parameters = sender, parameters
        self.recipients: list[Recipient] = []  # the accepted ones
        self.tried = self.tried_octets = 0  # RCPT commands
        self.told = False  # the driver has had an event of it
        self.started = False  # the driver takes its content
        self.chunked = False  # by BDAT
        self.octets = 0  # of content so far
        self.failure: Answer | None = None  # why its content is thrown away

    @property
    def envelope(self) -> Envelope:
        return Envelope(self.sender, self.parameters, tuple(self.recipients))


class Dotted:
    """The content behind DATA: unstuffed, up to CRLF.CRLF."""

    def __init__(self) -> None:
        self._unstuffer = Unstuffer(CRLF)

    @property
    def is_done(self) -> bool:
        return self._unstuffer.done

    def take(self, buffer: bytearray) -> bytes:
        """What of it stands in the buffer; the rest of the buffer is what follows its end."""
        octets = self._unstuffer.feed(bytes(buffer))
        buffer[:] = self._unstuffer.rest
        return octets


class Chunk:
    """The content behind one BDAT: counted, as it is."""

    def __init__(self, octets: int, is_last: bool):
        self.octets = self._left = octets
        self.is_last = is_last

    @property
    def is_done(self) -> bool:
        return not self._left

    def take(self, buffer: bytearray) -> bytes:
        """What of it stands in the buffer."""
        octets = bytes(buffer[: self._left])
        del buffer[: len(octets)]
        self._left -= len(octets)
        return octets
