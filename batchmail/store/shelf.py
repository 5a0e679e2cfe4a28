"""Waiting files that are moved about: set aside, given back, given to another peer, ended.

    waiting  held  ended  row "out_tx"   the transaction is            after a crash
       +      -      -        -          waiting (`store.waiting`)     (nothing to do)
       -      +      -        -          set aside                     (nothing to do)
       -      -      +        -          about to end here, or to be   `flow.plans` gives it back, or
                                         given to another peer         goes on with that
       -      -      +        +          ended, its notice owed        removed once it is settled

For the holder of the peer's line; every move leaves both names or one, never
none, and may be done again.
"""

import os
from collections.abc import Iterator

from batchmail.core import entry_lines
from batchmail.core.entry import Entry
from batchmail.core.names import make_id
from batchmail.store.arrivals import BUCKET_LENGTH, priority_dir
from batchmail.store.durable import Draft, make_dir, move, retire, sync_dir
from batchmail.store.spool import Spool, names_in
from batchmail.store.waiting import Waiting, files_in, read_entry


class Shelf:
    """The places of one peer's transactions outside of batches."""

    def __init__(self, spool: Spool, peer: str):
        self._spool = spool
        self._out = f"{spool.root}/out/{peer}"
        self._sure: set[str] = set()  # buckets whose own names are durable

    def aged(self, priority: int, from_ms: int, before_ms: int) -> Iterator[Waiting]:
        """What waits with a priority and arrived in a span of time; reads the buckets of that span only."""
        root = f"{self._out}/waiting/{priority_dir(priority)}"
        first, last = (make_id(max(0, time_ms), bytes(10)) for time_ms in (from_ms, before_ms))
        for bucket in names_in(root):
            if first[:BUCKET_LENGTH] <= bucket[:BUCKET_LENGTH] <= last[:BUCKET_LENGTH]:
                yield from (one for one in files_in(f"{root}/{bucket}", priority_dir(priority)) if one.id < last)

    def priorities(self) -> list[int]:
        """Those for which something waits, or did."""
        return [9 - int(name) for name in names_in(f"{self._out}/waiting") if name.isdigit()]

    def release(self, held: Waiting) -> None:
        """What was set aside waits again, in its old place."""
        entry, _ = read_entry(held)
        self._give(held.path, entry.priority)

    def give_to(self, other: "Shelf", waiting: Waiting) -> None:
        """It waits for another peer."""
        entry, _ = read_entry(waiting)
        other._give(waiting.path, entry.priority)

    def _give(self, path: str, priority: int) -> None:
        name = os.path.basename(path)
        move(path, f"{self._bucket(name, priority)}/{name}")

    def _bucket(self, name: str, priority: int) -> str:
        """It is there, durably: a crash may have come between its making and the sync of its name."""
        above = f"{self._out}/waiting/{priority_dir(priority)}"
        bucket = f"{above}/{name[:BUCKET_LENGTH]}"
        if bucket not in self._sure:
            make_dir(bucket)
            for parent in (above, f"{self._out}/waiting"):
                sync_dir(parent)
            self._sure.add(bucket)
        return bucket

    def put_text(self, entry: Entry, text: Iterator[bytes], *, held: bool) -> None:
        """What was in a batch waits again, or is set aside."""
        with Draft(self._spool.tmp) as draft:
            draft.write(entry_lines.head(entry.arrival_ms, entry.priority, entry.queue_id, entry.client))
            for octets in text:
                draft.write(octets)
            draft.write(
                entry_lines.tail(entry.size_octets, entry.text_octets, entry.bits, entry.recipients, entry.sha256)
            )
            self.put(draft, f"{entry.id}.{entry.text_octets}.bsmtp", entry.priority, held=held)

    def put(self, draft: Draft, name: str, priority: int, *, held: bool) -> None:
        """A finished draft waits or is held; to find it there already, after a crash, is fine."""
        place = f"{self._out}/held" if held else self._bucket(name, priority)
        draft.publish_or_find(f"{place}/{name}")

    def end(self, waiting: Waiting) -> Waiting:
        """It is about to end here, or to be another peer's: nobody seals it any more, also after a power cut."""
        place = f"{self._out}/ended"
        make_dir(place)
        path = f"{place}/{os.path.basename(waiting.path)}"
        move(waiting.path, path)
        sync_dir(os.path.dirname(waiting.path))
        return waiting._replace(path=path, urgency="")

    def ended(self) -> list[Waiting]:
        return list(files_in(f"{self._out}/ended", ""))

    def remove(self, waiting: Waiting) -> None:
        """It is settled, as the ledger says."""
        retire(waiting.path)
