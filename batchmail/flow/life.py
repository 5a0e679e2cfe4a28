"""The life of a transaction as far as this side knows it: what happened when, and what was said.

It is found by its ID, or by what a mail server calls it: queue id and
Message-ID are noted in the ledger when it is sealed and when it was replayed;
before that the files are looked at, some thousands of them at most.
"""

from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from typing import NamedTuple

from batchmail.core import messageid
from batchmail.core.errors import BatchmailError
from batchmail.core.names import is_id
from batchmail.core.numbered import BATCH
from batchmail.flow.context import Context
from batchmail.flow.overview import Record, find, numbers_in
from batchmail.store import batchfile
from batchmail.store.aliases import find_alias
from batchmail.store.boxes import Inbox
from batchmail.store.plans import Plans
from batchmail.store.view import ledger_of
from batchmail.store.waiting import WaitingRoom, read_entry

MOST_READ = 20_000  # files that wait, and transactions that came


class Event(NamedTuple):
    """Something that happened to a transaction."""

    time_ms: int
    what: str
    text: str


class Life(NamedTuple):
    """What is known of a transaction, and all that happened to it, the oldest first."""

    record: Record
    events: list[Event]


def lives(context: Context, word: str) -> Iterator[Life]:
    """Of the transactions that a word means: an ID, a queue id, a Message-ID with or without its brackets."""
    for identifier in _identifiers(context, word.strip().strip("<>")):
        record = find(context, identifier)
        if record is not None:
            yield Life(
                record, sorted((*_events(record), *_planned(context, record.id)), key=lambda event: event.time_ms)
            )


def _identifiers(context: Context, word: str) -> list[str]:
    if not word:  # many have no queue id
        return []
    if is_id(word.upper()):
        return [word.upper()]
    found: dict[str, None] = {}
    ledger = ledger_of(context.spool, context.peer.name)
    if ledger is not None:
        with closing(ledger):
            found = dict.fromkeys(find_alias(ledger, word))
    return list(found | dict.fromkeys(_in_files(context, word)))


def _in_files(context: Context, word: str) -> Iterator[str]:
    """Those that wait or are held, and those that came and were not replayed yet."""
    room = WaitingRoom(context.spool, context.peer.name)
    for scan in (room.scan_held(), room.scan()):
        for waiting in islice(scan, MOST_READ):
            with suppress(BatchmailError, OSError):
                entry, text = read_entry(waiting)
                if word in (entry.queue_id, messageid.of_text(next(text(), b""))):
                    yield entry.id
    inbox = Inbox(context.spool, context.peer.name)
    left = MOST_READ
    for number in numbers_in(inbox):
        if number.kind == BATCH and left > 0:
            with suppress(BatchmailError, OSError):
                for item, text_pieces in batchfile.read_transactions(inbox.path(number)):
                    left -= 1
                    if word in (item.entry.queue_id, messageid.of_text(next(text_pieces, b""))):
                        yield item.entry.id


def _events(record: Record) -> Iterator[Event]:
    entry, sent, received = record.entry, record.sent, record.received
    origin = entry or sent or received
    if origin is not None:
        size = f"{entry.size_octets} octets" if entry else ""
        queue_id = f"queue id {entry.queue_id}" if entry and entry.queue_id else ""
        client = f"from {entry.client.address.decode('ascii', 'replace')}" if entry and entry.client.address else ""
        yield Event(origin.arrival_ms, "accepted", ", ".join(filter(None, (size, queue_id, client))))
    if sent is not None and sent.sealed_ms is not None:  # else it ended here and was in no batch
        yield Event(sent.sealed_ms, "sealed", f"in {sent.number.file_name}")
        if sent.custody_ms is not None:
            yield Event(sent.custody_ms, "custody", f"{record.peer} has it")
    if received is not None:
        yield Event(received.custody_ms, "custody", f"ours, in {received.number.file_name}")
    yield from _outcomes(record)
    for notice in record.notices:
        reply = notice.text.decode("ascii", "backslashreplace")
        yield Event(notice.made_ms, "notice", f"{notice.id} {notice.state}{': ' + reply if reply else ''}")
    if sent is not None and sent.settled_ms is not None:
        yield Event(sent.settled_ms, "settled", "")


def _outcomes(record: Record) -> Iterator[Event]:
    reported: dict[tuple[int, str], int] = {}
    for told in record.outcomes:
        outcome = told.outcome
        code = f"{outcome.code} " if outcome.code else ""
        by = f" (by {outcome.mta.decode('ascii', 'backslashreplace')})" if outcome.mta else ""
        reply = outcome.text.decode("ascii", "backslashreplace").replace("\n", " / ")
        who = _recipient(record, outcome.recipient)
        yield Event(outcome.time_ms, outcome.action, f"{who}: {code}{outcome.status} {reply}{by}")
        if told.acknowledged_ms is not None:
            reported[told.acknowledged_ms, told.where] = 1
    for time_ms, where in reported:
        yield Event(time_ms, "reported", f"{record.peer} acknowledged {where}")


def _recipient(record: Record, number: int) -> str:
    recipients = record.envelope.recipients if record.envelope else ()
    address = recipients[number].address if number < len(recipients) else b""
    return address.decode("ascii", "backslashreplace") or f"recipient {number + 1}"


def _planned(context: Context, identifier: str) -> Iterator[Event]:
    ledger = ledger_of(context.spool, context.peer.name)
    if ledger is None:
        return
    with closing(ledger):
        plan = Plans(ledger).find(identifier)
    if plan is not None:
        what = " ".join(filter(None, (plan.verb, plan.peer)))
        yield Event(plan.made_ms, "planned", f"{what}: {plan.text}" if plan.text else what)
        if plan.done_ms is not None:
            yield Event(plan.done_ms, "done", plan.result)
