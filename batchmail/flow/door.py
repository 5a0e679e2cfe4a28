"""The socket door: one session of an MTA that delivers by SMTP or LMTP, from its octets to transactions in the spool.

The protocol is `proto.smtp_server`'s.  A transaction whose recipients belong to
several peers becomes one for each of them; all are safe before the MTA hears
yes.  Finished drafts go to the committer, shared by all sessions, and the
answer comes back by `committed`.  Not here: sockets (`wire.serve`).
"""

import contextlib
import errno
from collections.abc import Callable, Collection
from typing import NamedTuple

from batchmail.core.deliverby import parse as parse_by
from batchmail.core.envelope import MAX_RECIPIENTS, Client, Envelope, find, format_rcpt, without
from batchmail.core.errors import BatchmailError, Permanent, SpoolError
from batchmail.core.names import make_id
from batchmail.core.received import TOP_OCTETS, received_id
from batchmail.flow.body import Body, identity_of, imply, offer_name, priority_of
from batchmail.flow.budget import Budget
from batchmail.flow.doors import Doors
from batchmail.proto.smtp_events import Aborted, Answer, Content, End, Event, Rcpt, Start
from batchmail.proto.smtp_server import SmtpServer
from batchmail.proto.smtp_terms import Terms
from batchmail.store.group import Put
from batchmail.store.room import check_room
from batchmail.store.spool import Door, Spool
from batchmail.store.waiting import WaitingRoom
from batchmail.wire import doorlog

_MAX_PEERS = 100  # of a transaction: each is a file, open until it is accepted
_RECIPIENT_OCTETS = 400  # of memory, beside those that the client wrote
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Desk(NamedTuple):
    """What all sessions of a door share."""

    spool: Spool
    doors: Doors
    site: str  # our own name
    xforward: bool
    now_ms: Callable[[], int]
    random: Callable[[int], bytes]
    held_octets: Callable[[], int]  # what a session may hold of a message in memory
    recipients: Budget  # and of recipients, all of them together


class Part(NamedTuple):
    """What one peer gets of a transaction; numbers are those of the recipients, from 0."""

    door: Door
    numbers: list[int]
    envelope: Envelope
    put: Put | None  # None: too large for this peer


class DoorSession:
    """One connection; see `wire.serve.Session`."""

    def __init__(self, desk: Desk, peer: str, submit: Callable[[list[Put]], None]):
        """`peer` is empty where the recipients' domains decide; what is submitted is answered by `committed`."""
        self._desk, self._peer, self._submit = desk, peer, submit
        doors = [door for door in [desk.doors.of_peer(peer)] if door] if peer else desk.doors.all()
        terms = Terms(
            host=desk.site,
            max_message_octets=max((door.max_message_octets for door in doors), default=0),
            max_recipients=MAX_RECIPIENTS,
            smtputf8=any(desk.doors.keeps(door, "SMTPUTF8") for door in doors),
            rrvs=bool(doors) and all(desk.doors.keeps(door, "RRVS") for door in doors),
            xforward=desk.xforward,
        )
        self._machine = SmtpServer(terms)
        self._routes: list[Door] = []  # of the accepted recipients
        self._body: Body | None = None
        self._start: Start | None = None
        self._peers: set[str] = set()  # of these
        self._recipient_octets = 0
        self._parts: list[Part] = []  # while the committer has them
        self._is_gone = False
        if not doors:
            self._machine.shutdown()

    @property
    def wants_input(self) -> bool:
        return self._machine.wants_input

    @property
    def is_over(self) -> bool:
        return self._machine.is_over

    def receive(self, data: bytes) -> None:
        self._machine.receive(data)
        self._advance()

    def output(self) -> bytes:
        octets = self._machine.output()
        if octets:
            self._advance()  # it may have waited for room
        return octets

    def timeout(self) -> None:
        self._machine.timeout()
        self._advance()

    def shutdown(self) -> None:
        self._machine.shutdown()
        self._advance()

    def gone(self) -> None:
        """What is with the committer goes on, nothing behind it: nobody hears the answers, and it is offered again."""
        self._is_gone = True
        if not self._parts:
            self._discard()

    def committed(self, result: list[str] | OSError) -> None:
        """The committer's answer: what has an ID is on stable storage.

        A crash before the reply reaches the MTA: it offers the same again, and where it has an identity it is known.
        """
        parts, self._parts = self._parts, []
        if isinstance(result, OSError):
            self._machine.finish(self._say(result))
        else:
            identifiers = iter(result)
            answers: dict[int, Answer] = {}
            for part in parts:
                if part.put is None:
                    answer = Answer(552, "5.3.4", f"larger than {part.door.peer} takes")
                else:
                    identifier = next(identifiers)
                    answer = Answer(250, "2.0.0", f"queued as {identifier}")
                    self._log(identifier, part)
                answers.update(dict.fromkeys(part.numbers, answer))
            if self._machine.is_lmtp:
                self._machine.finish(*(answers[number] for number in sorted(answers)))
            else:
                self._machine.finish(Answer(250, "2.0.0", "queued as " + " ".join(result[:10])))
        self._discard()
        self._advance()

    def _advance(self) -> None:
        while not self._is_gone and (event := self._machine.next_event()) is not None:
            try:
                if isinstance(event, Content):
                    self._content(event)
                elif isinstance(event, Rcpt):
                    self._rcpt(event)
                elif isinstance(event, Start):
                    self._begin(event)
                elif isinstance(event, End):
                    self._end()
                elif isinstance(event, Aborted):
                    self._discard()
            except (BatchmailError, OSError) as error:
                self._fail(event, self._say(error))

    def _fail(self, event: Event, answer: Answer) -> None:
        if isinstance(event, Rcpt):  # the others are not touched by it
            self._machine.refuse(answer)
            return
        if isinstance(event, End):
            self._discard_drafts()
            self._machine.finish(answer)
        else:
            self._machine.refuse(answer)
        self._discard()

    def _rcpt(self, event: Rcpt) -> None:
        door = self._route(event)
        if isinstance(door, Answer):
            doorlog.refused(self._peer, "", door.status, door.text)
            self._machine.refuse(door)
            return
        if self._is_of_another_size(event, door):
            text = f"another transaction, please: {door.peer} takes other sizes, and MAIL said no SIZE"
            self._machine.refuse(Answer(452, "4.5.3", text))
            return
        octets = _RECIPIENT_OCTETS + 2 * len(format_rcpt(event.recipient))
        if len(self._peers | {door.peer}) > _MAX_PEERS or not self._desk.recipients.take(octets):
            # RFC 5321 §4.5.3.1.10: the client sends the rest anew
            self._machine.refuse(Answer(452, "4.5.3", "too many recipients"))
            return
        self._recipient_octets += octets
        self._peers.add(door.peer)
        self._routes.append(door)
        self._machine.accept()

    def _is_of_another_size(self, event: Rcpt, door: Door) -> bool:
        """Whether one peer's limit could refuse the message for the others: SMTP has one answer behind the dot."""
        if self._machine.is_lmtp or find(event.parameters, b"SIZE"):
            return False
        return any(door.max_message_octets != other.max_message_octets for other in self._routes[:1])

    def _route(self, event: Rcpt) -> Door | Answer:
        address = event.recipient.address
        doors = self._desk.doors
        door = doors.of_peer(self._peer) if self._peer else doors.of_recipient(address)
        if door is None:
            if self._peer:
                return Answer(450, "4.3.5", f"{self._peer} has left the configuration")
            domain = doorlog.escape(address.rpartition(b"@")[2])
            return Answer(550, "5.1.2", f"no peer takes mail for {domain or 'an address without a domain'}")
        if door.is_retired:  # 5.1.2 or another peer's "*" would be for good, and it may be undone
            return Answer(450, "4.3.5", f"{door.peer} is retired: no mail is taken for it now")
        since = doors.refused_since(door, address)
        if since:
            return Answer(550, "5.1.1", f"{door.peer} has no such recipient by its list of {since}")
        size = find(event.parameters, b"SIZE")
        if size and int(size.value or 0) > door.max_message_octets:
            return Answer(552, "5.3.4", f"{door.peer} takes at most {door.max_message_octets} octets")
        by = find(event.parameters, b"BY")
        if by and by.value and parse_by(by.value).must_return and not doors.keeps(door, "DELIVERBY"):
            return Answer(550, "5.3.3", f"{door.peer} delivers to a server that gives nothing back in time (DELIVERBY)")
        if find(event.parameters, b"SMTPUTF8") and not doors.keeps(door, "SMTPUTF8"):
            return Answer(550, "5.6.7", f"{door.peer} delivers to a server that takes no mail by SMTPUTF8")
        return door

    def _begin(self, event: Start) -> None:
        largest = max(self._routes, key=lambda door: door.max_message_octets)
        check_room(self._desk.spool.root, largest.reserve_octets)
        self._start = event
        self._body = Body(self._desk.spool, largest, b"\r\n", self._desk.held_octets())
        self._machine.accept()

    def _content(self, event: Content) -> None:
        if self._body:
            self._body.add(event.octets)

    def _end(self) -> None:
        """The transaction is whole: a draft for each peer, under names that do not count yet."""
        if not self._body or not self._start:
            raise SpoolError("the content came without its envelope")
        self._body.end()
        self._parts = []  # from here on `_discard` finds the drafts
        now_ms = self._desk.now_ms()
        numbers: dict[Door, list[int]] = {}
        for number, door in enumerate(self._routes):
            numbers.setdefault(door, []).append(number)
        self._check_room(self._body.size_octets, numbers)
        for door, found in numbers.items():
            self._parts.append(self._part(self._start, self._body, door, found, now_ms))
        too_large = [part for part in self._parts if part.put is None]
        if too_large and (not self._machine.is_lmtp or len(too_large) == len(self._parts)):
            peers = " and ".join(part.door.peer for part in too_large)
            self._discard_drafts()
            self._machine.finish(Answer(552, "5.3.4", f"larger than {peers} takes"))
            self._discard()
            return
        self._submit([part.put for part in self._parts if part.put])

    def _check_room(self, size_octets: int, doors: Collection[Door]) -> None:
        """Raise SpoolError unless there is room for a copy for each peer that gets one."""
        copies = sum(size_octets <= door.max_message_octets for door in doors)
        reserve_octets = max(door.reserve_octets for door in doors)
        check_room(self._desk.spool.root, reserve_octets, copies * size_octets)

    def _part(self, start: Start, body: Body, door: Door, numbers: list[int], now_ms: int) -> Part:
        envelope = start.envelope
        if len(numbers) < len(envelope.recipients):
            envelope = envelope._replace(recipients=tuple(envelope.recipients[number] for number in numbers))
        # Each hop says its own SIZE, and Sendmail another when it offers the same again.
        envelope = imply(envelope._replace(parameters=without(envelope.parameters, b"SIZE")), body.ascii)
        if body.size_octets > door.max_message_octets:
            return Part(door, numbers, envelope, None)
        room = WaitingRoom(self._desk.spool, door.peer)
        priority = priority_of(envelope, 0)
        identifier = make_id(now_ms, self._desk.random(10))
        held_octets = self._desk.held_octets() // len(self._peers)
        draft, writer = room.write(identifier, now_ms, priority, start.queue_id, start.client, envelope, held_octets)
        try:
            for octets in body.pieces():
                writer.content(octets)
            name, digest = writer.end()
            identity = identity_of(envelope, body, digest)
        except BaseException:
            draft.discard()
            raise
        offered = offer_name(start.queue_id or received_id(body.top(TOP_OCTETS)), [identity])
        return Part(door, numbers, envelope, Put(room, draft, name, priority, offered, now_ms))

    def _discard(self) -> None:
        """The transaction is over."""
        if self._body:
            with contextlib.suppress(OSError):  # the sweep does it later
                self._body.discard()
        self._body = self._start = None
        self._routes = []
        self._peers.clear()
        self._desk.recipients.give(self._recipient_octets)
        self._recipient_octets = 0

    def _discard_drafts(self) -> None:
        for part in self._parts:
            if part.put:
                part.put.draft.discard()
        self._parts = []

    def _say(self, error: BatchmailError | OSError) -> Answer:
        """What the MTA hears of an error: in doubt, that it is to come again."""
        if isinstance(error, Permanent):
            answer = Answer(552 if error.status == "5.3.4" else 554, error.status, str(error))
        elif isinstance(error, BatchmailError):
            answer = Answer(452 if error.status == "4.3.1" else 451, error.status, str(error))
        elif error.errno in _NO_ROOM:
            answer = Answer(452, "4.3.1", f"no room for mail: {error.strerror}")
        else:
            answer = Answer(451, "4.3.0", f"the spool cannot be written: {error.strerror or error}")
        queue_id = self._start.queue_id if self._start else ""
        doorlog.refused(
            self._peer or " ".join({door.peer for door in self._routes}), queue_id, answer.status, str(error)
        )
        return answer

    def _log(self, identifier: str, part: Part) -> None:
        """The answer is yes, whatever becomes of the log."""
        if not self._start or not self._body:
            return
        client: Client = self._start.client
        envelope, body = part.envelope, self._body
        with contextlib.suppress(Exception):
            doorlog.accepted(
                identifier,
                part.door.peer,
                envelope.sender,
                len(envelope.recipients),
                body.size_octets,
                self._start.queue_id,
                client,
            )
            if body.bare_cr or body.bare_lf:
                doorlog.line_ends(identifier, body.bare_cr, body.bare_lf)
