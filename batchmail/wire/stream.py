"""Streams: what a call or an SMTP conversation is carried by.

A stream is read by one thread and written by another; it blocks.  What goes
wrong underneath comes out as `LineError`, whatever carries it.
"""

import contextlib
import os
import socket
from typing import Protocol, runtime_checkable

from batchmail.core.errors import LineError


class Stream(Protocol):
    """A two-way stream of octets."""

    def read(self, limit: int) -> bytes:
        """At least one octet, at most `limit`; b"" at the end.  Raises LineError."""

    def write(self, data: bytes) -> None:
        """Hand over all of `data`.  Raises LineError."""

    def close(self) -> None:
        """End both directions, also for a read or write that is waiting in another thread."""


@runtime_checkable
class Program(Stream, Protocol):
    """A stream to a program that somebody started for us, so that its end may say what is wrong."""

    place: str  # where it was started, for people

    def exit_status(self) -> int | None:
        """How it ended; None when it has not, or not by itself, or the line was cut."""

    def diagnostics(self) -> str:
        """The last that it said on its standard error."""


class SocketStream:
    """A stream over a connected socket, TCP, TLS or unix."""

    def __init__(self, sock: socket.socket, timeout_s: float | None = None):
        sock.settimeout(timeout_s)
        self._socket = sock

    def read(self, limit: int) -> bytes:
        try:
            return self._socket.recv(limit)
        except TimeoutError:
            raise LineError("no answer in time") from None
        except OSError as error:
            raise LineError(f"the connection broke: {error}") from None

    def write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise LineError("the other end takes no data") from None
        except OSError as error:
            raise LineError(f"the connection broke: {error}") from None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class PipeStream:
    """A stream over two file descriptors, such as standard input and output."""

    def __init__(self, read_fd: int, write_fd: int):
        self._read_fd, self._write_fd = read_fd, write_fd

    def read(self, limit: int) -> bytes:
        try:
            return os.read(self._read_fd, limit)
        except OSError as error:
            raise LineError(f"the pipe broke: {error}") from None

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._write_fd, view) :]
        except OSError as error:
            raise LineError(f"the pipe broke: {error}") from None

    def close(self) -> None:
        # Another thread may still wait in a read or write: were the numbers free, it would go on in another file.
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in {self._read_fd, self._write_fd}:
            with contextlib.suppress(OSError):
                os.dup2(null, fd)
        os.close(null)
