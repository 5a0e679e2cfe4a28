"""Exchange: one call, as either end holds it.

A loop of one thread: octets from the stream become events of the machine,
events become files on disk and answers, what waits becomes events again.
Everything else that takes time has its own thread and posts to the loop's
queue: reading and writing the stream (`wire.pump`), checking whole files
(`flow.incoming`), replaying and settling (`flow.work`).
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from batchmail.core.errors import BatchmailError, LineError, PeerError, Temporary
from batchmail.flow.context import Context
from batchmail.flow.incoming import Answer, Arrivals
from batchmail.flow.outgoing import Outgoing
from batchmail.flow.seal import Sealer
from batchmail.flow.work import Worker
from batchmail.proto import session as states
from batchmail.proto.frames import Bye, Custody, Data, Done, Event, Open, Ping, Received, Refuse
from batchmail.proto.hello import VERSIONS, Hello
from batchmail.proto.pace import Pace
from batchmail.proto.session import Session
from batchmail.store.bell import WAKE, YIELD
from batchmail.store.ledger import Ledger
from batchmail.store.line import CALLER, Line
from batchmail.store.received import Received as ReceivedLedger
from batchmail.wire import maillog
from batchmail.wire.pump import Drained, Ended, Octets, Pump
from batchmail.wire.stream import Stream

SILENCE_S = 180.0  # nothing heard, or nothing of ours acknowledged, for this long: the line is dead
ANSWER_S = 900.0  # the other side has a whole file and does not say what became of it
_PING_S = 45.0  # nothing heard for this long: ask
_PROBE_S = 3.0  # a second call was started here: is this one alive?
_TICK_S = 0.5
_REPORT_EVERY_S = 1.0  # while the replay goes on
_WRITER_OCTETS = 64 << 10  # handed to the writer thread ahead of the line
_MAX_WRITER_OCTETS = 4 << 20  # a peer that makes us answer and does not read
_MAX_TURN = 32  # things that came, before we see to what is to go
_CLOSE_S = 1.5


class Options(NamedTuple):
    """How a call is to be held."""

    stay: bool = False  # keep it open; new mail goes at once
    max_time_s: float | None = None
    max_octets: int | None = None


class Totals(NamedTuple):
    """A call's figures so far, for progress and for the line at its end."""

    sent_octets: int
    received_octets: int
    left_octets: int  # of the files that are on their way, in both directions
    files_sent: int
    files_received: int
    transactions_sent: int
    seconds: float
    rate: float | None  # octets per second, of what we send


class Result(NamedTuple):
    """How a call ended."""

    totals: Totals
    error: BatchmailError | None
    text: str  # what the other side said at the end, if anything


class _Word(NamedTuple):
    """Something was rung, or asks the loop to look."""

    word: str


class Call:
    """One call with one peer."""

    def __init__(
        self,
        context: Context,
        stream: Stream,
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
        self._outgoing = Outgoing(context, self._ledger, self._sealer)
        self._arrivals = Arrivals(context, self._ledger, self._queue.put)
        self._unreported = ReceivedLedger(self._ledger)
        self._worker = Worker(context, replayed, lambda: self._queue.put(_Word("work")))
        self._pump = Pump(stream, self._queue.put)
        self._session = Session()
        self._pace = Pace()
        self._started_s = self._heard_s = self._answered_s = time.monotonic()
        self._pinged_s: float | None = None
        self._probe_s: float | None = None  # when a probe that is under way gives up
        self._acknowledged_octets = 0
        self._last_custody_s, self._reported_s = self._started_s, 0.0  # what an earlier call left is replayed at once
        self._hello: Hello | None = None
        self._over = False
        self._text = ""

    def run(self) -> Result:
        """Hold the call to its end, whatever it is.  What goes wrong is in the result, and what we have is kept."""
        error: BatchmailError | None = None
        cut = True
        patient = self._role == CALLER and not self._options.stay  # what has come is replayed here before we go
        try:
            self._open()
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
        maillog.call_ended(
            self._context.peer.name,
            self._role,
            str(error or self._text),
            totals.sent_octets,
            totals.received_octets,
            totals.seconds,
        )
        return Result(totals, error, self._text)

    # -- beginning and end --------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._sealer.recover()
        self._arrivals.recover()
        have, partial = self._arrivals.have()
        context = self._context
        hello = Hello(
            context.site.name, VERSIONS, context.now_ms(), self._ledger.memory, self._arrivals.limits(), have, partial
        )
        self._pump.start()
        self._pump.write(self._session.start(hello))
        if self._outgoing.has_nothing() and not self._unreported.has_unreported():
            self._send(Done(self._session.opens_received))
        threading.Thread(target=self._listen, name="batchmail-bell", daemon=True).start()
        self._worker.start()
        self._worker.kick()

    def _listen(self) -> None:
        """Pass on what is rung, until the bell is taken down."""
        while not self._over and self._line.bell_fd >= 0:
            with contextlib.suppress(OSError, ValueError):
                for word in self._line.wait(_TICK_S):
                    self._queue.put(_Word(word))

    def _say_goodbye(self, problem: BatchmailError) -> None:
        with contextlib.suppress(ValueError):
            self._send(Bye("error" if isinstance(problem, PeerError) else "later", str(problem)))

    def _close(self, cut: bool, patient: bool) -> None:
        """Partial files first, then the line is free for a newer call; what still works here needs neither."""
        self._over = True
        self._pump.finish(_CLOSE_S)
        self._arrivals.sync()
        self._outgoing.close(cut)
        self._line.close()
        try:
            self._worker.stop(wait=patient)
        finally:  # also when a signal ends the waiting: the transaction at hand is not left between dot and reply
            self._worker.stop(wait=False)
            self._arrivals.close()
            self._ledger.close()

    def _totals(self) -> Totals:
        return Totals(
            self._pace.sent_octets,
            self._arrivals.octets,
            self._outgoing.left_octets + self._arrivals.left_octets,
            self._outgoing.files,
            self._arrivals.files,
            self._outgoing.transactions,
            time.monotonic() - self._started_s,
            self._pace.rate,
        )

    # -- what comes ---------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Wait for something, then deal with what is there; not for ever, a peer may never stop asking."""
        with contextlib.suppress(queue.Empty):
            self._deal_with(self._queue.get(timeout=_TICK_S))
            for _ in range(_MAX_TURN):
                if not self._over:
                    self._deal_with(self._queue.get_nowait())

    def _deal_with(self, item: Octets | Ended | Drained | Answer | _Word) -> None:
        if isinstance(item, Octets):
            self._heard_s, self._pinged_s, self._probe_s = time.monotonic(), None, None
            self._session.receive(item.data)
            self._pump.taken()
            while not self._over and (event := self._session.next_event()) is not None:
                self._follow(event)
        elif isinstance(item, Ended):
            said = self._session.preamble() if self._hello is None else ""
            raise item.error or LineError("the other side closed the line" + (f"; it said: {said}" if said else ""))
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
        self._outgoing.look()
        if word == WAKE and self._probe_s is None:
            pace = self._pace
            wait_s = pace.outstanding_octets / pace.rate if pace.rate else 0.0
            self._probe_s = time.monotonic() + max(_PROBE_S, 4 * (wait_s + (pace.round_trip_s or 0.0)))
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
            self._pace.acknowledged(event.octets, time.monotonic())
        elif isinstance(event, Custody):
            self._answered_s = time.monotonic()
            if self._outgoing.custody(event):
                self._worker.kick()
        elif isinstance(event, Refuse):
            self._outgoing.refuse(event)
        elif isinstance(event, Ping):
            self._send(Received(self._arrivals.octets))
        elif isinstance(event, Bye):
            self._over, self._text = True, event.text
            if event.reason == "error":  # for a person; the rest passes
                raise PeerError(f"the other side ended the call: {event.text}")
            if event.reason != "done":
                raise LineError(f"the other side ended the call: {event.text or event.reason}")
        if answer is not None:
            self._send(answer)

    def _greet(self, hello: Hello) -> None:
        self._hello = hello
        check_site(self._context, self._ledger, hello)
        self._arrivals.greet(hello)
        self._outgoing.greet(hello)
        self._ledger.note("contact_ms", str(self._context.now_ms()))
        self._ledger.note("stopped", self._outgoing.stopped)

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
            self._send_files()
        self._watch_the_line()
        self._finish_if_done()
        self._progress(self._totals())

    def _acknowledge(self) -> None:
        if self._arrivals.octets != self._acknowledged_octets:
            self._acknowledged_octets = self._arrivals.octets
            self._send(Received(self._acknowledged_octets))

    def _send_files(self) -> None:
        now_s = time.monotonic()
        if (self._worker.is_idle or now_s - self._reported_s > _REPORT_EVERY_S) and self._unreported.has_unreported():
            self._reported_s = now_s
            self._outgoing.report()
        while True:
            pending = self._pump.pending_octets
            if pending > _MAX_WRITER_OCTETS:
                raise PeerError("the other side does not read what it asks for")
            room = min(self._pace.room_octets(), _WRITER_OCTETS - pending)
            events = self._outgoing.next_events(room, self._pace.frame_octets())
            for event in events:
                self._send(event)
            if not any(isinstance(event, Data) for event in events):
                return

    def _watch_the_line(self) -> None:
        now_s = time.monotonic()
        if self._probe_s is not None and now_s > self._probe_s:
            raise LineError("the line is dead: it did not answer when another call was started")
        if now_s - self._heard_s > SILENCE_S:
            raise LineError(f"nothing was heard for {SILENCE_S:.0f} s")
        since_s = now_s - (self._pace.progress_s or now_s)
        if self._pace.outstanding_octets and since_s > SILENCE_S:
            raise LineError(f"the other side acknowledged nothing for {SILENCE_S:.0f} s")
        if self._outgoing.awaits_answer and min(since_s, now_s - self._answered_s) > ANSWER_S:
            raise LineError(f"the other side did not answer a file for {ANSWER_S:.0f} s")
        if self._hello is not None and self._pinged_s is None and now_s - self._heard_s > _PING_S:
            self._pinged_s = now_s
            self._send(Ping())
            self._outgoing.look()
            self._worker.kick()  # what was put off may be due

    def _is_idle(self) -> bool:
        """Nothing to send, nothing coming, and no outcome to be expected within `report_wait`."""
        if not self._outgoing.is_idle or not self._arrivals.is_idle or self._pump.pending_octets:
            return False
        waiting_s = time.monotonic() - self._last_custody_s
        if self._worker.is_idle or waiting_s > self._context.peer.report_wait_s:
            return not self._unreported.has_unreported() or bool(self._outgoing.stopped or self._outgoing.put_off)
        return False

    def _finish_if_done(self) -> None:
        options, session = self._options, self._session
        if options.max_time_s is not None and time.monotonic() - self._started_s > options.max_time_s:
            return self._end("done", "time is up")
        if options.max_octets is not None and self._pace.sent_octets + self._arrivals.octets > options.max_octets:
            return self._end("done", "as many octets as were allowed have crossed")
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


def check_site(context: Context, ledger: Ledger, hello: Hello) -> None:
    """The peer's site name is learned in the first call and then fixed."""
    known = context.peer.site or ledger.fact("peer_site")
    if hello.site == context.site.name:
        raise PeerError(f"the other side has our own name, {hello.site}: each site needs a name of its own")
    if known and known != hello.site:
        raise PeerError(
            f"peer {context.peer.name} was {known} until now and says it is {hello.site}:"
            f' if that is right, set site = "{hello.site}" in its entry'
        )
    ledger.note("peer_site", hello.site)
