"""The socket door as a whole: listening sockets, sessions, the committer, and the bell of each peer that got mail.

thread     of the loop                          of the committer
           sessions read, drafts are written →  a group is synced, linked, synced
           replies are written               ←  its answers

Each worker process has all of this; they share the listening sockets and how many connections there may be.
"""

import contextlib
import functools
import os
import socket
import time
from typing import NamedTuple

from batchmail.core.listen import is_among
from batchmail.core.settings import Site
from batchmail.flow.body import MAX_HELD_OCTETS
from batchmail.flow.budget import Budget, Tally
from batchmail.flow.door import Desk, DoorSession
from batchmail.flow.doors import Doors
from batchmail.store.bell import MAIL, ring
from batchmail.store.committer import Committer, Done, discard
from batchmail.store.group import Put
from batchmail.store.lock import Numbered
from batchmail.store.spool import Spool
from batchmail.wire import doorlog, maillog
from batchmail.wire.serve import Connection, Listener, Server, Session

IDLE_S = 300.0  # RFC 5321 §4.5.3.2.7
GRACE_S = 20.0  # for sessions to end when the server does; less than the unit's TimeoutStopSec
_HELD_OCTETS = 64 << 20  # of messages in memory, shared by all sessions of all workers
_RECIPIENT_OCTETS = 64 << 20  # of recipients, likewise: some hundred thousand


class Entrance(NamedTuple):
    """A listening socket, and the peer whose mail comes there; empty where the recipients' domains decide."""

    sock: socket.socket
    peer: str


class Share(NamedTuple):
    """Which of a door's processes this one is, and what was made for all of them before they forked."""

    number: int
    workers: int
    connections: Tally
    offers: Numbered  # who accepts which offer


class Farewell:
    """A session that is only told why it is none."""

    wants_input = False
    is_over = True

    def __init__(self, reply: str):
        self._reply = reply.encode("ascii", "replace") + b"\r\n"

    def receive(self, data: bytes) -> None:
        """Of no interest."""

    def output(self) -> bytes:
        reply, self._reply = self._reply, b""
        return reply

    def timeout(self) -> None:
        """It is over already."""

    def shutdown(self) -> None:
        """It is over already."""

    def gone(self) -> None:
        """Nothing was held for it."""


class Reception:
    """Serves entrances until `server.stop`."""

    def __init__(self, site: Site, spool: Spool, entrances: list[Entrance], share: Share):
        """Of the memory for messages and recipients it takes its share; connections may be more in one than another."""
        self._door, self._root, self._connections = site.door, spool.root, share.connections
        self._held_share_octets = _HELD_OCTETS // share.workers
        listeners = [Listener(one.sock, functools.partial(self._open, one.peer)) for one in entrances]
        count = functools.partial(share.connections.set, share.number)
        count(0)  # who had this number before may have been killed
        self.server = Server(listeners, IDLE_S, GRACE_S, _trouble, count)
        self._committer = Committer(share.offers, self._report)
        self._desk = Desk(
            spool,
            Doors(spool),
            site.name,
            site.door.xforward,
            _now_ms,
            os.urandom,
            self._held_octets,
            Budget(_RECIPIENT_OCTETS // share.workers),
        )

    def run(self) -> None:
        try:
            self.server.run()
        finally:
            self._committer.close()

    def _open(self, peer: str, connection: Connection, address: str) -> Session:
        if address and not is_among(address, self._door.clients):
            doorlog.refused(peer, "", "5.7.1", f"connection from {address}")
            return Farewell("554 5.7.1 this host takes no mail from yours")
        if self._connections.total() >= self._door.connections:
            return Farewell("421 4.7.0 too many connections; come again later")
        return DoorSession(self._desk, peer, functools.partial(self._submit, connection))

    def _submit(self, connection: Connection, unit: list[Put]) -> None:
        """To the committer's thread; or, where nobody else is kept waiting by it, without the way there and back."""
        if self.server.connections == 1:
            self.server.later(functools.partial(self._accept, connection, unit))
        else:
            self._committer.submit(connection, unit)

    def _accept(self, connection: Connection, unit: list[Put]) -> None:
        answers = self._committer.accept(connection, unit)
        self._answer(answers)
        discard(answers)

    def _held_octets(self) -> int:
        return min(MAX_HELD_OCTETS, self._held_share_octets // max(1, self.server.connections))

    def _report(self, answers: list[Done]) -> None:
        self.server.call(lambda: self._answer(answers))

    def _answer(self, answers: list[Done]) -> None:
        for done in answers:
            connection = done.tag
            if isinstance(connection, Connection) and isinstance(connection.session, DoorSession):
                self.server.step(connection, functools.partial(connection.session.committed, done.result))
        for peer in {put.room.peer for done in answers if not isinstance(done.result, OSError) for put in done.unit}:
            ring(self._root, peer, MAIL)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _trouble(error: Exception) -> None:
    with contextlib.suppress(Exception):
        maillog.trouble("", f"a session of the door failed: {type(error).__name__}: {error}")
