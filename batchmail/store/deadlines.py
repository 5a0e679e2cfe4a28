"""Marks of transactions that are to be delivered by a time (RFC 2852), so that these alone are looked at.

    out/PEER/deadlines/HOUR/ID -> "TIME_MS R" or "TIME_MS N"     a symbolic link to nowhere; HOUR since 1970

A door makes the mark before the transaction is accepted: a crash in between
leaves a mark of nothing, which goes in its time.  Whoever sees that the time is
over removes it after it has acted; a crash in between has it look again.
"""

import os

from batchmail.core.deliverby import deliver_by
from batchmail.core.envelope import Envelope
from batchmail.core.value import Iterator, NamedTuple
from batchmail.store.durable import make_dir, mark, retire, retire_dir, sync_dir
from batchmail.store.spool import Spool, names_in

_HOUR_MS = 3_600_000


class Deadline(NamedTuple):
    """When a transaction's time is over."""

    time_ms: int
    must_return: bool  # mode R: it is given back then


class Marked(NamedTuple):
    id: str
    deadline: Deadline
    path: str


def told_key(identifier: str) -> str:
    """Under which the ledger notes that a deadline was told; another delay may have been told before it."""
    return f"{identifier}.by"


def deadline_of(envelope: Envelope, arrival_ms: int) -> Deadline | None:
    """None as well where the time was over on arrival: whoever had it then has told so (RFC 2852 §4.1.3)."""
    by = deliver_by(envelope)
    return None if by is None or by.is_over else Deadline(by.deadline_ms(arrival_ms), by.must_return)


class Deadlines:
    """The marks of one peer."""

    def __init__(self, spool: Spool, peer: str):
        self._root = f"{spool.root}/out/{peer}/deadlines"

    def mark(self, identifier: str, deadline: Deadline | None) -> None:
        """Mark a transaction that has a deadline, durably."""
        if deadline is None:
            return
        hour = f"{self._root}/{deadline.time_ms // _HOUR_MS}"
        make_dir(hour)
        try:
            mark(f"{deadline.time_ms} {'R' if deadline.must_return else 'N'}", f"{hour}/{identifier}")
        except FileExistsError:
            pass  # done before a crash
        sync_dir(hour)
        sync_dir(self._root)  # another door may have made the hour, and not synced it yet

    def find(self, identifier: str) -> Deadline | None:
        """The deadline of a transaction that is marked."""
        paths = (f"{self._root}/{hour}/{identifier}" for hour in names_in(self._root))
        return next(filter(None, map(_read, paths)), None)

    def over(self, now_ms: int) -> Iterator[Marked]:
        """The marks of those whose time is over, oldest first; reads no directory of a later hour."""
        for hour in sorted(int(name) for name in names_in(self._root) if name.isdigit()):
            if hour > now_ms // _HOUR_MS:
                return
            for name in names_in(f"{self._root}/{hour}"):
                path = f"{self._root}/{hour}/{name}"
                deadline = _read(path)
                if deadline is not None and deadline.time_ms <= now_ms:
                    yield Marked(name, deadline, path)
            if hour < now_ms // _HOUR_MS:  # no door makes marks there any more
                retire_dir(f"{self._root}/{hour}")

    def forget(self, marked: Marked) -> None:
        retire(marked.path)


def _read(path: str) -> Deadline | None:
    try:
        time_ms, _, mode = os.readlink(path).partition(" ")
    except OSError:
        return None
    is_mark = time_ms.isascii() and time_ms.isdigit() and len(time_ms) <= 15 and mode in ("R", "N")
    return Deadline(int(time_ms), mode == "R") if is_mark else None
