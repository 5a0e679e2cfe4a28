"""Room kept for the day the disk is full: without it no ledger could note what would make room again.

A file of no content, SPOOL/ballast.  Who opens a ledger, or fails to write it,
on a disk that is full gives the file up; then outcomes are recorded, reports
are sealed and settled, and what they settle is removed.  `batchmail run` makes
the file again when there is plenty.  Doors and custody stop at the reserve,
long before, so none of this room goes to new mail.
"""

import contextlib
import os

from batchmail.store.durable import replace, retire
from batchmail.store.room import free_octets

OCTETS = 2 << 20
_PLENTY_OCTETS = 16 << 20  # free when it is made
_FULL_OCTETS = 256 << 10  # less than a ledger may need to be opened and written


def keep(root: str) -> None:
    """Make the file unless it is there or room is short."""
    path = f"{root}/ballast"
    if not os.path.exists(path) and free_octets(root) >= _PLENTY_OCTETS + OCTETS:
        with contextlib.suppress(OSError):  # the next pass does it
            replace(f"{root}/tmp", path, os.urandom(OCTETS))  # zeros might take no room


def give_up_if_full(root: str) -> None:
    """Remove the file where the disk is full; nothing counts on it."""
    if free_octets(root) < _FULL_OCTETS:
        retire(f"{root}/ballast")
