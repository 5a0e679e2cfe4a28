"""What came from a peer and is still to be replayed here, for people: row by row, and why it was not taken yet.

Only looks, as `flow.overview`; what cannot be read is told of by the ledger, as in `flow.queue`.
"""

from collections.abc import Iterator
from contextlib import closing, suppress
from typing import NamedTuple

from batchmail.core.entry import Entry
from batchmail.core.envelope import Envelope, Recipient
from batchmail.core.errors import BatchmailError
from batchmail.core.outcome import DELAYED, FINAL, Outcome
from batchmail.flow.context import Context
from batchmail.flow.transaction import read_envelope
from batchmail.store import batchfile
from batchmail.store.boxes import Inbox
from batchmail.store.view import ReceivedTransaction, View, open_view


class HereRow(NamedTuple):
    """A transaction of the peer's in our custody."""

    peer: str
    id: str
    size_octets: int
    received: ReceivedTransaction
    sender: bytes
    recipients: tuple[Recipient, ...]  # who have no final outcome yet
    delays: tuple[tuple[Recipient, Outcome], ...]  # what the last attempt said of them
    is_read: bool = True  # else its batch is gone or damaged, and only the ledger tells of it


def list_here(context: Context) -> Iterator[HereRow]:
    """In the order in which they came; reads no more than is asked for."""
    view = open_view(context.spool, context.peer.name)
    if view is None:
        return
    inbox = Inbox(context.spool, context.peer.name)
    with closing(view):
        for number in view.files_in_custody():
            shown: set[str] = set()
            with suppress(BatchmailError, OSError):
                for row in _rows_of_batch(context.peer.name, inbox.path(number), view.ids_to_replay(number), view):
                    yield row
                    shown.add(row.id)
            for identifier in sorted(view.ids_to_replay(number) - shown):  # not what was finished meanwhile
                if received := view.received(identifier):
                    yield HereRow(context.peer.name, identifier, 0, received, b"", (), (), is_read=False)


def _rows_of_batch(peer: str, path: str, wanted: set[str], view: View) -> Iterator[HereRow]:
    for item, text in batchfile.read_transactions(path):
        if item.entry.id in wanted and (received := view.received(item.entry.id)):
            yield _row(peer, item.entry, received, read_envelope(text), view)


def _row(peer: str, entry: Entry, received: ReceivedTransaction, envelope: Envelope, view: View) -> HereRow:
    outcomes = [told.outcome for told in view.received_outcomes(entry.id)]
    finished = {outcome.recipient for outcome in outcomes if outcome.action in FINAL}
    left = tuple(one for number, one in enumerate(envelope.recipients) if number not in finished)
    delays = tuple((envelope.recipients[one.recipient], one) for one in outcomes if one.action == DELAYED)
    return HereRow(peer, entry.id, entry.size_octets, received, envelope.sender, left, delays)
