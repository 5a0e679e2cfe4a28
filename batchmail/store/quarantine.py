"""What is damaged is set aside, never removed: SPOOL/quarantine holds it under its old path, and beside it why."""

import os

from batchmail.store.durable import make_dir, move, replace
from batchmail.store.spool import Spool


def quarantine(spool: Spool, path: str, why: str) -> str:
    """Move a file of the spool there; returns its new path.  A crash in between: it lies in both places; do it again.

    The note first: a file without one would be a riddle.
    """
    place = f"{spool.root}/quarantine/{os.path.relpath(path, spool.root)}"
    number = 1
    while os.path.exists(final := f"{place}.{number}" if number > 1 else place) and not os.path.samefile(path, final):
        number += 1
    make_dir(os.path.dirname(final))
    replace(spool.tmp, f"{final}.why", f"{why}\n".encode())
    move(path, final)
    return final


def count(spool: Spool) -> int:
    """How many files lie there."""
    return sum(not name.endswith(".why") for _, _, names in os.walk(f"{spool.root}/quarantine") for name in names)
