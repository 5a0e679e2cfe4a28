"""What the ledgers of many peers say, without opening those that have not changed since they were looked into.

SPOOL/looks is only a memory: with each look it has the stamp of the ledger's file, which every commit changes as soon
as nobody has the ledger open; while somebody has, SQLite's log lies beside it, and it is looked into.  The memory of
another spool is none, for a copy must not speak of ledgers that it may not use.
"""

import json
import os
from contextlib import suppress
from typing import Any, NamedTuple

from batchmail.store.durable import replace
from batchmail.store.ledger import place_of
from batchmail.store.spool import Spool
from batchmail.store.view import Look, Open, look

_MAX_OCTETS = 256 << 20  # of the file
_SETTLED_NS = 2_000_000_000  # a file that changes twice within the clock's step has changed once to the eye
_WORTH_WRITING = 50  # ledgers looked into


class _Known(NamedTuple):
    stamp: str
    look: Look


class Looks:
    """Looks into the ledgers of one spool; `keep` remembers them."""

    def __init__(self, spool: Spool, now_ns: int):
        self._spool, self._now_ns = spool, now_ns
        self._path = f"{spool.root}/looks"
        self._place = place_of(spool)
        self._old = _read(self._path, self._place)
        self._new: dict[str, _Known] = {}
        self._count = 0

    def look(self, spool: Spool, peer: str) -> Look | None:
        """As `view.look`."""
        stamp = self._stamp(peer)  # before it is opened: what changes meanwhile is looked into again
        known = self._old.get(peer)
        if known is None or known.stamp != stamp:
            found = look(spool, peer)
            self._count += 1
            if not (stamp and found):
                return found
            known = _Known(stamp, found)
        self._new[peer] = known
        return known.look

    def _stamp(self, peer: str) -> str:
        """What tells whether a ledger has changed; empty: it cannot be told."""
        path = f"{self._spool.root}/ledger/{peer}"
        with suppress(FileNotFoundError):
            status = os.stat(path)
            if not os.path.exists(f"{path}-wal") and status.st_mtime_ns < self._now_ns - _SETTLED_NS:
                return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"
        return ""

    def keep(self) -> None:
        """Remember what was seen, if that is worth it; not worth a failure where it cannot be written."""
        if self._count >= _WORTH_WRITING:
            rows = ([peer, known.stamp, *known.look] for peer, known in self._new.items())
            text = "".join(f"{json.dumps(row)}\n" for row in ([self._place], *rows))
            with suppress(OSError):
                replace(self._spool.tmp, self._path, text.encode())


def _read(path: str, place: str) -> dict[str, _Known]:
    try:
        with open(path, "rb") as file:
            first, *rows = map(json.loads, file.read(_MAX_OCTETS).splitlines())
        return {row[0]: _Known(row[1], _unpack(*row[2:])) for row in rows} if first == [place] else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _unpack(unsettled: dict[str, Any], replay: list[int], owed: list[int], *rest: Any) -> Look:
    return Look({state: Open(*some) for state, some in unsettled.items()}, Open(*replay), Open(*owed), *rest)
