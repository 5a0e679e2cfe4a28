"""A socket stream with a deadline, for conversations in which each step has its own time.

A time limit for each read alone would let a server that sends an octet now and
then hold a conversation for ever.
"""

import socket
import time

from batchmail.core.errors import LineError
from batchmail.wire.stream import SocketStream


class TimedStream(SocketStream):
    """Reads and writes have, together, the time last given by `allow`."""

    def __init__(self, sock: socket.socket):
        super().__init__(sock)
        self._deadline: float | None = None

    def allow(self, timeout_s: float | None) -> None:
        """From now on this much time; None: no limit."""
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def read(self, limit: int) -> bytes:
        self._set_timeout()
        return super().read(limit)

    def write(self, data: bytes) -> None:
        self._set_timeout()
        super().write(data)

    def read_ready(self, limit: int) -> bytes | None:
        """What has come already, without waiting: b"" when the other end closed, None when nothing came."""
        try:
            self._socket.settimeout(0)
            return self._socket.recv(limit)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            return self._ready_error(error)

    def _ready_error(self, error: OSError) -> bytes | None:
        raise LineError(f"the connection broke: {error}") from None

    def _set_timeout(self) -> None:
        left_s = None if self._deadline is None else self._deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise LineError("no answer in time")
        try:
            self._socket.settimeout(left_s)
        except OSError as error:  # closed by another thread
            raise LineError(f"the connection broke: {error}") from None
