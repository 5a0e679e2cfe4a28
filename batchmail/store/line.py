"""One call per peer at a time: the lock, and the bell that its holder hears (`store.bell`)."""

import contextlib
import os
import select

from batchmail.store.bell import bell_path
from batchmail.store.lock import Lock
from batchmail.store.spool import Spool

CALLER, ANSWERER, PLANNER = "caller", "answerer", "planner"  # the last holds no call, and only for a moment


class Line:
    """The right to hold the call with one peer."""

    def __init__(self, spool: Spool, peer: str):
        self._lock = Lock(f"{spool.root}/lock/{peer}.call")
        self._bell = bell_path(spool.root, peer)
        self.bell_fd = -1

    def acquire(self, role: str) -> bool:
        """Take the line if nobody has it."""
        if not self._lock.acquire():
            return False
        self._lock.note(role)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._bell, 0o600)
        # Open for both directions: it never reads an end, and writers find a reader.
        self.bell_fd = os.open(self._bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with contextlib.suppress(BlockingIOError):
            os.read(self.bell_fd, 65536)  # words that were meant for who had the line before
        return True

    def holder(self) -> str:
        """The role of who has the line."""
        return self._lock.read_note()

    def wait(self, seconds: float) -> list[str]:
        """The words that are rung; none when it stays quiet for so long."""
        ready, _, _ = select.select([self.bell_fd], [], [], seconds)
        return os.read(self.bell_fd, 4096).decode("ascii", "replace").split() if ready else []

    def close(self) -> None:
        if self.bell_fd >= 0:
            os.close(self.bell_fd)
            self.bell_fd = -1
        self._lock.close()
