"""What comes of recipients that the far side has given back: withdrawn there, they go by the plan made here.

Removed in silence or with a notice, or the transaction is written anew, for
those recipients alone and under an ID of its own: the far side remembers the
old one.  The new file comes first and its name is in the plan, so a crash
before the outcomes are committed makes the same file once more, or finds it.
What the far side may have delivered before is not sent unasked: it is held.
"""

from batchmail.core import entry_lines
from batchmail.core.entry import Entry
from batchmail.core.envelope import Envelope
from batchmail.core.names import next_id
from batchmail.core.outcome import FAILED, WITHDRAWN, Outcome
from batchmail.core.report import Reported
from batchmail.flow.context import Context
from batchmail.flow.told import keep_told
from batchmail.flow.transaction import Transaction
from batchmail.store.deadlines import Deadlines, deadline_of
from batchmail.store.durable import Draft
from batchmail.store.ledger import Ledger
from batchmail.store.plans import HOLD, REMOVE, Plan, Plans
from batchmail.store.sent import Sent
from batchmail.store.shelf import Shelf
from batchmail.store.writer import Writer
from batchmail.wire import maillog


class Returned:
    """Follows the plans of one peer."""

    def __init__(self, context: Context, ledger: Ledger):
        self._context, self._ledger = context, ledger
        self._plans, self._sent = Plans(ledger), Sent(ledger)

    def resolve(self, entry: Entry, original: Transaction, rows: list[Reported]) -> list[Reported]:
        """The outcomes with those of withdrawn recipients as they are meant here."""
        withdrawn = [row for row in rows if row.outcome.action == WITHDRAWN]
        if not withdrawn:
            return rows
        plan = self._plans.find(entry.id)
        if plan is not None and plan.verb != REMOVE:
            numbers = [row.outcome.recipient for row in withdrawn]
            self._write_anew(plan, entry, original, numbers, any(row.doubtful for row in withdrawn))
            return rows
        return _meant(plan, rows)

    def resolve_lost(self, identifier: str, rows: list[Reported]) -> list[Reported]:
        """The same for a transaction whose text is gone: it cannot be written anew."""
        return _meant(self._plans.find(identifier), rows)

    def _write_anew(self, plan: Plan, entry: Entry, original: Transaction, numbers: list[int], doubtful: bool) -> None:
        whole = original.envelope
        known = [n for n in numbers if n < len(whole.recipients)]
        envelope = Envelope(whole.sender, whole.parameters, tuple(whole.recipients[n] for n in known))
        peer = plan.peer or self._context.peer.name
        shelf = Shelf(self._context.spool, peer)
        new_id = plan.new_id
        if WITHDRAWN in self._sent.actions(entry.id):  # others of it came in an earlier report, and have that ID
            new_id = next_id(plan.new_id, numbers[0] + 1)
        self._plans.anew(entry.id, new_id)
        keep_told(self._context, self._ledger, entry.id, new_id, peer)
        Deadlines(self._context.spool, peer).mark(new_id, deadline_of(envelope, entry.arrival_ms))
        with Draft(self._context.spool.tmp) as draft:
            head = entry_lines.head(entry.arrival_ms, entry.priority, entry.queue_id, entry.client)
            writer = Writer(draft, new_id, head, envelope)
            for octets in original.content():
                writer.content(octets)
            name, _ = writer.end()
            shelf.put(draft, name, entry.priority, held=doubtful or plan.verb == HOLD)
        maillog.moved(entry.id, self._context.peer.name, plan.verb, plan.peer, new_id)
        if doubtful:
            why = f"{self._context.peer.name} may have delivered {entry.id} before; batchmail release lets it go"
            maillog.held(new_id, peer, why)


def _meant(plan: Plan | None, rows: list[Reported]) -> list[Reported]:
    if plan is None:
        text, status = b"the far side says that it was withdrawn, and nobody here wished so", "5.3.0"
    elif plan.verb == REMOVE:
        text, status = plan.text.encode(), plan.status
    else:
        text, status = b"it was given back, and its text is lost here", "5.3.0"
    if not status:
        return rows
    return [row._replace(outcome=_failed(row.outcome, status, text)) for row in rows]


def _failed(outcome: Outcome, status: str, text: bytes) -> Outcome:
    if outcome.action != WITHDRAWN:
        return outcome
    return outcome._replace(action=FAILED, status=status, text=text)
