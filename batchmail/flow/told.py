"""What a sender was told of a transaction holds for it under another ID, and at another peer: a delay is told once."""

from contextlib import closing

from batchmail.flow.context import Context
from batchmail.store.aging import Aging
from batchmail.store.deadlines import told_key
from batchmail.store.ledger import Ledger
from batchmail.store.sent import Sent


def keep_told(context: Context, ledger: Ledger, old: str, new: str, peer: str) -> None:
    """Note it before the transaction is there: a crash in between leaves a note of nothing, which is pruned."""
    names = {old: new, told_key(old): told_key(new)}
    known = names.keys() - Aging(ledger).untold(list(names))
    if not known:
        return
    if peer == context.peer.name:
        _note(context, ledger, names, known)
    elif peer in context.site.peers:
        with closing(context._replace(peer=context.site.peers[peer]).open_ledger()) as theirs:
            _note(context, theirs, names, known)


def _note(context: Context, ledger: Ledger, names: dict[str, str], known: set[str]) -> None:
    for name in known:
        Sent(ledger).tell(names[name], {}, context.now_ms())
