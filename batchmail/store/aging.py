"""The ledger's part about time: which of our transactions in batches are late, too old, or were never heard of."""

from typing import NamedTuple

from batchmail.core.numbered import Number
from batchmail.store.ledger import Ledger


class Aged(NamedTuple):
    """A transaction in a batch of ours that is not settled."""

    id: str
    number: Number
    arrival_ms: int
    priority: int
    expire_ms: int | None
    recipients: int
    custody_ms: int | None


class Aging:
    """What went out to one peer and is not settled."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger

    def aged(self, arrived_before_ms: int, priorities: list[int], *, only_delayed: bool, most: int) -> list[Aged]:
        """The oldest of our transactions in batches that have no final outcome for somebody, and no delay told.

        `only_delayed`: those of which a delay was reported.
        """
        marks = ",".join("?" * len(priorities))
        delayed = " AND EXISTS (SELECT 1 FROM out_rcpt WHERE out_rcpt.id = out_tx.id AND action = 'delayed')"
        return self._aged(
            f"arrival_ms < ? AND priority IN ({marks}) AND id NOT IN (SELECT id FROM told)"  # noqa: S608
            f"{delayed if only_delayed else ''} ORDER BY arrival_ms LIMIT ?",
            arrived_before_ms,
            *priorities,
            most,
        )

    def expired(self, now_ms: int, most: int) -> list[Aged]:
        """Those whose lifetime is over while the far side cannot have them."""
        return self._aged("state = 'sealed' AND whole_ms IS NULL AND expire_ms < ? LIMIT ?", now_ms, most)

    def unheard(self, before_ms: int, most: int) -> list[Aged]:
        """Those that the far side has, or may have, since before a time, and whose lifetime was over then."""
        return self._aged(
            "(state = 'custody' OR whole_ms IS NOT NULL) AND expire_ms < ?1"
            " AND COALESCE(custody_ms, whole_ms) < ?1 LIMIT ?2",
            before_ms,
            most,
        )

    def find(self, identifier: str) -> Aged | None:
        """A transaction in a batch that has no final outcome for somebody."""
        return next(iter(self._aged("id = ?", identifier)), None)

    def _aged(self, condition: str, *values: int | str) -> list[Aged]:
        rows = self._ledger.rows(
            "SELECT id, stream, seq, arrival_ms, priority, expire_ms, recipients, custody_ms"  # noqa: S608
            " FROM out_tx JOIN sent USING (stream, seq) WHERE settled_ms IS NULL AND open > 0 AND kind = 'batch' AND "
            + condition,
            *values,
        )
        return [Aged(row[0], Number(row[1], row[2], "batch"), *row[3:]) for row in rows]

    def untold(self, ids: list[str]) -> set[str]:
        """Those of at most 500 `ids` whose sender has not been told of a delay."""
        marks = ",".join("?" * len(ids))
        told = self._ledger.rows(f"SELECT id FROM told WHERE id IN ({marks})", *ids)  # noqa: S608
        return set(ids) - {row[0] for row in told}
