"""Group commit: finished drafts of many transactions are accepted together, and share the syncs of directories.

    1  marks of what is offered are made and synced
    2  drafts are written and get their names
    3  drafts are synced, and their directories, one after the other or at once: the yes

A crash before the end of 3 costs nothing that the MTA was told of: what has a name by then is accepted or not,
as the disk has it, and a mark leads the next offer of the same to the same name.  A power cut between 2 and the
end of 3 may leave a name whose file is torn, as its digest tells; the next offer of the same takes its place, and
else it is held as damaged.  Named first, a file and its name are one entry in the journal of the file system:
the disk is waited for once, not twice.  One transaction is a group too.
"""

import os

from batchmail.core.value import Callable, Iterator, NamedTuple, Protocol
from batchmail.store.durable import Directories, Draft, retire, sync_drafts
from batchmail.store.spool import NORMAL_DIR

_SHARE = 64  # units whose drafts are open at once

Sync = Callable[[list[Draft], Callable[[], None]], list[OSError | None]]  # of drafts, and by a call of their names


class Room(Protocol):
    """Where drafts are put: `store.waiting` has it."""

    peer: str

    def choose(self, put: "Put") -> tuple[str, str]:
        """Where a draft is to go, and the directory of the mark of what is offered, if it is."""

    def is_held(self, name: str) -> bool:
        """Whether an operator has set aside what is offered once more."""

    def link(self, draft: Draft, path: str) -> bool:
        """Give a draft its final name, neither synced; False where the same was accepted before, and is synced."""


class Put(NamedTuple):
    """A finished draft on its way into a waiting room; see `WaitingRoom.put`."""

    room: Room
    draft: Draft
    name: str
    priority: int
    offered: str
    now_ms: int


def sync_in_turn(drafts: list[Draft], names: Callable[[], None]) -> list[OSError | None]:
    """Put drafts on stable storage, then their names: what each draft failed by."""
    errors = sync_drafts(drafts)
    names()
    return errors


def put_group(
    units: list[list[Put]],
    directories: Directories,
    sync: Sync = sync_in_turn,
) -> list[list[str] | OSError]:
    """Accept many units, of one transaction for one or more peers each, with as few syncs as the promise allows.

    A unit's result is its IDs, and then all of it is on stable storage; or the
    error that it failed by, and then none of its names is left.  Units do not
    fail by each other, but for what they share: a directory that cannot be synced.
    The drafts are left to the caller.
    """
    group = _Group(units)
    group.choose()
    group.sync_marks(directories)  # before the names: a name without its mark would be accepted a second time
    try:
        group.put_in_place(directories, sync)
    except Exception as error:  # noqa: BLE001  such as a thread that cannot be had
        group.fail(OSError(f"{type(error).__name__}: {error}"))
    group.take_back()
    # From here on a crash that keeps the MTA from hearing the answer costs a duplicate, unless there is a mark.
    return group.results()


class _Group:
    """The steps of `put_group`; a path has an error when it cannot be accepted, and then its whole unit cannot."""

    def __init__(self, units: list[list[Put]]):
        self._units = units
        self._paths: list[list[str]] = []
        self._marks: dict[str, list[int]] = {}  # by directory: whose units
        self._buckets: dict[str, list[int]] = {}  # likewise
        self._linked: list[list[str]] = [[] for _ in units]
        self._errors: list[OSError | None] = [None for _ in units]

    def _going(self) -> Iterator[int]:
        return (number for number, error in enumerate(self._errors) if error is None)

    def choose(self) -> None:
        for number, unit in enumerate(self._units):
            paths = []
            try:
                for put in unit:
                    path, day = put.room.choose(put)
                    paths.append(path)
                    if day:
                        self._marks.setdefault(day, []).append(number)
            except OSError as error:
                self._errors[number] = error
            self._paths.append(paths)

    def sync_marks(self, directories: Directories) -> None:
        for day, numbers in self._marks.items():
            self._sync(directories, day, 1, numbers)

    def put_in_place(self, directories: Directories, sync: Sync) -> None:
        """Name the drafts and sync them, not too many at a time, for each is an open file; with the last, the names."""

        def sync_names() -> None:
            if first + _SHARE >= len(going):
                for bucket, numbers in self._buckets.items():
                    self._sync(directories, bucket, levels_above(bucket), numbers)

        going = list(self._going())
        for first in range(0, len(going), _SHARE):
            named = [(number, draft) for number in going[first : first + _SHARE] for draft in self._name(number)]
            for (number, _), error in zip(named, sync([draft for _, draft in named], sync_names), strict=True):
                self._errors[number] = self._errors[number] or error

    def _name(self, number: int) -> list[Draft]:
        """The drafts of a unit that have their names now; not those of what was accepted before."""
        named = []
        try:
            for put, path in zip(self._units[number], self._paths[number], strict=True):
                if put.offered and put.room.is_held(os.path.basename(path)):
                    continue
                if put.room.link(put.draft, path):
                    self._linked[number].append(path)
                    named.append(put.draft)
                self._buckets.setdefault(os.path.dirname(path), []).append(number)
        except OSError as error:
            self._errors[number] = error
            return []
        return named

    def _sync(self, directories: Directories, path: str, levels: int, numbers: list[int]) -> None:
        try:
            directories.sync(path, levels)
        except OSError as error:
            for number in numbers:
                self._errors[number] = self._errors[number] or error

    def fail(self, error: OSError) -> None:
        """All that has not failed yet, by this."""
        self._errors = [known or error for known in self._errors]

    def take_back(self) -> None:
        """Remove the names of what has failed; a second offer that relied on such a name has failed too."""
        failed = [number for number, error in enumerate(self._errors) if error]
        while failed:
            gone = {path: self._errors[number] for number in failed for path in self._linked[number]}
            for path in gone:
                try:
                    retire(path)
                except OSError:
                    pass  # a disk that takes nothing: the others' yes is not touched by it
            failed = []
            for number in self._going() if gone else ():
                if lost := gone.keys() & set(self._paths[number]):
                    self._errors[number] = gone[lost.pop()]
                    failed.append(number)

    def results(self) -> list[list[str] | OSError]:
        return [
            error or [os.path.basename(path)[:26] for path in paths]
            for error, paths in zip(self._errors, self._paths, strict=True)
        ]


def levels_above(bucket: str) -> int:
    """How many names above a bucket may not be durable yet: that of the usual priority was made by setup."""
    return 1 if os.path.basename(os.path.dirname(bucket)) == NORMAL_DIR else 2
