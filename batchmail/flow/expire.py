"""Time: what is late is told, what is too old ends.

By the holder of the peer's replay lock.  Who has custody decides: what waits
here, or whose batch never left whole, ends here; of what the far side has, or
may have, only its report tells, until after `give_up` without a word the
sender is told that the fate is unknown, and the far side is asked not to
deliver it any more.  What is held does not age: a person has decided.

Found by their names, by arrival: a pass costs what is due, not what waits.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import NamedTuple

from batchmail.core import dsn
from batchmail.core.entry import PRIORITIES, Entry
from batchmail.core.errors import BatchmailError, SpoolError
from batchmail.core.names import time_of_id
from batchmail.core.outcome import DELAYED, FAILED, WITHDRAWN, Outcome
from batchmail.core.report import Reported
from batchmail.core.request import WITHDRAW, Request
from batchmail.core.schedule import Span
from batchmail.flow.context import Context
from batchmail.flow.notify import Teller
from batchmail.flow.overdue import Overdue
from batchmail.flow.plans import AT_ONCE, GIVE_WAY_S, Planner, line_of
from batchmail.flow.settle import Settler
from batchmail.flow.transaction import Transaction
from batchmail.store import batchfile
from batchmail.store.aging import Aged, Aging
from batchmail.store.boxes import Outbox
from batchmail.store.ledger import Ledger
from batchmail.store.plans import REMOVE, Plans
from batchmail.store.requests import Requests
from batchmail.store.sent import Sent
from batchmail.store.shelf import Shelf
from batchmail.store.waiting import Waiting, WaitingRoom, read_entry
from batchmail.wire import maillog

_MOST = 1000  # of each kind in one pass
_AT_ONCE = 500
_AGAIN_MS = 3_600_000  # what was looked through is looked at again for so long: a slow door may add to it
_EXPIRED = "5.4.7"


class Late(NamedTuple):
    """What is to be told of the recipients of a transaction that is late."""

    reported: list[Outcome]  # by the far side
    unreported: list[Outcome]  # as it looks from here


class Expirer:
    """Does what is due by time for one peer."""

    def __init__(self, context: Context, ledger: Ledger, settler: Settler, planner: Planner):
        self._context, self._ledger = context, ledger
        self._settler, self._planner = settler, planner
        self._sent, self._aging, self._requests = Sent(ledger), Aging(ledger), Requests(ledger)
        self._plans = Plans(ledger)
        self._shelf = Shelf(context.spool, context.peer.name)
        self._outbox = Outbox(context.spool, context.peer.name)
        self._teller = Teller(context, ledger)
        self._overdue = Overdue(context, ledger, planner)
        self._room = WaitingRoom(context.spool, context.peer.name)
        self._unreadable: set[str] = set()  # left out in this pass
        fact = ledger.fact("contact_ms") or ""
        self._contact_ms = int(fact) if fact.isdigit() else None

    def run(self, stopped: Callable[[], bool]) -> None:
        """One pass: what was to be delivered by now, what has expired, what was never heard of, what is late."""
        if self._ledger.fact("clock"):
            return  # it cannot be believed
        self._overdue.run(stopped)
        for step in (self._expire, self._give_up, self._tell_of_batches, self._tell_of_waiting):
            if not stopped():
                step()

    # -- too old ---------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        """In turns, between which a call may begin: then what waits goes with it."""
        for turn in range(_MOST // AT_ONCE):
            if not self._expired_here() and not self._aging.expired(self._context.now_ms(), 1):
                return
            if turn:
                time.sleep(GIVE_WAY_S)
            with line_of(self._context) as ours:
                if not ours:
                    return
                self._planner.recover()
                done = 0
                for number in {one.number for one in self._aging.expired(self._context.now_ms(), _MOST)}:
                    done += self._try(partial(self._planner.unseal, number), number.file_name)
                for waiting in self._expired_here():
                    if not self._try(partial(self._end, waiting), waiting.path):
                        self._set_aside(waiting)
                    done += 1
            if not done:
                return

    def _end(self, waiting: Waiting) -> None:
        entry, _ = read_entry(waiting)
        if self._has_time(entry, self._context.peer.lifetime):
            self._shelf.release(waiting)
        else:
            self._planner.end(waiting, _EXPIRED, self._why_expired())

    def _has_time(self, entry: Entry, spans: Span) -> bool:
        """Whether it is not over by its own priority, only where it waits: with the most urgent of its input.

        Then it goes to its equals, where nobody looks at it before its time.
        """
        return time_of_id(entry.id) + spans.at(entry.priority) > self._context.now_ms()

    def _try(self, act: Callable[[], object], name: str) -> bool:
        """What is damaged holds up nothing else: it stays for the operator."""
        try:
            act()
        except (BatchmailError, OSError) as error:
            maillog.trouble(self._context.peer.name, f"{name} has expired: {error}")
            return False
        return True

    def _set_aside(self, waiting: Waiting) -> None:
        """Hold one that is damaged, as sealing does; any other that could not be read is passed over.  Needs the line.

        A crash before the move has it found damaged again.
        """
        try:
            _, read = read_entry(waiting)
            Transaction(read(), self._context.spool.tmp).discard()
        except SpoolError as error:
            self._room.hold(waiting)
            maillog.held(waiting.id, self._context.peer.name, str(error))
        except OSError:
            pass
        self._unreadable.add(waiting.id)

    def _expired_here(self) -> list[Waiting]:
        """The first that wait for longer than they live; not what a crash has left of those in a batch."""
        now_ms, lifetime = self._context.now_ms(), self._context.peer.lifetime
        for priority in self._shelf.priorities():
            found = self._shelf.aged(priority, 0, now_ms - lifetime.at(priority))
            while some := list(islice(found, AT_ONCE)):
                not_ours = self._sent.sealed_ids([waiting.id for waiting in some]) | self._unreadable
                if due := [waiting for waiting in some if waiting.id not in not_ours]:
                    return due
        return []

    def _why_expired(self) -> str:
        site = self._teller.peer_site
        if self._teller.is_on_hold:
            why = self._teller.why_it_waits
        elif self._contact_ms is None:
            why = f"{site} was not connected while the message waited"
        else:
            why = f"{site} was last connected on {dsn.date(self._contact_ms)}; the message could not go with it"
        return f"delivery time expired: {why}"  # words by which parsers of notices know what it is

    def _give_up(self) -> None:
        """Request and outcomes in this order: a crash in between asks twice, which changes nothing."""
        now_ms, peer = self._context.now_ms(), self._context.peer
        for one in self._aging.unheard(now_ms - peer.give_up_ms, _MOST):
            # Its own ID names the request too: asked once, however often this is done.
            self._requests.ask(Request(WITHDRAW, one.id, {"tx": one.id}), now_ms)
            is_removed = self._plans.is_open(one.id, REMOVE)  # its sender is told what was decided, if anything
            rows = [
                Reported(one.id, self._unknown(one, n, last, WITHDRAWN if is_removed else FAILED), False)
                for n, last in self._sent.open_outcomes(one.id, one.recipients).items()
            ]
            self._settler.take(rows, one.id, is_fate_unknown=not is_removed)

    def _unknown(self, one: Aged, recipient: int, last: Outcome | None, action: str) -> Outcome:
        when = f"on {dsn.date(one.custody_ms)}" if one.custody_ms is not None else "in part or whole"
        told = "has told nothing since"
        if last is not None:
            said = " ".join(dsn.reply_lines(last, utf8=False)[:1])
            told = f"has told nothing since {dsn.date(last.time_ms)}, when it was delayed: {said}"
        text = f"it was handed over to {self._teller.peer_site} {when}, which {told}; its fate is unknown"
        return Outcome(recipient, action, 0, _EXPIRED, text.encode(), b"", self._context.now_ms())

    # -- late ------------------------------------------------------------------------------------------------------

    def _has_missed(self, arrival_ms: int) -> bool:
        """Whether a call that was to come since has not."""
        calendar = self._context.peer.calendar
        last_ms = arrival_ms if self._contact_ms is None else self._contact_ms
        return calendar.has_missed(last_ms, self._context.now_ms())

    def _tell_of_waiting(self) -> None:
        is_expected = self._contact_ms is not None and not self._has_missed(self._contact_ms)
        if is_expected and not self._teller.is_on_hold:
            return  # a call is still to come: for all that waits
        now_ms, peer = self._context.now_ms(), self._context.peer
        for priority in self._shelf.priorities():
            self._tell_of_priority(priority, now_ms - peer.delay_notice.at(priority))

    def _tell_of_priority(self, priority: int, until_ms: int) -> None:
        """What arrived before a time; what was looked through to its end is not looked at again."""
        fact = f"told_until.{priority}"
        told_ms = int(self._ledger.fact(fact) or 0)
        if told_ms > self._context.now_ms():  # by a clock that ran ahead
            told_ms = 0
        late: list[Waiting] = []
        found = self._shelf.aged(priority, told_ms - _AGAIN_MS, until_ms)
        while len(late) < _MOST and (some := list(islice(found, _AT_ONCE))):
            untold = self._aging.untold([waiting.id for waiting in some])
            late += [waiting for waiting in some if waiting.id in untold]
        if len(late) >= _MOST:
            until_ms = time_of_id(late[-1].id)
        left = [waiting for waiting in late if not self._try_to_tell(waiting)]
        if not left and until_ms - told_ms > _AGAIN_MS:
            self._ledger.note(fact, str(until_ms))

    def _try_to_tell(self, waiting: Waiting) -> bool:
        """The same, but what cannot be read holds up no other."""
        try:
            return self._tell_of_file(waiting)
        except (BatchmailError, OSError) as error:
            maillog.trouble(self._context.peer.name, f"{waiting.path}: no delay can be told: {error}")
        with line_of(self._context) as ours:
            if ours:
                self._set_aside(waiting)
        return False

    def _tell_of_file(self, waiting: Waiting) -> bool:
        """Whether nothing is left to be told of it."""
        if not self._teller.is_on_hold and not self._has_missed(time_of_id(waiting.id)):
            return False
        with suppress(FileNotFoundError):  # it went with a call just now
            entry, read = read_entry(waiting)
            if self._has_time(entry, self._context.peer.delay_notice):
                with line_of(self._context) as ours:
                    if ours:
                        self._shelf.release(waiting)
                return ours
            with Transaction(read(), self._context.spool.tmp) as original:
                outcomes = [self._not_connected(n) for n in self._sent.open_outcomes(entry.id, entry.recipients)]
                noticed = self._teller.tell(
                    entry,
                    original,
                    outcomes,
                    site=self._context.site.name,
                    retry_until_ms=entry.arrival_ms + self._context.peer.lifetime.at(entry.priority),
                    expected_ms=self._expected_ms(),
                )
            self._sent.tell(waiting.id, noticed, self._context.now_ms())
        return True

    def _not_connected(self, recipient: int) -> Outcome:
        text, status = self._teller.why_it_waits, "4.3.2" if self._teller.is_on_hold else "4.4.1"
        if self._contact_ms is not None and not self._teller.is_on_hold:
            text += f"; it was last on {dsn.date(self._contact_ms)}"
        return Outcome(recipient, DELAYED, 0, status, text.encode(), b"", self._context.now_ms())

    def _expected_ms(self) -> int | None:
        if self._teller.is_on_hold:
            return None
        now_ms = self._context.now_ms()
        return self._context.peer.calendar.expected_ms(self._contact_ms or now_ms, now_ms)

    def _tell_of_batches(self) -> None:
        now_ms, spans = self._context.now_ms(), self._context.peer.delay_notice
        has_missed = self._has_missed(now_ms)
        priorities: dict[int, list[int]] = {}
        for priority in PRIORITIES:
            priorities.setdefault(spans.at(priority), []).append(priority)
        late = [
            one
            for span_ms, some in priorities.items()
            for one in self._aging.aged(now_ms - span_ms, some, only_delayed=not has_missed, most=_MOST)
        ]
        outcomes = {one.id: self._open_outcomes(one) for one in late}
        for number in sorted({one.number for one in late if any(outcomes[one.id])}):
            try:
                self._tell_of_batch([one for one in late if one.number == number], outcomes)
            except Exception as error:  # noqa: BLE001  a batch that cannot be read holds up no other
                maillog.trouble(self._context.peer.name, f"{number.file_name}: no delay can be told: {error}")

    def _open_outcomes(self, one: Aged) -> Late:
        """What is to be told of its recipients: what the far side has reported, or that no call came."""
        known = sorted(self._sent.open_outcomes(one.id, one.recipients).items())
        has_missed = self._has_missed(one.arrival_ms)
        return Late(
            [outcome for _, outcome in known if outcome is not None],
            [self._unreported(n, one) for n, outcome in known if outcome is None and has_missed],
        )

    def _unreported(self, recipient: int, one: Aged) -> Outcome:
        if one.custody_ms is None:
            return self._not_connected(recipient)
        text = f"handed over to {self._teller.peer_site} on {dsn.date(one.custody_ms)}, which has told nothing since"
        return Outcome(recipient, DELAYED, 0, "4.4.7", text.encode(), b"", self._context.now_ms())

    def _tell_of_batch(self, late: list[Aged], outcomes: dict[str, Late]) -> None:
        by_id = {one.id: one for one in late}
        for item, text in batchfile.read_transactions(self._outbox.path(late[0].number)):
            one = by_id.get(item.entry.id)
            if one is None or not any(outcomes[one.id]):
                continue
            reported, unreported = outcomes[one.id]
            me, there = self._context.site.name, self._teller.peer_site
            with Transaction(text, self._context.spool.tmp) as original:
                tell = partial(self._teller.tell, item.entry, original, retry_until_ms=one.expire_ms)
                noticed = tell(reported, site=there) | tell(unreported, site=me, expected_ms=self._expected_ms())
            self._sent.tell(one.id, noticed, self._context.now_ms())
