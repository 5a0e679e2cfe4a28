"""What lies where, for people: how a peer is, all about one transaction; its queue row by row is in `flow.queue`.

Only looks.  What is found may be gone a moment later, since a call goes on
meanwhile: that is no error.  A peer that has left the configuration and still
has mail in the spool is looked at like the others.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from typing import NamedTuple

from batchmail.core.entry import Entry
from batchmail.core.envelope import Envelope
from batchmail.core.errors import KeyRefused, Permanent, SpoolError
from batchmail.core.names import time_of_id
from batchmail.core.numbered import BATCH, Number
from batchmail.flow.context import Context
from batchmail.flow.lists import Lists, look_at_lists, unlisted
from batchmail.flow.transaction import read_envelope
from batchmail.store import batchfile, quarantine
from batchmail.store.boxes import Inbox, Outbox
from batchmail.store.census import count
from batchmail.store.line import open_since_ms
from batchmail.store.room import free_octets
from batchmail.store.setup import is_retired
from batchmail.store.spool import Spool
from batchmail.store.view import (
    Look,
    NoticeRow,
    Open,
    ReceivedTransaction,
    SentTransaction,
    Told,
    View,
    look,
    open_view,
)
from batchmail.store.waiting import WaitingRoom, read_entry

MOST_COUNTED = 10_000  # names looked at to count what waits, beyond those counted before
WARNING, CRITICAL = "WARNING", "CRITICAL"
HELD, WAITING, LOST = "held", "waiting", "lost"

Text = Callable[[], Iterator[bytes]]
Looker = Callable[[Spool, str], Look | None]


def numbers_in(box: Outbox | Inbox) -> list[Number]:
    """The files of a box, also of one that is not set up yet."""
    try:
        return box.numbers()
    except FileNotFoundError:
        return []


# -- how a peer is ----------------------------------------------------------------------------------------------


class Trouble(NamedTuple):
    """Something that a person should look at."""

    level: str  # WARNING, CRITICAL
    text: str


class PeerState(NamedTuple):
    """How it stands with a peer.  Counts are of transactions."""

    peer: str
    waiting: int
    waiting_octets: int
    has_more: bool  # more waits than was counted
    held: int
    sealed: int = 0  # in our outbox, not with the far side yet
    lost: int = 0  # known to the ledger, and in no file here
    custody: int = 0  # with the far side, not settled
    oldest_ms: int | None = None  # arrival of the oldest of all these
    replay: int = 0  # of the peer's, in our custody
    next_replay_ms: int | None = None
    notices: int = 0  # owed
    contact_ms: int | None = None  # when the peer was last spoken to
    open_ms: int | None = None  # since when a call is open now
    call_ms: int | None = None  # when the last call ended, or failed
    call_code: int = 0
    call_text: str = ""  # why it failed
    expected_ms: int | None = None  # when the next is to come, by the calendar
    rate: int | None = None  # octets per second
    lists: Lists = Lists()  # of valid recipients
    troubles: tuple[Trouble, ...] = ()


def look_at(context: Context, looker: Looker = look) -> PeerState:
    """How it stands with a peer; `looker` says what its ledger does."""
    room = WaitingRoom(context.spool, context.peer.name)
    found = count(context.spool, context.peer.name, context.now_ms() * 1_000_000, MOST_COUNTED)
    oldest = [found.oldest_ms] if found.oldest_ms is not None else []
    held = [time_of_id(waiting.id) for waiting in room.scan_held()]
    open_ms = open_since_ms(context.spool, context.peer.name)
    state = PeerState(context.peer.name, found.number, found.octets, found.has_more, len(held), open_ms=open_ms)
    troubles: list[Trouble] = []
    known = None
    try:
        known = looker(context.spool, context.peer.name)
    except SpoolError as error:
        troubles.append(Trouble(CRITICAL, str(error)))
    if known is not None:
        state = _with_ledger(state, known, Outbox(context.spool, context.peer.name))
        oldest += [some.first_ms for some in known.unsettled.values() if some.first_ms is not None]
        troubles += _ledger_troubles(known, context.peer.name)
    lists = look_at_lists(context, known.facts if known else {})
    troubles += [Trouble(WARNING, text) for text in lists.troubles]
    now_ms = context.now_ms()
    last_ms = state.contact_ms if state.contact_ms is not None else now_ms
    expected_ms = context.peer.calendar.expected_ms(last_ms, now_ms)
    state = state._replace(oldest_ms=min(oldest + held, default=None), lists=lists, expected_ms=expected_ms)
    return state._replace(troubles=(*troubles, *_troubles(context, state)))


def count_files(context: Context) -> int:
    """Numbered files, ours and the peer's, that somebody still waits for an answer about."""
    boxes = Outbox(context.spool, context.peer.name), Inbox(context.spool, context.peer.name)
    return sum(len(box.numbers()) for box in boxes)


def _with_ledger(state: PeerState, known: Look, outbox: Outbox) -> PeerState:
    nothing = Open(0, None)
    lost = sum(found for stream, seq, found in known.again if outbox.octets(Number(stream, seq, BATCH)) is None)

    def number(name: str) -> int | None:
        text = known.facts.get(name, "")
        return int(text) if text.isdigit() else None

    return state._replace(
        sealed=known.unsettled.get("sealed", nothing).number - lost,
        lost=lost,
        custody=known.unsettled.get("custody", nothing).number,
        replay=known.replay.number,
        next_replay_ms=known.replay.first_ms,
        notices=known.owed.number,
        contact_ms=number("contact_ms"),
        call_ms=number("call_ms"),
        call_code=number("call_code") or 0,
        call_text=known.facts.get("call_text", ""),
        rate=number("rate"),
    )


def _ledger_troubles(known: Look, peer: str) -> Iterator[Trouble]:
    facts = known.facts
    if stopped := facts.get("stopped"):
        yield Trouble(CRITICAL, f"nothing is sent: {stopped}")
    if known.held:
        yield Trouble(
            WARNING,
            f"held here, being too old to know whether they came before: {known.held} of its transactions, such as"
            f" {known.first_held}; batchmail release delivers one",
        )
    if unread := facts.get("unread"):
        what = "batchmail queue --here lists what waits for that"
        yield Trouble(CRITICAL, f"{unread}; at {peer}, batchmail resend sends it again, and {what}")
    if peer_note := facts.get("peer_note"):
        yield Trouble(WARNING, f"the other side says: {peer_note}")
    if facts.get("on_hold"):
        yield Trouble(WARNING, "it gets no mail until batchmail release, as a person has decided")
    if doubt := facts.get("clock"):
        yield Trouble(WARNING, doubt)
    if target_down := facts.get("target_down"):
        yield Trouble(WARNING, f"the target took nothing at the last try: {target_down}")


def _troubles(context: Context, state: PeerState) -> Iterator[Trouble]:
    peer, now_ms = context.peer, context.now_ms()
    if peer.name not in context.site.peers and (state.oldest_ms is not None or state.replay or state.notices):
        what = "mail lies in the spool for it, but the configuration has no such peer"
        yield Trouble(WARNING, f"{what}: write its entry again, or batchmail move or bounce --peer {peer.name}")
    if state.call_code in (KeyRefused.exit_code, 78):
        yield Trouble(CRITICAL, f"the last call failed and needs you: {state.call_text}")
    if peer.name in context.site.peers and is_retired(context.spool.root, peer.name):
        yield Trouble(WARNING, f"retired: the doors refuse mail for it until batchmail retire --undo {peer.name}")
    if state.lost:
        yield Trouble(
            CRITICAL,
            f"lost here, with the files of their batches: {state.lost} of its transactions; batchmail queue {peer.name}"
            " shows them, and batchmail check --files says which files",
        )
    if state.held:
        yield Trouble(WARNING, f"held transactions: {state.held}; batchmail queue {peer.name} shows them")
    if lost := quarantine.transactions(context.spool, peer.name):
        what = f"damaged files with its mail in quarantine: {len(lost)}, such as {lost[0]}"
        yield Trouble(WARNING, f"{what}; a .why beside each says more; remove both when they are not wanted any more")
    if state.oldest_ms is not None and now_ms - state.oldest_ms > peer.lifetime_ms // 2:
        yield Trouble(WARNING, "the oldest transaction is past half of its lifetime")


def room_trouble(context: Context) -> Trouble | None:
    """Whether the disk is below the reserve."""
    free, reserve = free_octets(context.spool.root), context.site.reserve_octets
    if free >= reserve:
        return None
    return Trouble(
        CRITICAL,
        f"only {free >> 20} MiB free below {context.spool.root}, less than the reserve of {reserve >> 20} MiB:"
        " nothing is accepted, from doors or peers, until there is room",
    )


# -- one transaction --------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """All that is known here of a transaction: ours on its way to a peer, or a peer's in our custody."""

    id: str
    peer: str
    state: str
    path: str  # the file that holds it; empty when only the ledger knows of it
    entry: Entry | None
    envelope: Envelope | None
    lifetime_ms: int | None
    text: Text | None
    sent: SentTransaction | None
    received: ReceivedTransaction | None
    outcomes: list[Told]
    notices: list[NoticeRow]
    plan: str = ""  # what was decided about it
    unlisted: Mapping[bytes, str] = {}  # recipients that the peer's list does not have, and of which day that is


def find(context: Context, identifier: str) -> Record | None:
    """What is known of a transaction with this peer; a notice's ID finds the transaction that it tells of."""
    view = open_view(context.spool, context.peer.name)
    if view is not None:
        with closing(view):
            identifier = view.transaction_of_notice(identifier) or identifier
            record = _find_sent(context, view, identifier) or _find_received(context, view, identifier)
            record = record or _find_waiting(context, identifier)
            return record and _with_list(context, record._replace(plan=view.plan(identifier)))
    record = _find_waiting(context, identifier)
    return record and _with_list(context, record)


def quarantined(spool: Spool, identifier: str) -> Permanent | None:
    """What to say of a transaction of which nothing is left but a damaged file that was moved away."""
    path = quarantine.find(spool, identifier)
    return (
        Permanent(f"{identifier} was damaged and goes nowhere: it lies in {path}; {path}.why says why")
        if path
        else None
    )


def _with_list(context: Context, record: Record) -> Record:
    if record.envelope is None or record.received:
        return record
    return record._replace(unlisted=unlisted(context, record.envelope.recipients))


def _find_waiting(context: Context, identifier: str) -> Record | None:
    waiting = WaitingRoom(context.spool, context.peer.name).find(identifier)
    if waiting is None:
        return None
    entry, text = read_entry(waiting)
    state, lifetime_ms = WAITING if waiting.urgency else HELD, context.peer.lifetime_ms
    envelope = read_envelope(text())
    return Record(
        identifier, context.peer.name, state, waiting.path, entry, envelope, lifetime_ms, text, None, None, [], []
    )


def _find_sent(context: Context, view: View, identifier: str) -> Record | None:
    sent = view.sent(identifier)
    if sent is None:
        return None
    outbox = Outbox(context.spool, context.peer.name)
    state = sent.state if sent.settled_ms is None else "settled"
    if state == "sealed" and outbox.octets(sent.number) is None:
        state = LOST
    record = Record(
        identifier, context.peer.name, state, "", None, None, None, None, sent, None,
        view.sent_outcomes(identifier), view.notices(identifier),
    )  # fmt: skip
    return _with_file(record, outbox.path(sent.number))


def _find_received(context: Context, view: View, identifier: str) -> Record | None:
    received = view.received(identifier)
    if received is None:
        return None
    state = {"waiting": "to be replayed", "dot": "being replayed", "done": "replayed", "held": "held here"}[
        received.state
    ]
    outcomes = view.received_outcomes(identifier)
    record = Record(identifier, context.peer.name, state, "", None, None, None, None, None, received, outcomes, [])
    return _with_file(record, Inbox(context.spool, context.peer.name).path(received.number))


def _with_file(record: Record, path: str) -> Record:
    """The record with what its batch says, while that is there and can be read."""

    def text() -> Iterator[bytes]:
        for item, octets in batchfile.read_transactions(path):
            if item.entry.id == record.id:
                yield from octets
                return

    if not os.path.exists(path):
        return record
    with suppress(FileNotFoundError):
        item = next((item for item in batchfile.read_manifest(path)[1] if item.entry.id == record.id), None)
        if item is not None:
            return record._replace(
                path=path, entry=item.entry, envelope=read_envelope(text()), lifetime_ms=item.lifetime_ms, text=text
            )
    return record
