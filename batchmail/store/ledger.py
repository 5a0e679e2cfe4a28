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
from batchmail.store.durable import Lock
from batchmail.store.spool import Spool

VERSION = 1
_BUSY_S = 30.0

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
  id TEXT PRIMARY KEY, tx TEXT NOT NULL, state TEXT NOT NULL,   -- owed, sent, refused
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


class Ledger:
    """An open ledger.  Each thread opens its own."""

    def __init__(self, spool: Spool, peer: str, adopt: bool = False):
        self.path = f"{spool.root}/ledger/{peer}"
        self._spool, self._peer = spool, peer
        new = not os.path.exists(self.path) or not os.path.getsize(self.path)
        if new and not adopt:
            self._check_nothing_lies_here()
        # One at a time: where two make the file, SQLite does not wait for its journal mode, whatever the timeout.
        opening = Lock(f"{spool.root}/lock/{peer}.ledger")
        try:
            opening.acquire(wait=True)
            self.database = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=FULL")
            self._create_or_check(adopt)
        except sqlite3.Error as error:
            raise self._trouble(error) from None
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
                for statement in _SCHEMA.split(";"):
                    self.database.execute(statement)
                self.database.execute(f"PRAGMA user_version = {VERSION}")
                self.set_fact("memory", os.urandom(16).hex())
                self.set_fact("stream", make_stream(os.urandom(10)))
                adopt = True
            # No device number: it may be another after the next start.  A copy has other inodes.
            place = " ".join(str(os.stat(f"{self._spool.root}/{name}").st_ino) for name in (".", "out", "in", "ledger"))
            if adopt:
                self.set_fact("place", place)
            elif self.fact("place") != place:
                raise SpoolError(
                    f"the ledger {self.path} was made for another directory: this spool is a copy or a restored backup;"
                    f" if the other one is gone for good, say batchmail setup --adopt {self._peer}"
                )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on stable storage when it returns.  Raises SpoolError, as when the disk is full."""
        try:
            self.database.execute("BEGIN IMMEDIATE")
            yield
            self.database.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        finally:
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")

    def _trouble(self, error: sqlite3.Error) -> SpoolError:
        return SpoolError(f"the ledger {self.path} cannot be used: {error}; batchmail check says more")

    def begin_new_stream(self) -> None:
        """What is unsettled is to be sealed again under a new stream (`flow.seal`): the old one's numbers are burnt."""
        with self.transaction():
            self.set_fact("stream", make_stream(os.urandom(10)))
            self.database.execute("DELETE FROM sent WHERE state <> 'settled'")
            # What became of a report is not known either; an outcome that was settled already is ignored there.
            self.database.execute("UPDATE in_rcpt SET report = NULL, acknowledged_ms = NULL")

    def fact(self, name: str) -> str | None:
        """A fact about the peer as a whole.

        memory, stream, place, peer_site, peer_memory; and for people: contact_ms, call_ms, call_code, call_text,
        rate (octets per second), stopped (why nothing is sent), target_down (why nothing is taken here).
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
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def close(self) -> None:
        self.database.close()
