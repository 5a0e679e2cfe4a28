"""Locks: who may do a step for a peer, or accept what is offered, of all processes on this machine."""

import contextlib
import fcntl
import os
from collections.abc import Iterator


class Lock:
    """An flock on a file that stays; released when closed or when the process ends, however it ends."""

    def __init__(self, path: str):
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self, wait: bool = False) -> bool:
        """Whether the lock is ours now."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def note(self, text: str) -> None:
        """Say who holds the lock, for others to read; of no weight after the holder is gone."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)

    def read_note(self) -> str:
        return os.pread(self._fd, 200, 0).decode("ascii", "replace")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Numbered:
    """As many locks as there are numbers in one file, for processes to hold some each.

    They are the process's, whoever opened the file; one object for a process, which it may have from its parent.
    Released, as all of them, when the process ends.  A group waits for those it shares with another's.
    """

    def __init__(self, path: str):
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def held(self, numbers: set[int]) -> Iterator[None]:
        try:
            for number in sorted(numbers):  # in one order, so that no two wait for each other
                fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, number)
            yield
        finally:
            if numbers:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)
