"""Carrying out plans: what a person, or time, has decided about transactions of ours.

By the holder of the peer's replay lock, who takes the line for it; while a
call goes on plans wait for its end.  A transaction that waits or is held is
dealt with here.  One in a batch whose last octet never left is taken out of
the batch first.  What the far side has, or may have, it is asked for: a
request travels in the next call, and `flow.settle` follows the plan when the
transaction comes back, or finds that it was too late.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from batchmail.core.errors import BatchmailError, SpoolError
from batchmail.core.numbered import Number
from batchmail.core.outcome import FAILED, WITHDRAWN, Outcome
from batchmail.core.report import Reported
from batchmail.core.request import LATE, MISSING, REFUSED, UNKNOWN
from batchmail.flow import untold
from batchmail.flow.context import Context
from batchmail.flow.notify import Teller
from batchmail.flow.seal import Sealer
from batchmail.flow.settle import Settler
from batchmail.flow.told import keep_told
from batchmail.flow.transaction import Transaction
from batchmail.store.boxes import Outbox
from batchmail.store.deadlines import Deadlines
from batchmail.store.ledger import Ledger
from batchmail.store.line import PLANNER, Line
from batchmail.store.plans import HOLD, MOVE, REMOVE, REQUEUE, Place, Plan, Plans
from batchmail.store.sent import Sent
from batchmail.store.shelf import Shelf
from batchmail.store.waiting import Waiting, WaitingRoom, read_entry
from batchmail.wire import maillog

AT_ONCE = 20  # transactions dealt with before the line is let go
GIVE_WAY_S = 0.2  # then: who waits for the line looks more often than that, and gives up after seconds


@contextlib.contextmanager
def line_of(context: Context) -> Iterator[bool]:
    """The line with the peer, if no call has it; whether it is ours."""
    line = Line(context.spool, context.peer.name)
    try:
        yield line.acquire(PLANNER)
    finally:
        line.close()


class Planner:
    """Carries out the plans of one peer."""

    def __init__(self, context: Context, ledger: Ledger, settler: Settler):
        self._context, self._ledger, self._settler = context, ledger, settler
        self._plans, self._sent = Plans(ledger), Sent(ledger)
        self._room = WaitingRoom(context.spool, context.peer.name)
        self._outbox = Outbox(context.spool, context.peer.name)
        self._shelf = Shelf(context.spool, context.peer.name)
        self._sealer = Sealer(context, ledger)
        self._teller = Teller(context, ledger)
        self._coming: set[str] = set()  # the IDs of what is being written anew, as the pass found it

    def run(self, stopped: Callable[[], bool]) -> None:
        """One pass over the open plans."""
        plans = self._plans.open()
        self._coming = {identifier for plan in plans for identifier in plan.coming_ids}
        if not plans and not self._shelf.ended():
            return
        for start in range(0, max(1, len(plans)), AT_ONCE):
            if start:
                time.sleep(GIVE_WAY_S)
            with line_of(self._context) as ours:
                if ours:
                    self.recover()
                if ours and not start:
                    self._drop_leftovers()
                for plan in plans[start : start + AT_ONCE]:
                    if not stopped():
                        self._follow(plan, ours)

    def recover(self) -> None:
        """Bring in order what lay about when a crash came, or the disk failed.  Needs the line.

        What was about to end waits again, for nothing had been told of it, or is set aside where a plan wants more
        of it; what was about to be moved is.
        """
        self._sealer.recover()  # what is in a batch of which no row tells yet does not end here
        ended = self._shelf.ended()
        known = self._sent.sealed_ids([one.id for one in ended])
        for one in ended:
            if one.id not in known:
                try:
                    self._put_back(one)
                except SpoolError as error:  # damaged: it stays for the operator, and holds up nothing else
                    maillog.trouble(self._context.peer.name, str(error))

    def _drop_leftovers(self) -> None:
        """What has ended is not held as well.  Once in a pass: there may be many."""
        held = list(self._room.scan_held())
        settled = self._sent.settled_ids([one.id for one in held])
        for one in held:
            if one.id in settled:
                self._shelf.remove(one)

    def _put_back(self, ended: Waiting) -> None:
        plan, left = self._plans.find(ended.id), self._room.find(ended.id)  # left: the crash came between its two names
        is_open = plan is not None and plan.done_ms is None
        if plan and is_open and plan.verb == MOVE:
            if left:
                self._shelf.end(left)
            self._give(plan, ended)
        elif left:
            self._shelf.remove(ended)
        elif is_open:
            self._room.hold(ended)
        else:
            self._shelf.release(ended)

    def _follow(self, plan: Plan, has_line: bool) -> None:
        try:
            place = self._plans.place(plan.tx)
            if place is not None and place.state == "sealed" and not place.is_whole:
                if not has_line:
                    return
                self._sealer.unseal(place.number)
                place = None
            if place is not None:
                self._follow_far(plan, place, has_line)
            elif has_line:
                self._follow_here(plan)
        except (BatchmailError, OSError) as error:
            maillog.trouble(self._context.peer.name, f"{plan.verb} {plan.tx}: {error}")

    def _done(self, plan: Plan, result: str) -> None:
        self._plans.done(plan.tx, self._context.now_ms(), result)
        self._coming.difference_update(plan.coming_ids)
        maillog.planned(plan.tx, self._context.peer.name, plan.verb, result)

    # -- what is in the far side's custody, or may be --------------------------------------------------------------

    def _follow_far(self, plan: Plan, place: Place, has_line: bool) -> None:
        verdict = self._plans.verdict(plan)
        if place.settled or not self._is_open(plan.tx):
            self._done(plan, self._result(plan))
        elif plan.request is None:
            self._plans.withdraw(plan, self._context.new_id(), self._context.now_ms())
        elif verdict in (LATE, REFUSED, UNKNOWN):
            self._done(plan, f"too late: the far side answered {verdict}; its report tells the outcome")
        elif verdict == MISSING and place.state == "custody":  # it has forgotten it, and no report will come
            self._take_back(plan, b"the far side does not have it any more")
        elif verdict == MISSING and has_line and self._is_lost(place):
            self._take_back(plan, b"it was lost here, and the far side does not have it")

    def _is_open(self, identifier: str) -> bool:
        return bool(self._sent.open_recipients(identifier))

    def _is_lost(self, place: Place) -> bool:
        """Whether no call will send it again: who has the line knows that none does just now."""
        return not place.state and self._outbox.octets(place.number) is None

    def _take_back(self, plan: Plan, text: bytes) -> None:
        now_ms = self._context.now_ms()
        rows = [
            Reported(plan.tx, Outcome(n, WITHDRAWN, 0, "5.0.0", text, b"", now_ms), False)
            for n in self._sent.open_recipients(plan.tx)
        ]
        self._settler.take(rows, plan.tx)

    def _result(self, plan: Plan) -> str:
        counts = self._sent.actions(plan.tx)
        in_time = {WITHDRAWN, FAILED} if plan.status else {WITHDRAWN}
        late = "" if counts.keys() <= in_time else "too late for some: " if counts.keys() & in_time else "too late: "
        told = ", ".join(f"{action} {count}" for action, count in sorted(counts.items()))
        anew = f"; now {plan.new_id}" if WITHDRAWN in counts and plan.verb != REMOVE else ""
        return late + told + anew + (f" for {plan.peer}" if anew and plan.peer else "")

    # -- what is here ----------------------------------------------------------------------------------------------

    def _follow_here(self, plan: Plan) -> None:
        waiting = self._room.find(plan.tx)
        if plan.tx in self._coming:  # it may be written once more, and had better be found then
            return
        if waiting is None:
            self._done(plan, "it is not here any more")
        elif plan.verb == HOLD:
            if waiting.urgency:
                self._room.hold(waiting)
            self._done(plan, "held")
        elif plan.verb == REQUEUE:
            if not waiting.urgency:
                self._shelf.release(waiting)
            self._done(plan, "it waits")
        elif plan.verb == MOVE and self._is_served_in_part(waiting):
            self._done(plan, "not moved: some recipients have had it, which only this peer's ledger knows")
        elif plan.verb == MOVE:
            keep_told(self._context, self._ledger, plan.tx, plan.tx, plan.peer)
            self._mark_for(plan)
            self._give(plan, self._shelf.end(waiting))
        elif plan.verb == REMOVE:
            told = self.end(waiting, plan.status, plan.text)
            self._done(plan, "removed; its sender is told" if told else "removed")

    def _give(self, plan: Plan, ended: Waiting) -> None:
        """Out of where no call of this peer finds it.  A crash in between: it is given once more.

        Who has sealed it there meanwhile knows it by its ID.
        """
        self._shelf.give_to(Shelf(self._context.spool, plan.peer), ended)
        self._done(plan, f"it waits for {plan.peer}")

    def _is_served_in_part(self, waiting: Waiting) -> bool:
        recipients = read_entry(waiting)[0].recipients
        return len(self._sent.open_outcomes(waiting.id, recipients)) < recipients

    def _mark_for(self, plan: Plan) -> None:
        deadline = Deadlines(self._context.spool, self._context.peer.name).find(plan.tx)
        Deadlines(self._context.spool, plan.peer).mark(plan.tx, deadline)

    def end(self, waiting: Waiting, status: str, text: str) -> bool:
        """A transaction that waits or is held ends here; with a status its sender is told if a notice is owed.

        Needs the line.  Set apart first, so that nobody seals it; then the notice; then the ledger, and it is over.
        A crash before that gives it back, one after it leaves a file that goes when the notice is handed over.
        """
        entry, read = read_entry(waiting)
        with Transaction(read(), self._context.spool.tmp) as original:
            self._shelf.end(waiting)
            now_ms = self._context.now_ms()
            action = FAILED if status else WITHDRAWN
            outcomes = [
                Outcome(n, action, 0, status or "5.0.0", text.encode(), b"", now_ms)
                for n in self._sent.open_outcomes(entry.id, entry.recipients)  # some may have had theirs from a batch
            ]
            for outcome in outcomes:
                address = original.envelope.recipients[outcome.recipient].address
                maillog.outcome(entry.id, self._context.peer.name, address, action, outcome.status, outcome.text, b"")
            noticed = self._teller.tell(entry, original, outcomes, site=self._context.site.name)
            from_nobody = untold.from_nobody(self._context, entry.id, original.envelope, outcomes)
        self._sent.end(entry, outcomes, noticed, now_ms, from_nobody)
        if not noticed:
            self._settler.let_go()
        return bool(noticed)

    def unseal(self, number: Number) -> None:
        """A batch whose last octet never left: what it holds waits again.  Needs the line."""
        self._sealer.unseal(number)
