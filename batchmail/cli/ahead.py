"""What a call does before the libraries that it needs are loaded: it takes the line and has the host dialled.

Loading them takes longer than many a round trip.  Meanwhile nothing is said
to the host: that waits for all checks, which are made in their place.
"""

import time
from typing import NamedTuple

from batchmail.core.errors import ConfigError
from batchmail.core.settings import Peer
from batchmail.flow.context import Context
from batchmail.store.bell import WAKE, ring
from batchmail.store.line import CALLER, Line
from batchmail.wire.dial import Dialing
from batchmail.wire.ssh_address import parse_address, plain_destination

CONNECT_S = 60.0
_WOKEN_WAIT_S = 5.0  # longer than a running call takes to find out that its line is dead


class Begun(NamedTuple):
    """The line with a peer, which is ours, and the connection that is being made for it, if one is."""

    line: Line
    dialing: Dialing | None

    def give_up(self) -> None:
        self.line.close()
        if self.dialing:
            self.dialing.close()


def begin(context: Context) -> Begun | None:
    """Begin a call; None when a running call with the peer is alive and was woken."""
    line = _take_line(context)
    return Begun(line, _dial(context.peer)) if line else None


def _take_line(context: Context) -> Line | None:
    line = Line(context.spool, context.peer.name)
    give_up_s = time.monotonic() + _WOKEN_WAIT_S
    woken = False
    while not line.acquire(CALLER):
        woken = woken or ring(context.spool.root, context.peer.name, WAKE)
        if time.monotonic() > give_up_s:
            line.close()
            return None
        time.sleep(0.05)
    return line


def _dial(peer: Peer) -> Dialing | None:
    """By the first way, where the address alone tells where that leads."""
    if not peer.call or peer.call[0].startswith("command:"):
        return None
    try:
        place = plain_destination(parse_address(peer.call[0]), peer.ssh_config or None)
    except (ConfigError, KeyError):  # said later, by whoever reads all of it
        return None
    return Dialing(*place, CONNECT_S) if place else None
