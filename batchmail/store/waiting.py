"""Transactions waiting for a peer: a file each, found by priority and time of arrival without an index.

    tmp  waiting  outbox manifest   the transaction is          after a crash
     +      -            -          being written by a door     the sweep removes the draft
     +      +            -          on its way to the disk      whole: accepted; torn: nobody was told yes, it is held
     ?      +            -          accepted                    (nothing to do)
     -      +            +          sealed                      the next sealing finds the leftover, removes it
     -      -            +          sealed                      (nothing to do)

How they come here, and what their directories are called: `store.arrivals`.
"""

import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from batchmail.core.entry import Entry
from batchmail.store.arrivals import BUCKET_LENGTH, DAY_MS, Arrivals
from batchmail.store.durable import move, retire, retire_dir
from batchmail.store.reader import read_file
from batchmail.store.spool import names_in

_FILE = re.compile(r"([0-7][0-9A-HJKMNP-TV-Z]{25})\.([0-9]{1,15})\.bsmtp\Z")
_SPARE_BUCKETS = 2  # the youngest buckets are left for the doors that are writing into them


class Waiting(NamedTuple):
    """A waiting transaction, as its name tells."""

    id: str
    text_octets: int
    path: str
    urgency: str  # the priority's directory: sorts with the most urgent first


class WaitingRoom(Arrivals):
    """What waits for one peer."""

    def scan(self) -> Iterator[Waiting]:
        """What waits, most urgent and oldest first; reads no more directories than are asked for."""
        for priority in names_in(self._root):
            for bucket in names_in(f"{self._root}/{priority}"):
                yield from files_in(f"{self._root}/{priority}/{bucket}", priority)

    def scan_held(self) -> Iterator[Waiting]:
        """What an operator, or a refusal, has set aside."""
        yield from files_in(f"{self._out}/held", "")

    def find(self, identifier: str) -> Waiting | None:
        """A waiting or held transaction; a held one has no urgency.  Reads only the buckets of its time."""
        for priority in names_in(self._root):
            for bucket in names_in(f"{self._root}/{priority}"):
                if bucket[:BUCKET_LENGTH] == identifier[:BUCKET_LENGTH]:
                    path = f"{self._root}/{priority}/{bucket}"
                    for name in names_in(path):
                        match = _FILE.match(name)
                        if match and match[1] == identifier:
                            return Waiting(identifier, int(match[2]), f"{path}/{name}", priority)
        return next((held for held in self.scan_held() if held.id == identifier), None)

    def is_empty(self) -> bool:
        return next(self.scan(), None) is None

    def remove(self, paths: list[str]) -> None:
        """Let go of files whose transactions are in a sealed batch, as the ledger says; then of empty buckets."""
        for path in paths:
            retire(path)
        buckets = {os.path.dirname(path) for path in paths}
        youngest = {name for priority in set(map(os.path.dirname, buckets)) for name in self._youngest(priority)}
        for bucket in buckets - youngest:
            retire_dir(bucket)

    def tidy(self, now_ms: int) -> None:
        """What nobody waits for: forget old offers, remove buckets that were emptied while they were young."""
        self.forget_offers(now_ms)
        for priority in names_in(self._root):
            path = f"{self._root}/{priority}"
            youngest = self._youngest(path)
            for bucket in names_in(path):
                if f"{path}/{bucket}" not in youngest:
                    retire_dir(f"{path}/{bucket}")

    def hold(self, waiting: Waiting) -> None:
        """Set a transaction aside for an operator."""
        move(waiting.path, f"{self._out}/held/{os.path.basename(waiting.path)}")

    def _youngest(self, priority_path: str) -> list[str]:
        return [f"{priority_path}/{name}" for name in names_in(priority_path)[-_SPARE_BUCKETS:]]

    def forget_offers(self, now_ms: int) -> None:
        """Forget what was offered before yesterday."""
        for day in names_in(f"{self._out}/offered"):
            if day.isdigit() and int(day) < now_ms // DAY_MS - 1:
                for name in names_in(f"{self._out}/offered/{day}"):
                    retire(f"{self._out}/offered/{day}/{name}")
                retire_dir(f"{self._out}/offered/{day}")


def files_in(path: str, urgency: str) -> Iterator[Waiting]:
    """The transactions' files in one directory, in the order of their names; none where there is no such directory."""
    for name in names_in(path):
        match = _FILE.match(name)
        if match:
            yield Waiting(match[1], int(match[2]), f"{path}/{name}", urgency)


def read_entry(waiting: Waiting) -> tuple[Entry, Callable[[], Iterator[bytes]]]:
    """A spool file's entry, and its text; see `store.reader`."""
    return read_file(waiting.id, waiting.path)
