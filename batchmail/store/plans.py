"""The ledger's part about transactions of ours that a person, or time, has decided about.

A plan is written before anything is done, so a crash does not forget it half
way; it is carried out by `flow.plans`, and by `flow.settle` where the far side
has to give the transaction back first.
"""

from collections.abc import Iterable
from typing import NamedTuple

from batchmail.core.numbered import Number
from batchmail.core.request import WITHDRAW, Request
from batchmail.store.ledger import Ledger
from batchmail.store.requests import Requests

REMOVE, HOLD, REQUEUE, MOVE = "remove", "hold", "requeue", "move"
_COLUMNS = "tx, verb, peer, new_id, status, text, made_ms, request, done_ms, result"
_COMING = "it is coming back as "


class Plan(NamedTuple):
    """What is to be done with a transaction."""

    tx: str
    verb: str
    peer: str  # move: to which peer
    new_id: str  # its ID from then on, once the far side has seen the old one
    status: str  # remove: the status that its sender is told; empty: nothing is
    text: str
    made_ms: int
    request: str | None = None
    done_ms: int | None = None
    result: str = ""  # for people

    @property
    def coming_ids(self) -> tuple[str, str]:
        """Those under which its transaction may be about to be written anew, while it is open."""
        return self.new_id, self.result.removeprefix(_COMING)


class Place(NamedTuple):
    """Where a transaction of ours is, as the ledger knows it."""

    number: Number
    state: str  # of its batch; empty: in none, ended here
    is_whole: bool  # the far side may have it
    settled: bool


class Plans:
    """The plans of one peer."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._db = ledger.database

    def make(self, plans: Iterable[Plan]) -> None:
        """Durable when this returns.  A newer plan takes the place of an older one, unless that has begun `anew`."""
        with self._ledger.transaction():
            self._db.executemany(
                f"INSERT OR REPLACE INTO plan ({_COLUMNS}) SELECT ?1,?2,?3,?4,?5,?6,?7,?8,?9,?10"  # noqa: S608
                " WHERE NOT EXISTS (SELECT 1 FROM plan WHERE tx = ?1 AND done_ms IS NULL AND result <> '')",
                plans,
            )

    def anew(self, identifier: str, new_id: str) -> None:
        """Its transaction is about to be written anew: from here on no other plan takes its place.

        A crash before the file is there: it is written when the plan is followed again.
        """
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE plan SET result = ? WHERE tx = ? AND done_ms IS NULL AND result = ''",
                (f"{_COMING}{new_id}", identifier),
            )

    def open(self) -> list[Plan]:
        """Those that are not carried out, in the order of their transactions."""
        rows = self._ledger.rows(f"SELECT {_COLUMNS} FROM plan WHERE done_ms IS NULL ORDER BY tx")  # noqa: S608
        return [Plan(*row) for row in rows]

    def find(self, identifier: str) -> Plan | None:
        rows = self._ledger.rows(f"SELECT {_COLUMNS} FROM plan WHERE tx = ?", identifier)  # noqa: S608
        return Plan(*rows[0]) if rows else None

    def is_open(self, identifier: str, verb: str) -> bool:
        """Whether this is what is to be done with it, and is not done yet."""
        query = "SELECT 1 FROM plan WHERE tx = ? AND verb = ? AND done_ms IS NULL"
        return bool(self._ledger.rows(query, identifier, verb))

    def done(self, identifier: str, now_ms: int, result: str) -> None:
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE plan SET done_ms = ?, result = ? WHERE tx = ? AND done_ms IS NULL", (now_ms, result, identifier)
            )

    def withdraw(self, plan: Plan, request_id: str, now_ms: int) -> None:
        """Ask the far side not to deliver it: request and plan together, so it is asked once."""
        with self._ledger.transaction():
            Requests(self._ledger).ask_too(Request(WITHDRAW, request_id, {"tx": plan.tx}), now_ms)
            self._db.execute("UPDATE plan SET request = ? WHERE tx = ?", (request_id, plan.tx))

    def verdict(self, plan: Plan) -> str:
        """What the far side answered to the plan's request; empty: nothing yet."""
        asked = Requests(self._ledger).find(plan.request) if plan.request else None
        return asked.answer.verdict if asked and asked.answer else ""

    def place(self, identifier: str) -> Place | None:
        """Where it is; None: in no batch, so it waits, is held, or is not ours."""
        rows = self._ledger.rows(
            "SELECT out_tx.stream, out_tx.seq, COALESCE(state, ''), whole_ms, settled_ms"
            " FROM out_tx LEFT JOIN sent USING (stream, seq) WHERE id = ?",
            identifier,
        )
        if not rows:
            return None
        stream, seq, state, whole_ms, settled_ms = rows[0]
        is_whole = whole_ms is not None or state == "custody"
        return Place(Number(stream, seq, "batch"), state, is_whole, settled_ms is not None)

    def prune(self, before_ms: int) -> None:
        """Forget what was done before a time."""
        with self._ledger.transaction():
            self._db.execute("DELETE FROM plan WHERE done_ms < ?", (before_ms,))
