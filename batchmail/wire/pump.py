"""Two threads around a stream, so that no read ever waits for a write."""

import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from batchmail.core.errors import LineError
from batchmail.wire.stream import Stream

_READ_OCTETS = 64 << 10
_MAX_UNREAD = 32  # pieces that the reader hands over before it waits
_LAST_WORDS_S = 2.0  # what the other side said before it closed is heard before our writing is told to have failed


class Octets(NamedTuple):
    """The stream gave these."""

    data: bytes


class Ended(NamedTuple):
    """The stream is at its end, or broke."""

    error: LineError | None


class Drained(NamedTuple):
    """What was given to the writer is written."""


class Pump:
    """Posts what a stream gives, writes what it is given; `post` is called from the two threads."""

    stream: Stream

    def __init__(self, post: Callable[[Octets | Ended | Drained], None]):
        self._post = post
        self._unread = threading.BoundedSemaphore(_MAX_UNREAD)
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending_octets = 0
        self._threads = [
            threading.Thread(target=work, name=f"batchmail-{work.__name__.strip('_')}", daemon=True)
            for work in (self._read, self._write)
        ]

    def start(self, stream: Stream) -> None:
        self.stream = stream
        for thread in self._threads:
            thread.start()

    @property
    def pending_octets(self) -> int:
        """Given to the writer and not written yet."""
        with self._lock:
            return self._pending_octets

    def write(self, data: bytes) -> None:
        with self._lock:
            self._pending_octets += len(data)
        self._out.put(data)

    def taken(self) -> None:
        """An Octets was dealt with; the reader may go on."""
        self._unread.release()

    def finish(self, timeout_s: float) -> None:
        """Write what is left, as far as it goes in that time, and close the stream."""
        self._out.put(None)
        if self._threads[1].is_alive():  # it has not begun when the call failed before its first word
            self._threads[1].join(timeout_s)
        self.stream.close()

    def _read(self) -> None:
        try:
            while data := self.stream.read(_READ_OCTETS):
                self._unread.acquire()
                self._post(Octets(data))
            self._post(Ended(None))
        except LineError as error:
            self._post(Ended(error))

    def _write(self) -> None:
        try:
            while (data := self._out.get()) is not None:
                self.stream.write(data)
                with self._lock:
                    self._pending_octets -= len(data)
                    drained = not self._pending_octets
                if drained:
                    self._post(Drained())
        except LineError as error:
            self._threads[0].join(_LAST_WORDS_S)
            self._post(Ended(error))
