"""A child process as a stream: `sendmail -bs`, or a command that reaches another site.

Its standard input and output are one socket, so that reading, writing, time
limits and closing from another thread are those of any socket; a program that
opens /dev/stdin by name cannot be used.  What it says on standard error is
read all the time, and the end of it kept.  No shell is involved.
"""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from batchmail.core.errors import LineError
from batchmail.wire.timed import TimedStream

STDERR_KEPT_OCTETS = 2048
_LAST_WORDS_S = 1.0
_GRACE_S = 5  # for a child to end by itself, then after SIGTERM


class ChildStream(TimedStream):
    """A started child; raises LineError when it cannot be started."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None):
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                end = theirs.fileno()
                self._child = subprocess.Popen(argv, stdin=end, stdout=end, stderr=subprocess.PIPE, env=env)
            except (OSError, ValueError) as error:
                ours.close()
                raise LineError(f"cannot start {argv[0]}: {getattr(error, 'strerror', None) or error}") from None
        super().__init__(ours)
        self._tail = b""
        self._reader = threading.Thread(target=self._drain, args=(self._child.stderr,), daemon=True)
        self._reader.start()

    def end_input(self) -> None:
        """Let the child see the end of its standard input."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def exit_status(self, timeout_s: float = _GRACE_S) -> int | None:
        """How it ended, negative for a signal; None when it has not within `timeout_s`."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stderr_tail(self) -> str:
        """The last it said on standard error, for people; a child that is about to end is given a moment for it."""
        if self.exit_status(_LAST_WORDS_S) is not None:
            self._reader.join(_GRACE_S)
        return self._tail.decode("utf-8", "backslashreplace").strip()

    def close(self) -> None:
        """Close both directions and see the child end, by a signal if need be."""
        super().close()
        for insist in (self._child.terminate, self._child.kill):
            if self.exit_status() is not None:
                break
            insist()
        self._child.wait()

    def _drain(self, stderr: IO[bytes]) -> None:
        with stderr:
            while data := os.read(stderr.fileno(), 4096):
                self._tail = (self._tail + data)[-STDERR_KEPT_OCTETS:]
