"""What people are shown of a ledger: how much is open, and all that is known of one transaction.

Nothing is changed here, and a ledger that is not there yet is not made.  The
queries cost what they count: each has its index.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import NamedTuple

from batchmail.core.numbered import BATCH, Number
from batchmail.core.outcome import Outcome
from batchmail.store.ledger import Ledger
from batchmail.store.received import NEVER_MS
from batchmail.store.spool import Spool
from batchmail.store.waiting import WaitingRoom

# Of a transaction of ours, by its batch: one that has no row goes again since `resend`, from its file in the outbox.
_STATE = "COALESCE(sent.state, CASE WHEN stream = '' THEN 'ended' ELSE 'sealed' END)"
_OUTCOME = "n, action, code, status, text, mta, time_ms"


class Open(NamedTuple):
    """What is not done yet."""

    number: int
    first_ms: int | None  # arrival of the oldest, or when the next is due


class Look(NamedTuple):
    """How it stands with a peer, by its ledger."""

    unsettled: Mapping[str, Open]  # our transactions in batches, by the state of the batch, with the oldest arrival
    replay: Open  # the peer's, with the time when the next is due
    owed: Open  # notices
    held: int  # the peer's that are too old to know whether they were delivered
    first_held: str | None
    again: Sequence[tuple[str, int, int]]  # batches that go again since `resend`, if their files are there: and of what
    facts: Mapping[str, str]  # see `Ledger.fact`


class OpenBatch(NamedTuple):
    """A batch of ours, by the transactions in it that are not settled."""

    number: Number
    state: str  # sealed, custody; empty: since `resend` it is none, and is sealed again from its file
    transactions: int


class SentTransaction(NamedTuple):
    """A transaction in a batch of ours, or one that ended without: its number has no stream then."""

    number: Number
    arrival_ms: int
    recipients: int
    settled_ms: int | None
    state: str  # of the batch: sealed, custody, settled; or ended
    sealed_ms: int | None
    custody_ms: int | None


class ReceivedTransaction(NamedTuple):
    """A transaction of the peer, in our custody or finished here."""

    number: Number
    custody_ms: int
    arrival_ms: int
    expire_ms: int
    recipients: int
    state: str  # waiting, dot, done
    attempts: int
    next_ms: int
    doubtful: int


class Told(NamedTuple):
    """An outcome, and what was done with it: the notice that tells of it, or the report that carries it."""

    outcome: Outcome
    where: str
    acknowledged_ms: int | None = None


class NoticeRow(NamedTuple):
    """A notice that a transaction caused."""

    id: str
    state: str  # owed, sent, refused
    made_ms: int
    next_ms: int
    attempts: int
    text: bytes


class View:
    """A look into one peer's ledger."""

    def __init__(self, ledger: Ledger):
        self._rows = ledger.rows
        self.close, self.damage = ledger.close, ledger.damage

    def look(self) -> Look:
        """The peer as a whole."""
        unsettled = self._rows(
            f"SELECT {_STATE}, COUNT(*), MIN(arrival_ms) FROM out_tx LEFT JOIN sent USING (stream, seq)"  # noqa: S608
            " WHERE settled_ms IS NULL AND stream <> '' GROUP BY 1"
        )
        replay = "SELECT COUNT(*), MIN(next_ms) FROM in_tx WHERE state <> 'done' AND next_ms < ?"
        query = "SELECT COUNT(*), MIN(id) FROM in_tx WHERE state <> 'done' AND next_ms = ? AND state = 'held'"
        held, first_held = self._rows(query, NEVER_MS)[0]
        owed = "SELECT COUNT(*), MIN(next_ms) FROM notice WHERE state = 'owed'"
        return Look(
            {state: Open(number, first_ms) for state, number, first_ms in unsettled},
            Open(*self._rows(replay, NEVER_MS)[0]),
            Open(*self._rows(owed)[0]),
            held,
            first_held,
            [(*one.number[:2], one.transactions) for one in self.open_batches() if not one.state],
            dict(self._rows("SELECT name, value FROM fact WHERE name NOT LIKE 'voided.%'")),
        )

    def batch_state(self, number: Number) -> str:
        rows = self._rows("SELECT state FROM sent WHERE stream = ? AND seq = ?", *number[:2])
        return str(rows[0][0]) if rows else "sealed"  # anew, in the next call

    def identity(self, number: Number) -> str:
        """Of a numbered file of either side, as it was sealed or announced; empty when it is not known."""
        for table in ("sent", "received"):
            query = f"SELECT identity FROM {table} WHERE stream = ? AND seq = ? AND kind = ?"  # noqa: S608
            rows = self._rows(query, *number)
            if rows:
                return str(rows[0][0])
        return ""

    def open_batches(self) -> list[OpenBatch]:
        """The batches of ours whose files are still needed."""
        rows = self._rows(
            "SELECT stream, seq, COALESCE(state, '') AS state, COUNT(*) FROM out_tx LEFT JOIN sent USING (stream, seq)"
            " WHERE settled_ms IS NULL AND stream <> '' AND COALESCE(kind, ?1) = ?1"
            " AND COALESCE(state, '') IN ('', 'sealed', 'custody') GROUP BY stream, seq ORDER BY stream, seq",
            BATCH,
        )
        return [OpenBatch(Number(stream, seq, BATCH), state, count) for stream, seq, state, count in rows]

    def files_in_custody(self) -> list[Number]:
        """The peer's batches of which something is still to be replayed."""
        rows = self._rows(
            "SELECT DISTINCT in_tx.stream, in_tx.seq, kind FROM in_tx JOIN received USING (stream, seq)"
            " WHERE in_tx.state <> 'done' ORDER BY 1, 2"
        )
        return [Number(*row) for row in rows]

    def ids_to_replay(self, number: Number) -> set[str]:
        """The transactions of a batch of the peer's that are not finished here."""
        query = "SELECT id FROM in_tx WHERE stream = ? AND seq = ? AND state <> 'done'"
        return {row[0] for row in self._rows(query, *number[:2])}

    def owed_ids(self) -> list[str]:
        """The notices whose files are still needed."""
        return [row[0] for row in self._rows("SELECT id FROM notice WHERE state = 'owed' ORDER BY id")]

    def open_ids(self, number: Number) -> set[str]:
        """The transactions of a batch of ours that are not settled."""
        query = "SELECT id FROM out_tx WHERE stream = ? AND seq = ? AND settled_ms IS NULL"
        return {row[0] for row in self._rows(query, *number[:2])}

    def sent(self, identifier: str) -> SentTransaction | None:
        rows = self._rows(
            f"SELECT stream, seq, arrival_ms, recipients, settled_ms, {_STATE},"  # noqa: S608
            " sealed_ms, custody_ms FROM out_tx LEFT JOIN sent USING (stream, seq) WHERE id = ?",
            identifier,
        )
        return SentTransaction(Number(rows[0][0], rows[0][1], BATCH), *rows[0][2:]) if rows else None

    def plan(self, identifier: str) -> str:
        """What was decided about a transaction of ours, and what came of that; empty: nothing."""
        rows = self._rows("SELECT verb, peer, result, request FROM plan WHERE tx = ?", identifier)
        if not rows:
            return ""
        verb, peer, result, request = rows[0]
        waits = "the far side is asked for it" if request else "to be done"
        return f"{verb}{f' to {peer}' if peer else ''}: {result or waits}"

    def sent_outcomes(self, identifier: str) -> list[Told]:
        rows = self._rows(f"SELECT {_OUTCOME}, notice FROM out_rcpt WHERE id = ? ORDER BY n", identifier)  # noqa: S608
        return [Told(Outcome(*row[:7]), row[7] or "") for row in rows]

    def received(self, identifier: str) -> ReceivedTransaction | None:
        rows = self._rows(
            "SELECT stream, seq, custody_ms, arrival_ms, expire_ms, recipients, state, attempts, next_ms, doubtful"
            " FROM in_tx WHERE id = ?",
            identifier,
        )
        return ReceivedTransaction(Number(rows[0][0], rows[0][1], BATCH), *rows[0][2:]) if rows else None

    def received_outcomes(self, identifier: str) -> list[Told]:
        query = f"SELECT {_OUTCOME}, report, acknowledged_ms FROM in_rcpt WHERE id = ? ORDER BY n"  # noqa: S608
        return [Told(Outcome(*row[:7]), row[7] or "", row[8]) for row in self._rows(query, identifier)]

    def notices(self, transaction: str) -> list[NoticeRow]:
        query = "SELECT id, state, made_ms, next_ms, attempts, text FROM notice WHERE tx = ? ORDER BY id"
        return [NoticeRow(*row) for row in self._rows(query, transaction)]

    def transaction_of_notice(self, identifier: str) -> str:
        rows = self._rows("SELECT tx FROM notice WHERE id = ?", identifier)
        return str(rows[0][0]) if rows else ""


def open_view(spool: Spool, peer: str) -> View | None:
    """A look into a peer's ledger, or None when there is none and need not be.  Raises SpoolError."""
    ledger = ledger_of(spool, peer)
    return View(ledger) if ledger else None


def look(spool: Spool, peer: str) -> Look | None:
    """How it stands with a peer by its ledger, or None when there is none and need not be.  Raises SpoolError."""
    view = open_view(spool, peer)
    if view is None:
        return None
    with closing(view):
        return view.look()


def ledger_of(spool: Spool, peer: str) -> Ledger | None:
    """A peer's ledger, as `open_view`."""
    if os.path.exists(f"{spool.root}/ledger/{peer}") or _holds_batches(spool, peer):
        return Ledger(spool, peer)  # which says what a ledger that is missing means
    return None


def _holds_batches(spool: Spool, peer: str) -> bool:
    with suppress(FileNotFoundError):  # a peer that is not set up
        return any(os.listdir(f"{spool.root}/{place}") for place in (f"out/{peer}/outbox", f"in/{peer}/inbox"))
    return False


def is_untouched(spool: Spool, peer: str) -> bool:
    """Whether nothing was ever exchanged with a peer, and nothing waits for it: one of thousands, perhaps."""
    if os.path.exists(f"{spool.root}/ledger/{peer}"):
        return False
    room = WaitingRoom(spool, peer)
    return room.is_empty() and next(room.scan_held(), None) is None and not _holds_batches(spool, peer)


def find_file(spool: Spool, number: Number) -> str:
    """The path of a numbered file, whole, of either side, whoever the peer is; empty when there is none."""
    for peer in spool.peers():
        for place in (f"out/{peer}/outbox", f"in/{peer}/inbox"):
            path = f"{spool.root}/{place}/{number.file_name}"
            if os.path.exists(path):
                return path
    return ""
