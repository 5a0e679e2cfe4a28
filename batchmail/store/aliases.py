"""By which other words people know a transaction: the mail server's queue id, the Message-ID.

Noted when it is sealed here, and when it was replayed.  It is a help for
`batchmail trace`, and no version of the ledger counts its table.
"""

from collections.abc import Iterable
from contextlib import suppress

from batchmail.core.errors import SpoolError
from batchmail.store.ledger import Ledger

_TABLE = """CREATE TABLE IF NOT EXISTS alias (
  word TEXT NOT NULL, tx TEXT NOT NULL, PRIMARY KEY (word, tx)) WITHOUT ROWID"""
_INDEX = "CREATE INDEX IF NOT EXISTS alias_tx ON alias (tx)"  # so that forgetting goes through all tables in one order
_MOST = 100  # transactions of one word
_MAX_LENGTH = 300


class Aliases:
    """What one peer's transactions are also called."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        ledger.rows(_TABLE)
        ledger.rows(_INDEX)

    def add(self, rows: Iterable[tuple[str, str]]) -> None:
        """Words, each with its transaction."""
        with self._ledger.transaction():
            self._ledger.database.executemany(
                "INSERT OR IGNORE INTO alias VALUES (?,?)", ((word[:_MAX_LENGTH], tx) for word, tx in rows if word)
            )

    def prune(self) -> None:
        """Forget the words of transactions that are forgotten."""
        with self._ledger.transaction():
            self._ledger.database.execute(
                "DELETE FROM alias WHERE tx NOT IN (SELECT id FROM out_tx) AND tx NOT IN (SELECT id FROM in_tx)"
            )


def find_alias(ledger: Ledger, word: str) -> list[str]:
    """The transactions of a word; none where nothing was noted."""
    with suppress(SpoolError, UnicodeEncodeError):  # the second: octets from a command line that are no text
        rows = ledger.rows("SELECT tx FROM alias WHERE word = ? ORDER BY tx LIMIT ?", word[:_MAX_LENGTH], _MOST)
        return [row[0] for row in rows]
    return []
