"""A new stream of numbers: what is unsettled is sent again, after one side lost or restored its disk.

The rows of the files that are to go again are forgotten; the next call finds
the files without rows and seals what is left of them anew (`flow.seal`), so
no number is used for two files.  The far side knows each transaction by its ID.
"""

import os
from contextlib import suppress
from typing import NamedTuple

from batchmail.core.errors import PeerError
from batchmail.core.names import make_stream
from batchmail.core.numbered import BATCH
from batchmail.store import batchfile
from batchmail.store.boxes import Inbox, Outbox
from batchmail.store.ledger import Ledger
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from batchmail.store.spool import Spool

_AGAIN = "state <> 'settled' AND (custody_ms IS NULL OR custody_ms >= ? OR stream <> ?)"


class Again(NamedTuple):
    """What would be sent again: transactions, and those of them that the far side has or may have.

    `here`: of the peer's in our inbox, of which the ledger does not know whether they were delivered.
    """

    transactions: int
    twice: int
    here: int = 0


def to_send_again(spool: Spool, ledger: Ledger, peer: str, since_ms: int) -> Again:
    """What is not settled and was not taken into custody before a time (0: all of it), and what no ledger knows."""
    rows = ledger.rows(
        "SELECT COUNT(*), COALESCE(SUM(state = 'custody' OR whole_ms IS NOT NULL), 0)"  # noqa: S608
        f" FROM out_tx JOIN sent USING (stream, seq) WHERE settled_ms IS NULL AND kind = 'batch' AND {_AGAIN}",
        since_ms,
        ledger.stream,
    )
    sent, received = Sent(ledger), Received(ledger)
    outbox, inbox = Outbox(spool, peer), Inbox(spool, peer)
    strange = [outbox.path(one) for one in outbox.numbers() if one.kind == BATCH and not sent.is_over(*one[:2])]
    left = _transactions(strange)
    unknown = len(left - sent.settled_ids(sorted(left)))
    here = [inbox.path(one) for one in inbox.numbers() if one.kind == BATCH and received.state(one) is None]
    return Again(rows[0][0] + unknown, rows[0][1] + unknown, len(_transactions(here)))


def _transactions(paths: list[str]) -> set[str]:
    """In these batches, as far as they can be read."""
    found: set[str] = set()
    for path in paths:
        with suppress(PeerError, OSError):
            found.update(item.entry.id for item in batchfile.read_manifest(path)[1])
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
