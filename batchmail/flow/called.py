"""How a call ended, or that there was none, as `batchmail status` tells it."""

from batchmail.core.errors import BatchmailError
from batchmail.store.ledger import Ledger


def note_call(ledger: Ledger, now_ms: int, error: BatchmailError | None, rate: float | None) -> None:
    """Write it down; `rate` is that of the line, octets per second.  Raises SpoolError."""
    with ledger.transaction():
        ledger.set_fact("call_ms", str(now_ms))
        ledger.set_fact("call_code", str(error.exit_code if error else 0))
        ledger.set_fact("call_text", str(error or "")[:1000])
        if rate:
            ledger.set_fact("rate", str(round(rate)))
