"""The sending half of a call: which numbered file goes next, from which octet, and what its answer means.

Reports and requests go first, then batches; a large one yields to a more
urgent one between frames.  Where the far side stands is known from its HELLO.
"""

import contextlib

from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.numbered import BATCH, REPORT, REQUEST, Number
from batchmail.flow.ahead import Ahead, Order
from batchmail.flow.context import Context
from batchmail.flow.seal import Sealer
from batchmail.flow.sending import Departures, Sending
from batchmail.proto.frames import Custody, Data, Open, Refuse
from batchmail.proto.hello import Hello
from batchmail.store import batchfile
from batchmail.store.boxes import Outbox, digest_of
from batchmail.store.ledger import Ledger
from batchmail.store.received import Received
from batchmail.store.remembered import PIECE_OCTETS, Remembered
from batchmail.store.requests import Requests, Wishes
from batchmail.store.sent import Sent, SentFile
from batchmail.store.voided import identity_before
from batchmail.wire import maillog

_CUTS_TO_REFUSAL = 3
_MAX_UNANSWERED = 32  # files sent whole and not answered yet
_LARGE_OCTETS = 256 << 10  # left of a batch: worth the next being sealed meanwhile; before it more mail can join that


class Outgoing:
    """What goes to the peer in one call."""

    def __init__(self, context: Context, ledger: Ledger, sealer: Sealer, ahead: Ahead):
        self._context, self._sealer, self._ahead = context, sealer, ahead
        self._sent = Sent(ledger)
        self._received, self._wishes, self._requests = Received(ledger), Wishes(ledger), Requests(ledger)
        self._ledger = ledger
        self._outbox = Outbox(context.spool, context.peer.name)
        self._remembered = Remembered(ledger, "out")
        self._departures = Departures(context.peer.name, self._remembered, sealer.level)
        self._hello: Hello | None = None
        self._queue: list[Sending] = []
        self._unanswered: dict[tuple[str, int], SentFile] = {}
        self._whole: set[tuple[str, int]] = set()  # the far side had every octet when the call began
        self._refused: set[tuple[str, int]] = set()  # "later": not tried again within the call
        self._held: set[tuple[str, int]] = set()  # batches that were there when the peer was to get no mail
        self._room_octets = 0  # what the peer can still take in this call
        self._look = True  # something may wait that was not seen yet
        self._has_left = False  # nothing of what waits fitted; once that may be because it came just then
        self.stopped = ""  # why nothing is sent in this call, for the operator
        self.put_off = ""  # why the peer did not take a file now
        self.damaged = ""  # which file of ours cannot be sent
        self.files = self.batches = self.transactions = self.text_octets = 0  # that the peer took custody of

    def has_nothing(self) -> bool:
        """Before the peer's HELLO: whether there is nothing at all to send, nor anything that it may have lost.

        A request that an earlier call left is answered in this one.
        """
        if self._received.in_custody(REQUEST) or self._sent.files("sealed", "custody"):
            return False
        return not self._sealer.has_waiting() and not self.has_lines()

    def has_lines(self) -> bool:
        """Whether there are outcomes, answers or requests that no file carries yet."""
        kinds = None if self._hello is None else self._hello.requests
        return self._received.has_unreported() or bool(self._wishes.unsent(1)) or bool(self._requests.unsent(kinds, 1))

    def greet(self, hello: Hello) -> None:
        """The peer's HELLO: compare memories, take note of what it has, go on where it stands."""
        self.stopped = self._compare(hello)
        if self.stopped:
            maillog.trouble(self._context.peer.name, self.stopped)
            return
        self._remember(hello)
        self._hello = self._departures.hello = hello
        self._room_octets = hello.limits.room_octets
        on_hold = self._sealer.on_hold
        for file in self._sent.files("sealed"):
            if hello.of_stream(file.number.stream).holds(file.number.seq):
                self._take_custody(file)
            elif on_hold and file.number.kind == BATCH:
                self._held.add(file.number[:2])
            elif file.cuts >= _CUTS_TO_REFUSAL and file.number.kind == BATCH:
                self._reseal(file, f"{file.cuts} calls ended while the peer was checking it")
            elif file.octets > hello.limits.file_octets and file.number.kind == BATCH:  # it takes less than it did
                self._reseal(file, f"{file.octets} octets, the peer takes {hello.limits.file_octets}")
            else:
                self._enqueue(file)
        self._enqueue_resealed()
        self._tell_of_what_is_not_understood(hello)

    def _tell_of_what_is_not_understood(self, hello: Hello) -> None:
        left = {request.kind for request in self._requests.unsent(None, 1000)} - set(hello.requests)
        if left:
            what = f"{hello.site} does not understand {', '.join(sorted(left))}"
            maillog.trouble(self._context.peer.name, f"{what}: such requests wait for a newer batchmail there")

    def _enqueue_resealed(self) -> None:
        for file in self._sent.files("sealed"):
            if not self._is_known(file):
                self._enqueue(file)

    def _remember(self, hello: Hello) -> None:
        """Who it is that has what it has; a new ledger there has none of what the old one had."""
        known = self._ledger.fact("peer_memory")
        if known != hello.memory:
            self._sent.forget_acknowledged()
            if known:
                self._tell_of_a_new_ledger(hello)
            self._ledger.set_fact("peer_memory", hello.memory)

    def _tell_of_a_new_ledger(self, hello: Hello) -> None:
        if again := self._sent.count_doubtful():
            text = f"{again} transactions that it may have delivered go again, and may come twice"
            maillog.trouble(self._context.peer.name, f"{hello.site} has a new ledger, its spool was lost: {text}")

    def _is_known(self, file: SentFile) -> bool:
        key = file.number[:2]
        is_left = any(key in some for some in (self._unanswered, self._refused, self._held))
        return is_left or any(sending.file.number[:2] == key for sending in self._queue)

    def _compare(self, hello: Hello) -> str:
        """Why this direction has to stop: what the peer says of our stream cannot be, or has been different."""
        stream = self._ledger.stream
        have = hello.of_stream(stream)
        peer, last = self._context.peer.name, self._sent.last_seq(stream)
        again = f"batchmail resend {peer} at {self._context.site.name} sends all that is unsettled again"
        if have.last > last:
            return (
                f"{hello.site} has file {have.last} of ours, we know of {last}: this spool has gone back"
                f" (a restored backup?); {again}"
            )
        ours = self._sent.file(stream, have.up_to)  # None: settled so long ago that it was pruned
        if ours is not None and have.identity not in (ours.identity, identity_before(self._ledger, stream, have.up_to)):
            return (
                f"{hello.site} has another file {have.up_to} than we sealed: one of the spools is a copy or a restored"
                f" backup; {again}"
            )
        lost = [
            f.number.seq
            for f in self._sent.files("custody")
            if not hello.of_stream(f.number.stream).holds(f.number.seq)
        ]
        if not lost and hello.memory == self._ledger.fact("peer_memory"):  # gone back: our reports are lost with it
            lost = [seq for seq in self._sent.acknowledged_after(stream, have.up_to) if not have.holds(seq)]
        if lost:
            return (
                f"{hello.site} no longer has files that it took (number {lost[0]} the first): its spool was"
                f" lost or restored; {again}; what had been delivered and not yet reported comes twice"
            )
        return ""

    def _enqueue(self, file: SentFile) -> None:
        path = self._outbox.path(file.number)
        if self._outbox.octets(file.number) != file.octets:
            self._refused.add(file.number[:2])
            self.damaged = f"{path} is missing or not as it was sealed; its mail waits until it is restored"
            return
        try:
            if file.cuts:  # a call ended in it: because it cannot be read, perhaps
                digest_of(path, file.octets)
            sending = self._departures.begin(file, path)
        except OSError as error:
            self._refused.add(file.number[:2])
            self.damaged = f"{path} cannot be read: {error.strerror}; its mail stays there until it can"
            return
        if not self._fits(sending):
            self._put_off(file, "no room there now")
            return
        if file.number.kind == BATCH:
            self._room_octets -= sending.left_octets
        if not sending.left_octets:
            self._whole.add(file.number[:2])
        self._queue.append(sending)

    def _fits(self, sending: Sending) -> bool:
        if self._hello is None or sending.file.number.kind != BATCH:
            return True
        return sending.file.octets <= self._hello.limits.file_octets and sending.left_octets <= self._room_octets

    # -- what is sent -------------------------------------------------------------------------------------------

    def look(self) -> None:
        """New mail may wait; or a person has decided that the peer gets none for now, or gets some again."""
        self._look = True
        if self._sealer.on_hold:
            self._hold_back()
        elif self._held:
            self._held.clear()
            self._enqueue_resealed()

    def _hold_back(self) -> None:
        """The batches of which nothing was sent in this call."""
        for sending in [one for one in self._queue if one.file.number.kind == BATCH and not one.opened]:
            if sending.left_octets:
                self._answered(*sending.file.number[:2])
                self._held.add(sending.file.number[:2])
                self._room_octets += sending.left_octets

    def report(self, whole: bool) -> None:
        """Seal the outcomes, answers and requests that no file carries yet.

        Not the `whole` of them while outcomes still come: each that was just written would be a file of its own.
        """
        if self._hello is None:
            return
        kinds = self._hello.requests
        try:
            for seal in (self._sealer.seal_report, self._sealer.seal_answer, lambda: self._sealer.seal_request(kinds)):
                while (number := seal()) is not None:
                    self._enqueue_number(number)
                    if not whole:
                        break
        except (OSError, SpoolError) as error:
            self.put_off = f"no report can be sealed: {error}"

    def next_events(self, octets: int, frame_octets: int) -> list[Open | Data]:
        """What to send now, at most `octets` of data."""
        events: list[Open | Data] = []
        if self._hello is None:
            return events
        if self._look or self._ahead.has_sealed():
            self._refill()
        while self._queue:
            sending = min(self._queue, key=lambda s: s.turn)
            if not sending.opened:
                file = sending.file
                sending.opened = True
                self._mark_whole(sending)
                events.append(Open(file.number, file.identity, sending.encoding, sending.octets, sending.offset))
            if sending.left_octets and octets <= 0:
                break
            if sending.left_octets:
                events.append(self._read(sending, min(frame_octets, octets)))
                self._mark_whole(sending)
                octets -= len(events[-1].octets) if isinstance(events[-1], Data) else 0
            if not sending.left_octets:
                self._queue.remove(sending)
                sending.close()
                self._unanswered[sending.file.number[:2]] = sending.file
                self._refill()
        return events

    def _read(self, sending: Sending, octets: int) -> Data:
        """What cannot be read ends the call, for the far side waits for it; the next call passes it over."""
        try:
            return sending.read(octets)
        except (OSError, PeerError):
            self._sent.count_cut(sending.file.number)
            raise

    def _mark_whole(self, sending: Sending) -> None:
        """Before what is the last of a batch leaves: after it the far side may have it, and only its word counts."""
        if not sending.left_octets and sending.file.number.kind == BATCH:
            self._sent.whole(sending.file.number, self._context.now_ms())

    def _refill(self) -> None:
        """Have what waits sealed, when little is left to send or all of it is one batch that takes a while."""
        if self._ahead.has_sealed():
            self._take_sealed()
            if not self._look:  # nothing waits that fits
                return
        hello = self._hello
        if hello is None or self._ahead.is_busy or len(self._unanswered) >= _MAX_UNANSWERED:
            return
        batches = [sending.left_octets for sending in self._queue if sending.file.number.kind == BATCH]
        if len(batches) > 1 or (batches and batches[0] < _LARGE_OCTETS):
            return
        self._look = False
        if self._sealer.has_waiting():
            limits, room_octets = hello.limits, self._room_octets
            order = Order(hello.site, limits.transaction_octets, room_octets, self._sealer.rate, limits.file_octets)
            self._ahead.begin(order)

    def _take_sealed(self) -> None:
        try:
            number = self._ahead.take()
        except (OSError, SpoolError) as error:  # this direction stops, the other may make room
            self.put_off = f"nothing can be sealed: {error}"
            self._look, self._room_octets = False, 0
            return
        if number is not None:
            self._look, self._has_left = True, False
            self._enqueue_number(number)
        elif not self._look and self._sealer.has_waiting():
            if self._has_left:
                site = self._hello.site if self._hello else ""
                self.put_off = self.put_off or f"{site} has no room now for what waits, or it cannot be read here"
            self._look, self._has_left = not self._has_left, True

    def _enqueue_number(self, number: Number) -> None:
        file = self._sent.file(*number[:2])
        if file is not None and file.state == "sealed" and not self._is_known(file):  # it may have been met before
            self._enqueue(file)

    @property
    def awaits_answer(self) -> bool:
        """A file was sent whole, and the peer has not said what became of it."""
        return bool(self._unanswered)

    @property
    def is_sealing(self) -> bool:
        return self._ahead.is_busy

    @property
    def is_idle(self) -> bool:
        """Nothing to send and nothing to be answered."""
        return bool(self.stopped) or not (self._queue or self._unanswered or self._look or self._ahead.is_busy)

    @property
    def left_octets(self) -> int:
        return sum(sending.left_octets for sending in self._queue)

    # -- what is answered ---------------------------------------------------------------------------------------

    def custody(self, event: Custody) -> bool:
        """The far side has a file; whether that may let something go here (a report was acknowledged)."""
        file = self._answered(event.stream, event.seq)
        if file is None:
            return False
        self._take_custody(file)
        self._look = True
        return file.number.kind == REPORT

    def refuse(self, event: Refuse) -> None:
        """The far side does not take a file."""
        file = self._answered(event.stream, event.seq)
        if file is None or self._hello is None:
            return
        maillog.refused_file(file.number.file_name, self._context.peer.name, event.for_good, event.text)
        if not event.for_good and self._departures.falls_back(file.number):
            self._enqueue(file)
        elif event.for_good and file.number.kind == BATCH:
            self._reseal(file, event.text)
            self._enqueue_resealed()
        else:
            if file.number.kind == BATCH:
                self._room_octets = 0  # what is sealed now would only lie in the outbox
            self._put_off(file, event.text)

    def _reseal(self, file: SentFile, why: str) -> None:
        """One that is damaged here stays for the operator, is sent twice more at most, and holds up nothing else."""
        try:
            self._sealer.reseal(file, self._hello.site if self._hello else "", why)
        except PeerError as error:
            self._sent.count_cut(file.number)
            self._refused.add(file.number[:2])
            path = self._outbox.path(file.number)
            how = str(error).removeprefix(f"{path} is damaged: ")
            self.damaged = f"{path} is damaged: {how}; its mail stays there until it is mended or removed"

    def _put_off(self, file: SentFile, why: str) -> None:
        self._refused.add(file.number[:2])
        self.put_off = f"{self._hello.site if self._hello else ''} does not take {file.number.file_name}: {why}"

    def _answered(self, stream: str, seq: int) -> SentFile | None:
        for sending in self._queue:
            if sending.file.number[:2] == (stream, seq):
                self._queue.remove(sending)
                sending.close()
                return sending.file
        return self._unanswered.pop((stream, seq), None)

    def _take_custody(self, file: SentFile) -> None:
        """Their custody: a batch stays until it is settled; of the others nothing is left to do."""
        piece = self._text(file)
        with self._ledger.transaction():
            self._sent.custody(file.number, self._context.now_ms())
            if piece:
                self._remembered.add(file.number, piece)
        self.files += 1
        if file.number.kind == BATCH:
            self.batches += 1
            self.transactions += self._sent.count_transactions(file.number)
            with contextlib.suppress(PeerError, OSError):
                self.text_octets += batchfile.read_manifest(self._outbox.path(file.number))[0].text_octets
        else:
            self._outbox.remove(file.number)

    def _text(self, file: SentFile) -> bytes:
        """The end of its text, which both sides remember; without it the next files are sent as they are."""
        try:
            return batchfile.tail(self._outbox.path(file.number), file.number.kind == BATCH, PIECE_OCTETS)
        except (PeerError, OSError):
            return b""

    def close(self, cut: bool) -> None:
        """The call is over; `cut`: not by agreement.

        A file that the far side had whole before the call and did not answer in it may have broken the far
        side; one whose last octet was cut off or whose answer was lost has not.
        """
        self._ahead.close()
        for sending in self._queue:
            sending.close()
        for key in self._whole & self._unanswered.keys() if cut else ():
            self._sent.count_cut(self._unanswered[key].number)
