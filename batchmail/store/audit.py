"""The ledger's two halves as lines that two sites can compare: for each transaction its ID, state and outcomes.

    sent      w sealed, has not left · m may be there · c in the far side's custody · s settled
              l lost here: no file holds it, as a call finds that has sealed again what goes again
    received  w to be replayed, or held · s every outcome is final

What was withdrawn counts as failed, which the origin may make of it.  What a
side ended by itself, before its batch left, is no line: the other never heard
of it.  Lines are read in order of ID, so memory is constant.
"""

from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby
from typing import NamedTuple

from batchmail.core.outcome import FAILED, FINAL, WITHDRAWN
from batchmail.store.ledger import Ledger

SENT, RECEIVED = "sent", "received"
ID_LENGTH = 26
_FINAL = ", ".join(f"'{action}'" for action in sorted(FINAL))
_SHORT = 40  # of outcomes as they stand; longer ones are a digest

_LINES = {
    SENT: "SELECT t.id, CASE WHEN t.settled_ms IS NOT NULL THEN 's' WHEN s.state = 'custody' THEN 'c'"
    " WHEN s.state IS NULL THEN 'l' WHEN s.whole_ms IS NOT NULL THEN 'm' ELSE 'w' END,"
    " COALESCE(t.settled_ms, s.custody_ms, 0), OUTCOMES FROM out_tx t LEFT JOIN sent s USING (stream, seq)"
    " WHERE (s.kind = 'batch' OR s.kind IS NULL AND stream <> '')"
    " AND t.id >= ? AND t.id < ? ORDER BY t.id",
    RECEIVED: "SELECT t.id, CASE WHEN t.state = 'done' THEN 's' ELSE 'w' END, t.custody_ms, OUTCOMES"
    " FROM in_tx t WHERE t.id >= ? AND t.id < ? ORDER BY t.id",
}
_OUTCOMES = (
    "(SELECT group_concat(a, ' ') FROM (SELECT"  # noqa: S608
    f" CASE action WHEN '{WITHDRAWN}' THEN '{FAILED}' ELSE action END AS a FROM {{table}} r WHERE r.id = t.id"
    f" AND action IN ({_FINAL}) ORDER BY n))"
)
_COUNTS = {
    SENT: "SELECT CASE WHEN stream = '' THEN 'ended' WHEN settled_ms IS NULL THEN COALESCE(sent.state, 'sealed')"
    " WHEN id IN (SELECT tx FROM notice) THEN 'notified' ELSE 'settled' END, COUNT(*)"
    " FROM out_tx LEFT JOIN sent USING (stream, seq) WHERE out_tx.id >= ? AND out_tx.id < ? GROUP BY 1",
    RECEIVED: "SELECT CASE state WHEN 'dot' THEN 'waiting' ELSE state END, COUNT(*) FROM in_tx"
    " WHERE id >= ? AND id < ? GROUP BY 1",
}


class Line(NamedTuple):
    """A transaction as one side knows it."""

    id: str
    state: str
    time_ms: int  # sent: of settling or custody; received: of custody
    outcomes: str

    @property
    def text(self) -> str:
        return f"{self.id} {self.state} {self.outcomes}".rstrip()


def lines(ledger: Ledger, side: str, low: str, high: str) -> Iterator[Line]:
    """Those with an ID from `low` to below `high`."""
    table = "out_rcpt" if side == SENT else "in_rcpt"
    query = _LINES[side].replace("OUTCOMES", _OUTCOMES.format(table=table))
    for identifier, state, time_ms, outcomes in ledger.each(query, low, high):
        text = outcomes or ""
        yield Line(identifier, state, time_ms, text if len(text) <= _SHORT else sha256(text.encode()).hexdigest()[:16])


def buckets(ledger: Ledger, side: str, low: str, high: str, length: int) -> Iterator[tuple[str, int, str]]:
    """By the first characters of the IDs: how many, and a digest of their lines."""
    for prefix, group in groupby(lines(ledger, side, low, high), lambda line: line.id[:length]):
        digest, number = sha256(), 0
        for line in group:
            digest.update(f"{line.text}\n".encode())
            number += 1
        yield prefix, number, digest.hexdigest()[:16]


def counts(ledger: Ledger, side: str, low: str, high: str) -> dict[str, int]:
    """Transactions by state: sent sealed, custody, settled, notified, ended; received waiting, held, done.

    Those with an ID from `low` to below `high`; what ended was never handed over.
    """
    return dict(ledger.rows(_COUNTS[side], low, high))
