"""One transaction on its way to the target, and what the ledger is to be told of it."""

from collections.abc import Iterator

from batchmail.core import messageid, trace
from batchmail.core.deliverby import deliver_by, with_left
from batchmail.core.manifest import Item
from batchmail.core.outcome import DELAYED, Outcome
from batchmail.core.schedule import next_attempt_ms
from batchmail.flow.context import Context
from batchmail.flow.delivery import Delivery
from batchmail.flow.transaction import Transaction
from batchmail.store.received import Due
from batchmail.wire import maillog

_SMALL_OCTETS = 64 << 10


def arrival_ms(item: Item, due: Due) -> int:
    """By our clock, as the lifetime is counted."""
    return due.expire_ms - item.lifetime_ms


class Job:
    """A transaction that is due; the holder of the ledger makes it, a lane carries it out."""

    def __init__(
        self, context: Context, origin: str, item: Item, due: Due, transaction: Transaction, recipients: list[int]
    ):
        self._context, self._origin, self._item, self._recipients = context, origin, item, recipients
        self.id, self.peer = item.entry.id, context.peer.name
        self.transaction = transaction
        self._arrival_ms = arrival_ms(item, due)
        self.next_ms = next_attempt_ms(context.now_ms(), due.attempts)
        by = deliver_by(transaction.envelope)
        if by and by.must_return:  # given back when its time is over, and not at some attempt after that
            self.next_ms = min(self.next_ms, by.deadline_ms(self._arrival_ms))
        self._was_doubtful = due.is_doubtful
        self.is_judged = False  # settled, or put off, without asking the target
        self.found: list[Outcome] = []  # not recorded yet
        self.is_announced = False  # the ledger is told of its dot while its envelope is on the way
        self.has_dot = False  # it was let write one
        self._is_broken = False
        self.words = (item.entry.queue_id, messageid.of_header(transaction.header))

    @property
    def may_be_announced(self) -> bool:
        """Its dot will come at once, and an announcement can be taken back."""
        return self.transaction.size_octets <= _SMALL_OCTETS and not self._was_doubtful

    def put_off(self, error: Exception) -> None:
        self.is_judged = self._is_broken = True
        maillog.trouble(self.peer, f"{self.id} cannot be replayed now: {type(error).__name__}: {error}")

    def settled(self, outcome: Outcome) -> None:
        address = self.transaction.envelope.recipients[outcome.recipient].address
        maillog.outcome(self.id, self.peer, address, outcome.action, outcome.status, outcome.text, outcome.mta)
        self.found.append(outcome)

    @property
    def is_answered(self) -> bool:
        """Whether no dot of this attempt is in doubt, and the ledger need not take this one's for one that is.

        A delay without a reply says nothing of a dot.  An attempt that neither wrote nor announced one has learned
        nothing of an earlier attempt's.
        """
        if not self.has_dot:
            return self.is_announced
        silent = any(outcome.action == DELAYED and not outcome.code for outcome in self.found)
        return not silent and not self._is_broken

    def delivery(self) -> Delivery:
        me, now_ms = self._context.site.name, self._context.now_ms()
        entry, transaction = self._item.entry, self.transaction
        line = trace.received(self._origin, me, entry.id, entry.client, now_ms)
        by = deliver_by(transaction.envelope)
        left_ms = by.deadline_ms(self._arrival_ms) - now_ms if by else 0

        def content() -> Iterator[bytes]:
            yield line
            yield from transaction.content()

        return Delivery(
            entry.id,
            with_left(transaction.envelope, left_ms),
            tuple(self._recipients),
            len(line) + transaction.size_octets,
            transaction.eightbit,
            not transaction.header.isascii(),
            content,
            entry.client,
        )
