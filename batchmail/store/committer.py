"""The thread that accepts finished drafts, all that have come while it was busy with those before: group commit.

Helpers take a part of the drafts of a large group.  Not for the pipe door, which has one transaction and no threads.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from batchmail.store.durable import Directories, Draft, sync_drafts
from batchmail.store.group import Put, put_group, sync_in_turn
from batchmail.store.lock import Numbered

_SYNCERS = 3
_WORTH_HANDING_OUT = 4  # drafts: fewer are synced sooner, for threads of this language wait for each other
_TRIALS = 20  # groups whose syncs are timed
_SLOW_NAMES = 0.25  # of what files take; with a journal it is next to nothing
_MAX_UNITS = 500  # in a group, so that its first one does not wait for ever more

Submitted = tuple[object, list[Put]]  # a unit, with what it is to be answered with


class Done(NamedTuple):
    """The answer to one unit: its IDs, and all of it is on stable storage; or what it failed by."""

    tag: object  # as it was submitted with
    unit: list[Put]
    result: list[str] | OSError


class Committer:
    """Takes units at any time; `report` is called in its thread with the answers of a group."""

    def __init__(self, offers: Numbered, report: Callable[[list[Done]], None]):
        """Of processes that share `offers` only one accepts the same offer at a time."""
        self._offers, self._report = offers, report
        self._units: queue.SimpleQueue[Submitted | None] = queue.SimpleQueue()
        self._directories = Directories()
        self._busy = threading.Lock()
        self._trials = 0
        self._files_s = self._names_s = 0.0
        self._syncers = ThreadPoolExecutor(_SYNCERS, "sync")
        self._thread = threading.Thread(target=self._run, name="commit")
        self._thread.start()

    def submit(self, tag: object, unit: list[Put]) -> None:
        if self._thread.is_alive():
            self._units.put((tag, unit))
        else:  # by a fault of this program, or no memory: whoever waits for it hears nothing, but who comes now does
            self._answer([(tag, unit)])

    def accept(self, tag: object, unit: list[Put]) -> list[Done]:
        """Accept a unit now, in the calling thread; its drafts are left to it."""
        return self._accept([(tag, unit)])

    def close(self) -> None:
        """Accept what was submitted, report it, end."""
        self._units.put(None)
        self._thread.join()
        self._syncers.shutdown()
        self._directories.close()

    def _run(self) -> None:
        more = True
        while more:
            group: list[Submitted] = []
            taken = self._units.get()
            while taken is not None:
                group.append(taken)
                if len(group) == _MAX_UNITS or self._units.empty():
                    break
                taken = self._units.get()
            more = taken is not None
            if group:
                self._answer(group)

    def _answer(self, group: list[Submitted]) -> None:
        answers = self._accept(group)
        self._report(answers)
        discard(answers)

    def _accept(self, group: list[Submitted]) -> list[Done]:
        units = [unit for _, unit in group]
        try:
            offers = {_number(put.offered) for unit in units for put in unit if put.offered}
            with self._busy, self._offers.held(offers):
                results = put_group(units, self._directories, self._sync)
        except Exception as error:  # noqa: BLE001  what it was is not known: the MTAs keep their mail
            results = [OSError(f"{type(error).__name__}: {error}") for _ in units]
        return [Done(tag, unit, result) for (tag, unit), result in zip(group, results, strict=True)]

    def _sync(self, drafts: list[Draft], names: Callable[[], None]) -> list[OSError | None]:
        """Put drafts and their names on stable storage.

        With a journal the names are there when the files are, and to ask for both at once makes two entries of
        one; without, each is a wait for the disk, and both at once are one.  The first groups tell which it is.
        In a group the files share the second wait: there it costs less than another thread.
        """
        if len(drafts) == 1 and self._trials == _TRIALS and self._names_s > self._files_s * _SLOW_NAMES:
            try:
                beside = self._syncers.submit(names)
            except RuntimeError:  # no thread can be had now
                return sync_in_turn(drafts, names)
            errors = self._sync_files(drafts)
            beside.result()
            return errors
        began_s = time.monotonic()
        errors = self._sync_files(drafts)
        between_s = time.monotonic()
        names()
        if self._trials < _TRIALS:
            self._trials += 1
            self._files_s += between_s - began_s
            self._names_s += time.monotonic() - between_s
        return errors

    def _sync_files(self, drafts: list[Draft]) -> list[OSError | None]:
        parts = min(_SYNCERS, len(drafts) // _WORTH_HANDING_OUT)
        if parts < 2:
            return sync_drafts(drafts)
        errors: list[OSError | None] = [None] * len(drafts)
        for start, found in enumerate(self._syncers.map(sync_drafts, [drafts[start::parts] for start in range(parts)])):
            errors[start::parts] = found
        return errors


def _number(offered: str) -> int:
    """Two offers may have the same one: they wait for each other without need."""
    return int(offered[:12], 16)


def discard(answers: list[Done]) -> None:
    """Throw the drafts of units away that have their answers."""
    for done in answers:
        for put in done.unit:
            with contextlib.suppress(OSError):  # the sweep does it later
                put.draft.discard()
