"""A list of valid recipients as a file: a line that says what it is, then sorted keys of fixed length.

    out/PEER/recipients        what the peer told us: the door looks addresses up in it
    out/PEER/recipients.parts  what has come of its next list, a file for each part
    in/PEER/recipients         what we told the peer, so that it is told changes only

A list is replaced as a whole, so a crash leaves the old one or the new one; to
look something up takes memory for one key.  One whose octets are not what its
first line says is damaged, and counts as none: the peer hears so, and tells it again.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from batchmail.core import jsontext
from batchmail.core.digest import sha256
from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.valid import KEY_OCTETS, MAX_KEYS, Terms, identity_of, is_terms, is_valid
from batchmail.store.durable import make_dir, replace, retire, retire_tree, sync_dir
from batchmail.store.spool import Spool

_HEAD_OCTETS = 256
_LATEST_MS = 253402300799000  # the end of the calendar
_PIECE_KEYS = 10_000
_CHANGE_OCTETS = 1 + KEY_OCTETS  # "+" or "-", and the key


def listed_path(root: str, peer: str) -> str:
    """Where the list lies that a peer told us."""
    return f"{root}/out/{peer}/recipients"


def told_path(root: str, peer: str) -> str:
    """Where the list lies that we told a peer."""
    return f"{root}/in/{peer}/recipients"


class Head(NamedTuple):
    """What the first line says."""

    identity: str
    time_ms: int  # when it came into force here, or was told
    addresses: int
    keys: int
    terms: Terms

    @property
    def day(self) -> str:
        return str(datetime.fromtimestamp(self.time_ms / 1000, UTC).date())


class Listing:
    """A list that is open to look into."""

    def __init__(self, path: str):
        """Raises FileNotFoundError, and SpoolError when it can be seen to be damaged."""
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(self._fd)
            self.stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            self.head = self._read_head(status.st_size)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def _read_head(self, size_octets: int) -> Head:
        try:
            fields = jsontext.read(os.pread(self._fd, _HEAD_OCTETS, 0), "its first line")
            terms = Terms(fields.text("salt", 16, ""), fields.text("delimiters", 8, ""))
            head = Head(
                fields.text("list", 16),
                fields.integer("time", 0, _LATEST_MS),
                fields.integer("addresses", 0, MAX_KEYS),
                fields.integer("keys", 0, MAX_KEYS),
                terms,
            )
        except PeerError as error:
            raise self._damage(str(error)) from None
        if not is_terms(terms) or fields.value.get("recipients") != 1:
            raise self._damage("its first line is of another version")
        if size_octets != _HEAD_OCTETS + head.keys * KEY_OCTETS:
            raise self._damage(f"it has {size_octets} octets")
        return head

    def _damage(self, what: str) -> SpoolError:
        return SpoolError(f"{self._path} is damaged ({what}) and counts as none; the next call brings it again")

    def check(self) -> None:
        """Read it all.  Raises SpoolError when it is not what it was."""
        if identity_of(self.head.terms, self._pieces()) != self.head.identity:
            raise self._damage("its octets are not those that were written")

    def _pieces(self) -> Iterator[bytes]:
        for first in range(0, self.head.keys, _PIECE_KEYS):
            count = min(_PIECE_KEYS, self.head.keys - first)
            yield os.pread(self._fd, count * KEY_OCTETS, _HEAD_OCTETS + first * KEY_OCTETS)

    def accepts(self, address: bytes) -> bool:
        return is_valid(self.head.terms, self._has, address)

    def _has(self, key: bytes) -> bool:
        low, high = 0, self.head.keys
        while low < high:
            middle = (low + high) // 2
            found = os.pread(self._fd, KEY_OCTETS, _HEAD_OCTETS + middle * KEY_OCTETS)
            if found == key:
                return True
            low, high = (middle + 1, high) if found < key else (low, middle)
        return False

    def keys(self) -> set[bytes]:
        """All of them, in memory."""
        return {key for piece in self._pieces() for key in _split(piece)}


def open_sound(path: str) -> Listing | None:
    """A list, all of it checked, or None where there is none.  Raises SpoolError when it is damaged."""
    try:
        found = Listing(path)
    except FileNotFoundError:
        return None
    try:
        found.check()
    except BaseException:
        found.close()
        raise
    return found


def read_head(path: str) -> Head | None:
    """What a list says of itself, or None where there is none.  Raises SpoolError when it is damaged."""
    found = open_sound(path)
    if found is None:
        return None
    with found:
        return found.head


def identity_at(path: str) -> str:
    """The identity of a list; empty where there is none that can be used."""
    try:
        head = read_head(path)
    except (SpoolError, OSError):
        return ""
    return head.identity if head else ""


def write_list(spool: Spool, path: str, head: Head, keys: Iterable[bytes]) -> None:
    """Put a list in force; `keys` are sorted, and as many as the head says."""
    line = jsontext.write(
        {
            "recipients": 1,
            "list": head.identity,
            "time": head.time_ms,
            "addresses": head.addresses,
            "keys": head.keys,
            **{name: value for name, value in head.terms._asdict().items() if value},
        }
    )
    replace(spool.tmp, path, line.rstrip(b"\n").ljust(_HEAD_OCTETS - 1) + b"\n" + b"".join(keys))


def remove_list(path: str) -> None:
    """Gone for good when this returns."""
    if os.path.exists(path):
        retire(path)
        sync_dir(os.path.dirname(path))


def _split(keys: bytes) -> Iterator[bytes]:
    return (keys[at : at + KEY_OCTETS] for at in range(0, len(keys), KEY_OCTETS))


class Common(NamedTuple):
    """What all parts of a list say alike."""

    identity: str
    base: str  # the list that they change; empty: none
    of: int  # so many parts
    addresses: int
    terms: Terms


class Parts:
    """What has come of a peer's next list; those that do not say the same of it never meet."""

    def __init__(self, spool: Spool, peer: str, common: Common):
        self._tmp = spool.tmp
        self._dir = f"{spool.root}/out/{peer}/recipients.parts"
        self._name = sha256(repr(common).encode()).hexdigest()[:16]
        self._of = common.of

    def put(self, part: int, new: list[bytes], gone: list[bytes]) -> bool:
        """Keep a part, durably, and let go of those of other lists; whether all are there.  Raises PeerError."""
        make_dir(self._dir)
        octets = _CHANGE_OCTETS * (len(new) + len(gone))
        for name in os.listdir(self._dir):
            path = f"{self._dir}/{name}"
            if not name.startswith(f"{self._name}."):
                retire(path)
            elif path != self._path(part):
                octets += os.stat(path).st_size
        if octets > 2 * MAX_KEYS * _CHANGE_OCTETS:
            raise PeerError(f"a list of more than {MAX_KEYS} addresses and domains")
        changes = [b"+" + key for key in new] + [b"-" + key for key in gone]
        replace(self._tmp, self._path(part), b"".join(changes))
        return all(os.path.exists(self._path(number)) for number in range(self._of))

    def _path(self, part: int) -> str:
        return f"{self._dir}/{self._name}.{part}"

    def apply(self, keys: set[bytes]) -> None:
        """Change the keys of the base by all parts."""
        for part in range(self._of):
            with open(self._path(part), "rb") as file:
                while change := file.read(_CHANGE_OCTETS):
                    (keys.add if change.startswith(b"+") else keys.discard)(change[1:])

    def drop(self) -> None:
        """A name that comes back after a power cut goes with the next list."""
        with contextlib.suppress(FileNotFoundError):
            retire_tree(self._dir)
