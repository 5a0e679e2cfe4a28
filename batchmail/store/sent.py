"""The ledger's half about what we sent: numbers, batches, the outcomes that came back, notices.

A number is reserved before its file appears, so it is never used twice; its
row turns `sealed` once the file is there, `custody` when the far side has it,
`settled` when nothing more can come of it; only then the file goes.
"""

from collections.abc import Iterable
from typing import NamedTuple

from batchmail.core.manifest import Item
from batchmail.core.numbered import VOID, Number
from batchmail.core.outcome import FINAL, Outcome
from batchmail.core.report import Reported
from batchmail.store.ledger import Ledger


class SentFile(NamedTuple):
    """A numbered file of ours, as the ledger knows it."""

    number: Number
    identity: str
    octets: int
    state: str
    cuts: int


class OwedNotice(NamedTuple):
    """A notice that has not been handed over yet; `reported` gives its transaction."""

    id: str
    tx: str
    made_ms: int
    attempts: int


class Sent:
    """What went out to one peer."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._db = ledger.database

    def reserve(self, kind: str, now_ms: int) -> Number:
        """The next number.  A crash after this leaves a gap, which the next call fills with a void."""
        with self._ledger.transaction():
            stream = self._ledger.stream
            last = self._db.execute("SELECT MAX(seq) FROM sent WHERE stream = ?", (stream,)).fetchone()[0]
            number = Number(stream, (last or 0) + 1, kind)
            self._db.execute(
                "INSERT INTO sent (stream, seq, kind, identity, octets, state, sealed_ms)"
                " VALUES (?,?,?,'',0,'reserved',?)",
                (*number, now_ms),
            )
        return number

    def seal(self, number: Number, identity: str, octets: int, items: Iterable[Item] = ()) -> None:
        """The file is in the outbox.  Idempotent: after a crash it is said again from the file."""
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE sent SET kind = ?, identity = ?, octets = ?, state = 'sealed', cuts = 0"
                " WHERE stream = ? AND seq = ? AND (state = 'reserved' OR kind <> ?)",
                (number.kind, identity, octets, number.stream, number.seq, number.kind),
            )
            self._db.executemany(
                "INSERT INTO out_tx (id, stream, seq, arrival_ms, recipients, open) VALUES (?,?,?,?,?,?)"
                " ON CONFLICT (id) DO UPDATE SET stream = excluded.stream, seq = excluded.seq WHERE settled_ms IS NULL",
                (
                    (i.entry.id, number.stream, number.seq, i.entry.arrival_ms, i.entry.recipients, i.entry.recipients)
                    for i in items
                ),
            )

    def files(self, *states: str) -> list[SentFile]:
        """The files in these states, by number."""
        marks = ",".join("?" * len(states))
        rows = self._ledger.rows(
            f"SELECT stream, seq, kind, identity, octets, state, cuts FROM sent WHERE state IN ({marks})"  # noqa: S608
            " ORDER BY stream, seq",
            *states,
        )
        return [SentFile(Number(*row[:3]), *row[3:]) for row in rows]

    def file(self, stream: str, seq: int) -> SentFile | None:
        rows = self._ledger.rows(
            "SELECT stream, seq, kind, identity, octets, state, cuts FROM sent WHERE stream = ? AND seq = ?",
            stream,
            seq,
        )
        return SentFile(Number(*rows[0][:3]), *rows[0][3:]) if rows else None

    def last_seq(self, stream: str) -> int:
        return int(self._ledger.rows("SELECT COALESCE(MAX(seq), 0) FROM sent WHERE stream = ?", stream)[0][0])

    def acknowledged_after(self, stream: str, seq: int) -> list[int]:
        """The numbers behind `seq` that the far side has said it has."""
        query = "SELECT seq FROM sent WHERE stream = ? AND seq > ? AND custody_ms IS NOT NULL ORDER BY seq"
        return [row[0] for row in self._ledger.rows(query, stream, seq)]

    def forget_acknowledged(self) -> None:
        """The far side's ledger is a new one: what the old one had, and needs no more, is no measure of it."""
        with self._ledger.transaction():
            self._db.execute("UPDATE sent SET custody_ms = NULL WHERE state = 'settled'")

    def settled_ids(self, ids: list[str]) -> set[str]:
        """Those of `ids` of which nothing is left to do."""
        return self._known(ids, "settled_ms IS NOT NULL")

    def count_cut(self, number: Number) -> int:
        """One more call ended between the file's last octet and its custody; returns how many did."""
        with self._ledger.transaction():
            self._db.execute("UPDATE sent SET cuts = cuts + 1 WHERE stream = ? AND seq = ?", number[:2])
        found = self.file(*number[:2])
        return found.cuts if found else 0

    def custody(self, number: Number, now_ms: int) -> list[str]:
        """The far side has the file on stable storage.  Returns the IDs whose outcomes it acknowledged (a report's)."""
        with self._ledger.transaction():
            state = "custody" if number.kind == "batch" else "settled"
            changed = self._db.execute(
                "UPDATE sent SET state = ?, custody_ms = ? WHERE stream = ? AND seq = ? AND state = 'sealed'",
                (state, now_ms, *number[:2]),
            ).rowcount
            if not changed or number.kind != "report":
                return []
            rows = self._ledger.rows("SELECT DISTINCT id FROM in_rcpt WHERE report = ?", number.file_name)
            self._db.execute("UPDATE in_rcpt SET acknowledged_ms = ? WHERE report = ?", (now_ms, number.file_name))
            return [row[0] for row in rows]

    def count_transactions(self, number: Number) -> int:
        """How many of a batch are not settled."""
        query = "SELECT COUNT(*) FROM out_tx WHERE stream = ? AND seq = ? AND settled_ms IS NULL"
        return int(self._ledger.rows(query, *number[:2])[0][0])

    def void(self, number: Number) -> Number:
        """The number's file is not to come: its void takes its place."""
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE sent SET state = 'reserved', kind = ? WHERE stream = ? AND seq = ?", (VOID, *number[:2])
            )
        return number._replace(kind=VOID)

    def sealed_ids(self, ids: list[str]) -> set[str]:
        """Those of `ids` that are in a batch already, or were."""
        return self._known(ids, "1")

    def _known(self, ids: list[str], condition: str) -> set[str]:
        known: set[str] = set()
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT id FROM out_tx WHERE id IN ({marks}) AND {condition}"  # noqa: S608
            known.update(row[0] for row in self._ledger.rows(query, *part))
        return known

    def forget(self, ids: Iterable[str]) -> None:
        """These are in no batch any more: they wait or are held as files again."""
        with self._ledger.transaction():
            self._db.executemany("DELETE FROM out_tx WHERE id = ? AND settled_ms IS NULL", ((i,) for i in ids))

    # -- outcomes -----------------------------------------------------------------------------------------------

    def new_outcomes(self, reported: list[Reported]) -> list[tuple[Reported, Number]]:
        """Those that are of a transaction sent to this peer and not known yet, with the batch each is in."""
        found: dict[tuple[str, int], tuple[Reported, Number]] = {}  # one for each recipient: a report may repeat itself
        for row in reported:
            place = self._ledger.rows(
                "SELECT stream, seq, recipients FROM out_tx WHERE id = ? AND settled_ms IS NULL", row.id
            )
            if not place or row.outcome.recipient >= place[0][2]:
                continue
            known = self._ledger.rows(
                "SELECT action FROM out_rcpt WHERE id = ? AND n = ?", row.id, row.outcome.recipient
            )
            if not known or (known[0][0] not in FINAL and row.outcome.action in FINAL):
                key = (row.id, row.outcome.recipient)
                if key not in found or found[key][0].outcome.action not in FINAL:
                    found[key] = (row, Number(place[0][0], place[0][1], "batch"))
        return list(found.values())

    def settle(self, rows: list[Reported], notices: dict[tuple[str, int], str], now_ms: int) -> None:
        """Take outcomes of `new_outcomes`; `notices` gives the notice file for each (ID, recipient) that is owed one.

        The notice files are on disk already: a crash before the commit leaves strays, one after it nothing undone.
        """
        with self._ledger.transaction():
            for row in rows:
                outcome = row.outcome
                self._db.execute(
                    "INSERT OR REPLACE INTO out_rcpt VALUES (?,?,?,?,?,?,?,?,?,?)",
                    (row.id, *outcome, row.doubtful, notices.get((row.id, outcome.recipient))),
                )
                if outcome.action in FINAL:
                    self._db.execute("UPDATE out_tx SET open = open - 1 WHERE id = ?", (row.id,))
            self._db.executemany(
                "INSERT OR IGNORE INTO notice (id, tx, state, made_ms, next_ms) VALUES (?,?,'owed',?,?)",
                {(notice, tx, now_ms, now_ms) for (tx, _), notice in notices.items()},
            )

    def let_go(self, now_ms: int) -> list[Number]:
        """Settle what has every outcome and no owed notice; returns the batches of which nothing is left."""
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE out_tx SET settled_ms = ? WHERE settled_ms IS NULL AND open = 0"
                " AND NOT EXISTS (SELECT 1 FROM notice WHERE tx = out_tx.id AND state = 'owed')",
                (now_ms,),
            )
            done = self._ledger.rows(
                "SELECT stream, seq, kind FROM sent WHERE state = 'custody' AND NOT EXISTS (SELECT 1 FROM out_tx"
                " WHERE out_tx.stream = sent.stream AND out_tx.seq = sent.seq AND settled_ms IS NULL)"
            )
            self._db.executemany(
                "UPDATE sent SET state = 'settled' WHERE stream = ? AND seq = ?", (row[:2] for row in done)
            )
        return [Number(*row) for row in done]

    # -- notices ------------------------------------------------------------------------------------------------

    def owed_notices(self, now_ms: int) -> list[OwedNotice]:
        """The notices that are due to be handed over."""
        rows = self._ledger.rows(
            "SELECT id, tx, made_ms, attempts FROM notice WHERE state = 'owed' AND next_ms <= ? ORDER BY id LIMIT 1000",
            now_ms,
        )
        return [OwedNotice(*row) for row in rows]

    def notice_ids(self) -> set[str]:
        """Of all notices still owed."""
        return {row[0] for row in self._ledger.rows("SELECT id FROM notice WHERE state = 'owed'")}

    def notice_done(self, identifier: str, state: str, outcome: Outcome | None) -> None:
        """The notice is with an MTA ("sent"), or was refused for good ("refused")."""
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE notice SET state = ?, text = ? WHERE id = ?",
                (state, outcome.text if outcome else b"", identifier),
            )

    def postpone_notice(self, identifier: str, next_ms: int) -> None:
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE notice SET attempts = attempts + 1, next_ms = ? WHERE id = ?", (next_ms, identifier)
            )

    def prune(self, before_ms: int) -> None:
        """Forget what was settled before a time."""
        with self._ledger.transaction():
            self._db.execute(
                "DELETE FROM out_rcpt WHERE id IN (SELECT id FROM out_tx WHERE settled_ms < ?)", (before_ms,)
            )
            self._db.execute(
                "DELETE FROM notice WHERE state <> 'owed' AND tx IN (SELECT id FROM out_tx WHERE settled_ms < ?)",
                (before_ms,),
            )
            self._db.execute("DELETE FROM out_tx WHERE settled_ms < ?", (before_ms,))
            self._db.execute(
                "DELETE FROM sent WHERE state = 'settled' AND sealed_ms < ?"
                " AND seq < (SELECT MAX(seq) FROM sent AS newer WHERE newer.stream = sent.stream)",
                (before_ms,),
            )
