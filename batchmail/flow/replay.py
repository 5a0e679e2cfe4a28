"""Replay: from the inbox to the target, an outcome for each recipient.

Once by transaction ID and recipient: what the ledger has finished is passed
over, whatever batch it comes in.  `dot` is synced before the final dot, the
outcome before the next one of the same session; a crash between the two is the
one window in which a message may come twice, and it is marked.  Both are one
commit, made while the next envelope is on the way.

One thread reads batches and writes the ledger.  One session's dialogue is its
work too; those of several are in `lanes`, and share their commits.
"""

from collections.abc import Callable, Iterator, Sequence

from batchmail.core import dsn, trace
from batchmail.core.deliverby import OVER, deliver_by
from batchmail.core.envelope import domain_of
from batchmail.core.errors import LineError, PeerError, SpoolError
from batchmail.core.manifest import Item
from batchmail.core.numbered import Number
from batchmail.core.outcome import DELAYED, FAILED, Outcome
from batchmail.core.settings import matches
from batchmail.flow.context import Context
from batchmail.flow.delivery import Delivery, Target
from batchmail.flow.job import Job, arrival_ms
from batchmail.flow.lanes import Done, Dot, Lanes
from batchmail.flow.totals import Replayed
from batchmail.flow.transaction import Transaction
from batchmail.flow.unread import Unread
from batchmail.store import batchfile
from batchmail.store.aliases import Aliases
from batchmail.store.boxes import Inbox
from batchmail.store.ledger import Ledger
from batchmail.store.received import Due, Received
from batchmail.wire import maillog

_PER_SESSION = 10  # transactions due that are worth a session of their own
_MOST_ENDED = 100  # outcomes of transactions in one commit
_LINGER_S = 0.02  # so long an outcome waits for others, or for the next dot, to be committed with


class Replayer:
    """Replays what came from one peer; the holder of its replay lock.  Each of `targets` is one session."""

    def __init__(self, context: Context, ledger: Ledger, targets: Sequence[Target], progress: Replayed):
        self._context, self._ledger, self._targets = context, ledger, targets
        self._received = Received(ledger)
        self._inbox = Inbox(context.spool, context.peer.name)
        self._origin = ledger.fact("peer_site") or context.peer.name
        self._knows_time = True
        self._unread, self._is_all_read = Unread(context, ledger), False
        self._progress = progress
        self._done = self._octets = 0

    def run(self, stopped: Callable[[], bool]) -> None:
        """One pass of all that is due.  Raises TargetDown when the target takes nothing now."""
        self._knows_time = not self._ledger.fact("clock")
        due = self._received.count_due(self._context.now_ms())
        self._is_all_read = not due
        self._unread.begin()
        targets = self._targets[: 1 + due // _PER_SESSION] if due else ()
        what = self._ledger, self._received, self._jobs(stopped), self._finished
        if len(targets) == 1:
            _OneSession(*what).run(targets[0])
        elif targets:
            with Lanes[Job](targets) as lanes:
                _Sessions(*what, lanes).run()
        if self._is_all_read:
            self._unread.end()
        self.let_go()

    def let_go(self) -> None:
        """Remove the batches of which every outcome is final and acknowledged: row, then file."""
        done = self._received.let_go()
        for number in done:
            self._inbox.remove(number)

    def _finished(self, job: Job) -> None:
        self._done += 1
        self._octets += job.transaction.size_octets
        self._progress(self._done, self._octets)

    def _jobs(self, stopped: Callable[[], bool]) -> Iterator[Job]:
        for number in self._received.due_batches(self._context.now_ms()):
            due = self._received.due(number, self._context.now_ms())
            for item, transaction in self._read(number, set(due)):
                if stopped():
                    transaction.discard()
                    return
                yield self._job(item, due[item.entry.id], transaction)
        self._is_all_read = True

    def _read(self, number: Number, wanted: set[str]) -> Iterator[tuple[Item, Transaction]]:
        """These transactions of a batch; what cannot be read is told about and left as it is."""
        path = self._inbox.path(number)
        try:
            for item, text in batchfile.read_transactions(path):
                if item.entry.id in wanted:
                    wanted.remove(item.entry.id)
                    try:
                        transaction = Transaction(text, self._context.spool.tmp)
                    except (PeerError, SpoolError, OSError) as error:  # the others do not wait for it
                        self._unread.tell(path, error, item.entry.id)
                        continue
                    yield item, transaction
                if not wanted:
                    return
        except (PeerError, SpoolError, OSError) as error:
            self._unread.tell(path, error)

    def _job(self, item: Item, due: Due, transaction: Transaction) -> Job:
        left = sorted(set(range(due.recipients)) - self._received.finished(item.entry.id))
        job = Job(self._context, self._origin, item, due, transaction, left)
        try:
            verdict = self._judge(item, due, transaction)
        except Exception as error:  # noqa: BLE001  one bad transaction never stops the others
            job.put_off(error)
            return job
        if verdict:
            job.is_judged = True
            for recipient in left:
                job.settled(Outcome(recipient, *verdict, b"", self._context.now_ms()))
        elif due.attempts and self._knows_time and self._context.now_ms() > due.expire_ms:
            job.is_judged = True
            self._expire(job, left)
        return job

    def _expire(self, job: Job, left: list[int]) -> None:
        """What was said on the last attempt is what they fail by (RFC 3463 X.4.7, RFC 3461 §6.3)."""
        said = self._received.delays(job.id)
        for recipient in left:
            last = said.get(recipient)
            if last and last.code:
                job.settled(last._replace(action=FAILED))
            else:
                text = b"delivery time expired: " + (last.text if last else b"the target took nothing")
                mta, time_ms = (last.mta, last.time_ms) if last else (b"", self._context.now_ms())
                job.settled(Outcome(recipient, FAILED, 0, "5.4.7", text, mta, time_ms))

    def _judge(self, item: Item, due: Due, transaction: Transaction) -> tuple[str, int, str, bytes] | None:
        """What is decided here without asking the target: action, code, status, text."""
        peer, me, sender = self._context.peer, self._context.site.name, transaction.envelope.sender
        if item.must:
            needed = ", ".join(item.must)
            return DELAYED, 0, "4.3.3", f"needs a newer batchmail here, which knows {needed}".encode()
        if sender and not matches(domain_of(sender).decode("ascii", "replace"), peer.senders or peer.domains):
            text = f"the sender's domain is neither in domains nor in senders of peers.{peer.name} at {me}"
            return FAILED, 0, "5.7.1", text.encode()
        recipients = (r.address for r in transaction.envelope.recipients)
        if not all(matches(domain_of(r).decode("ascii", "replace"), peer.recipients) for r in recipients):
            text = f"a recipient's domain is not in recipients of peers.{peer.name} at {me}"
            return FAILED, 0, "5.7.1", text.encode()
        if trace.is_looping(transaction.header, self._context.site.name):
            return FAILED, 0, "5.4.6", b"mail loop: this site's name stands in too many Received lines"
        if (by := deliver_by(transaction.envelope)) and by.must_return:
            if not self._knows_time:
                return DELAYED, 0, "4.3.0", b"it is to be delivered in time, and the clock here is in doubt"
            if self._context.now_ms() >= by.deadline_ms(arrival_ms(item, due)):
                return FAILED, 0, dsn.TOO_LATE, OVER
        return None


class _Pass:
    """What one session and several have in common: where jobs come from, and the commits."""

    def __init__(self, ledger: Ledger, received: Received, jobs: Iterator[Job], finished: Callable[[Job], None]):
        self._ledger, self._received, self._finished = ledger, received, finished
        self._aliases, self._jobs = Aliases(ledger), jobs
        self._ended: list[Job] = []  # whose outcomes are to be recorded

    def _next(self) -> Job | None:
        for job in self._jobs:
            if not job.is_judged:
                return job
            self._close_judged(job)
        return None

    def _close_judged(self, job: Job) -> None:
        self._close(job)
        if len(self._ended) >= _MOST_ENDED:
            self._commit()

    def _close(self, job: Job) -> None:
        job.transaction.discard()
        self._ended.append(job)
        self._finished(job)

    def _commit(self, dots: Sequence[Job] = ()) -> None:
        """Record, synced, what has become of transactions, and which dots are about to be written; then they may be.

        A crash just before: what has ended is in doubt, no dot of these was written.  Just after: these are in doubt.
        Tried twice: the first failure on a full disk makes the room that was kept for this (`store.ballast`).
        """
        if not dots and not self._ended:
            return
        # What came of an earlier part of it; not where its session is at work and may find more.
        parts = [job for job in dots if job.found and (job.has_dot or not job.is_announced)]
        try:
            doubtful = self._record(dots, parts)
        except SpoolError:
            doubtful = self._record(dots, parts)
        self._ended = []
        for job in doubtful:
            maillog.doubtful(job.id, job.peer)
        for job in parts:
            job.found = []

    def _record(self, dots: Sequence[Job], parts: list[Job]) -> list[Job]:
        """All or nothing; the jobs that may come twice."""
        with self._ledger.transaction():
            for jobs, is_over in ((self._ended, True), (parts, False)):
                for job in jobs:
                    self._received.outcomes(job.id, job.found, job.next_ms, job.is_answered, is_over)
            self._aliases.add((word, job.id) for job in self._ended for word in job.words)
            return [job for job in dots if self._received.before_dot(job.id)]


class _OneSession(_Pass):
    """Gives jobs to a target, one after the other, in this thread.

    The next one is read when a dot was written, and its envelope follows the dot: so while the server is at the one
    and then at the other, here the work is done and the ledger is synced.
    """

    _following: Job | None = None
    _delivery: Delivery | None = None  # of the following one
    _unread: Exception | None = None  # why there is none
    _unwritten: SpoolError | None = None  # why a dot could not be written

    def run(self, target: Target) -> None:
        job = None
        try:
            job = self._next()
            while job:
                self._give(target, job)
                job = self._take_following()
                if job and job.may_be_announced:
                    job.is_announced = True
                    self._commit([job])
                else:
                    self._commit()
            self._commit()
        except Exception:  # what has ended is recorded, if the ledger can be written
            self._commit()
            raise
        finally:
            for left in (job, self._following):
                if left:
                    left.transaction.discard()

    def _give(self, target: Target, job: Job) -> None:
        delivery, self._delivery = self._delivery, None
        try:
            if delivery is None or deliver_by(delivery.envelope):  # its time has run since
                delivery = self._deliverable(job)
            target.deliver(delivery, lambda: self._before_dot(job), job.settled)
        except LineError:  # the target took nothing
            if job.is_announced and not job.has_dot:
                self._received.no_dot(job.id)
            raise
        except Exception as error:  # noqa: BLE001  one bad transaction never stops the others
            if self._unwritten:
                raise self._unwritten from None
            job.put_off(error)
        self._close(job)

    def _before_dot(self, job: Job) -> None:
        """As often as there are dots; an announced one's first is written down already."""
        if not job.is_announced or job.has_dot:
            try:
                self._commit([job])
            except SpoolError as error:
                self._unwritten = error
                raise
        job.has_dot = True

    def _deliverable(self, job: Job) -> Delivery:
        return job.delivery()._replace(following=self._read_ahead)

    def _read_ahead(self) -> Delivery | None:
        """For the target, which has written a dot: what goes wrong here is nothing to that."""
        if not self._following and not self._unread:
            try:
                self._following = job = next(self._jobs, None)
                self._delivery = self._deliverable(job) if job and not job.is_judged else None
            except Exception as error:  # noqa: BLE001  in its turn
                self._unread = error
        return self._delivery

    def _take_following(self) -> Job | None:
        job, self._following = self._following, None
        if self._unread and not job:
            raise self._unread
        self._unread = None
        if job and job.is_judged:
            self._close_judged(job)
            job = None
        return job or self._next()


class _Sessions(_Pass):
    """Gives jobs to lanes, and commits together what happens in all of them."""

    def __init__(
        self,
        ledger: Ledger,
        received: Received,
        jobs: Iterator[Job],
        finished: Callable[[Job], None],
        lanes: Lanes[Job],
    ):
        super().__init__(ledger, received, jobs, finished)
        self._lanes = lanes
        self._ready: list[Job] = []  # read ahead, or given back by a lane that is closed
        self._asked: list[Dot[Job]] = []  # the lane waits
        self._announced: list[Dot[Job]] = []  # the lane is at its envelope
        self._down: LineError | None = None

    def run(self) -> None:
        try:
            while self._begin():
                if self._asked or self._announced:
                    self._let_go_on()
                self._read_ahead()
                self._wait()
            self._commit()
        except Exception:
            self._come_to_an_end()
            raise
        finally:
            for job in self._ready:
                job.transaction.discard()
        if self._down and self._lanes.are_closed:
            raise self._down

    def _come_to_an_end(self) -> None:
        """What the lanes are at is delivered and recorded, if the ledger can be written; nothing new is begun."""
        while self._lanes.is_at_work:
            if self._asked or self._announced:
                self._let_go_on()
            self._wait()
        self._commit()

    def _begin(self) -> bool:
        """A job for each free lane; whether any lane is at work.

        What has ended is to be committed anyhow: so the next dot is announced in the same commit, and by the time that
        the server has taken the envelope it may be written.
        """
        while self._lanes.has_free and (job := self._next()):
            job.is_announced = bool(self._ended) and job.may_be_announced
            lane = self._lanes.begin(job, job.is_announced)
            if job.is_announced:
                self._announced.append(Dot(lane, job))
        return self._lanes.is_at_work

    def _next(self) -> Job | None:
        return self._ready.pop(0) if self._ready else super()._next()

    def _read_ahead(self) -> None:
        """One job, so that no lane that has ended waits for many."""
        if len(self._ready) < self._lanes.count and (job := self._next()):
            self._ready.append(job)

    def _wait(self) -> None:
        events = self._lanes.events(_LINGER_S if self._ended else None)
        for event in events:
            if isinstance(event, Done):
                self._end(event)
            else:
                self._asked.append(event)
        if not events:
            self._commit()

    def _end(self, event: Done[Job]) -> None:
        job, error = event.job, event.error
        if isinstance(error, LineError):  # the target took nothing: another lane may have more luck
            self._lanes.close(event.lane)
            if job.is_announced and not job.has_dot:
                self._received.no_dot(job.id)
            self._ready.insert(0, job)
            self._down = error
            if not self._lanes.are_closed:
                maillog.trouble(job.peer, f"fewer sessions: {error}")
            return
        if isinstance(error, Exception):  # one bad transaction never stops the others
            job.put_off(error)
        elif error:
            raise error
        self._close(job)

    def _let_go_on(self) -> None:
        dots = [*self._asked, *self._announced]
        self._commit([job for _, job in dots])
        self._asked, self._announced = [], []
        for lane, job in dots:
            lane.go_on(job)
