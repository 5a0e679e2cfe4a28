"""What the five steps are given: the spool, the configuration, and what they may not take for themselves."""

from collections.abc import Callable
from typing import NamedTuple

from batchmail.core.names import make_id
from batchmail.core.settings import Peer, Site
from batchmail.store.ledger import Ledger
from batchmail.store.spool import Spool


class Context(NamedTuple):
    """One peer of one site, with clock and randomness."""

    spool: Spool
    site: Site
    peer: Peer
    now_ms: Callable[[], int]
    random: Callable[[int], bytes]

    def open_ledger(self) -> Ledger:
        """A connection for the calling thread."""
        return Ledger(self.spool, self.peer.name)

    def new_id(self) -> str:
        return make_id(self.now_ms(), self.random(10))
