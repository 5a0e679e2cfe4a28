"""What a void took the place of: a file that the far side may have taken all the same, while it was sealed anew.

Until its number is forgotten the far side may name that file as the one it has.
"""

from batchmail.core.numbered import Number
from batchmail.store.ledger import Ledger


def remember(ledger: Ledger, number: Number) -> None:
    """The number is about to be voided.  Idempotent; within a transaction of the caller's."""
    ledger.rows(
        "INSERT OR IGNORE INTO fact SELECT ?, identity FROM sent WHERE stream = ? AND seq = ?"
        " AND whole_ms IS NOT NULL AND identity <> ''",
        _name(*number[:2]),
        *number[:2],
    )


def identity_before(ledger: Ledger, stream: str, seq: int) -> str:
    """Of the file whose number was voided, if the far side may have it; else empty."""
    return ledger.fact(_name(stream, seq)) or ""


def prune(ledger: Ledger) -> None:
    """Forget those whose numbers are forgotten."""
    ledger.rows(
        "DELETE FROM fact WHERE name LIKE 'voided.%'"
        " AND name NOT IN (SELECT 'voided.' || stream || '.' || seq FROM sent)"
    )


def _name(stream: str, seq: int) -> str:
    return f"voided.{stream}.{seq}"
