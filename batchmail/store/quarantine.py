"""What is damaged is set aside, never removed: SPOOL/quarantine holds it under its old path, and beside it why."""

import os
from contextlib import suppress

from batchmail.store.durable import make_dir, move, replace
from batchmail.store.spool import Spool


def quarantine(spool: Spool, path: str, why: str) -> str:
    """Move a file of the spool there; returns its new path.  A crash in between: it lies in both places; do it again.

    The note first: a file without one would be a riddle.
    """
    place, number = _place(spool, path), 1
    while os.path.exists(final := f"{place}.{number}" if number > 1 else place) and not os.path.samefile(path, final):
        number += 1
    make_dir(os.path.dirname(final))
    replace(spool.tmp, f"{final}.why", f"{why}\n".encode())
    move(path, final)
    return final


def place_of(spool: Spool, path: str) -> str:
    """Where a file of the spool lies there that was moved away; empty: it was not."""
    place = _place(spool, path)
    return place if os.path.exists(place) else ""


def _place(spool: Spool, path: str) -> str:
    return f"{spool.root}/quarantine/{os.path.relpath(path, spool.root)}"


def transactions(spool: Spool, peer: str) -> list[str]:
    """The files of ours for a peer that lie there and hold, or held, transactions."""
    return [path for path in _files(f"{spool.root}/quarantine/out/{peer}") if ".bsmtp" in path or ".batch" in path]


def find(spool: Spool, identifier: str) -> str:
    """The file there that holds a transaction, by its name or what is said beside it; empty: none does."""
    for path in _files(f"{spool.root}/quarantine"):
        with suppress(OSError), open(f"{path}.why", encoding="utf-8", errors="replace") as why:
            if os.path.basename(path).startswith(identifier) or identifier in why.read():
                return path
    return ""


def _files(root: str) -> list[str]:
    found = (f"{where}/{name}" for where, _, names in os.walk(root) for name in names)
    return sorted(path for path in found if not path.endswith(".why"))
