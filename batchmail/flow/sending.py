"""Files on their way to the peer: as they lie in the outbox, or compressed against what both sides remember.

How a file travels and from which octet is decided when it is taken up, from
the peer's HELLO and from what it has taken into custody since.
"""

import os
from collections.abc import Callable
from hashlib import sha256

from batchmail.core.errors import PeerError
from batchmail.core.numbered import BATCH, Number
from batchmail.proto import short
from batchmail.proto.frames import Data
from batchmail.proto.hello import Hello, PartialFile
from batchmail.store import batchfile
from batchmail.store.boxes import ENCODING, digest_of
from batchmail.store.remembered import Remembered, Text
from batchmail.store.sent import SentFile
from batchmail.wire import maillog

_MAX_ENCODED_OCTETS = 256 << 10  # of a file that is compressed against what both sides remember
_LEVELS = (12, 17, 19)  # 19 saves a twentieth more than 12, and takes a tenth of a second for each file


class Sending:
    """A file under way: as it lies in the outbox, or the octets that it was encoded to."""

    def __init__(self, file: SentFile, path: str, encoding: str, encoded: bytes, offset: int):
        self.file, self.encoding, self.offset = file, encoding, offset
        self.opened = False
        self.octets = len(encoded) or file.octets
        self._encoded = encoded
        self._fd = -1 if encoded else os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def left_octets(self) -> int:
        return self.octets - self.offset

    @property
    def turn(self) -> tuple[bool, bool, str, int]:
        number = self.file.number
        return number.kind == BATCH, self.left_octets > (1 << 20), number.stream, number.seq

    def read(self, octets: int) -> Data:
        data = self._encoded[self.offset :][:octets] if self._encoded else os.pread(self._fd, octets, self.offset)
        if not data:
            raise PeerError(f"{self.file.number.file_name} in the outbox is shorter than it was sealed")
        piece = Data(*self.file.number[:2], self.offset, data)
        self.offset += len(data)
        return piece

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class Departures:
    """Takes files up in one call."""

    def __init__(self, peer: str, remembered: Remembered, level: Callable[[], int]):
        self._peer, self._remembered, self._level = peer, remembered, level
        self.hello: Hello | None = None
        self._encoded: set[tuple[str, int]] = set()  # sent compressed against what both sides remember
        self._plain = False  # the peer could not restore what was sent like that

    def begin(self, file: SentFile, path: str) -> Sending:
        """How a file travels, and from which octet."""
        encoding, encoded = self._encode(file, path)
        if encoded:
            self._encoded.add(file.number[:2])
        return Sending(file, path, encoding, encoded, self._resume_at(file, path, encoding, encoded))

    def falls_back(self, number: Number) -> bool:
        """A file was refused for now: whether it is to be sent as it lies in the outbox, as all are from here on.

        Others may be encoded already: where many are queued, what they name is gone there by the time that they come.
        """
        if number[:2] not in self._encoded:
            return False
        self._encoded.remove(number[:2])
        self._plain = True
        return True

    def _encode(self, file: SentFile, path: str) -> tuple[str, bytes]:
        """The encoding, and what is sent where that is not the file itself."""
        partial = self._partial(file)
        if self._plain or file.octets > _MAX_ENCODED_OCTETS or (partial and partial.encoding == ENCODING):
            return ENCODING, b""
        stream, word = file.number.stream, partial.encoding if partial else ""
        text = self._remembered.by_word(stream, word)
        if not text.word:  # nothing of it is there, or of no use
            text = self._agreed(stream)
        if not text.word:
            return ENCODING, b""
        try:
            encoded = self._compress(file, path, text.octets, partial)
        except PeerError as error:
            maillog.trouble(self._peer, f"{path} cannot be read: {error}")
            return ENCODING, b""
        return (text.word, encoded) if encoded and len(encoded) < file.octets else (ENCODING, b"")

    def _compress(self, file: SentFile, path: str, text: bytes, partial: PartialFile | None) -> bytes | None:
        """As hard as the line wants it; but where a part has come, as hard as that was."""
        is_bare = self.hello is not None and short.VERSION in self.hello.versions
        wanted = max(_LEVELS[0], self._level())
        levels = dict.fromkeys((wanted, *_LEVELS)) if partial else (wanted,)
        first: bytes | None = None
        for level in levels:
            encoded = batchfile.encode(path, file.number.kind == BATCH, text, level, is_bare)
            if encoded and partial and _begins(encoded, partial):
                return encoded
            first = encoded if level == wanted else first
        return first

    def _agreed(self, stream: str) -> Text:
        """What the far side remembers as we do: what its HELLO named, and what it has taken since then."""
        have = self.hello.of_stream(stream) if self.hello else None
        if have is None or not self._remembered.by_word(stream, have.remembered).word:
            return Text("", b"")
        return self._remembered.up_to(stream, self._remembered.newest(stream, have.up_to))

    def _partial(self, file: SentFile) -> PartialFile | None:
        """What the far side has of it."""
        partials = self.hello.partial if self.hello else ()
        found = (p for p in partials if (p.number, p.identity) == (file.number, file.identity))
        return next((partial for partial in found if partial.octets), None)

    def _resume_at(self, file: SentFile, path: str, encoding: str, encoded: bytes) -> int:
        partial = self._partial(file)
        if partial is None or partial.encoding != encoding or partial.octets > (len(encoded) or file.octets):
            return 0
        is_same = _begins(encoded, partial) if encoded else digest_of(path, partial.octets) == partial.digest
        return partial.octets if is_same else 0


def _begins(encoded: bytes, partial: PartialFile) -> bool:
    """Whether what has come is the beginning of it."""
    return sha256(encoded[: partial.octets]).hexdigest() == partial.digest
