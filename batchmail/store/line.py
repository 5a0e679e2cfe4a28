"""One call per peer at a time: the lock, and the bell that rings the one who holds it.

The bell is a named pipe: a word written to it reaches the running call, and
nobody when there is none.  A newer call says "yield" to the older, a second
`batchmail call` and the doors say "wake".
"""

import contextlib
import os
import select
import stat

from batchmail.store.durable import Lock
from batchmail.store.spool import Spool

YIELD, WAKE = "yield", "wake"
CALLER, ANSWERER = "caller", "answerer"


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


def bell_path(root: str, peer: str) -> str:
    return f"{root}/lock/{peer}.bell"


def ring(root: str, peer: str, word: str) -> bool:
    """Say a word to the running call; whether anybody could hear it."""
    try:
        fd = os.open(bell_path(root, peer), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return False
        os.write(fd, word.encode() + b"\n")
    except OSError:  # nobody reads, or the pipe is full of words already
        return False
    finally:
        os.close(fd)
    return True
