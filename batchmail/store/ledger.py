"""The ledger: what this site durably remembers of what it did with one peer.

One SQLite file per peer, every commit synced.  `store.sent` and
`store.received` are its two halves; here are the file, its schema, and the
few facts about the peer as a whole.  Doors never open it.

A ledger belongs to one spool directory.  One that is missing beside a spool
that holds files, or that was made for another directory (a copy, a restored
backup), cannot tell what was done: it is not opened until a person says so.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from batchmail.core.errors import SpoolError
from batchmail.core.names import make_stream
from batchmail.store import ballast
from batchmail.store.lock import Lock
from batchmail.store.spool import Spool

VERSION = 4
_BUSY_S = 30.0
_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the second: of SQLite's words about a damaged schema

_SCHEMA = """
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE sent (                  -- numbered files of ours
  seq INTEGER NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL,
  identity TEXT NOT NULL, octets INTEGER NOT NULL,
  state TEXT NOT NULL,               -- reserved, sealed, custody, settled
  cuts INTEGER NOT NULL DEFAULT 0,   -- calls that ended after its last octet and before custody
  sealed_ms INTEGER NOT NULL, custody_ms INTEGER,
  PRIMARY KEY (stream, seq)) WITHOUT ROWID;
CREATE INDEX sent_open ON sent (state) WHERE state IN ('reserved', 'sealed');

CREATE TABLE out_tx (                -- transactions in batches of ours
  id TEXT PRIMARY KEY, stream TEXT NOT NULL, seq INTEGER NOT NULL,
  arrival_ms INTEGER NOT NULL, recipients INTEGER NOT NULL,
  open INTEGER NOT NULL,             -- recipients without a final outcome
  settled_ms INTEGER) WITHOUT ROWID;
CREATE INDEX out_tx_batch ON out_tx (stream, seq) WHERE settled_ms IS NULL;

CREATE TABLE out_rcpt (              -- outcomes that came back
  id TEXT NOT NULL, n INTEGER NOT NULL, action TEXT NOT NULL, code INTEGER NOT NULL, status TEXT NOT NULL,
  text BLOB NOT NULL, mta BLOB NOT NULL, time_ms INTEGER NOT NULL, doubtful INTEGER NOT NULL,
  notice TEXT,                       -- the notice it is told in, when one is owed
  PRIMARY KEY (id, n)) WITHOUT ROWID;

CREATE TABLE notice (
  id TEXT PRIMARY KEY, tx TEXT NOT NULL, state TEXT NOT NULL,   -- owed, sent, refused, shown (to the postmaster)
  made_ms INTEGER NOT NULL, next_ms INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  text BLOB NOT NULL DEFAULT x'') WITHOUT ROWID;
CREATE INDEX notice_owed ON notice (next_ms) WHERE state = 'owed';

CREATE TABLE heard (                 -- the peer's streams: all numbers up to up_to have come
  stream TEXT PRIMARY KEY, up_to INTEGER NOT NULL, first_ms INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE received (              -- numbered files of the peer
  stream TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, identity TEXT NOT NULL,
  state TEXT NOT NULL,               -- custody, done
  custody_ms INTEGER NOT NULL,
  PRIMARY KEY (stream, seq)) WITHOUT ROWID;
CREATE INDEX received_open ON received (state) WHERE state = 'custody';

CREATE TABLE in_tx (                 -- transactions of the peer in our custody
  id TEXT PRIMARY KEY, stream TEXT NOT NULL, seq INTEGER NOT NULL,
  custody_ms INTEGER NOT NULL, arrival_ms INTEGER NOT NULL,
  expire_ms INTEGER NOT NULL,        -- by our clock
  recipients INTEGER NOT NULL,
  state TEXT NOT NULL,               -- waiting, dot, done
  attempts INTEGER NOT NULL DEFAULT 0, next_ms INTEGER NOT NULL,
  doubtful INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX in_tx_due ON in_tx (next_ms) WHERE state <> 'done';
CREATE INDEX in_tx_batch ON in_tx (stream, seq);

CREATE TABLE in_rcpt (               -- their outcomes
  id TEXT NOT NULL, n INTEGER NOT NULL, action TEXT NOT NULL, code INTEGER NOT NULL, status TEXT NOT NULL,
  text BLOB NOT NULL, mta BLOB NOT NULL, time_ms INTEGER NOT NULL,
  report TEXT,                       -- the file name of the report that carries it, NULL: none yet
  acknowledged_ms INTEGER,
  PRIMARY KEY (id, n)) WITHOUT ROWID;
CREATE INDEX in_rcpt_unreported ON in_rcpt (id) WHERE report IS NULL;
CREATE INDEX in_rcpt_report ON in_rcpt (report) WHERE acknowledged_ms IS NULL;
"""

# What each version added to the one before; a new ledger takes all these steps too.
_STEPS = {
    2: """
CREATE TABLE request (               -- requests of ours, payloads as JSON
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL, made_ms INTEGER NOT NULL,
  file TEXT,                         -- the file name of what carries it, NULL: nothing yet
  verdict TEXT, text TEXT NOT NULL DEFAULT '', answer TEXT NOT NULL DEFAULT '{}',
  answered_ms INTEGER) WITHOUT ROWID;
CREATE INDEX request_unsent ON request (kind) WHERE file IS NULL AND answered_ms IS NULL;

CREATE TABLE wish (                  -- requests of the peer, and our answers
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, verdict TEXT NOT NULL, text TEXT NOT NULL, answer TEXT NOT NULL,
  done_ms INTEGER NOT NULL,
  file TEXT,                         -- the file name of what carries the answer, NULL: nothing yet
  acknowledged_ms INTEGER) WITHOUT ROWID;
CREATE INDEX wish_unsent ON wish (id) WHERE file IS NULL;

CREATE TABLE withdrawn (             -- transactions of the peer, withdrawn before they came
  id TEXT PRIMARY KEY, time_ms INTEGER NOT NULL) WITHOUT ROWID;

ALTER TABLE sent ADD COLUMN whole_ms INTEGER;  -- when the last octet of a batch was first given to a call
""",
    3: """
ALTER TABLE out_tx ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE out_tx ADD COLUMN expire_ms INTEGER;  -- the end of its lifetime, NULL where an older version sealed it
UPDATE sent SET whole_ms = sealed_ms WHERE kind = 'batch';  -- nobody noted whether its octets had left
CREATE INDEX out_tx_age ON out_tx (arrival_ms) WHERE settled_ms IS NULL;

CREATE TABLE told (                  -- transactions whose sender knows of the delay
  id TEXT PRIMARY KEY, time_ms INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE plan (                  -- what is to be done with transactions of ours
  tx TEXT PRIMARY KEY, verb TEXT NOT NULL,   -- remove, hold, requeue, move
  peer TEXT NOT NULL DEFAULT '',             -- move: to which peer
  new_id TEXT NOT NULL DEFAULT '',           -- its ID from then on, once the far side has seen the old one
  status TEXT NOT NULL DEFAULT '',           -- remove: the status that its sender is told, empty: nothing is
  text TEXT NOT NULL DEFAULT '',
  made_ms INTEGER NOT NULL,
  request TEXT,                              -- the request that withdraws it
  done_ms INTEGER, result TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX notice_refused ON notice (id) WHERE state = 'refused';
CREATE INDEX plan_open ON plan (tx) WHERE done_ms IS NULL;
""",
    4: """
DROP INDEX sent_open;
CREATE INDEX sent_unsettled ON sent (state) WHERE state <> 'settled';  -- for queries that say just this
CREATE INDEX notice_of ON notice (tx) WHERE state = 'owed';
""",
}


class Ledger:
    """An open ledger.  Each thread opens its own."""

    def __init__(self, spool: Spool, peer: str, adopt: bool = False):
        self.path = f"{spool.root}/ledger/{peer}"
        self._spool, self._peer = spool, peer
        ballast.give_up_if_full(spool.root)
        new = not os.path.exists(self.path) or not os.path.getsize(self.path)
        if new and not adopt:
            self._check_nothing_lies_here()
        try:
            if new or adopt or not self._is_in_order():
                self._make(adopt)
        except _ERRORS as error:
            raise self._trouble(error) from None

    def _is_in_order(self) -> bool:
        """Open a ledger; whether it is complete, of our version and this spool's, as almost always."""
        self._connect()
        version = self.database.execute("PRAGMA user_version").fetchone()[0]
        return version == VERSION and (self.fact("place"), self.fact("peer")) == (place_of(self._spool), self._peer)

    def _connect(self) -> None:
        self.database = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        self.database.execute("PRAGMA synchronous=FULL")

    def _make(self, adopt: bool) -> None:
        # One at a time: where two make the file, SQLite does not wait for its journal mode, whatever the timeout.
        opening = Lock(f"{self._spool.root}/lock/{self._peer}.ledger")
        try:
            opening.acquire(wait=True)
            if not hasattr(self, "database"):
                self._connect()
            self.database.execute("PRAGMA journal_mode=WAL")
            self._create_or_check(adopt)
        finally:
            opening.close()

    def _check_nothing_lies_here(self) -> None:
        for place in (f"out/{self._peer}/outbox", f"in/{self._peer}/inbox"):
            if os.listdir(f"{self._spool.root}/{place}"):
                raise SpoolError(
                    f"the ledger {self.path} is missing, but {place} holds files: what was sent or delivered is"
                    " not known; restore it, or begin a new one (mail may come twice):"
                    f" batchmail setup --adopt {self._peer}"
                )

    def _create_or_check(self, adopt: bool) -> None:
        with self.transaction():
            version = self.database.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise SpoolError(f"the ledger {self.path} is of version {version}: install a newer batchmail")
            if not version:
                self._execute_all(_SCHEMA)
                self.set_fact("memory", os.urandom(16).hex())
                self.set_fact("stream", make_stream(os.urandom(10)))
                adopt = True
            for step in range(max(version, 1) + 1, VERSION + 1):
                self._execute_all(_STEPS[step])
            if version != VERSION:
                self.database.execute(f"PRAGMA user_version = {VERSION}")
            if (self.fact("peer") or self._peer) != self._peer:
                raise SpoolError(
                    f"the ledger {self.path} is that of the peer {self.fact('peer')}: put the right one there, or move"
                    f" it away and say batchmail setup --adopt {self._peer} (mail may come twice)"
                )
            self.set_fact("peer", self._peer)
            if adopt:
                self.set_fact("place", place_of(self._spool))
            elif self.fact("place") != place_of(self._spool):
                raise SpoolError(
                    f"the ledger {self.path} was made for another directory: this spool is a copy or a restored backup;"
                    f" if the other one is gone for good, say batchmail setup --adopt {self._peer}"
                )

    def _execute_all(self, statements: str) -> None:
        for statement in statements.split(";"):
            self.database.execute(statement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on stable storage when it returns.  Raises SpoolError, as when the disk is full.

        Within another one it is a part of that.
        """
        if self.database.in_transaction:
            yield
            return
        try:
            self.database.execute("BEGIN IMMEDIATE")
            yield
            self.database.execute("COMMIT")
        except _ERRORS as error:
            raise self._trouble(error) from None
        finally:
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")

    def _trouble(self, error: Exception) -> SpoolError:
        ballast.give_up_if_full(self._spool.root)  # the next attempt has room
        if _is_malformed(error):
            return SpoolError(self._damaged(str(error)))
        return SpoolError(f"the ledger {self.path} cannot be used: {error}; batchmail check says more")

    def damage(self) -> str:
        """What SQLite finds wrong with the file, the first of it, and what to do; empty: nothing."""
        try:
            problem = _problem(self.database)
        except _ERRORS as error:
            return str(self._trouble(error))
        return self._damaged(problem) if problem else ""

    def _damaged(self, why: str) -> str:
        return (
            f"the ledger {self.path} is damaged: {why}; restore it from a backup, or begin a new one (mail may come"
            f" twice): batchmail setup --adopt {self._peer}"
        )

    def octets(self) -> int:
        """What its rows take; what is free in its file is not counted."""
        pages, free, size = (
            int(self.rows(f"PRAGMA {name}")[0][0]) for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def fact(self, name: str) -> str | None:
        """A fact about the peer as a whole.

        memory, stream, place, peer, peer_site, peer_memory; and for people: contact_ms, call_ms, call_code, call_text,
        rate (octets per second), window (octets under way), stopped (why nothing is sent), target_down (why nothing
        is taken here), unread (what came and the last pass could not read), peer_note (what the other side says);
        forgotten_ms (see `store.received`);
        clock (why ours is not believed), clock_latest_ms, clock_apart_h, clock_anew_ms (see `flow.clock`);
        on_hold (it gets no mail),
        told_until.PRIORITY (up to which arrival delays were looked for), voided.STREAM.SEQ (see `store.voided`),
        pruned_ms (when history was last looked through for what may be forgotten),
        summary_ms (of the last to the postmaster), recipients_* (see `flow.recipients`).
        """
        rows = self.rows("SELECT value FROM fact WHERE name = ?", name)
        return rows[0][0] if rows else None

    def set_fact(self, name: str, value: str) -> None:
        self.rows("INSERT OR REPLACE INTO fact VALUES (?, ?)", name, value)

    def note(self, name: str, value: str) -> None:
        """Set a fact that people are shown; costs nothing when it stands like that already."""
        if (self.fact(name) or "") != value:
            self.set_fact(name, value)

    @property
    def memory(self) -> str:
        return self.fact("memory") or ""

    @property
    def stream(self) -> str:
        """The name of our stream of numbered files to this peer."""
        return self.fact("stream") or ""

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self.database.execute(query, values).fetchall()
        except _ERRORS as error:
            raise self._trouble(error) from None

    def each(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The same rows one by one, for a reader who may stop before the last."""
        try:
            yield from self.database.execute(query, values)
        except _ERRORS as error:
            raise self._trouble(error) from None

    def close(self) -> None:
        self.database.close()


def _is_malformed(error: Exception) -> bool:
    """Whether the file is damaged, or no database: trying again does not help."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the higher bits say more
    return isinstance(error, UnicodeDecodeError) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def damage_of(path: str) -> str:
    """What is wrong with the file of a ledger that may be beyond opening; empty: nothing.  Raises SpoolError."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_S)) as database:
            return _problem(database)
    except _ERRORS as error:
        if _is_malformed(error):
            return str(error)
        raise SpoolError(f"the ledger {path} cannot be used: {error}; batchmail check says more") from None


def _problem(database: sqlite3.Connection) -> str:
    found = str(database.execute("PRAGMA integrity_check(1)").fetchone()[0])
    return "" if found == "ok" else found.splitlines()[0]


def place_of(spool: Spool) -> str:
    """The inodes of the spool, which a copy has others of; not the device, whose number may change at a start."""
    return " ".join(str(os.stat(f"{spool.root}/{name}").st_ino) for name in (".", "out", "in", "ledger"))
