"""The ledger's half about what we sent: numbers, batches, the outcomes that came back.

A number is reserved before its file appears, so it is never used twice; its
row turns `sealed` once the file is there, `custody` when the far side has it,
`settled` when nothing more can come of it; only then the file goes.  The
notices that outcomes cause are handed over by `store.owed`.
"""

from collections.abc import Iterable
from typing import NamedTuple

from batchmail.core.entry import Entry
from batchmail.core.manifest import Item
from batchmail.core.numbered import VOID, Number
from batchmail.core.outcome import FINAL, Outcome
from batchmail.core.report import Reported
from batchmail.core.request import AUDIT
from batchmail.store import voided
from batchmail.store.ledger import Ledger
from batchmail.store.owed import POSTMASTER, Noticed, Untold, owe


class SentFile(NamedTuple):
    """A numbered file of ours, as the ledger knows it."""

    number: Number
    identity: str
    octets: int
    state: str
    cuts: int


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
        """The file is in the outbox.  Idempotent: after a crash it is said again from the file.

        What the far side may have had from another batch, or has told of, it may have in this one from the start.
        """
        items = list(items)
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE sent SET kind = ?, identity = ?, octets = ?, state = 'sealed', cuts = 0"
                " WHERE stream = ? AND seq = ? AND (state = 'reserved' OR kind <> ?)",
                (number.kind, identity, octets, number.stream, number.seq, number.kind),
            )
            if any(self._may_be_there(item.entry.id) for item in items):
                self._db.execute(
                    "UPDATE sent SET whole_ms = sealed_ms WHERE stream = ? AND seq = ? AND whole_ms IS NULL", number[:2]
                )
            self._db.executemany(
                "INSERT INTO out_tx (id, stream, seq, arrival_ms, recipients, open, priority, expire_ms)"
                " VALUES (?1,?2,?3,?4,?5,"
                " ?5 - (SELECT COUNT(*) FROM out_rcpt WHERE id = ?1 AND action <> 'delayed'),?6,?7)"
                " ON CONFLICT (id) DO UPDATE SET stream = excluded.stream, seq = excluded.seq,"
                " expire_ms = COALESCE(expire_ms, excluded.expire_ms) WHERE settled_ms IS NULL",  # older ones had none
                (
                    (
                        *(i.entry.id, number.stream, number.seq, i.entry.arrival_ms),
                        *(i.entry.recipients, i.entry.priority, i.entry.arrival_ms + i.lifetime_ms),
                    )
                    for i in items
                ),
            )

    def _may_be_there(self, identifier: str) -> bool:
        """Whether the far side has told of a transaction, or may have the batch that it is in until now."""
        query = (
            "SELECT EXISTS (SELECT 1 FROM out_rcpt WHERE id = ?1) OR EXISTS (SELECT 1 FROM out_tx"
            " JOIN sent USING (stream, seq) WHERE id = ?1 AND (whole_ms IS NOT NULL OR custody_ms IS NOT NULL))"
        )
        return bool(self._ledger.rows(query, identifier)[0][0])

    def files(self, *states: str) -> list[SentFile]:
        """The files in these states, by number."""
        marks = ",".join("?" * len(states))
        is_open = "" if "settled" in states else " AND state <> 'settled'"  # these have an index
        return self._files(f"state IN ({marks}){is_open} ORDER BY stream, seq", *states)

    def file(self, stream: str, seq: int) -> SentFile | None:
        return next(iter(self._files("stream = ? AND seq = ?", stream, seq)), None)

    def _files(self, condition: str, *values: str | int) -> list[SentFile]:
        query = f"SELECT stream, seq, kind, identity, octets, state, cuts FROM sent WHERE {condition}"  # noqa: S608
        return [SentFile(Number(*row[:3]), *row[3:]) for row in self._ledger.rows(query, *values)]

    def is_over(self, stream: str, seq: int) -> bool:
        """Whether a file that is neither sealed nor in custody is a leftover; else it is to go again, or a stranger."""
        is_forgotten = stream == self._ledger.stream and seq <= self.last_seq(stream)
        return is_forgotten or self.file(stream, seq) is not None

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
            if changed and number.kind == "answer":
                # What changed nothing may be done again, and its answer is long.
                self._db.execute("DELETE FROM wish WHERE file = ? AND kind = ?", (number.file_name, AUDIT))
                self._db.execute("UPDATE wish SET acknowledged_ms = ? WHERE file = ?", (now_ms, number.file_name))
            if not changed or number.kind != "report":
                return []
            told = "report = ? AND acknowledged_ms IS NULL"  # as its index says
            rows = self._ledger.rows(f"SELECT DISTINCT id FROM in_rcpt WHERE {told}", number.file_name)  # noqa: S608
            self._db.execute(f"UPDATE in_rcpt SET acknowledged_ms = ? WHERE {told}", (now_ms, number.file_name))  # noqa: S608
            return [row[0] for row in rows]

    def open_ids(self, number: Number) -> list[str]:
        """Those of a batch that are not settled, nor sealed anew."""
        query = "SELECT id FROM out_tx WHERE stream = ? AND seq = ? AND settled_ms IS NULL ORDER BY id"
        return [row[0] for row in self._ledger.rows(query, *number[:2])]

    def count_transactions(self, number: Number) -> int:
        """How many of a batch are not settled."""
        query = "SELECT COUNT(*) FROM out_tx WHERE stream = ? AND seq = ? AND settled_ms IS NULL"
        return int(self._ledger.rows(query, *number[:2])[0][0])

    def count_doubtful(self) -> int:
        """How many are in batches of which the far side has not said that it has them, and may have."""
        query = (
            "SELECT COUNT(*) FROM out_tx JOIN sent USING (stream, seq)"
            " WHERE settled_ms IS NULL AND state = 'sealed' AND whole_ms IS NOT NULL"
        )
        return int(self._ledger.rows(query)[0][0])

    def whole(self, number: Number, now_ms: int) -> None:
        """The last octet of a batch is about to be given to a call: from here on the far side may have it."""
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE sent SET whole_ms = ? WHERE stream = ? AND seq = ? AND whole_ms IS NULL", (now_ms, *number[:2])
            )

    def unreport(self, number: Number) -> None:
        """A report that cannot be read any more: its outcomes, and answers, are to be in another."""
        with self._ledger.transaction():
            query = "UPDATE in_rcpt SET report = NULL WHERE report = ? AND acknowledged_ms IS NULL"
            self._db.execute(query, (number.file_name,))
            self._db.execute("UPDATE wish SET file = NULL WHERE file = ?", (number.file_name,))
            self._db.execute("UPDATE request SET file = NULL WHERE file = ?", (number.file_name,))

    def void(self, number: Number) -> Number:
        """The number's file is not to come: its void takes its place.  What it held, and no other batch does, waits."""
        with self._ledger.transaction():
            voided.remember(self._ledger, number)  # it may have come, to an older call there that was checking it
            self._db.execute(
                "DELETE FROM out_tx WHERE stream = ? AND seq = ? AND settled_ms IS NULL"
                " AND NOT EXISTS (SELECT 1 FROM out_rcpt WHERE out_rcpt.id = out_tx.id)",
                number[:2],
            )
            self._db.execute(
                "UPDATE sent SET state = 'reserved', kind = ?, whole_ms = NULL WHERE stream = ? AND seq = ?",
                (VOID, *number[:2]),
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

    def settle(self, rows: list[Reported], notices: Noticed, now_ms: int, untold: Iterable[Untold] = ()) -> None:
        """Take outcomes of `new_outcomes`; `notices` gives the notice file for each (ID, recipient) that is owed one.

        What is `untold` counts as refused, for the summary.

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
            self._db.executemany(  # the far side speaks of it: what else is in the batch it may have as well
                "UPDATE sent SET whole_ms = ? WHERE whole_ms IS NULL"
                " AND (stream, seq) = (SELECT stream, seq FROM out_tx WHERE id = ?)",
                {(now_ms, row.id) for row in rows},
            )
            owe(self._ledger, notices, now_ms, untold)

    def end(
        self, entry: Entry, outcomes: Iterable[Outcome], notices: Noticed, now_ms: int, untold: Iterable[Untold] = ()
    ) -> None:
        """A transaction that is in no batch ends here: final outcomes for all that had none.  Idempotent.

        The notice files are on disk already, and so is the transaction's, under `ended`.
        """
        with self._ledger.transaction():
            new = self._db.execute(
                "INSERT OR IGNORE INTO out_tx (id, stream, seq, arrival_ms, recipients, open, priority)"
                " VALUES (?,'',0,?,?,0,?)",
                (entry.id, entry.arrival_ms, entry.recipients, entry.priority),
            ).rowcount
            if not new:
                return
            self._db.executemany(
                "INSERT OR REPLACE INTO out_rcpt VALUES (?,?,?,?,?,?,?,?,0,?)",
                ((entry.id, *outcome, notices.get((entry.id, outcome.recipient))) for outcome in outcomes),
            )
            owe(self._ledger, notices, now_ms, untold)

    def let_go(self, now_ms: int) -> list[Number]:
        """Settle what has every outcome and no owed notice; returns the batches of which nothing is left."""
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE out_tx SET settled_ms = ? WHERE settled_ms IS NULL AND open = 0"
                " AND NOT EXISTS (SELECT 1 FROM notice WHERE tx = out_tx.id AND state = 'owed')",
                (now_ms,),
            )
            done = self._ledger.rows(
                "SELECT stream, seq, kind FROM sent WHERE state <> 'settled' AND state = 'custody'"
                " AND NOT EXISTS (SELECT 1 FROM out_tx"
                " WHERE out_tx.stream = sent.stream AND out_tx.seq = sent.seq AND settled_ms IS NULL)"
            )
            self._db.executemany(
                "UPDATE sent SET state = 'settled' WHERE stream = ? AND seq = ?", (row[:2] for row in done)
            )
        return [Number(*row) for row in done]

    def open_outcomes(self, identifier: str, recipients: int) -> dict[int, Outcome | None]:
        """The recipients without a final outcome, with what was said of them last."""
        query = "SELECT n, action, code, status, text, mta, time_ms FROM out_rcpt WHERE id = ?"
        known = {row[0]: Outcome(*row) for row in self._ledger.rows(query, identifier)}
        return {n: known.get(n) for n in range(recipients) if n not in known or known[n].action not in FINAL}

    def open_recipients(self, identifier: str) -> list[int]:
        """Those without a final outcome."""
        rows = self._ledger.rows("SELECT recipients FROM out_tx WHERE id = ?", identifier)
        return sorted(self.open_outcomes(identifier, rows[0][0])) if rows else []

    def actions(self, identifier: str) -> dict[str, int]:
        """How many recipients had which outcome."""
        query = "SELECT action, COUNT(*) FROM out_rcpt WHERE id = ? GROUP BY action"
        return dict(self._ledger.rows(query, identifier))

    def tell(self, identifier: str, notices: Noticed, now_ms: int) -> None:
        """A delay is told, once; where no notice is owed for it, that is noted too."""
        with self._ledger.transaction():
            self._db.execute("INSERT OR IGNORE INTO told VALUES (?, ?)", (identifier, now_ms))
            owe(self._ledger, notices, now_ms)

    def forget_told(self, before_ms: int) -> None:
        """Whose sender was told of a delay before a time; and look anew at all that waits, once.

        What was released, or came from another peer, lies where it was looked for before.
        """
        with self._ledger.transaction():
            self._db.execute("DELETE FROM told WHERE time_ms < ?", (before_ms,))
            self._db.execute("DELETE FROM fact WHERE name GLOB 'told_until.*'")

    def prune(self, before_ms: int) -> None:
        """Forget what was settled before a time."""
        with self._ledger.transaction():
            self._db.execute(
                "DELETE FROM out_rcpt WHERE id IN (SELECT id FROM out_tx WHERE settled_ms < ?)", (before_ms,)
            )
            self._db.execute(
                "DELETE FROM notice WHERE state <> 'owed' AND (tx IN (SELECT id FROM out_tx WHERE settled_ms < ?1)"
                " OR (tx = ?2 AND made_ms < ?1))",
                (before_ms, POSTMASTER),
            )
            self._db.execute("DELETE FROM out_tx WHERE settled_ms < ?", (before_ms,))
            self._db.execute(
                "DELETE FROM sent WHERE state = 'settled' AND sealed_ms < ?"
                " AND seq < (SELECT MAX(seq) FROM sent AS newer WHERE newer.stream = sent.stream)",
                (before_ms,),
            )
            voided.prune(self._ledger)
