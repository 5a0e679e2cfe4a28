"""One call per peer at a time: the lock, and the bell that its holder hears (`store.bell`)."""

import contextlib
import os
import select

from batchmail.store.bell import bell_path
from batchmail.store.lock import Lock
from batchmail.store.spool import Spool

CALLER, ANSWERER, PLANNER = "caller", "answerer", "planner"  # the last holds no call, and only for a moment


def open_since_ms(spool: Spool, peer: str) -> int | None:
    """When who has the line took it, milliseconds UTC; None: nobody has, or it cannot be seen from here.

    Only looks: to try the lock would be in the way of a call that begins just then.
    """
    path = f"{spool.root}/lock/{peer}.call"
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            _, _, holder = file.read(100).partition(" ")
        found = os.stat(path)
        if not holder.isdigit() or not _has_open(holder, found):
            return None
    except OSError:
        return None
    return found.st_mtime_ns // 1_000_000


def _has_open(process: str, found: os.stat_result) -> bool:
    """Whether a process has a file open; its number may be another one's by now."""
    for name in os.listdir(f"/proc/{process}/fd"):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(f"/proc/{process}/fd/{name}"), found):
                return True
    return False


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
        self._lock.note(f"{role} {os.getpid()}")
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._bell, 0o600)
        # Open for both directions: it never reads an end, and writers find a reader.
        self.bell_fd = os.open(self._bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with contextlib.suppress(BlockingIOError):
            os.read(self.bell_fd, 65536)  # words that were meant for who had the line before
        return True

    def holder(self) -> str:
        """The role of who has the line."""
        return self._lock.read_note().partition(" ")[0]

    def wait(self, seconds: float) -> list[str]:
        """The words that are rung; none when it stays quiet for so long."""
        ready, _, _ = select.select([self.bell_fd], [], [], seconds)
        return os.read(self.bell_fd, 4096).decode("ascii", "replace").split() if ready else []

    def close(self) -> None:
        if self.bell_fd >= 0:
            os.close(self.bell_fd)
            self.bell_fd = -1
        self._lock.close()
