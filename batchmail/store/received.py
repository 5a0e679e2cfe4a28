"""The ledger's half about what came: numbers in our custody, replay, outcomes to report.

The key of "once" is the transaction's ID and the recipient's number, never
the batch: what is finished is not replayed again, whatever batch it comes in,
and its old outcome is reported once more.

    in_tx.state   means                                        after a crash
    waiting       to be replayed, from next_ms on              replayed
    dot           the final dot may have been written          replayed, and marked doubtful
    done          every recipient has its final outcome        reported until acknowledged
    held          too old to know whether it was finished      a person releases or withdraws it
"""

from typing import NamedTuple

from batchmail.core.errors import PeerError
from batchmail.core.manifest import Item
from batchmail.core.names import time_of_id
from batchmail.core.numbered import Number
from batchmail.core.outcome import DELAYED, FINAL, WITHDRAWN, Outcome
from batchmail.core.report import Reported
from batchmail.core.request import DONE, LATE, MISSING
from batchmail.core.schedule import LONGEST_PAUSE_MS
from batchmail.store.ledger import Ledger

NEVER_MS = 2**53 - 1


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
    is_doubtful: bool  # an earlier attempt may have written its dot


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
        """Of a file that has come; None when it has not, empty when that was long ago."""
        rows = self._ledger.rows("SELECT identity FROM received WHERE stream = ? AND seq = ?", stream, seq)
        if rows:
            return str(rows[0][0])
        return "" if self._ledger.rows("SELECT 1 FROM heard WHERE stream = ? AND up_to >= ?", stream, seq) else None

    def custody(self, number: Number, identity: str, items: list[Item], now_ms: int, ahead_ms: int) -> None:
        """The file lies in the inbox.  Idempotent: after a crash it is said again from the file.

        Raises PeerError when a transaction is not the one of that ID that came before.
        `ahead_ms` is how far our clock is ahead of the peer's: the age at custody is by the peer's clock.
        """
        with self._ledger.transaction():
            # The newest comes last, whatever the clock says.
            self._db.execute(
                "INSERT OR IGNORE INTO heard SELECT ?1, 0, MAX(?2, 1 + COALESCE(MAX(first_ms), 0)) FROM heard",
                (number.stream, now_ms),
            )
            new = self._db.execute(
                "INSERT OR IGNORE INTO received VALUES (?,?,?,?,'custody',?)", (*number, identity, now_ms)
            ).rowcount
            if not new:
                return
            forgotten_ms = self._forgotten_ms(number.stream)
            for item in items:
                self._take(number, item, now_ms, ahead_ms, forgotten_ms)
            self._advance(number.stream)

    def _forgotten_ms(self, stream: str) -> int:
        """A transaction that arrived until then, comes in this stream and is not known may have been delivered.

        By the peer's clock.  -1: there is none.  What a stream brings is never sent twice in it, so in the first one
        all is new.
        """
        first = "SELECT first_ms FROM heard WHERE stream = ?"
        others = self._ledger.rows(
            f"SELECT 1 FROM heard WHERE stream <> ? AND first_ms <= ({first}) LIMIT 1",  # noqa: S608
            stream,
            stream,
        )
        return int(self._ledger.fact("forgotten_ms") or -1) if others else -1

    def _take(self, number: Number, item: Item, now_ms: int, ahead_ms: int, forgotten_ms: int) -> None:
        entry = item.entry
        known = self._ledger.rows("SELECT recipients FROM in_tx WHERE id = ?", entry.id)
        if known and known[0][0] != entry.recipients:
            raise PeerError(f"transaction {entry.id} came before with {known[0][0]} recipients, not {entry.recipients}")
        expire_ms = entry.arrival_ms + ahead_ms + item.lifetime_ms
        # No ID was made after its arrival: the older of the two, whatever the peer says of either.
        is_old = min(entry.arrival_ms, time_of_id(entry.id)) <= forgotten_ms
        state, next_ms = ("held", NEVER_MS) if is_old else ("waiting", now_ms)
        self._db.execute(
            "INSERT INTO in_tx (id, stream, seq, custody_ms, arrival_ms, expire_ms, recipients, state, next_ms)"
            " VALUES (?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT (id) DO UPDATE SET stream = excluded.stream, seq = excluded.seq",
            (entry.id, *number[:2], now_ms, entry.arrival_ms, expire_ms, entry.recipients, state, next_ms),
        )
        self._db.execute("UPDATE in_rcpt SET report = NULL, acknowledged_ms = NULL WHERE id = ?", (entry.id,))
        if self._ledger.rows("SELECT 1 FROM withdrawn WHERE id = ?", entry.id):
            self._withdraw(entry.id, entry.recipients, now_ms)

    def _advance(self, stream: str) -> None:
        up_to = self._ledger.rows("SELECT up_to FROM heard WHERE stream = ?", stream)[0][0]
        while self.identity(stream, up_to + 1) is not None:
            up_to += 1
        self._db.execute("UPDATE heard SET up_to = ? WHERE stream = ?", (up_to, stream))

    def state(self, number: Number) -> str | None:
        """custody or done; None: it is not known."""
        rows = self._ledger.rows("SELECT state FROM received WHERE stream = ? AND seq = ?", *number[:2])
        if rows:
            return str(rows[0][0])
        return None if self.identity(*number[:2]) is None else "done"

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

    def bring_forward(self, now_ms: int) -> None:
        """What is put off for longer than any pause was so by a clock that ran ahead: it is due."""
        late_ms = now_ms + LONGEST_PAUSE_MS
        if self._ledger.rows(
            "SELECT 1 FROM in_tx WHERE state <> 'done' AND next_ms > ? AND next_ms < ?", late_ms, NEVER_MS
        ):
            with self._ledger.transaction():
                self._db.execute(
                    "UPDATE in_tx SET next_ms = ? WHERE state <> 'done' AND next_ms > ? AND next_ms < ?",
                    (now_ms, late_ms, NEVER_MS),
                )

    def count_due(self, now_ms: int) -> int:
        """The transactions to be replayed now."""
        found = self._ledger.rows("SELECT count(*) FROM in_tx WHERE state <> 'done' AND next_ms <= ?", now_ms)
        return int(found[0][0])

    def count_recipients(self) -> int:
        """Of all transactions that are not done: so many outcomes may come at most."""
        rows = self._ledger.rows("SELECT SUM(recipients) FROM in_tx WHERE state <> 'done' AND next_ms >= 0")
        return int(rows[0][0] or 0)

    def due_batches(self, now_ms: int) -> list[Number]:
        """The batches that hold transactions to be replayed now."""
        rows = self._ledger.rows(
            "SELECT DISTINCT +stream, +seq FROM in_tx WHERE state <> 'done' AND next_ms <= ? ORDER BY 1, 2", now_ms
        )  # +: else all that ever came is looked at, in this order
        return [Number(stream, seq, "batch") for stream, seq in rows]

    def due(self, number: Number, now_ms: int) -> dict[str, Due]:
        """The transactions of a batch to be replayed now."""
        rows = self._ledger.rows(
            "SELECT id, recipients, attempts, custody_ms, arrival_ms, expire_ms, state = 'dot' FROM in_tx"
            " WHERE stream = ? AND seq = ? AND state <> 'done' AND next_ms <= ?",
            *number[:2],
            now_ms,
        )
        return {row[0]: Due(*row) for row in rows}

    def finished(self, identifier: str) -> set[int]:
        """The recipients that have their final outcome."""
        rows = self._ledger.rows("SELECT n, action FROM in_rcpt WHERE id = ?", identifier)
        return {n for n, action in rows if action in FINAL}

    def delays(self, identifier: str) -> dict[int, Outcome]:
        """What the last attempt said of those who have none."""
        query = "SELECT n, action, code, status, text, mta, time_ms FROM in_rcpt WHERE id = ? AND action = ?"
        return {row[0]: Outcome(*row) for row in self._ledger.rows(query, identifier, DELAYED)}

    def outlive(self, time_ms: int) -> None:
        """What is to be replayed does not expire before a time: a wrong clock may have said when it does."""
        with self._ledger.transaction():
            self._db.execute("UPDATE in_tx SET expire_ms = ?1 WHERE state <> 'done' AND expire_ms < ?1", (time_ms,))

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

    def no_dot(self, identifier: str) -> None:
        """What was announced by `before_dot` did not come to it, and no earlier dot is in doubt."""
        with self._ledger.transaction():
            self._db.execute("UPDATE in_tx SET state = 'waiting' WHERE id = ? AND state = 'dot'", (identifier,))

    def outcomes(
        self, identifier: str, found: list[Outcome], next_ms: int, is_answered: bool = False, is_over: bool = True
    ) -> bool:
        """Record outcomes, synced; whether the transaction has all of its final ones now.

        Of delays the last is kept, and the first reported; `next_ms` is when the rest is tried again.
        `is_answered`: this attempt wrote a dot, and heard what became of it.  Else a dot in doubt stays so: of one
        of an earlier attempt this one has learned nothing.  `is_over`: the attempt is, and counts for the next pause.
        """
        with self._ledger.transaction():
            for outcome in found:
                self._db.execute(
                    "INSERT INTO in_rcpt VALUES (?,?,?,?,?,?,?,?,NULL,NULL) ON CONFLICT (id, n) DO UPDATE SET"
                    " code = excluded.code, status = excluded.status, text = excluded.text, mta = excluded.mta,"
                    " time_ms = excluded.time_ms WHERE action = 'delayed'"
                    if outcome.action == DELAYED
                    else "INSERT OR REPLACE INTO in_rcpt VALUES (?,?,?,?,?,?,?,?,NULL,NULL)",
                    (identifier, *outcome),
                )
            recipients = self._ledger.rows("SELECT recipients FROM in_tx WHERE id = ?", identifier)[0][0]
            done = bool(len(self.finished(identifier)) == recipients)
            self._db.execute(
                "UPDATE in_tx SET state = CASE WHEN ?1 = 'waiting' AND state = 'dot' AND NOT ?2 THEN 'dot' ELSE ?1 END,"
                " attempts = attempts + ?5, next_ms = ?3 WHERE id = ?4",
                ("done" if done else "waiting", is_answered, next_ms, identifier, is_over),
            )
        return done

    def held(self) -> int:
        """How many are held."""
        query = "SELECT COUNT(*) FROM in_tx WHERE state <> 'done' AND next_ms = ? AND state = 'held'"
        return int(self._ledger.rows(query, NEVER_MS)[0][0])

    def release(self, identifier: str, now_ms: int) -> bool:
        """Replay a held transaction after all, in doubt; whether it was held."""
        with self._ledger.transaction():
            changed = self._db.execute(
                "UPDATE in_tx SET state = 'waiting', doubtful = doubtful + 1, next_ms = ?"
                " WHERE id = ? AND state = 'held'",
                (now_ms, identifier),
            ).rowcount
        return bool(changed)

    # -- withdrawal ---------------------------------------------------------------------------------------------

    def withdraw(self, identifier: str, now_ms: int) -> tuple[str, int]:
        """Do not replay a transaction any more, by the holder of the replay lock: verdict, recipients withdrawn.

        Idempotent.  One that has not come yet, as when the request overtook its batch, is withdrawn when it does.
        """
        with self._ledger.transaction():
            rows = self._ledger.rows("SELECT state, recipients, doubtful FROM in_tx WHERE id = ?", identifier)
            if not rows:
                self._db.execute("INSERT OR IGNORE INTO withdrawn VALUES (?, ?)", (identifier, now_ms))
                return MISSING, 0
            state, recipients, doubtful = rows[0]
            if state == "dot" or (doubtful and state != "done"):  # it may have been delivered, by whichever attempt
                return LATE, 0
            self._withdraw(identifier, recipients, now_ms)
            query = "SELECT COUNT(*) FROM in_rcpt WHERE id = ? AND action = ?"
            count = int(self._ledger.rows(query, identifier, WITHDRAWN)[0][0])
        return (DONE if count else LATE), count

    def _withdraw(self, identifier: str, recipients: int, now_ms: int) -> None:
        """What was held may have been delivered long ago: its outcomes say so."""
        for number in sorted(set(range(recipients)) - self.finished(identifier)):
            outcome = Outcome(number, WITHDRAWN, 0, "5.0.0", b"withdrawn by the site that sent it", b"", now_ms)
            self._db.execute(
                "INSERT OR REPLACE INTO in_rcpt VALUES (?,?,?,?,?,?,?,?,NULL,NULL)", (identifier, *outcome)
            )
        self._db.execute(
            "UPDATE in_tx SET doubtful = doubtful + (state = 'held'), state = 'done' WHERE id = ?", (identifier,)
        )

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
        """Forget transactions whose report was acknowledged before a time, and files that came before then.

        From then on a transaction that is no newer than these may be one of them: see `_forgotten_ms`.  By their own
        arrival, not by our clock: one that ran ahead for a day would have all new mail held for years.  The last
        file of each stream is kept for its identity; of the others `heard` knows that they have come.
        """
        with self._ledger.transaction():
            done = (
                "FROM in_tx WHERE state = 'done' AND NOT EXISTS (SELECT 1 FROM in_rcpt WHERE id = in_tx.id"
                " AND (acknowledged_ms IS NULL OR acknowledged_ms >= ?))"
            )
            newest_ms = self._ledger.rows(f"SELECT MAX(arrival_ms) {done}", before_ms)[0][0]
            self._db.execute(
                "DELETE FROM received WHERE state = 'done' AND custody_ms < ?"
                " AND seq < (SELECT up_to FROM heard WHERE heard.stream = received.stream)",
                (before_ms,),
            )
            if newest_ms is not None:
                self._db.execute(f"DELETE {done}", (before_ms,))
                self._db.execute("DELETE FROM in_rcpt WHERE id NOT IN (SELECT id FROM in_tx)")
                known_ms = int(self._ledger.fact("forgotten_ms") or -1)
                self._ledger.set_fact("forgotten_ms", str(max(known_ms, newest_ms)))
