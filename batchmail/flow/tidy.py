"""What nobody asks for any more is forgotten, and what waits is counted: the last step of a pass.

History is kept `remember` after the other side acknowledged its end, and up to a day more.
"""

from batchmail.flow.context import Context
from batchmail.store import census
from batchmail.store.aliases import Aliases
from batchmail.store.ledger import Ledger
from batchmail.store.plans import Plans
from batchmail.store.received import Received
from batchmail.store.requests import Requests, Wishes
from batchmail.store.sent import Sent
from batchmail.store.waiting import WaitingRoom

_EVERY_MS = 86_400_000  # history is looked through: that costs what is remembered, not what is due


def tidy(context: Context, ledger: Ledger) -> None:
    """Prune the ledger, sweep the waiting room, count what waits so that `status` need not."""
    if not ledger.fact("clock"):  # one that cannot be believed makes nothing old
        _prune(context, ledger)
        WaitingRoom(context.spool, context.peer.name).tidy(context.now_ms())
    census.count(context.spool, context.peer.name, context.now_ms() * 1_000_000, None)


def _prune(context: Context, ledger: Ledger) -> None:
    """Once a day, or more often where little is remembered.  A crash before it is noted: it is done again."""
    now_ms, remember_ms = context.now_ms(), context.peer.remember_ms
    last_ms = int(ledger.fact("pruned_ms") or 0)
    if 0 <= now_ms - last_ms < min(_EVERY_MS, remember_ms // 10):
        return
    for table in (Sent(ledger), Received(ledger), Requests(ledger), Wishes(ledger), Plans(ledger)):
        table.prune(now_ms - remember_ms)
    Aliases(ledger).prune()
    longest_ms = max(remember_ms, context.peer.lifetime_ms + context.peer.give_up_ms)
    Sent(ledger).forget_told(now_ms - longest_ms)  # one that is still on its way is told once
    Wishes(ledger).forget_withdrawn(now_ms - longest_ms)  # and does not come after all
    ledger.set_fact("pruned_ms", str(now_ms))
