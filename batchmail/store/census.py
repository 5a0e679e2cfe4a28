"""How much waits for a peer, without a look at every name.

What a bucket holds is counted once and remembered with the time of the
bucket's last change; while that stays the same so does the count, since each
name that comes or goes changes it.  A quick count asks only the oldest and the
youngest buckets for that time: from those the sealing takes, to these the
doors add.  SPOOL/out/PEER/census is only a memory: without it, or when it is
damaged, the buckets are counted anew.
"""

import os
from contextlib import suppress
from typing import NamedTuple

from batchmail.core.names import time_of_id
from batchmail.store.durable import replace
from batchmail.store.spool import Spool

_MAX_OCTETS = 64 << 20  # of the file: half a million buckets
_ID_LENGTH, _END = 26, ".bsmtp"
_SETTLED_NS = 2_000_000_000  # a directory that changes twice within the clock's step has changed once to the eye
_WORTH_WRITING = 1000  # names counted anew
_EDGE = 300  # buckets at either end that a quick count looks at


class Count(NamedTuple):
    """What waits: transactions, octets of their text, and when the oldest of each priority came."""

    number: int = 0
    octets: int = 0
    has_more: bool = False  # more waits than was counted
    oldest_ms: int | None = None


class _Bucket(NamedTuple):
    changed_ns: int
    number: int
    octets: int


def count(spool: Spool, peer: str, now_ns: int, most: int | None) -> Count:
    """Count what waits for a peer: quickly, looking at some `most` names beyond those counted before, or all with care.

    What is not remembered costs time only, so the file is not worth a failure where it cannot be written.
    """
    census = _Census(f"{spool.root}/out/{peer}")
    found = census.count(now_ns, most)
    if census.looked >= _WORTH_WRITING:
        with suppress(OSError):
            replace(spool.tmp, census.path, census.text())
    return found


class _Census:
    def __init__(self, out: str):
        self.path = f"{out}/census"
        self.looked = 0  # names looked at
        self._waiting = f"{out}/waiting"
        self._old = _read(self.path)
        self._new: dict[str, _Bucket] = {}

    def count(self, now_ns: int, most: int | None) -> Count:
        number = octets = 0
        has_more, oldest = False, []
        for priority in _names(self._waiting):
            buckets = sorted(f"{priority}/{name}" for name in _names(f"{self._waiting}/{priority}"))
            for place, name in enumerate(buckets):
                inside = most is not None and _EDGE <= place < len(buckets) - _EDGE
                bucket = self._look(name, inside, now_ns, most)
                has_more |= bucket is None
                if bucket is not None:
                    number += bucket.number
                    octets += bucket.octets
            first = self._oldest(buckets)
            oldest += [first] if first is not None else []
        return Count(number, octets, has_more, min(oldest, default=None))

    def _look(self, name: str, inside: bool, now_ns: int, most: int | None) -> _Bucket | None:
        """What a bucket holds; None: it is not known, and enough was looked at."""
        known = self._old.get(name)
        if inside and known is not None:
            self._new[name] = known
            return known
        is_enough = most is not None and self.looked >= most
        if known is None and is_enough:
            return None
        try:
            changed_ns = os.stat(f"{self._waiting}/{name}").st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return _Bucket(0, 0, 0)
        if known is None or known.changed_ns != changed_ns:
            if is_enough:
                return None
            octets = [int(file[_ID_LENGTH + 1 : -len(_END)]) for file in self._files(name)]
            self.looked += len(octets) + 1
            known = _Bucket(changed_ns, len(octets), sum(octets))
        if changed_ns < now_ns - _SETTLED_NS:
            self._new[name] = known
        return known

    def _files(self, bucket: str) -> list[str]:
        return [
            name
            for name in _names(f"{self._waiting}/{bucket}")
            if name.endswith(_END) and name[_ID_LENGTH + 1 : -len(_END)].isdigit()
        ]

    def _oldest(self, buckets: list[str]) -> int | None:
        for bucket in buckets:
            known = self._new.get(bucket)
            files = [] if known is not None and not known.number else self._files(bucket)
            if files:
                return time_of_id(min(files))
        return None

    def text(self) -> bytes:
        return "".join(
            f"{name} {bucket.changed_ns} {bucket.number} {bucket.octets}\n" for name, bucket in self._new.items()
        ).encode()


def _read(path: str) -> dict[str, _Bucket]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            rows = [line.split(" ") for line in file.read(_MAX_OCTETS).splitlines()]
        return {name: _Bucket(int(changed_ns), int(number), int(octets)) for name, changed_ns, number, octets in rows}
    except (FileNotFoundError, ValueError):
        return {}


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
