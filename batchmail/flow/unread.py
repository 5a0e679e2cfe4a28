"""What came from a peer and cannot be read here: told in the log, and by `status` until a pass has read all of it.

Nobody waits at a screen for mail that is stuck so; its sender hears nothing either.
"""

from contextlib import suppress

from batchmail.core.errors import SpoolError
from batchmail.flow.context import Context
from batchmail.store.ledger import Ledger
from batchmail.wire import maillog


class Unread:
    """Of one peer, pass by pass."""

    def __init__(self, context: Context, ledger: Ledger):
        self._context, self._ledger = context, ledger
        self._first = ""

    def begin(self) -> None:
        """A pass."""
        self._first = ""

    def tell(self, path: str, error: Exception, what: str = "a batch") -> None:
        """Of a batch, or of a transaction in it."""
        where = "" if path in str(error) else f"{path}: "
        text = f"{what} cannot be replayed: {where}{error}"
        maillog.trouble(self._context.peer.name, f"{text}; batchmail check --files says more")
        if not self._first:
            self._first = text
            with suppress(SpoolError):  # on a full disk the others are replayed all the same
                self._ledger.note("unread", text)

    def end(self) -> None:
        """All that was due has been read."""
        if not self._first:
            self._ledger.note("unread", "")
