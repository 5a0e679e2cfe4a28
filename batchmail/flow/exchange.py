"""Exchange: one call, as either end holds it.

A loop of one thread: octets from the stream become events of the machine,
events become files on disk and answers, what waits becomes events again.
Everything else that takes time has its own thread and posts to the loop's
queue: reading and writing the stream (`wire.pump`), checking whole files
(`flow.incoming`), sealing (`flow.ahead`), replaying and settling (`flow.worker`).
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from batchmail.core.errors import BatchmailError, LineError, PeerError, SpoolError, Temporary
from batchmail.flow import recipients, requests
from batchmail.flow.ahead import Ahead
from batchmail.flow.context import Context
from batchmail.flow.goodbye import bye_for, problem_of, why_ended
from batchmail.flow.greeting import Notes, check_site
from batchmail.flow.incoming import Answer, Arrivals
from batchmail.flow.listed import in_force
from batchmail.flow.outgoing import Outgoing
from batchmail.flow.seal import Sealer
from batchmail.flow.totals import Mail, Result, Totals
from batchmail.flow.worker import Worker
from batchmail.proto import session as states
from batchmail.proto.frames import Bye, Custody, Data, Done, Event, Note, Open, Ping, Received, Refuse
from batchmail.proto.hello import VERSIONS, Hello
from batchmail.proto.pace import FLOOR_OCTETS, START_OCTETS, Pace
from batchmail.proto.session import Session
from batchmail.proto.watch import Watch
from batchmail.store.bell import WAKE, YIELD
from batchmail.store.ledger import Ledger
from batchmail.store.line import CALLER, Line
from batchmail.wire import maillog
from batchmail.wire.pump import Drained, Ended, Octets, Pump
from batchmail.wire.stream import Stream

_TICK_S = 0.5
_REPORT_EVERY_S = 1.0  # while the replay goes on
_WRITER_OCTETS = 64 << 10  # handed to the writer thread ahead of the line
_MAX_WRITER_OCTETS = 4 << 20  # a peer that makes us answer and does not read
_MAX_TURN = 32  # things that came, before we see to what is to go
_CLOSE_S = 1.5
_DRAIN_S = 5.0  # beyond the time that was allowed, for what is under way
_SEALED = "sealed"  # a batch is there to be sent
_WINDOW = "window"  # the fact that keeps how much may be under way, for the beginning of the next call


class Options(NamedTuple):
    """How a call is to be held."""

    stay: bool = False  # keep it open; new mail goes at once
    max_time_s: float | None = None
    max_octets: int | None = None


class _Word(NamedTuple):
    """Something was rung, or asks the loop to look."""

    word: str


class Call:
    """One call with one peer."""

    def __init__(
        self,
        context: Context,
        line: Line,
        role: str,
        options: Options,
        progress: Callable[[Totals], None],
        replayed: Callable[[int, int], None],
    ):
        self._context, self._line, self._role, self._options = context, line, role, options
        self._progress = progress
        self._queue: queue.SimpleQueue[Octets | Ended | Drained | Answer | _Word] = queue.SimpleQueue()
        self._ledger: Ledger = context.open_ledger()
        self._sealer = Sealer(context, self._ledger)
        ahead = Ahead(context, lambda: self._queue.put(_Word(_SEALED)))
        self._outgoing = Outgoing(context, self._ledger, self._sealer, ahead)
        self._arrivals = Arrivals(context, self._ledger, self._queue.put)
        self._worker = Worker(context, replayed, lambda: self._queue.put(_Word("work")))
        self._pump = Pump(self._queue.put)
        self._session = Session()
        self._pace = Pace(int(self._ledger.fact(_WINDOW) or START_OCTETS))
        self._started_s = self._opened_s = time.monotonic()
        self._watch = Watch(self._pace, self._started_s)
        self._acknowledged_octets = 0
        self._pause_s: float | None = None  # until what is to go next is due
        self._last_custody_s, self._reported_s = self._started_s, 0.0  # what an earlier call left is replayed soon
        self._hello: Hello | None = None
        self._over, self._is_left, self._text = False, False, ""
        self._notes = Notes(context, self._ledger)

    def opening(self) -> bytes:
        """Our first octets, which a carrier may take along while it still logs in.  Raises BatchmailError."""
        try:
            self._sealer.recover()
            self._arrivals.recover()
            have, partial = self._arrivals.have()
            context, limits = self._context, self._arrivals.limits()
            memory, now_ms = self._ledger.memory, context.now_ms()
            kinds = tuple(requests.KINDS)
            offers = tuple((self._ledger.fact("target_offers") or "").split())
            known = in_force(context)
            hello = Hello(context.site.name, VERSIONS, now_ms, memory, limits, have, partial, kinds, offers, known)
            has_nothing = self._outgoing.has_nothing() and not self._arrivals.held_text()
            done = self._session.opens_received if has_nothing else None
        except OSError as error:
            raise Temporary(f"the spool cannot be used: {error}") from None
        self._opened_s = time.monotonic()
        return self._session.start(hello) + (b"" if done is None else self._session.send(Done(done)))

    def abandon(self) -> None:
        """There is no line."""
        self._arrivals.close()
        self._ledger.close()

    def run(self, stream: Stream, left: bytes | None = None) -> Result:
        """Hold the call to its end, whatever it is.  What goes wrong is in the result, and what we have is kept.

        `left` is what the carrier has not taken along of our `opening`; None: that was not asked for.
        """
        self._started_s = self._last_custody_s = time.monotonic()
        self._watch = Watch(self._pace, self._started_s, self._started_s - self._opened_s if left == b"" else 0.0)
        self._pump.start(stream)
        error: BatchmailError | None = None
        cut = True
        patient = self._role == CALLER and not self._options.stay  # what has come is replayed here before we go
        try:
            self._open(left)
            while not self._over:
                self._take()
                self._advance()
            cut = False
            left_undone = self._outgoing.stopped or self._outgoing.put_off or self._outgoing.damaged
            error = Temporary(left_undone) if left_undone else None
        except BatchmailError as problem:
            error = problem
            self._say_goodbye(problem)
        except SystemExit:  # a signal
            patient = False
            self._say_goodbye(Temporary("this side was told to stop"))
            raise
        except OSError as problem:
            error = Temporary(f"the spool cannot be used: {problem}")
            self._say_goodbye(error)
        finally:
            self._close(cut, patient)
        totals = self._totals()
        said = str(error or self._text)
        maillog.call_ended(self._context.peer.name, self._role, said, *totals[:2], totals.seconds)
        return Result(totals, error, self._text, self._notes.text)

    # -- beginning and end --------------------------------------------------------------------------------------

    def _open(self, left: bytes | None) -> None:
        self._pump.write(self.opening() if left is None else left)
        threading.Thread(target=self._listen, name="batchmail-bell", daemon=True).start()
        self._worker.start()

    def _listen(self) -> None:
        """Pass on what is rung, until the bell is taken down."""
        while not self._over and self._line.bell_fd >= 0:
            with contextlib.suppress(OSError, ValueError):
                for word in self._line.wait(_TICK_S):
                    self._queue.put(_Word(word))

    def _say_goodbye(self, problem: BatchmailError) -> None:
        with contextlib.suppress(ValueError):
            if self._session.ours == states.HELLO:  # nothing was said yet
                self._pump.write(states.greeting(self._context.site.name))
            self._send(bye_for(problem))

    def _close(self, cut: bool, patient: bool) -> None:
        """Partial files first, then the line is free for a newer call; what still works here needs neither."""
        self._over = True
        self._pump.finish(_CLOSE_S)
        self._arrivals.sync()
        self._outgoing.close(cut)
        self._line.close()
        try:
            self._worker.stop(patient, self._left_s())
        finally:  # also when a signal ends the waiting: the transaction at hand is not left between dot and reply
            self._worker.stop(wait=False)
            self._arrivals.close()
            self._remember()
            self._ledger.close()

    def _left_s(self) -> float | None:
        """Of the time that the call may take, its replay included: `batchmail run` goes on with the rest."""
        most_s = self._options.max_time_s
        return None if most_s is None else max(0.0, self._started_s + most_s - time.monotonic())

    def _remember(self) -> None:
        if self._pace.rate is not None:
            with contextlib.suppress(SpoolError):
                octets = self._pace.window_octets()
                self._ledger.note(_WINDOW, str(octets - octets % FLOOR_OCTETS))

    def _totals(self) -> Totals:
        return Totals(
            self._pace.sent_octets,
            self._arrivals.octets,
            self._outgoing.left_octets + self._arrivals.left_octets,
            self._outgoing.files,
            self._arrivals.files,
            time.monotonic() - self._started_s,
            self._pace.rate,
            self._pace.round_trip_s,
            Mail(self._outgoing.batches, self._outgoing.transactions, self._outgoing.text_octets),
            Mail(self._arrivals.batches, self._arrivals.transactions, self._arrivals.text_octets),
        )

    # -- what comes ---------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Wait for something, then deal with what is there; not for ever, a peer may never stop asking."""
        tick_s = _TICK_S / 5 if self._watch.is_probing else _TICK_S
        with contextlib.suppress(queue.Empty):
            self._deal_with(self._queue.get(timeout=tick_s if self._pause_s is None else min(tick_s, self._pause_s)))
            for _ in range(_MAX_TURN):
                if not self._over:
                    self._deal_with(self._queue.get_nowait())

    def _deal_with(self, item: Octets | Ended | Drained | Answer | _Word) -> None:
        if isinstance(item, Octets):
            self._watch.heard(time.monotonic())
            self._session.receive(item.data)
            self._pump.taken()
            while not self._over and (event := self._session.next_event()) is not None:
                self._follow(event)
        elif isinstance(item, Ended):
            raise why_ended(self._pump.stream, item.error, None if self._hello else self._session)
        elif isinstance(item, Answer):
            self._arrivals.answered(item)
            self._send(item.event)
            self._last_custody_s = time.monotonic()
            self._worker.kick()
        elif isinstance(item, _Word):
            self._hear(item.word)

    def _hear(self, word: str) -> None:
        if word == YIELD:
            self._end("takeover", "a newer call of the same peer has come")
            raise LineError("a newer call of the same peer took over")
        if word == _SEALED:
            self._work_on_what_is_left()
        else:
            self._outgoing.look()
        if word == WAKE and not self._watch.is_probing:
            self._watch.probe(time.monotonic())
            self._send(Ping())

    def _follow(self, event: Event) -> None:
        answer: Custody | Refuse | None = None
        if isinstance(event, Hello):
            self._greet(event)
        elif isinstance(event, Open):
            answer = self._arrivals.open(event)
        elif isinstance(event, Data):
            answer = self._arrivals.data(event)
        elif isinstance(event, Received):
            self._pace.acknowledged(event.octets, event.clock_us / 1e6, time.monotonic())
        elif isinstance(event, Custody):
            self._watch.answered(time.monotonic())
            if self._outgoing.custody(event):
                self._worker.kick()
        elif isinstance(event, Refuse):
            self._outgoing.refuse(event)
        elif isinstance(event, Ping):
            self._tell_received()
        elif isinstance(event, Note):
            self._notes.take(event)
        elif isinstance(event, Bye):
            self._over, self._text = True, event.text
            if problem := problem_of(event):
                raise problem
        if answer is not None:
            self._send(answer)

    def _greet(self, hello: Hello) -> None:
        self._hello = hello
        check_site(self._context, self._ledger, hello)
        self._arrivals.greet(hello)
        self._outgoing.greet(hello)
        recipients.greet(self._ledger, hello)
        self._ledger.note("contact_ms", str(self._context.now_ms()))
        for note in self._notes.greet(self._outgoing.stopped, self._arrivals.held_text()):
            self._send(note)
        self._is_left = True

    def _work_on_what_is_left(self) -> None:
        """By an earlier call, and by time; once the first batch is sealed, for which the line waits."""
        if self._is_left:
            self._is_left, self._last_custody_s = False, time.monotonic()
            self._worker.kick()

    # -- what goes ----------------------------------------------------------------------------------------------

    def _send(self, event: Event) -> None:
        self._pump.write(self._session.send(event))
        if isinstance(event, Data):
            self._pace.sent(len(event.octets), time.monotonic())

    def _advance(self) -> None:
        """Send what may be sent now, and see whether the call is over."""
        if self._over:
            return
        if self._hello is not None:
            self._acknowledge()
            if not self._spent():
                self._send_files()
            if not self._outgoing.is_sealing:
                self._work_on_what_is_left()
        self._watch_the_line()
        self._finish_if_done()
        self._progress(self._totals())

    def _acknowledge(self) -> None:
        if self._arrivals.octets != self._acknowledged_octets:
            self._tell_received()

    def _tell_received(self) -> None:
        self._acknowledged_octets = self._arrivals.octets
        self._send(Received(self._acknowledged_octets, time.monotonic_ns() // 1000))

    def _send_files(self) -> None:
        now_s = time.monotonic()
        idle, told_s = self._worker.is_idle, max(self._reported_s, self._last_custody_s)
        if (idle or now_s - told_s > _REPORT_EVERY_S) and self._outgoing.has_lines():
            self._reported_s = now_s
            self._outgoing.report(whole=idle)
        while True:
            pending = self._pump.pending_octets
            if pending > _MAX_WRITER_OCTETS:
                raise PeerError("the other side does not read what it asks for")
            now_s = time.monotonic()
            room = min(self._pace.room_octets(now_s), _WRITER_OCTETS - pending)
            self._sealer.rate = self._pace.rate or self._sealer.rate
            frame_octets = self._pace.frame_octets()
            events = self._outgoing.next_events(room if self._pace.sent_octets else frame_octets, frame_octets)
            for event in events:
                self._send(event)
            if not any(isinstance(event, Data) for event in events):
                # While the writer is behind, its Drained is waited for, not the time.
                may_send = self._outgoing.left_octets and self._pump.pending_octets < _WRITER_OCTETS
                self._pause_s = self._pace.pause_s(now_s) if may_send else None
                return

    def _watch_the_line(self) -> None:
        now_s = time.monotonic()
        if trouble := self._watch.trouble(now_s, self._outgoing.awaits_answer):
            raise LineError(trouble)
        if self._hello is not None and self._watch.must_ask(now_s):
            self._send(Ping())
            self._outgoing.look()
            self._worker.kick()  # what was put off may be due

    def _is_idle(self) -> bool:
        """Nothing to send, nothing coming, and no outcome to be expected within `report_wait`."""
        if not self._outgoing.is_idle or not self._arrivals.is_idle or self._pump.pending_octets:
            return False
        waiting_s = time.monotonic() - self._last_custody_s
        if self._worker.is_idle or waiting_s > self._context.peer.report_wait_s:
            return not self._outgoing.has_lines() or bool(self._outgoing.stopped or self._outgoing.put_off)
        return False

    def _spent(self) -> str:
        """Which of our limits is reached: then nothing more is sent, and what is under way arrives."""
        options = self._options
        if options.max_time_s is not None and time.monotonic() - self._started_s > options.max_time_s:
            return "time is up"
        if options.max_octets is not None and self._pace.sent_octets + self._arrivals.octets > options.max_octets:
            return "as many octets as were allowed have crossed"
        return ""

    def _finish_if_done(self) -> None:
        options, session = self._options, self._session
        if text := self._spent():
            late_s = time.monotonic() - self._started_s - (options.max_time_s or float("inf"))
            return None if self._pace.outstanding_octets and late_s < _DRAIN_S else self._end("done", text)
        if self._hello is None or not self._is_idle():
            return None
        if session.ours == states.READY:
            self._send(Done(self._session.opens_received))
        if self._role == CALLER and session.ours == session.theirs == states.DONE and not options.stay:
            self._end("done", "")
        return None

    def _end(self, reason: str, text: str) -> None:
        self._send(Bye(reason, text))
        self._over, self._text = True, text
