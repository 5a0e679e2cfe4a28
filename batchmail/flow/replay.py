"""Replay: from the inbox to the target, an outcome for each recipient.

Once by transaction ID and recipient: what the ledger has finished is passed
over, whatever batch it comes in.  `dot` is synced before the final dot and
the outcome before the next transaction; a crash between the two is the one
window in which a message may come twice, and it is marked.
"""

from collections.abc import Callable, Iterator

from batchmail.core import trace
from batchmail.core.entry import Entry
from batchmail.core.envelope import Envelope, domain_of
from batchmail.core.errors import LineError, PeerError, SpoolError
from batchmail.core.manifest import Item
from batchmail.core.numbered import Number
from batchmail.core.outcome import DELAYED, FAILED, Outcome
from batchmail.core.schedule import next_attempt_ms
from batchmail.core.settings import matches
from batchmail.flow.context import Context
from batchmail.flow.delivery import Delivery, Target
from batchmail.flow.transaction import Transaction
from batchmail.store import batchfile
from batchmail.store.boxes import Inbox
from batchmail.store.ledger import Ledger
from batchmail.store.received import Due, Received
from batchmail.wire import maillog

Progress = Callable[[int, int], None]  # transactions done, and octets of them


class Replayer:
    """Replays what came from one peer; the holder of its replay lock."""

    def __init__(self, context: Context, ledger: Ledger, target: Target, progress: Progress):
        self._context, self._target = context, target
        self._received = Received(ledger)
        self._inbox = Inbox(context.spool, context.peer.name)
        self._origin = ledger.fact("peer_site") or context.peer.name
        self._progress = progress
        self._done = self._octets = 0

    def run(self, stopped: Callable[[], bool]) -> None:
        """One pass of all that is due.  Raises TargetDown when the target takes nothing now."""
        for number in self._received.due_batches(self._context.now_ms()):
            if not stopped():
                self._replay_batch(number, stopped)
        self.let_go()

    def let_go(self) -> None:
        """Remove the batches of which every outcome is final and acknowledged: row, then file."""
        done = self._received.let_go()
        for number in done:
            self._inbox.remove(number)

    def _replay_batch(self, number: Number, stopped: Callable[[], bool]) -> None:
        due = self._received.due(number, self._context.now_ms())
        for item, transaction in self._read(number, set(due)):
            if stopped():
                return
            try:
                self._replay(item, due[item.entry.id], transaction)
            except LineError:
                raise
            except Exception as error:  # noqa: BLE001  one bad transaction never stops the others
                self._put_off(item, due[item.entry.id], error)

    def _read(self, number: Number, wanted: set[str]) -> Iterator[tuple[Item, Transaction]]:
        """These transactions of a batch; a batch that is damaged is told about and left as it is."""
        path = self._inbox.path(number)
        try:
            for item, text in batchfile.read_transactions(path):
                if item.entry.id in wanted:
                    wanted.remove(item.entry.id)
                    with Transaction(text, self._context.spool.tmp) as transaction:
                        yield item, transaction
                if not wanted:
                    return
        except (PeerError, SpoolError, FileNotFoundError) as error:
            maillog.trouble(self._context.peer.name, f"{path} cannot be replayed: {error}; batchmail check says more")

    def _replay(self, item: Item, due: Due, transaction: Transaction) -> None:
        identifier = item.entry.id
        open_recipients = sorted(set(range(due.recipients)) - self._received.finished(identifier))
        attempt = _Attempt(self._context, self._received, item.entry, transaction.envelope, due)
        verdict = self._judge(item, due, transaction)
        if verdict:
            for recipient in open_recipients:
                attempt.settled(Outcome(recipient, *verdict, b"", self._context.now_ms()))
        else:
            delivery = self._delivery(item.entry, open_recipients, transaction)
            self._target.deliver(delivery, attempt.before_dot, attempt.settled)
        attempt.close()
        self._done += 1
        self._octets += transaction.size_octets
        self._progress(self._done, self._octets)

    def _put_off(self, item: Item, due: Due, error: Exception) -> None:
        maillog.trouble(
            self._context.peer.name, f"{item.entry.id} cannot be replayed now: {type(error).__name__}: {error}"
        )
        self._received.outcomes(item.entry.id, [], next_attempt_ms(self._context.now_ms(), due.attempts))

    def _delivery(self, entry: Entry, recipients: list[int], transaction: Transaction) -> Delivery:
        me, now_ms = self._context.site.name, self._context.now_ms()
        line = trace.received(self._origin, me, entry.id, entry.client, now_ms)

        def content() -> Iterator[bytes]:
            yield line
            yield from transaction.content()

        return Delivery(
            entry.id,
            transaction.envelope,
            tuple(recipients),
            len(line) + transaction.size_octets,
            transaction.eightbit,
            not transaction.header.isascii(),
            content,
            entry.client,
        )

    def _judge(self, item: Item, due: Due, transaction: Transaction) -> tuple[str, int, str, bytes] | None:
        """What is decided here without asking the target: action, code, status, text."""
        peer, sender = self._context.peer, transaction.envelope.sender
        if item.must:
            needed = ", ".join(item.must)
            return DELAYED, 0, "4.3.3", f"needs a newer batchmail here, which knows {needed}".encode()
        if sender and not matches(domain_of(sender).decode("ascii", "replace"), peer.senders or peer.domains):
            return FAILED, 0, "5.7.1", b"this peer may not send for the sender's domain"
        recipients = (r.address for r in transaction.envelope.recipients)
        if not all(matches(domain_of(r).decode("ascii", "replace"), peer.recipients) for r in recipients):
            return FAILED, 0, "5.7.1", b"this peer may not send to that domain"
        if trace.is_looping(transaction.header, self._context.site.name):
            return FAILED, 0, "5.4.6", b"mail loop: this site's name stands in too many Received lines"
        if due.attempts and self._context.now_ms() > due.expire_ms:
            return FAILED, 0, "5.4.7", b"the target refused it for now until its lifetime was over"
        return None


class _Attempt:
    """What the ledger is told of one transaction."""

    def __init__(self, context: Context, received: Received, entry: Entry, envelope: Envelope, due: Due):
        self._context, self._received, self._entry, self._envelope = context, received, entry, envelope
        self._next_ms = next_attempt_ms(context.now_ms(), due.attempts)
        self._last: list[Outcome] = []

    def before_dot(self) -> None:
        if self._last:  # of an earlier part, when the target needs the transaction split
            self.close()
        if self._received.before_dot(self._entry.id):
            maillog.doubtful(self._entry.id, self._context.peer.name)

    def settled(self, outcome: Outcome) -> None:
        address = self._envelope.recipients[outcome.recipient].address
        maillog.outcome(
            self._entry.id, self._context.peer.name, address, outcome.action, outcome.status, outcome.text, outcome.mta
        )
        self._last.append(outcome)

    def close(self) -> None:
        """Record the outcomes, synced, before the next transaction begins."""
        self._received.outcomes(self._entry.id, self._last, self._next_ms)
        self._last = []
