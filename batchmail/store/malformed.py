"""A ledger whose file is damaged is set aside, whole, when a person begins a new one.

For the holder of the peer's line and replay lock: nobody writes it then.
"""

import os

from batchmail.store.ledger import damage_of
from batchmail.store.quarantine import quarantine
from batchmail.store.spool import Spool


def set_aside(spool: Spool, peer: str) -> str:
    """Where a damaged ledger lies now; empty when there is none, or nothing is wrong with it.  Raises SpoolError.

    SQLite's log goes first: beside a new ledger it would be taken for that one's.  A crash in between: do it again.
    """
    path = f"{spool.root}/ledger/{peer}"
    why = damage_of(path) if os.path.exists(path) else ""
    if not why:
        return ""
    for beside in (f"{path}-wal", f"{path}-shm"):
        if os.path.exists(beside):
            quarantine(spool, beside, why)
    return quarantine(spool, path, why)
