"""A new stream of numbers: what is unsettled is sent again, after one side lost or restored its disk.

The rows of the files that are to go again are forgotten; the next call finds
the files without rows and seals what is left of them anew (`flow.seal`), so
no number is used for two files.  The far side knows each transaction by its ID.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from typing import NamedTuple

from batchmail.core.errors import PeerError
from batchmail.core.names import make_stream
from batchmail.core.numbered import BATCH, Number
from batchmail.store import batchfile
from batchmail.store.boxes import Inbox, Outbox
from batchmail.store.ledger import Ledger
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from batchmail.store.spool import Spool
from batchmail.store.view import View

_AGAIN = "state <> 'settled' AND (custody_ms IS NULL OR custody_ms >= ? OR stream <> ?)"


class Again(NamedTuple):
    """What would be sent again: transactions, and those of them that the far side has or may have.

    `here`: of the peer's in our inbox, of which the ledger does not know whether they were delivered.
    `lost`: which cannot be sent again, as their files are gone or damaged.
    """

    transactions: int
    twice: int
    here: int = 0
    lost: tuple[str, ...] = ()


def to_send_again(spool: Spool, ledger: Ledger, peer: str, since_ms: int) -> Again:
    """What is not settled and was not taken into custody before a time (0: all of it), and what no ledger knows.

    Every batch that is to go is read, for who hears that mail is sent again must not wait for what cannot be.
    """
    sent, received = Sent(ledger), Received(ledger)
    outbox, inbox = Outbox(spool, peer), Inbox(spool, peer)
    strange = [outbox.path(one) for one in outbox.numbers() if one.kind == BATCH and not sent.is_over(*one[:2])]
    unknown = readable_ids(strange)
    unknown -= sent.settled_ids(sorted(unknown))
    known: set[str] = set()
    lost: set[str] = set()
    twice = 0
    for number, is_known, may_be_there, ids in _open_batches(ledger, since_ms):
        there = readable_ids([outbox.path(number)]) & ids
        lost |= ids - there
        if is_known:
            known |= there
            twice += may_be_there * len(there)
    unknown -= known
    here = [inbox.path(one) for one in inbox.numbers() if one.kind == BATCH and received.state(one) is None]
    lost -= unknown | known
    return Again(len(known | unknown), twice + len(unknown), len(readable_ids(here)), tuple(sorted(lost)))


def _open_batches(ledger: Ledger, since_ms: int) -> Iterator[tuple[Number, bool, bool, set[str]]]:
    """The batches that are to go again: whether they have a row, the far side may have them, and what is in them."""
    rows = ledger.rows(
        "SELECT stream, seq, state IS NOT NULL, state = 'custody' OR whole_ms IS NOT NULL, id"  # noqa: S608
        " FROM out_tx LEFT JOIN sent USING (stream, seq) WHERE settled_ms IS NULL AND stream <> ''"
        f" AND (state IS NULL OR (kind = 'batch' AND {_AGAIN})) ORDER BY stream, seq",
        since_ms,
        ledger.stream,
    )
    for (stream, seq, is_known, may_be_there), group in groupby(rows, lambda row: row[:4]):
        yield Number(stream, seq, BATCH), bool(is_known), bool(may_be_there), {row[4] for row in group}


def readable_ids(paths: list[str]) -> set[str]:
    """The transactions in these batches; none of one that is gone or damaged."""
    found: set[str] = set()
    for path in paths:
        with suppress(PeerError, OSError):
            found.update(item.entry.id for item in batchfile.check_batch(path)[1])
    return found


def lost_ids(spool: Spool, ledger: Ledger, peer: str) -> set[str]:
    """Transactions that no file here holds any more, and of which the far side has not said that it does."""
    view, outbox = View(ledger), Outbox(spool, peer)
    found: set[str] = set()
    for number, state, _ in view.open_batches():
        if not state or (state == "sealed" and outbox.octets(number) is None):
            found |= view.open_ids(number) - readable_ids([outbox.path(number)])
    return found


def begin_new_stream(ledger: Ledger, since_ms: int = 0) -> None:
    """By the holder of the line.  The files of streams older than the current one go again whatever their time.

    A peer tells what it has of the two newest streams; of a third one all would seem lost.
    """
    with ledger.transaction():
        ledger.database.execute(f"DELETE FROM sent WHERE {_AGAIN}", (since_ms, ledger.stream))  # noqa: S608
        ledger.set_fact("stream", make_stream(os.urandom(10)))
        ledger.set_fact("stopped", "")
        # What became of a report is not known either; an outcome that was settled already is ignored there.
        ledger.database.execute("UPDATE in_rcpt SET report = NULL, acknowledged_ms = NULL")
        ledger.database.execute("UPDATE request SET file = NULL")
        ledger.database.execute("UPDATE wish SET file = NULL, acknowledged_ms = NULL")
