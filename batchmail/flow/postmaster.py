"""Telling the postmaster, once a day at most, of notices that nobody takes.

Written and handed over as notices are; one about which nobody is told when it
is refused itself.
"""

from collections.abc import Callable

from batchmail.core import summary
from batchmail.core.settings import DAY_MS
from batchmail.core.summary import Undelivered
from batchmail.flow.context import Context
from batchmail.store.ledger import Ledger
from batchmail.store.notices import Notices
from batchmail.store.owed import Owed
from batchmail.wire import maillog

_FACT = "summary_ms"
_MOST = 10_000  # counted in one letter


class Postmaster:
    """The summaries of one peer's notices."""

    def __init__(self, context: Context, ledger: Ledger):
        self._context, self._ledger = context, ledger
        self._owed = Owed(ledger)
        self._notices = Notices(context.spool, context.peer.name)

    def run(self, _stopped: Callable[[], bool]) -> None:
        """Write a summary when one is due.  A crash before its row is committed leaves a stray file, no more."""
        context, now_ms = self._context, self._context.now_ms()
        if 0 <= now_ms - int(self._ledger.fact(_FACT) or 0) < DAY_MS:
            return
        rows = [Undelivered(*row) for row in self._owed.undelivered(_MOST)]
        if not rows:
            return
        identifier = context.new_id()
        postmaster = context.site.postmaster or f"postmaster@{context.site.name}"
        envelope, content = summary.compose(
            rows,
            me=context.site.name,
            peer=context.peer.name,
            postmaster=postmaster,
            message_id=f"<{identifier}@{context.site.name}>",
            now_ms=now_ms,
        )
        self._notices.write(identifier, now_ms, envelope, content)
        with self._ledger.transaction():
            self._owed.tell_postmaster(identifier, [row.notice for row in rows], now_ms)
            self._ledger.set_fact(_FACT, str(now_ms))
        maillog.notice(identifier, "owed", "postmaster", postmaster.encode())
