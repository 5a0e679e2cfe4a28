"""What a call would send, in its order, and about how long that takes at the rate of the last one."""

from typing import NamedTuple

from batchmail.core.numbered import BATCH
from batchmail.flow.context import Context
from batchmail.store.ledger import Ledger
from batchmail.store.sent import Sent
from batchmail.store.waiting import WaitingRoom

_SHRINKS_TO = 0.35  # of its text, sealed; mail differs from 0.2 to 1
_HELLO_OCTETS = 3000  # login, and what both sides say of themselves


class Load(NamedTuple):
    """What goes in one turn."""

    number: int
    octets: int  # as they lie here


class Forecast(NamedTuple):
    """In the order in which it would be sent; what the other side has for us is not known."""

    lines: Load  # reports, requests and answers that are sealed
    batches: Load  # that are sealed
    waiting: tuple[tuple[int, Load], ...]  # transactions by priority, the most urgent first; octets of text
    seconds: float | None  # None: no rate has been measured yet

    @property
    def line_octets(self) -> int:
        """About so much crosses."""
        text = sum(load.octets for _, load in self.waiting)
        return _HELLO_OCTETS + self.lines.octets + self.batches.octets + round(_SHRINKS_TO * text)


def forecast(context: Context, ledger: Ledger) -> Forecast:
    """From the ledger and the names of what waits."""
    sealed = Sent(ledger).files("sealed")
    by_priority: dict[int, list[int]] = {}
    for waiting in WaitingRoom(context.spool, context.peer.name).scan():
        by_priority.setdefault(9 - int(waiting.urgency), []).append(waiting.text_octets)
    found = Forecast(
        _load([file.octets for file in sealed if file.number.kind != BATCH]),
        _load([file.octets for file in sealed if file.number.kind == BATCH]),
        tuple((priority, _load(sizes)) for priority, sizes in sorted(by_priority.items(), reverse=True)),
        None,
    )
    rate = float(ledger.fact("rate") or 0)
    return found._replace(seconds=found.line_octets / rate) if rate else found


def _load(sizes: list[int]) -> Load:
    return Load(len(sizes), sum(sizes))
