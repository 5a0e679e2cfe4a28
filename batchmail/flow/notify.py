"""Writing a notice: what a sender is owed for outcomes becomes a file that waits to be handed over.

By the holder of the peer's replay lock.  The file comes first, its row in the
ledger after it: a crash in between leaves a stray that `flow.settle` sweeps.
"""

from collections.abc import Sequence

from batchmail.core import dsn, notice
from batchmail.core.deliverby import deliver_by
from batchmail.core.entry import Entry
from batchmail.core.envelope import Client
from batchmail.core.outcome import Outcome
from batchmail.flow.context import Context
from batchmail.flow.transaction import Transaction
from batchmail.store.ledger import Ledger
from batchmail.store.notices import Notices
from batchmail.store.owed import Noticed
from batchmail.wire import maillog


class Teller:
    """Writes the notices that outcomes of one peer's transactions call for."""

    def __init__(self, context: Context, ledger: Ledger):
        self._context = context
        self._notices = Notices(context.spool, context.peer.name)
        self.peer_site = ledger.fact("peer_site") or context.peer.name
        self.is_on_hold = bool(ledger.fact("on_hold"))

    @property
    def why_it_waits(self) -> str:
        """What keeps mail for the peer here, as far as is known."""
        if self.is_on_hold:
            return f"mail for {self.peer_site} is held back at {self._context.site.name} for now"
        return f"{self.peer_site} is not connected now"

    def tell(
        self,
        entry: Entry,
        original: Transaction,
        outcomes: Sequence[Outcome],
        *,
        site: str,
        retry_until_ms: int | None = None,
        expected_ms: int | None = None,
        is_fate_unknown: bool = False,
    ) -> Noticed:
        """Write the notice for these outcomes, if one is owed; `site` is the one that tried, or gave up."""
        told = tuple(outcome for outcome in outcomes if dsn.owed(original.envelope, outcome, entry.arrival_ms))
        if not told:
            return {}
        by = deliver_by(original.envelope)
        if retry_until_ms is not None and by and by.must_return:
            retry_until_ms = min(retry_until_ms, by.deadline_ms(entry.arrival_ms))
        context, identifier = self._context, self._context.new_id()
        me = context.site.name
        had_from = entry.client if site == me else Client(helo=me.encode())
        envelope, content = notice.compose(
            dsn.Notice(
                *(original.envelope, told, entry.id, entry.arrival_ms),
                *(site, self.peer_site, had_from, is_fate_unknown),
            ),
            original.content,
            me=me,
            message_id=f"<{identifier}@{me}>",
            boundary=notice.make_boundary(context.random(12)),
            now_ms=context.now_ms(),
            retry_until_ms=retry_until_ms,
            expected_ms=expected_ms,
            max_return_octets=context.site.return_octets,
        )
        self._notices.write(identifier, context.now_ms(), envelope, content)
        maillog.notice(identifier, "owed", entry.id, original.envelope.sender)
        return {(entry.id, outcome.recipient): identifier for outcome in told}
