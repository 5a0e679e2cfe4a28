"""The ledger's part about requests: ours with what was answered, the peer's with what we answered.

    request   file   answered_ms   means                       wish   file   acknowledged_ms   means
       +       -         -         to be sealed                 +      -          -            answer to be sealed
       +       +         -         on its way, or being done    +      +          -            answer on its way
       +       ?         +         answered                     +      +          +            the peer knows

Both are remembered for a while; an ID that is known is never done twice.  A wish
of the kind "audit", which changes nothing, only until the peer knows the answer.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from batchmail.core import request as requests
from batchmail.core.numbered import Number
from batchmail.core.request import Answer, Request
from batchmail.store.ledger import Ledger


class Asked(NamedTuple):
    """A request of ours, as far as it is."""

    request: Request
    made_ms: int
    file: str  # that carries it; empty: none yet
    answer: Answer | None
    answered_ms: int | None


class Requests:
    """What we asked of one peer."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._db = ledger.database

    def ask(self, request: Request, now_ms: int) -> None:
        """Durable when this returns; the next call carries it.  The same ID once more changes nothing."""
        with self._ledger.transaction():
            self.ask_too(request, now_ms)

    def ask_too(self, request: Request, now_ms: int) -> None:
        """As `ask`, within a transaction of the caller's: the wish and its reason are committed together."""
        self._db.execute(
            "INSERT OR IGNORE INTO request (id, kind, payload, made_ms) VALUES (?,?,?,?)",
            (request.id, request.kind, requests.pack(request.payload), now_ms),
        )

    def drop_unsent(self, kind: str) -> None:
        """Newer ones take the place of those that no file carries yet.  Within a transaction of the caller's."""
        self._db.execute("DELETE FROM request WHERE kind = ? AND file IS NULL AND answered_ms IS NULL", (kind,))

    def open_of(self, kind: str) -> tuple[int, int]:
        """How many of a kind are not answered: those that no file carries yet, and the others."""
        rows = self._ledger.rows(
            "SELECT COUNT(*), COUNT(file) FROM request WHERE kind = ? AND answered_ms IS NULL", kind
        )
        return rows[0][0] - rows[0][1], rows[0][1]

    def unsent(self, kinds: Iterable[str] | None, most: int) -> list[Request]:
        """Those that no file carries yet, of these kinds, or of all."""
        known = None if kinds is None else sorted(kinds)
        marks = "" if known is None else f" AND kind IN ({','.join('?' * len(known))})"
        rows = self._ledger.rows(
            "SELECT kind, id, payload FROM request WHERE file IS NULL AND answered_ms IS NULL"  # noqa: S608
            f"{marks} ORDER BY id LIMIT ?",
            *(known or ()),
            most,
        )
        return [Request(kind, identifier, requests.unpack(payload)) for kind, identifier, payload in rows]

    def carried(self, number: Number, rows: Iterable[Request]) -> None:
        """They are in a file that lies in the outbox.  Idempotent."""
        with self._ledger.transaction():
            self._db.executemany(
                "UPDATE request SET file = ? WHERE id = ? AND file IS NULL",
                ((number.file_name, row.id) for row in rows),
            )

    def answered(self, answer: Answer, now_ms: int) -> Request | None:
        """Take note of an answer; the request, or None when we never asked for it or know already."""
        rows = self._ledger.rows("SELECT kind, payload FROM request WHERE id = ? AND answered_ms IS NULL", answer.id)
        if not rows:
            return None
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE request SET verdict = ?, text = ?, answer = ?, answered_ms = ? WHERE id = ?",
                (answer.verdict, answer.text, requests.pack(answer.payload), now_ms, answer.id),
            )
        return Request(rows[0][0], answer.id, requests.unpack(rows[0][1]))

    def find(self, identifier: str) -> Asked | None:
        found = self._list("id = ?", identifier)
        return found[0] if found else None

    def open(self) -> list[Asked]:
        """Those that are not answered yet."""
        return self._list("answered_ms IS NULL")

    def of_kind(self, kind: str) -> list[Asked]:
        """All that are remembered."""
        return self._list("kind = ?", kind)

    def _list(self, condition: str, *values: Any) -> list[Asked]:
        rows = self._ledger.rows(
            "SELECT kind, id, payload, made_ms, file, verdict, text, answer, answered_ms FROM request"  # noqa: S608
            f" WHERE {condition} ORDER BY id",
            *values,
        )
        return [
            Asked(
                Request(row[0], row[1], requests.unpack(row[2])),
                row[3],
                row[4] or "",
                Answer(row[1], row[5], row[6], requests.unpack(row[7])) if row[8] is not None else None,
                row[8],
            )
            for row in rows
        ]

    def prune(self, before_ms: int) -> None:
        """Forget what was answered before a time."""
        with self._ledger.transaction():
            self._db.execute("DELETE FROM request WHERE answered_ms < ?", (before_ms,))


class Wishes:
    """What one peer asked of us."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._db = ledger.database

    def count(self, kind: str = "") -> int:
        """How many are remembered, of a kind or of all."""
        return int(self._ledger.rows("SELECT COUNT(*) FROM wish WHERE ? IN ('', kind)", kind)[0][0])

    def repeat(self, identifier: str) -> bool:
        """Whether it was done before; the answer it had is then told once more."""
        with self._ledger.transaction():
            changed = self._db.execute(
                "UPDATE wish SET file = NULL, acknowledged_ms = NULL WHERE id = ?", (identifier,)
            ).rowcount
        return bool(changed)

    def done(self, request: Request, answer: Answer, now_ms: int) -> None:
        """The request was carried out.  Idempotent: the first answer stays."""
        with self._ledger.transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO wish (id, kind, verdict, text, answer, done_ms) VALUES (?,?,?,?,?,?)",
                (request.id, request.kind, answer.verdict, answer.text, requests.pack(answer.payload), now_ms),
            )

    def unsent(self, most: int) -> list[Answer]:
        """Answers that no file carries yet."""
        rows = self._ledger.rows(
            "SELECT id, verdict, text, answer FROM wish WHERE file IS NULL ORDER BY id LIMIT ?", most
        )
        return [Answer(row[0], row[1], row[2], requests.unpack(row[3])) for row in rows]

    def carried(self, number: Number, rows: Iterable[Answer]) -> None:
        """They are in a file that lies in the outbox.  Idempotent."""
        with self._ledger.transaction():
            self._db.executemany(
                "UPDATE wish SET file = ? WHERE id = ? AND file IS NULL", ((number.file_name, row.id) for row in rows)
            )

    def prune(self, before_ms: int) -> None:
        """Forget those whose answer the peer has known since before a time."""
        with self._ledger.transaction():
            self._db.execute("DELETE FROM wish WHERE acknowledged_ms < ?", (before_ms,))

    def forget_withdrawn(self, before_ms: int) -> None:
        """Nothing comes any more that was withdrawn before a time."""
        with self._ledger.transaction():
            self._db.execute("DELETE FROM withdrawn WHERE time_ms < ?", (before_ms,))
