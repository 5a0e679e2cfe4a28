"""A server's loop: listening sockets, their connections, one thread, and what other threads want done in it.

What is said on a connection is its session's business.  A connection that does
not take its replies is not read from, so what is held for it is bounded; one
on which nothing moves is told to go.  Idle ones cost a file descriptor each.
"""

import contextlib
import errno
import functools
import os
import select
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

_READ_OCTETS = 1 << 16
_PAUSE_S = 0.5  # when the host has no room for a connection
_LAST_READS = 16
_LAST_WORDS_S = 5.0  # for a client to take what is said at the end

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Session(Protocol):
    """What a connection carries: octets in, octets out."""

    @property
    def wants_input(self) -> bool: ...

    @property
    def is_over(self) -> bool:
        """What `output` gives is the last; then the connection is closed."""

    def receive(self, data: bytes) -> None:
        """Octets from the client; b"" when it hung up."""

    def output(self) -> bytes:
        """What is to be sent since the last call."""

    def timeout(self) -> None:
        """Nothing has moved for too long."""

    def shutdown(self) -> None:
        """The server goes down: what is not finished is not to be."""

    def gone(self) -> None:
        """The connection is closed, whoever did it."""


class Listener(NamedTuple):
    """A listening socket, and who makes the sessions of its connections, by the client's address ("" if unix)."""

    sock: socket.socket
    open: Callable[["Connection", str], Session]


class Connection:
    """A client."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.session: Session
        self.unsent = b""
        self.moved_s = 0.0  # when something last came or went
        self.mask = 0
        self.is_closed = False


class Server:
    """Serves until `stop`, then until every session is over, or `grace_s` has passed.

    Other processes may serve the same listening sockets.
    """

    def __init__(
        self,
        listeners: list[Listener],
        idle_s: float,
        grace_s: float,
        trouble: Callable[[Exception], None],
        count: Callable[[int], None] = lambda _: None,
    ):
        """`trouble` hears of a session that failed by a fault of this program; the others go on.

        `count` hears how many connections there are when that changes.
        """
        self._listeners, self._idle_s, self._grace_s, self._trouble = listeners, idle_s, grace_s, trouble
        self._count = count
        self._poll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}  # by descriptor: who is told what can be done with it
        self._connections: OrderedDict[int, Connection] = OrderedDict()  # whose turn to be idle comes first, first
        self._leaving: OrderedDict[int, Connection] = OrderedDict()  # of these, those with last words to take
        self._calls: deque[Callable[[], None]] = deque()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch(self._wake_read, READ, self._woken)
        self._paused_until_s = 0.0
        self._stop_at_s: float | None = None  # None: not told to stop
        self._is_stopping = False

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def wake_fd(self) -> int:
        """For signal.set_wakeup_fd."""
        return self._wake_write

    def call(self, function: Callable[[], None]) -> None:
        """Have something done in the loop's thread; from any thread."""
        self._calls.append(function)
        with contextlib.suppress(BlockingIOError):  # full of wake-ups
            os.write(self._wake_write, b"\0")

    def later(self, function: Callable[[], None]) -> None:
        """As `call`, from the loop's own thread: when those that are ready have had their turn."""
        self._calls.append(function)

    def stop(self) -> None:
        """Take no connection more, and end; also from a signal's handler."""
        self._is_stopping = True

    def stop_with(self, fd: int) -> None:
        """Stop when the other end of a pipe is closed, by whomever."""

        def ended(_: int) -> None:
            self._forget(fd)
            self.stop()

        self._watch(fd, READ, ended)

    def run(self) -> None:
        self._listen(True)
        while not (self._stop_at_s is not None and (not self._connections or time.monotonic() > self._stop_at_s)):
            for fd, events in self._poll.poll(self._wait_s()):
                if tell := self._watched.get(fd):
                    tell(events)
            while self._calls:
                self._calls.popleft()()
            if self._is_stopping and self._stop_at_s is None:
                self._begin_to_stop()
            self._see_who_is_idle()
        for connection in list(self._connections.values()):
            self._close(connection)

    def step(self, connection: Connection, function: Callable[[], None]) -> None:
        """Do something with a connection's session, and send what it has to say; close when that was the last."""
        try:
            function()
            self._pump(connection)
        except Exception as error:  # noqa: BLE001  a connection that breaks costs no mail: nobody was told yes
            self._trouble(error)
            self._close(connection)

    def _pump(self, connection: Connection) -> None:
        session = connection.session
        while not connection.is_closed and not connection.unsent and (octets := session.output()):
            self._send(connection, octets)
        if connection.is_closed:
            return
        if session.is_over and not connection.unsent:
            self._close(connection)
            return
        if session.is_over and id(connection) not in self._leaving:
            self._leaving[id(connection)] = connection
            self._moved(connection)
        self._want(connection, WRITE if connection.unsent else READ if session.wants_input else 0)

    def _listen(self, wanted: bool) -> None:
        for listener in self._listeners:
            if wanted:
                listener.sock.setblocking(False)
                accept = functools.partial(self._accept, listener)
                self._watch(listener.sock.fileno(), READ | select.EPOLLEXCLUSIVE, accept)  # one of the processes
            else:
                self._forget(listener.sock.fileno())

    def _watch(self, fd: int, mask: int, tell: Callable[[int], None]) -> None:
        self._poll.register(fd, mask)
        self._watched[fd] = tell

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._watched[fd]

    def _wait_s(self) -> float | None:
        """Until the next deadline."""
        deadlines = [s for s in (self._stop_at_s, self._paused_until_s) if s]
        for turn in (self._leaving, self._connections):
            for connection in turn.values():
                deadlines.append(connection.moved_s + self._limit_s(connection))
                break
        return max(0.0, min(deadlines) - time.monotonic()) + 0.001 if deadlines else None

    def _limit_s(self, connection: Connection) -> float:
        return _LAST_WORDS_S if connection.session.is_over else self._idle_s

    def _woken(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._wake_read, 4096)) == 4096:
                pass

    def _accept(self, listener: Listener, _: int) -> None:
        """Take one: those that are there have their turn, and so have other processes."""
        try:
            sock, address = listener.sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._listen(False)
                self._paused_until_s = time.monotonic() + _PAUSE_S
            return  # else that client has gone again, or to another process
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open(listener, sock, address[0] if sock.family != socket.AF_UNIX else "")

    def _open(self, listener: Listener, sock: socket.socket, address: str) -> None:
        connection = Connection(sock)
        try:
            connection.session = listener.open(connection, address)
        except Exception as error:  # noqa: BLE001  as in `step`
            self._trouble(error)
            sock.close()
            return
        connection.moved_s = time.monotonic()
        self._connections[id(connection)] = connection
        self._count(len(self._connections))
        self.step(connection, _nothing)

    def _ready(self, connection: Connection, events: int) -> None:
        self.step(connection, functools.partial(self._serve, connection, events))

    def _serve(self, connection: Connection, events: int) -> None:
        self._moved(connection)
        if events & WRITE:
            octets, connection.unsent = connection.unsent, b""
            self._send(connection, octets)
        else:
            try:
                data = connection.sock.recv(_READ_OCTETS)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            connection.session.receive(data)

    def _send(self, connection: Connection, octets: bytes) -> None:
        try:
            sent = connection.sock.send(octets)
        except BlockingIOError:
            sent = 0
        except OSError:
            connection.session.receive(b"")
            self._close(connection)
            return
        connection.unsent = octets[sent:]

    def _want(self, connection: Connection, mask: int) -> None:
        if mask == connection.mask:
            return
        fd = connection.sock.fileno()
        if not connection.mask:
            self._watch(fd, mask, functools.partial(self._ready, connection))
        elif mask:
            self._poll.modify(fd, mask)
        else:
            self._forget(fd)
        connection.mask = mask

    def _moved(self, connection: Connection) -> None:
        connection.moved_s = time.monotonic()
        self._connections.move_to_end(id(connection))
        if id(connection) in self._leaving:
            self._leaving.move_to_end(id(connection))

    def _close(self, connection: Connection) -> None:
        if connection.is_closed:
            return
        connection.is_closed = True
        self._want(connection, 0)
        del self._connections[id(connection)]
        self._leaving.pop(id(connection), None)
        self._count(len(self._connections))
        with contextlib.suppress(OSError):  # what is not read makes the close a reset, which takes our last words along
            for _ in range(_LAST_READS):
                if not connection.sock.recv(_READ_OCTETS):
                    break
        connection.sock.close()
        connection.session.gone()

    def _begin_to_stop(self) -> None:
        if not self._paused_until_s:
            self._listen(False)
        self._paused_until_s = 0.0
        for listener in self._listeners:
            listener.sock.close()
        self._stop_at_s = time.monotonic() + self._grace_s
        for connection in list(self._connections.values()):
            self.step(connection, connection.session.shutdown)

    def _see_who_is_idle(self) -> None:
        now_s = time.monotonic()
        if self._paused_until_s and now_s > self._paused_until_s:
            self._paused_until_s = 0.0
            self._listen(True)
        for turn in (self._leaving, self._connections):
            self._end_idle(turn, now_s)

    def _end_idle(self, turn: OrderedDict[int, Connection], now_s: float) -> None:
        """Those on which nothing has moved for too long; they are in the order in which something did."""
        while turn:
            connection = next(iter(turn.values()))
            if connection.moved_s + self._limit_s(connection) > now_s:
                break
            if connection.session.is_over or connection.unsent:  # it does not even take this
                self._close(connection)
                continue
            self._moved(connection)
            self.step(connection, connection.session.timeout)


def _nothing() -> None:
    """The greeting is there already."""
