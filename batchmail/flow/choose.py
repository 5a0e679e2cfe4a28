"""Which transactions of ours are meant: by their IDs, or by what they are; and what is planned for them.

Only looks, and writes plans.  Carrying them out is `flow.plans`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from batchmail.core.names import make_id, time_of_id
from batchmail.core.outcome import FINAL
from batchmail.flow.context import Context
from batchmail.flow.overview import Record, find
from batchmail.flow.queue import Row, list_queue
from batchmail.store.plans import Plan, Plans


class Filter(NamedTuple):
    """What a transaction has to be like."""

    sender: bytes = b""  # contained in it, in any case
    recipient: bytes = b""  # contained in one of them
    arrived_before_ms: int | None = None
    larger_octets: int = 0
    states: tuple[str, ...] = ()  # as `batchmail queue` says them; empty: any

    def fits(self, row: Row) -> bool:
        """Whether it is meant."""
        recipients = [recipient.address.lower() for recipient in row.envelope.recipients]
        return (
            self.sender.lower() in row.envelope.sender.lower()
            and (not self.recipient or any(self.recipient.lower() in address for address in recipients))
            and (self.arrived_before_ms is None or row.arrival_ms < self.arrived_before_ms)
            and row.size_octets >= self.larger_octets
            and (not self.states or row.state in self.states)
        )


class Chosen(NamedTuple):
    """A transaction that is meant."""

    context: Context  # of its peer
    id: str
    ended: str = ""  # what became of its recipients, where nothing is open any more


def by_filter(contexts: Iterable[Context], wanted: Filter) -> Iterator[tuple[Context, Row]]:
    """Those that fit, peer by peer, in the order in which they go."""
    for context in contexts:
        for row in list_queue(context):
            if wanted.fits(row):
                yield context, row


def by_id(contexts: Iterable[Context], identifier: str) -> Chosen | None:
    """The peer that it is on its way to; None when none has it, or it is over and its sender told."""
    for context in contexts:
        record = find(context, identifier)
        if record is None or record.received is not None or record.id != identifier:
            continue
        if record.sent is None or record.sent.settled_ms is None:
            return Chosen(context, identifier, _ended(record))
    return None


def _ended(record: Record) -> str:
    final = Counter(told.outcome.action for told in record.outcomes if told.outcome.action in FINAL)
    if record.sent is None or final.total() < record.sent.recipients:
        return ""
    return ", ".join(f"{action} for {count} recipient{'s'[count == 1 :]}" for action, count in sorted(final.items()))


def is_far(one: Chosen) -> bool:
    """Whether the far side has it, or may have."""
    with closing(one.context.open_ledger()) as ledger:
        place = Plans(ledger).place(one.id)
    return place is not None and place.is_whole and not place.settled


def plan(chosen: Iterable[Chosen], verb: str, peer: str, status: str, text: str) -> int:
    """Write the plans down, peer by peer; how many."""
    by_peer: dict[str, list[Chosen]] = {}
    for one in chosen:
        by_peer.setdefault(one.context.peer.name, []).append(one)
    for of_one in by_peer.values():
        context = of_one[0].context
        now_ms = context.now_ms()
        ledger = context.open_ledger()
        try:
            Plans(ledger).make(
                Plan(one.id, verb, peer, make_id(time_of_id(one.id), context.random(10)), status, text, now_ms)
                for one in of_one
            )
        finally:
            ledger.close()
    return sum(map(len, by_peer.values()))
