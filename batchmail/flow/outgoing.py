"""The sending half of a call: which numbered file goes next, from which octet, and what its answer means.

Reports and requests go first, then batches; a large one yields to a more
urgent one between frames.  Where the far side stands is known from its HELLO.
"""

import os

from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.numbered import BATCH, REPORT, Number
from batchmail.flow.context import Context
from batchmail.flow.seal import Sealer
from batchmail.proto.frames import Custody, Data, Open, Refuse
from batchmail.proto.hello import Hello, PartialFile
from batchmail.store.boxes import ENCODING, Outbox, digest_of
from batchmail.store.ledger import Ledger
from batchmail.store.sent import Sent, SentFile
from batchmail.wire import maillog

_CUTS_TO_REFUSAL = 3
_MAX_UNANSWERED = 32  # files sent whole and not answered yet


class _Sending:
    """A file under way."""

    def __init__(self, file: SentFile, path: str, offset: int):
        self.file, self.offset = file, offset
        self.opened = False
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def left_octets(self) -> int:
        return self.file.octets - self.offset

    @property
    def turn(self) -> tuple[bool, bool, str, int]:
        number = self.file.number
        return number.kind == BATCH, self.left_octets > (1 << 20), number.stream, number.seq

    def read(self, octets: int) -> Data:
        data = os.pread(self._fd, octets, self.offset)
        if not data:
            raise PeerError(f"{self.file.number.file_name} in the outbox is shorter than it was sealed")
        piece = Data(*self.file.number[:2], self.offset, data)
        self.offset += len(data)
        return piece

    def close(self) -> None:
        os.close(self._fd)


class Outgoing:
    """What goes to the peer in one call."""

    def __init__(self, context: Context, ledger: Ledger, sealer: Sealer):
        self._context, self._sealer = context, sealer
        self._sent = Sent(ledger)
        self._ledger = ledger
        self._outbox = Outbox(context.spool, context.peer.name)
        self._hello: Hello | None = None
        self._queue: list[_Sending] = []
        self._unanswered: dict[tuple[str, int], SentFile] = {}
        self._whole: set[tuple[str, int]] = set()  # the far side had every octet when the call began
        self._refused: set[tuple[str, int]] = set()  # "later": not tried again within the call
        self._room_octets = 0  # what the peer can still take in this call
        self._look = True  # something may wait that was not seen yet
        self.stopped = ""  # why nothing is sent in this call, for the operator
        self.put_off = ""  # why the peer did not take a file now
        self.damaged = ""  # which file of ours cannot be sent
        self.files = self.transactions = 0  # that the peer took custody of

    def has_nothing(self) -> bool:
        """Before the peer's HELLO: whether there is nothing at all to send."""
        return not self._sent.files("sealed") and not self._sealer.has_waiting()

    def greet(self, hello: Hello) -> None:
        """The peer's HELLO: compare memories, take note of what it has, go on where it stands."""
        self.stopped = self._compare(hello)
        if self.stopped:
            maillog.trouble(self._context.peer.name, self.stopped)
            return
        self._remember(hello)
        self._hello = hello
        self._room_octets = hello.limits.room_octets
        for file in self._sent.files("sealed"):
            if hello.of_stream(file.number.stream).holds(file.number.seq):
                self._take_custody(file)
            elif file.cuts >= _CUTS_TO_REFUSAL and file.number.kind == BATCH:
                self._reseal(file, f"{file.cuts} calls ended while the peer was checking it")
            else:
                self._enqueue(file)
        self._enqueue_resealed()

    def _enqueue_resealed(self) -> None:
        for file in self._sent.files("sealed"):
            if not self._is_known(file):
                self._enqueue(file)

    def _remember(self, hello: Hello) -> None:
        """Who it is that has what it has; a new ledger there has none of what the old one had."""
        if self._ledger.fact("peer_memory") != hello.memory:
            self._sent.forget_acknowledged()
            self._ledger.set_fact("peer_memory", hello.memory)

    def _is_known(self, file: SentFile) -> bool:
        key = file.number[:2]
        return key in self._unanswered or key in self._refused or any(s.file.number[:2] == key for s in self._queue)

    def _compare(self, hello: Hello) -> str:
        """Why this direction has to stop: what the peer says of our stream cannot be, or has been different."""
        stream = self._ledger.stream
        have = hello.of_stream(stream)
        peer, last = self._context.peer.name, self._sent.last_seq(stream)
        again = f"batchmail setup --adopt {peer} sends all that is unsettled again"
        if have.last > last:
            return (
                f"{hello.site} has file {have.last} of ours, we know of {last}: this spool has gone back"
                f" (a restored backup?); {again}"
            )
        ours = self._sent.file(stream, have.up_to)  # None: settled so long ago that it was pruned
        if ours is not None and ours.identity != have.identity:
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
        offset = self._resume_at(file, path)
        if not self._fits(file, offset):
            self._put_off(file, "no room there now")
            return
        if file.number.kind == BATCH:
            self._room_octets -= file.octets - offset
        if offset == file.octets:
            self._whole.add(file.number[:2])
        self._queue.append(_Sending(file, path, offset))

    def _fits(self, file: SentFile, offset: int) -> bool:
        if self._hello is None or file.number.kind != BATCH:
            return True
        return file.octets <= self._hello.limits.file_octets and file.octets - offset <= self._room_octets

    def _resume_at(self, file: SentFile, path: str) -> int:
        partial = next((p for p in self._partials() if p.number == file.number), None)
        if partial is None or (partial.identity, partial.encoding) != (file.identity, ENCODING):
            return 0
        if partial.octets > file.octets or digest_of(path, partial.octets) != partial.digest:
            return 0
        return partial.octets

    def _partials(self) -> tuple[PartialFile, ...]:
        return self._hello.partial if self._hello else ()

    # -- what is sent -------------------------------------------------------------------------------------------

    def look(self) -> None:
        """New mail may wait."""
        self._look = True

    def report(self) -> None:
        """Seal what no report carries yet."""
        if self._hello is None:
            return
        try:
            while (number := self._sealer.seal_report()) is not None:
                self._enqueue_number(number)
        except (OSError, SpoolError) as error:
            self.put_off = f"no report can be sealed: {error}"

    def next_events(self, octets: int, frame_octets: int) -> list[Open | Data]:
        """What to send now, at most `octets` of data."""
        events: list[Open | Data] = []
        if self._hello is None:
            return events
        if self._look:
            self._refill()
        while self._queue:
            sending = min(self._queue, key=lambda s: s.turn)
            if not sending.opened:
                file = sending.file
                sending.opened = True
                events.append(Open(file.number, file.identity, ENCODING, file.octets, sending.offset))
            if sending.left_octets and octets <= 0:
                break
            if sending.left_octets:
                events.append(sending.read(min(frame_octets, octets)))
                octets -= len(events[-1].octets) if isinstance(events[-1], Data) else 0
            if not sending.left_octets:
                self._queue.remove(sending)
                sending.close()
                self._unanswered[sending.file.number[:2]] = sending.file
                self._refill()
        return events

    def _refill(self) -> None:
        """Seal what waits, when little is left to send of what was sealed."""
        hello = self._hello
        if hello is None or len(self._unanswered) >= _MAX_UNANSWERED:
            return
        if any(sending.file.number.kind == BATCH for sending in self._queue):
            return
        try:
            number = self._sealer.seal_batch(hello.site, hello.limits.transaction_octets, self._room_octets)
        except (OSError, SpoolError) as error:  # this direction stops, the other may make room
            self.put_off = f"nothing can be sealed: {error}"
            self._look, self._room_octets = False, 0
            return
        if number is None:
            self._look = False
            if self._sealer.has_waiting():
                self.put_off = self.put_off or f"{hello.site} has no room now for what waits"
        else:
            self._enqueue_number(number)

    def _enqueue_number(self, number: Number) -> None:
        file = self._sent.file(*number[:2])
        if file is not None:
            self._enqueue(file)

    @property
    def awaits_answer(self) -> bool:
        """A file was sent whole, and the peer has not said what became of it."""
        return bool(self._unanswered)

    @property
    def is_idle(self) -> bool:
        """Nothing to send and nothing to be answered."""
        return bool(self.stopped) or not (self._queue or self._unanswered or self._look)

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
        if event.for_good and file.number.kind == BATCH:
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
        self._sent.custody(file.number, self._context.now_ms())
        self.files += 1
        if file.number.kind == BATCH:
            self.transactions += self._sent.count_transactions(file.number)
        else:
            self._outbox.remove(file.number)

    def close(self, cut: bool) -> None:
        """The call is over; `cut`: not by agreement.

        A file that the far side had whole before the call and did not answer in it may have broken the far
        side; one whose last octet was cut off or whose answer was lost has not.
        """
        for sending in self._queue:
            sending.close()
        for key in self._whole & self._unanswered.keys() if cut else ():
            self._sent.count_cut(self._unanswered[key].number)
