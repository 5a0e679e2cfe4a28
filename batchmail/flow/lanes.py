"""Lanes: sessions with a target, each in a thread of its own, all for one holder of the ledger.

A lane gives one transaction after the other to its target and touches
neither ledger nor batch.  Before a final dot it asks, unless that was announced
for it, and waits until it is let; all that happens in the lanes reaches the
holder by one queue.
"""

import queue
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Generic, NamedTuple, Protocol, TypeVar

from batchmail.core.errors import Temporary
from batchmail.core.outcome import Outcome
from batchmail.flow.delivery import Delivery, Target


class Job(Protocol):
    """A transaction to be given to a target."""

    has_dot: bool  # it was let write one

    def delivery(self) -> Delivery: ...

    def settled(self, outcome: Outcome) -> None: ...


J = TypeVar("J", bound=Job)


class Dot(NamedTuple, Generic[J]):
    """The job's final dot is about to be written; the lane waits for `go_on`."""

    lane: "Lane[J]"
    job: J


class Done(NamedTuple, Generic[J]):
    """The lane is free again; `error`: what the target raised."""

    lane: "Lane[J]"
    job: J
    error: BaseException | None


class _Abandoned(Temporary):
    """The dot must not be written."""


class Lane(Generic[J]):
    """One session and its thread."""

    def __init__(self, target: Target, events: queue.SimpleQueue[Dot[J] | Done[J]]):
        self._target, self._events = target, events
        self._jobs: queue.SimpleQueue[tuple[J, bool] | None] = queue.SimpleQueue()
        self._let: queue.SimpleQueue[J | None] = queue.SimpleQueue()  # whose dot may be written; None: no dot any more
        self._is_announced = False
        self._thread = threading.Thread(target=self._run, name="batchmail-lane", daemon=True)
        self._thread.start()

    def begin(self, job: J, is_announced: bool) -> None:
        """Announced: `go_on` will come without being asked for, once."""
        self._jobs.put((job, is_announced))

    def go_on(self, job: J) -> None:
        self._let.put(job)

    def end(self) -> None:
        """After the job at hand, whose dot is not written unless it was let already."""
        self._let.put(None)
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._jobs.get()) is not None:
            job, self._is_announced = given
            try:
                self._target.deliver(job.delivery(), lambda job=job: self._ask(job), job.settled)  # type: ignore[misc]
            except BaseException as error:  # noqa: BLE001  it is the holder's to judge
                self._events.put(Done(self, job, error))
            else:
                self._events.put(Done(self, job, None))

    def _ask(self, job: J) -> None:
        if not self._is_announced:
            self._events.put(Dot(self, job))
        self._is_announced = False
        while (let := self._let.get()) is not job:  # an earlier one's, which came to no dot
            if let is None:
                raise _Abandoned("the ledger could not be written: the transaction is not given to the target")
        job.has_dot = True


class Lanes(Generic[J]):
    """The lanes of one pass; a context manager, behind which none is left."""

    def __init__(self, targets: Sequence[Target]):
        self._events: queue.SimpleQueue[Dot[J] | Done[J]] = queue.SimpleQueue()
        self._all = [Lane(target, self._events) for target in targets]
        self._free = list(reversed(self._all))
        self._busy = 0

    @property
    def count(self) -> int:
        """Of those not closed."""
        return len(self._free) + self._busy

    @property
    def has_free(self) -> bool:
        return bool(self._free)

    @property
    def are_closed(self) -> bool:
        return not self.count

    @property
    def is_at_work(self) -> bool:
        return self._busy > 0

    def begin(self, job: J, is_announced: bool) -> Lane[J]:
        lane = self._free.pop()
        lane.begin(job, is_announced)
        self._busy += 1
        return lane

    def events(self, wait_s: float | None) -> list[Dot[J] | Done[J]]:
        """What has happened since, at least one thing, or nothing in so long a time."""
        found: list[Dot[J] | Done[J]] = []
        try:
            found.append(self._events.get(timeout=wait_s))
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            pass
        for event in found:
            if isinstance(event, Done):
                self._busy -= 1
                self._free.append(event.lane)
        return found

    def close(self, lane: Lane[J]) -> None:
        """Use a free lane no more."""
        self._free.remove(lane)

    def __enter__(self) -> "Lanes[J]":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for lane in self._all:
            lane.end()
