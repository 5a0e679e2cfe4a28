"""Outbox and inbox: the numbered files of one peer.

outbox/N   row "sent"     the file is                            removed when
   +          -           sealed, and a crash came before the row (the row is made again)
   +       sealed         to be sent, or in the far side's custody settled: row, then file
partial/N  inbox/N  row "received"
   +          -       -   coming in; its name tells its identity, its size how far it is
   -          +       -   whole, and a crash came before the row  (the row is made again)
   -          +       +   in our custody                          done: row, then file
"""

import os
import re
from hashlib import sha256
from typing import NamedTuple

from batchmail.core import numbered
from batchmail.core.errors import PeerError
from batchmail.core.numbered import Number
from batchmail.store.durable import Draft, adopt, retire, sync_dir, sync_fd
from batchmail.store.spool import Spool

ENCODING = "zst"  # the file as it lies in the spool
_PARTIAL = re.compile(
    r"([0-9A-Z]{16}\.[0-9]{1,16}\.[a-z]{1,10})\.([0-9a-f]{64})\.(zst|r[0-9a-f]{8}\.[1-9][0-9]{0,9})\Z"
)
_CHUNK_OCTETS = 1 << 18


class Outbox:
    """Sealed files for a peer."""

    def __init__(self, spool: Spool, peer: str):
        self._dir = f"{spool.root}/out/{peer}/outbox"

    def path(self, number: Number) -> str:
        return f"{self._dir}/{number.file_name}"

    def numbers(self) -> list[Number]:
        return sorted(filter(None, map(numbered.parse, os.listdir(self._dir))))

    def octets(self, number: Number) -> int | None:
        """How long the file is; None: it is not there."""
        return _size(self.path(number))

    def sync(self) -> None:
        """A crash may have come between a name and its sync; before a row relies on it."""
        sync_dir(self._dir)

    def publish(self, draft: Draft, number: Number) -> None:
        draft.publish(self.path(number))

    def remove(self, number: Number) -> None:
        retire(self.path(number))


class Partial(NamedTuple):
    """A numbered file of which a part has come."""

    number: Number
    identity: str
    encoding: str
    path: str
    octets: int

    def digest(self) -> str:
        """Of the octets that are here."""
        return digest_of(self.path, self.octets)

    def touched_ms(self) -> int:
        """When octets last came, by the file system's clock."""
        return os.stat(self.path).st_mtime_ns // 1_000_000


class Inbox:
    """Files coming from a peer, and those in our custody."""

    def __init__(self, spool: Spool, peer: str):
        self._partial_dir = f"{spool.root}/in/{peer}/partial"
        self._dir = f"{spool.root}/in/{peer}/inbox"

    def path(self, number: Number) -> str:
        return f"{self._dir}/{number.file_name}"

    def numbers(self) -> list[Number]:
        return sorted(filter(None, map(numbered.parse, os.listdir(self._dir))))

    def octets(self) -> int:
        """What lies here and in `partial`, for the quota."""
        return sum(_size(entry.path) or 0 for place in (self._dir, self._partial_dir) for entry in os.scandir(place))

    def partials(self) -> list[Partial]:
        found = []
        for name in os.listdir(self._partial_dir):
            match = _PARTIAL.match(name)
            number = numbered.parse(match[1]) if match else None
            path = f"{self._partial_dir}/{name}"
            size = _size(path)
            if match and number and size is not None:
                found.append(Partial(number, match[2], match[3], path, size))
        return sorted(found)

    def begin(self, number: Number, identity: str, offset: int, encoding: str = ENCODING) -> "Incoming":
        """Go on with a partial file at `offset`, or begin it at 0.  Raises PeerError when it has fewer octets."""
        path = f"{self._partial_dir}/{number.file_name}.{identity}.{encoding}"
        for other in self.partials():
            if other.number[:2] == number[:2] and other.path != path:
                retire(other.path)  # the number was voided or re-sealed meanwhile
        return Incoming(number, identity, encoding, path, offset)

    def sync(self) -> None:
        """As that of the outbox."""
        sync_dir(self._dir)

    def take(self, incoming: "Incoming") -> None:
        """Custody: put a whole and checked file in its place, durably.

        A crash before the rename: it is sent again from where it stood.  After it: found by the start of the next call.
        """
        adopt(incoming.path, self.path(incoming.number))

    def take_restored(self, draft: Draft, number: Number) -> None:
        """The same for the file that was restored from an encoded one."""
        draft.publish(self.path(number))

    def drop(self, partial_path: str) -> None:
        retire(partial_path)

    def remove(self, number: Number) -> None:
        retire(self.path(number))


class Incoming:
    """A partial file that is being written."""

    def __init__(self, number: Number, identity: str, encoding: str, path: str, offset: int):
        self.number, self.identity, self.encoding, self.path = number, identity, encoding, path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        size = os.fstat(self._fd).st_size
        if offset > size:
            self.close()
            raise PeerError(f"{number.file_name} is to go on at {offset}, but only {size} octets are here")
        os.ftruncate(self._fd, offset)
        self.octets = offset
        self.expected_octets = 0  # of the whole file, as it was announced

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self.octets)
            self.octets += written
            view = view[written:]

    def first_octets(self, count: int) -> bytes:
        return os.pread(self._fd, count, 0)

    def sync(self) -> None:
        sync_fd(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _size(path: str) -> int | None:
    """None: it is not there, or not any more."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def digest_of(path: str, octets: int) -> str:
    """SHA-256 of the first `octets` of a file; of less when it is shorter."""
    digest = sha256()
    with open(path, "rb") as file:
        while octets and (data := file.read(min(octets, _CHUNK_OCTETS))):
            digest.update(data)
            octets -= len(data)
    return digest.hexdigest()
