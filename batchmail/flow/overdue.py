"""Deliver-By at the origin (RFC 2852): what is to be done when the time of a transaction is over.

Mode R: what the far side cannot have ends here; the rest ends there.  Mode N:
the sender is told of the delay, once, and it goes on; of what the far side has,
when it has told that it waits (`flow.settle` tells of what it served late).
Until that is done the mark stays, so a crash has it done again.

By the holder of the peer's replay lock.  A pass costs what is marked and over.
"""

from collections.abc import Callable, Iterable

from batchmail.core import dsn
from batchmail.core.entry import Entry
from batchmail.core.errors import BatchmailError
from batchmail.core.numbered import Number
from batchmail.core.outcome import DELAYED, Outcome
from batchmail.flow.context import Context
from batchmail.flow.notify import Teller
from batchmail.flow.plans import Planner, line_of
from batchmail.flow.transaction import Transaction
from batchmail.store import batchfile
from batchmail.store.aging import Aging
from batchmail.store.boxes import Outbox
from batchmail.store.deadlines import Deadlines, Marked, told_key
from batchmail.store.ledger import Ledger
from batchmail.store.plans import Place, Plans
from batchmail.store.sent import Sent
from batchmail.store.waiting import Waiting, WaitingRoom, read_entry
from batchmail.wire import maillog

_MOST = 1000  # told of, or ended, in one pass
_LINGER_MS = 3_600_000  # so long a mark waits for its transaction: a door may be about to accept it


class Overdue:
    """Looks after the deadlines of one peer."""

    def __init__(self, context: Context, ledger: Ledger, planner: Planner):
        self._context, self._planner = context, planner
        self._marks = Deadlines(context.spool, context.peer.name)
        self._plans, self._sent, self._aging = Plans(ledger), Sent(ledger), Aging(ledger)
        self._room = WaitingRoom(context.spool, context.peer.name)
        self._outbox = Outbox(context.spool, context.peer.name)
        self._teller = Teller(context, ledger)

    def run(self, stopped: Callable[[], bool]) -> None:
        """One pass over the deadlines that are over."""
        acted = 0
        to_return: list[Marked] = []
        for marked in self._marks.over(self._context.now_ms()):
            if stopped() or acted == _MOST:
                break
            place = self._plans.place(marked.id)
            if not marked.deadline.must_return:
                acted += self._try(lambda m=marked, p=place: self._tell(m, p), marked)  # type: ignore[misc]
            elif place is None or _is_ours(place):
                acted += 1
                to_return.append(marked)
            else:
                self._marks.forget(marked)  # the far side gives it back, or it is settled
        if to_return:
            self._return(to_return)

    def _try(self, act: Callable[[], bool], marked: Marked) -> bool:
        """Whether the mark was done with; what cannot be read holds up no other."""
        try:
            done = act()
        except (BatchmailError, OSError) as error:
            maillog.trouble(self._context.peer.name, f"{marked.id} is to be delivered by a time that is over: {error}")
            return False
        if done:
            self._marks.forget(marked)
        return done

    # -- mode R ----------------------------------------------------------------------------------------------------

    def _return(self, some: Iterable[Marked]) -> None:
        with line_of(self._context) as ours:
            if not ours:
                return  # a call goes on: what waits goes with it, and the far side looks at the time
            self._planner.recover()
            for marked in some:
                self._try(lambda m=marked: self._give_back(m), marked)  # type: ignore[misc]

    def _give_back(self, marked: Marked) -> bool:
        place = self._plans.place(marked.id)
        if place is not None and not _is_ours(place):
            return True
        if place is not None:
            self._planner.unseal(place.number)
        waiting = self._room.find(marked.id)
        if waiting is None:
            return self._is_stray(marked)
        if waiting.urgency:  # a person has set aside what has none; it ends at the far side
            text = f"it was to be delivered by {dsn.date(marked.deadline.time_ms)}, and was waiting for {self._site}"
            self._planner.end(waiting, dsn.TOO_LATE, text)
        return True

    def _is_stray(self, marked: Marked) -> bool:
        return self._context.now_ms() > marked.deadline.time_ms + _LINGER_MS

    # -- mode N ----------------------------------------------------------------------------------------------------

    def _tell(self, marked: Marked, place: Place | None) -> bool:
        """Whether all is told that will be."""
        if not self._aging.untold([told_key(marked.id)]):
            return True
        if place is None:
            waiting = self._room.find(marked.id)
            return self._tell_waiting(marked, waiting) if waiting else self._is_stray(marked)
        if place.settled:
            return True
        return self._tell_sealed(marked, place)

    def _tell_waiting(self, marked: Marked, waiting: Waiting) -> bool:
        entry, read = read_entry(waiting)
        with Transaction(read(), self._context.spool.tmp) as original:
            left = self._sent.open_outcomes(entry.id, entry.recipients)
            why = self._teller.why_it_waits if waiting.urgency else f"it is held back at {self._context.site.name}"
            self._write(marked, entry, original, dict.fromkeys(left, why))
        return True

    def _tell_sealed(self, marked: Marked, place: Place) -> bool:
        one = self._aging.find(marked.id)
        if one is None:
            return False  # its batch is to be sealed anew, or its notice handed over
        said: dict[int, str] = {}
        for number, outcome in self._sent.open_outcomes(one.id, one.recipients).items():
            if outcome is None and not _is_ours(place):
                return False  # it may have been served in time, and the report tells
            text = dsn.reply_lines(outcome, utf8=False)[:1] if outcome else [self._teller.why_it_waits]
            said[number] = " ".join(text)
        return self._tell_of_batch(marked, place.number, said)

    def _tell_of_batch(self, marked: Marked, number: Number, said: dict[int, str]) -> bool:
        for item, text in batchfile.read_transactions(self._outbox.path(number)):
            if item.entry.id == marked.id:
                with Transaction(text, self._context.spool.tmp) as original:
                    self._write(marked, item.entry, original, said)
                break
        return True

    def _write(self, marked: Marked, entry: Entry, original: Transaction, said: dict[int, str]) -> None:
        """The notice; its file, then the ledger, as `flow.settle` has it."""
        now_ms, due = self._context.now_ms(), dsn.date(marked.deadline.time_ms)
        outcomes = [
            Outcome(n, DELAYED, 0, dsn.LATE, f"it was to be delivered by {due}; {why}".encode(), b"", now_ms)
            for n, why in sorted(said.items())
        ]
        noticed = self._teller.tell(
            entry,
            original,
            outcomes,
            site=self._context.site.name,
            retry_until_ms=entry.arrival_ms + self._context.peer.lifetime.at(entry.priority),
        )
        self._sent.tell(told_key(entry.id), noticed, now_ms)
        self._sent.tell(entry.id, {}, now_ms)  # and no other delay after this one

    @property
    def _site(self) -> str:
        return self._teller.peer_site


def _is_ours(place: Place) -> bool:
    """In a batch that the far side cannot have."""
    return place.state == "sealed" and not place.is_whole
