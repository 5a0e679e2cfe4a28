"""The ledger's half about what came: numbers in our custody, replay, outcomes to report.

The key of "once" is the transaction's ID and the recipient's number, never
the batch: what is finished is not replayed again, whatever batch it comes in,
and its old outcome is reported once more.

    in_tx.state   means                                        after a crash
    waiting       to be replayed, from next_ms on              replayed
    dot           the final dot may have been written          replayed, and marked doubtful
    done          every recipient has its final outcome        reported until acknowledged
"""

from typing import NamedTuple

from batchmail.core.errors import PeerError
from batchmail.core.manifest import Item
from batchmail.core.numbered import Number
from batchmail.core.outcome import DELAYED, FINAL, Outcome
from batchmail.core.report import Reported
from batchmail.store.ledger import Ledger


class Having(NamedTuple):
    """What we have of a stream of the peer: all up to a number, with that file's identity, and ranges beyond."""

    stream: str
    up_to: int
    identity: str
    beyond: list[tuple[int, int]]


class Due(NamedTuple):
    """A transaction to be replayed now."""

    id: str
    recipients: int
    attempts: int
    custody_ms: int
    arrival_ms: int
    expire_ms: int


class Received:
    """What came from one peer."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._db = ledger.database

    def having(self) -> list[Having]:
        """The peer's two newest streams and what we have of them."""
        found = []
        for stream, up_to in self._ledger.rows("SELECT stream, up_to FROM heard ORDER BY first_ms DESC LIMIT 2"):
            rows = self._ledger.rows(
                "SELECT seq, identity FROM received WHERE stream = ? AND seq >= ? ORDER BY seq", stream, up_to
            )
            identity = rows[0][1] if rows and rows[0][0] == up_to else ""
            ranges: list[tuple[int, int]] = []
            for seq, _ in rows:
                if seq <= up_to:
                    continue
                if ranges and ranges[-1][1] == seq - 1:
                    ranges[-1] = (ranges[-1][0], seq)
                else:
                    ranges.append((seq, seq))
            found.append(Having(stream, up_to, identity, ranges[:1000]))
        return found

    def identity(self, stream: str, seq: int) -> str | None:
        """Of a file that has come; None when it has not."""
        rows = self._ledger.rows("SELECT identity FROM received WHERE stream = ? AND seq = ?", stream, seq)
        return rows[0][0] if rows else None

    def custody(self, number: Number, identity: str, items: list[Item], now_ms: int, ahead_ms: int) -> None:
        """The file lies in the inbox.  Idempotent: after a crash it is said again from the file.

        Raises PeerError when a transaction is not the one of that ID that came before.
        `ahead_ms` is how far our clock is ahead of the peer's: the age at custody is by the peer's clock.
        """
        with self._ledger.transaction():
            self._db.execute("INSERT OR IGNORE INTO heard VALUES (?, 0, ?)", (number.stream, now_ms))
            new = self._db.execute(
                "INSERT OR IGNORE INTO received VALUES (?,?,?,?,'custody',?)", (*number, identity, now_ms)
            ).rowcount
            if not new:
                return
            for item in items:
                self._take(number, item, now_ms, ahead_ms)
            self._advance(number.stream)

    def _take(self, number: Number, item: Item, now_ms: int, ahead_ms: int) -> None:
        entry = item.entry
        known = self._ledger.rows("SELECT recipients FROM in_tx WHERE id = ?", entry.id)
        if known and known[0][0] != entry.recipients:
            raise PeerError(f"transaction {entry.id} came before with {known[0][0]} recipients, not {entry.recipients}")
        expire_ms = entry.arrival_ms + ahead_ms + item.lifetime_ms
        self._db.execute(
            "INSERT INTO in_tx (id, stream, seq, custody_ms, arrival_ms, expire_ms, recipients, state, next_ms)"
            " VALUES (?,?,?,?,?,?,?,'waiting',?)"
            " ON CONFLICT (id) DO UPDATE SET stream = excluded.stream, seq = excluded.seq",
            (entry.id, *number[:2], now_ms, entry.arrival_ms, expire_ms, entry.recipients, now_ms),
        )
        self._db.execute("UPDATE in_rcpt SET report = NULL, acknowledged_ms = NULL WHERE id = ?", (entry.id,))

    def _advance(self, stream: str) -> None:
        up_to = self._ledger.rows("SELECT up_to FROM heard WHERE stream = ?", stream)[0][0]
        while self.identity(stream, up_to + 1) is not None:
            up_to += 1
        self._db.execute("UPDATE heard SET up_to = ? WHERE stream = ?", (up_to, stream))

    def state(self, number: Number) -> str | None:
        """custody or done; None: it is not known."""
        rows = self._ledger.rows("SELECT state FROM received WHERE stream = ? AND seq = ?", *number[:2])
        return rows[0][0] if rows else None

    def in_custody(self, kind: str) -> list[Number]:
        """The files of a kind that are not done, by number."""
        rows = self._ledger.rows(
            "SELECT stream, seq, kind FROM received WHERE state = 'custody' AND kind = ? ORDER BY stream, seq", kind
        )
        return [Number(*row) for row in rows]

    def done(self, number: Number) -> None:
        """Nothing more is to be done with the file; it may go."""
        with self._ledger.transaction():
            self._db.execute("UPDATE received SET state = 'done' WHERE stream = ? AND seq = ?", number[:2])

    # -- replay -------------------------------------------------------------------------------------------------

    def due_batches(self, now_ms: int) -> list[Number]:
        """The batches that hold transactions to be replayed now."""
        rows = self._ledger.rows(
            "SELECT DISTINCT stream, seq FROM in_tx WHERE state <> 'done' AND next_ms <= ? ORDER BY stream, seq", now_ms
        )
        return [Number(stream, seq, "batch") for stream, seq in rows]

    def due(self, number: Number, now_ms: int) -> dict[str, Due]:
        """The transactions of a batch to be replayed now."""
        rows = self._ledger.rows(
            "SELECT id, recipients, attempts, custody_ms, arrival_ms, expire_ms FROM in_tx"
            " WHERE stream = ? AND seq = ? AND state <> 'done' AND next_ms <= ?",
            *number[:2],
            now_ms,
        )
        return {row[0]: Due(*row) for row in rows}

    def finished(self, identifier: str) -> set[int]:
        """The recipients that have their final outcome."""
        rows = self._ledger.rows("SELECT n, action FROM in_rcpt WHERE id = ?", identifier)
        return {n for n, action in rows if action in FINAL}

    def before_dot(self, identifier: str) -> bool:
        """The final dot is about to be written: synced first, so that a lost reply is known to be in doubt.

        Whether it was written before, and no outcome recorded: the transaction may come twice.
        """
        with self._ledger.transaction():
            state = self._ledger.rows("SELECT state FROM in_tx WHERE id = ?", identifier)[0][0]
            self._db.execute(
                "UPDATE in_tx SET doubtful = doubtful + ?, state = 'dot' WHERE id = ?", (state == "dot", identifier)
            )
        return bool(state == "dot")

    def outcomes(self, identifier: str, found: list[Outcome], next_ms: int) -> bool:
        """Record outcomes, synced; whether the transaction has all of its final ones now.

        A delay is kept (and reported) the first time only; `next_ms` is when the rest is tried again.
        """
        with self._ledger.transaction():
            for outcome in found:
                how = "REPLACE" if outcome.action in FINAL else "IGNORE"
                self._db.execute(
                    f"INSERT OR {how} INTO in_rcpt VALUES (?,?,?,?,?,?,?,?,NULL,NULL)",  # noqa: S608
                    (identifier, *outcome),
                )
            recipients = self._ledger.rows("SELECT recipients FROM in_tx WHERE id = ?", identifier)[0][0]
            done = bool(len(self.finished(identifier)) == recipients)
            # A delay without a reply: the final dot may have been heard.  The next attempt is to know that.
            silent = any(outcome.action == DELAYED and not outcome.code for outcome in found)
            self._db.execute(
                "UPDATE in_tx SET state = CASE WHEN ?1 = 'waiting' AND state = 'dot' AND ?2 THEN 'dot' ELSE ?1 END,"
                " attempts = attempts + 1, next_ms = ?3 WHERE id = ?4",
                ("done" if done else "waiting", silent, next_ms, identifier),
            )
        return done

    # -- reports ------------------------------------------------------------------------------------------------

    def has_unreported(self) -> bool:
        return bool(self._ledger.rows("SELECT 1 FROM in_rcpt WHERE report IS NULL LIMIT 1"))

    def unreported(self, most: int) -> list[Reported]:
        """Outcomes that no report carries yet."""
        rows = self._ledger.rows(
            "SELECT in_rcpt.id, n, action, code, status, text, mta, time_ms, doubtful"
            " FROM in_rcpt JOIN in_tx USING (id) WHERE report IS NULL ORDER BY in_rcpt.id, n LIMIT ?",
            most,
        )
        return [Reported(row[0], Outcome(*row[1:8]), bool(row[8])) for row in rows]

    def reported(self, number: Number, rows: list[Reported]) -> None:
        """The outcomes are in a report that lies in the outbox.  Idempotent.

        An outcome that has changed since (a delay that became final) is left for the next report.
        """
        with self._ledger.transaction():
            self._db.executemany(
                "UPDATE in_rcpt SET report = ? WHERE id = ? AND n = ? AND action = ? AND report IS NULL",
                ((number.file_name, row.id, row.outcome.recipient, row.outcome.action) for row in rows),
            )

    def let_go(self) -> list[Number]:
        """Mark the batches done of which every outcome is final and its report acknowledged."""
        with self._ledger.transaction():
            rows = self._ledger.rows(
                "SELECT stream, seq, kind FROM received WHERE state = 'custody' AND kind = 'batch' AND NOT EXISTS ("
                " SELECT 1 FROM in_tx LEFT JOIN in_rcpt USING (id) WHERE in_tx.stream = received.stream"
                " AND in_tx.seq = received.seq AND (in_tx.state <> 'done' OR acknowledged_ms IS NULL))"
            )
            self._db.executemany(
                "UPDATE received SET state = 'done' WHERE stream = ? AND seq = ?", (row[:2] for row in rows)
            )
        return [Number(*row) for row in rows]

    def prune(self, before_ms: int) -> None:
        """Forget transactions whose report was acknowledged before a time."""
        with self._ledger.transaction():
            self._db.execute(
                "DELETE FROM in_tx WHERE state = 'done' AND NOT EXISTS (SELECT 1 FROM in_rcpt WHERE id = in_tx.id"
                " AND (acknowledged_ms IS NULL OR acknowledged_ms >= ?))",
                (before_ms,),
            )
            self._db.execute("DELETE FROM in_rcpt WHERE id NOT IN (SELECT id FROM in_tx)")
