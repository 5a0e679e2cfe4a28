"""The ledger's part about notices: owed with the outcome that causes them, until an MTA has them or nobody takes them.

owed      written, to be handed over
sent      with an MTA
refused   nobody took it, or it could not be written: for the postmaster's summary
shown     the summary tells of it; a summary that is refused itself: nobody is told
"""

from collections.abc import Iterable
from typing import NamedTuple

from batchmail.core.schedule import LONGEST_PAUSE_MS
from batchmail.store.ledger import Ledger

POSTMASTER = "postmaster"  # stands for the transaction of a summary
Noticed = dict[tuple[str, int], str]  # (transaction, recipient) -> notice


class OwedNotice(NamedTuple):
    """A notice that has not been handed over yet."""

    id: str
    tx: str
    made_ms: int
    attempts: int


class Untold(NamedTuple):
    """A failure that no sender can be told of: the postmaster is."""

    id: str
    tx: str
    text: bytes


def owe(ledger: Ledger, notices: Noticed, now_ms: int, untold: Iterable[Untold] = ()) -> None:
    """Note notices, whose files are on disk, and what is for the postmaster.  Within a transaction of the caller's."""
    ledger.database.executemany(
        "INSERT OR IGNORE INTO notice (id, tx, state, made_ms, next_ms) VALUES (?,?,'owed',?,?)",
        {(notice, tx, now_ms, now_ms) for (tx, _), notice in notices.items()},
    )
    ledger.database.executemany(
        "INSERT INTO notice (id, tx, state, made_ms, next_ms, text) VALUES (?,?,'refused',?,?,?)",
        ((one.id, one.tx, now_ms, now_ms, one.text) for one in untold),
    )


class Owed:
    """The notices about what went out to one peer."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._db = ledger.database

    def bring_forward(self, now_ms: int) -> None:
        """Notices that are put off for longer than any pause were so by a clock that ran ahead: they are due."""
        late_ms = now_ms + LONGEST_PAUSE_MS
        if self._ledger.rows("SELECT 1 FROM notice WHERE state = 'owed' AND next_ms > ? LIMIT 1", late_ms):
            with self._ledger.transaction():
                self._db.execute(
                    "UPDATE notice SET next_ms = ? WHERE state = 'owed' AND next_ms > ?", (now_ms, late_ms)
                )

    def due(self, now_ms: int) -> list[OwedNotice]:
        """The notices that are due to be handed over."""
        rows = self._ledger.rows(
            "SELECT id, tx, made_ms, attempts FROM notice WHERE state = 'owed' AND next_ms <= ?"
            " ORDER BY +id LIMIT 1000",  # +: else all that were ever owed are looked at, in their order
            now_ms,
        )
        return [OwedNotice(*row) for row in rows]

    def ids(self) -> set[str]:
        """Of all notices still owed."""
        return {row[0] for row in self._ledger.rows("SELECT id FROM notice WHERE state = 'owed'")}

    def undelivered(self, most: int) -> list[tuple[str, str, int, bytes]]:
        """What nobody took and the postmaster does not know of: notice, transaction, time, what was said."""
        return self._ledger.rows(
            "SELECT id, tx, made_ms, text FROM notice WHERE state = 'refused' ORDER BY id LIMIT ?", most
        )

    def tell_postmaster(self, identifier: str, told: list[str], now_ms: int) -> None:
        """A summary tells of these notices; it is owed like one.  Within a transaction of the caller's."""
        self._db.executemany("UPDATE notice SET state = 'shown' WHERE id = ?", ((one,) for one in told))
        owe(self._ledger, {(POSTMASTER, 0): identifier}, now_ms)

    def done(self, identifier: str, state: str, text: bytes) -> None:
        """The notice is with an MTA ("sent"), or was refused for good ("refused", then "shown" to the postmaster)."""
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE notice SET state = ?, text = ? WHERE id = ?",
                (state, text, identifier),
            )

    def lost(self, identifier: str) -> None:
        """Its file cannot be read any more: the postmaster is told in its place; nobody, where it was for him."""
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE notice SET state = CASE tx WHEN ? THEN 'shown' ELSE 'refused' END, text = ?"
                " WHERE id = ? AND state = 'owed'",
                (POSTMASTER, b"the notice is lost here: its file was damaged", identifier),
            )

    def postpone(self, identifier: str, next_ms: int) -> None:
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE notice SET attempts = attempts + 1, next_ms = ? WHERE id = ?", (next_ms, identifier)
            )
