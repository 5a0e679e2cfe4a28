"""The queue of a peer, for people: what is on its way to it, row by row.

Only looks, as `flow.overview`.  What a file does not tell, being damaged or
gone, the ledger does: such rows have an ID and no envelope.
"""

from collections.abc import Iterator
from contextlib import closing, suppress
from typing import NamedTuple

from batchmail.core.envelope import Envelope
from batchmail.core.errors import BatchmailError, SpoolError
from batchmail.core.names import time_of_id
from batchmail.core.numbered import BATCH, Number
from batchmail.flow.context import Context
from batchmail.flow.overview import HELD, LOST, WAITING, Looker, numbers_in
from batchmail.flow.transaction import read_envelope
from batchmail.store import batchfile
from batchmail.store.boxes import Outbox
from batchmail.store.view import View, look, open_view
from batchmail.store.waiting import Waiting, WaitingRoom, read_entry

DAMAGED, UNKNOWN = "damaged", "unknown"
_NO_ENVELOPE = Envelope(b"", (), ())


class Row(NamedTuple):
    """A transaction of ours that is not settled."""

    peer: str
    id: str
    state: str  # of its batch, custody (the far side has it) or sealed; or HELD, WAITING, DAMAGED, UNKNOWN, LOST
    arrival_ms: int
    size_octets: int
    envelope: Envelope
    batch: str  # the file name, or empty

    @property
    def is_read(self) -> bool:
        """Whether its file says what it is; else only the ledger, or the file's name, tells of it."""
        return bool(self.envelope.recipients)

    @property
    def is_only_known(self) -> bool:
        """Whether it was in a batch of ours that does not say any more what it is."""
        return bool(self.batch) and not self.is_read


class _Batch(NamedTuple):
    number: Number
    state: str
    ids: set[str] | None  # not settled; None: the ledger does not say
    has_file: bool = True


def list_queue(context: Context, looker: Looker = look) -> Iterator[Row]:
    """What is on its way to a peer, in the order in which it goes; reads no more than is asked for.

    `looker` tells, where there is no batch, whether the ledger knows of one: it may know that without opening it.
    """
    in_batches: set[str] = set()
    for row in _list_batches(context, looker):
        in_batches.add(row.id)
        yield row
    room = WaitingRoom(context.spool, context.peer.name)
    for state, found in ((HELD, room.scan_held()), (WAITING, room.scan())):
        for waiting in found:
            if waiting.id not in in_batches:  # else a leftover of sealing
                with suppress(FileNotFoundError):
                    yield _row_of_file(context.peer.name, state, waiting)


def _row_of_file(peer: str, state: str, waiting: Waiting) -> Row:
    try:
        entry, text = read_entry(waiting)
        envelope = read_envelope(text())
    except BatchmailError:
        return Row(peer, waiting.id, DAMAGED, time_of_id(waiting.id), waiting.text_octets, _NO_ENVELOPE, "")
    return Row(peer, waiting.id, state, entry.arrival_ms, entry.size_octets, envelope, "")


def _list_batches(context: Context, looker: Looker) -> Iterator[Row]:
    outbox = Outbox(context.spool, context.peer.name)
    numbers = [number for number in numbers_in(outbox) if number.kind == BATCH]
    batches = [_Batch(number, UNKNOWN, None) for number in numbers]
    with suppress(SpoolError):  # `look_at` says what is wrong with the ledger
        known = None if numbers else looker(context.spool, context.peer.name)
        view = open_view(context.spool, context.peer.name) if numbers or (known and known.unsettled) else None
        if view is not None:
            with closing(view):
                batches = [_Batch(number, view.batch_state(number), view.open_ids(number)) for number in numbers]
                batches += _without_files(view, outbox)
    for batch in sorted(batches, key=lambda one: (one.state, one.number)):
        path = outbox.path(batch.number)
        yield from _rows_of_batch(context.peer.name, path, batch) if batch.has_file else _rows(context.peer.name, batch)


def _without_files(view: View, outbox: Outbox) -> list[_Batch]:
    """A batch that is settled, or sealed anew, meanwhile has no file either: the ledger is asked again."""
    gone = [one.number for one in view.open_batches() if outbox.octets(one.number) is None]
    left = [one for one in view.open_batches() if one.number in gone] if gone else []
    return [
        _Batch(number, state if state == "custody" else LOST, view.open_ids(number), has_file=False)
        for number, state, _ in left
    ]


def _rows(peer: str, batch: _Batch) -> Iterator[Row]:
    """Of what cannot be read: the ledger knows the IDs, and they the time."""
    for identifier in sorted(batch.ids or ()):
        name = batch.number.file_name
        yield Row(peer, identifier, batch.state, time_of_id(identifier), 0, _NO_ENVELOPE, name)


def _rows_of_batch(peer: str, path: str, batch: _Batch) -> Iterator[Row]:
    shown: set[str] = set()
    try:
        for item, text in batchfile.read_transactions(path):
            entry = item.entry
            if batch.ids is None or entry.id in batch.ids:
                envelope = read_envelope(text)
                name = batch.number.file_name
                yield Row(peer, entry.id, batch.state, entry.arrival_ms, entry.size_octets, envelope, name)
                shown.add(entry.id)
    except FileNotFoundError:  # settled meanwhile
        return
    except (BatchmailError, OSError):
        ids = _ids_in(path) if batch.ids is None else batch.ids
        yield from _rows(peer, batch._replace(state=DAMAGED, ids=ids - shown))


def _ids_in(path: str) -> set[str]:
    """What the manifest names, if that can be read."""
    with suppress(BatchmailError, OSError):
        return {item.entry.id for item in batchfile.read_manifest(path)[1]}
    return set()
