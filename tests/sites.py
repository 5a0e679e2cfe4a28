"""Two sites in one process, and calls between them over a socketpair: each end a thread, as the programs hold them."""

import itertools
import os
import random
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Client, Envelope
from batchmail.core.names import make_id
from batchmail.core.settings import Peer, Site
from batchmail.flow.context import Context
from batchmail.flow.exchange import Call, Options
from batchmail.flow.target import close_all, open_targets, parse_target
from batchmail.flow.totals import Result
from batchmail.flow.work import work_once
from batchmail.store.line import ANSWERER, CALLER, Line
from batchmail.store.setup import set_up
from batchmail.store.spool import Door, Spool
from batchmail.store.waiting import WaitingRoom
from batchmail.wire.stream import SocketStream, Stream

NOW_MS = 1795222800000
HANG_S = 60.0  # a test that takes as long hangs


class Clock:
    """Milliseconds that only the test moves."""

    def __init__(self, now_ms: int = NOW_MS):
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


class Mailbox(NamedTuple):
    """One site with one peer."""

    root: str
    context: Context
    clock: Clock

    @property
    def spool(self) -> Spool:
        return self.context.spool

    @property
    def drop(self) -> str:
        return f"{self.root}.drop"

    def accept(
        self, *messages: bytes, sender: str = "<s@mx.example>", rcpts: tuple[str, ...] = (), priority: int = 0
    ) -> list[str]:
        """Put messages where a door puts them; their IDs."""
        return [self._accept(message, sender, rcpts, priority) for message in messages]

    def _accept(self, message: bytes, sender: str, rcpts: tuple[str, ...], priority: int) -> str:
        mail = parse_mail(f"MAIL FROM:{sender}".encode())
        recipients = tuple(parse_rcpt(f"RCPT TO:{rcpt}".encode()) for rcpt in rcpts or ("<r@home.example>",))
        room = WaitingRoom(self.spool, self.context.peer.name)
        identifier = make_id(self.clock.now_ms, self.context.random(10))
        draft, writer = room.write(identifier, self.clock.now_ms, priority, "", Client(), Envelope(*mail, recipients))
        writer.content(message)
        name, _ = writer.end()
        return room.put(draft, name, priority, "", self.clock.now_ms)

    def waiting(self) -> list[str]:
        return [waiting.id for waiting in WaitingRoom(self.spool, self.context.peer.name).scan()]

    def held(self) -> list[str]:
        return sorted(name[:26] for name in os.listdir(f"{self.root}/out/{self.context.peer.name}/held"))

    def outbox(self) -> list[str]:
        return sorted(os.listdir(f"{self.root}/out/{self.context.peer.name}/outbox"))

    def inbox(self) -> list[str]:
        return sorted(os.listdir(f"{self.root}/in/{self.context.peer.name}/inbox"))

    def partial(self) -> list[str]:
        return sorted(os.listdir(f"{self.root}/in/{self.context.peer.name}/partial"))

    def dropped(self) -> dict[str, bytes]:
        """What the target was given, by transaction or notice."""
        found = {}
        for name in os.listdir(self.drop) if os.path.isdir(self.drop) else []:
            if name.endswith(".bsmtp"):
                with open(f"{self.drop}/{name}", "rb") as file:
                    found[name[:-6]] = file.read()
        return found

    def run(self) -> None:
        """What `batchmail run` does."""
        ledger = self.context.open_ledger()
        spec = parse_target(self.context.peer.target)
        targets = open_targets(spec, self.context.site.name, self.clock, self.spool.tmp)
        work_once(self.context, ledger, targets, lambda *_: None, lambda: False)
        close_all(targets)
        ledger.close()


def make_site(root: str, name: str, peer: str, clock: Clock | None = None, seed: int = 0, **entry: object) -> Mailbox:
    """A site with a peer; its target is a directory beside its spool."""
    clock = clock or Clock()
    values: dict[str, object] = {"domains": ("*",), "target": f"bsmtp:{root}.drop", "report_wait_s": 5.0}
    peers = {peer: Peer(peer, **(values | entry))}  # type: ignore[arg-type]
    site = Site(name=name, spool=root, user="batchmail", reserve_octets=0, odd_octets="normalize", peers=peers)
    set_up(root, [(Door(peer, name, 1 << 30, 0, "normalize"), ["*"])])
    source = random.Random(seed) if seed else None
    octets: Callable[[int], bytes] = source.randbytes if source else os.urandom
    return Mailbox(root, Context(Spool(root), site, peers[peer], clock, octets), clock)


class Pair(NamedTuple):
    """Two sites that are each other's peer; `mx` answers, `home` calls."""

    mx: Mailbox
    home: Mailbox

    def call(
        self,
        cut_up: int | None = None,
        cut_down: int | None = None,
        options: Options = Options(),  # noqa: B008
    ) -> tuple[Result, Result]:
        """One call; the line breaks after so many octets up (to mx) or down.  Results of caller and answerer."""
        with line(cut_up, cut_down) as (up, down):
            return call(self.home, up, self.mx, down, options)


def make_pair(path: object, clock: Clock | None = None, **entry: object) -> Pair:
    clock = clock or Clock()
    mx = make_site(f"{path}/mx", "mx.example", "home", clock, **entry)
    return Pair(mx, make_site(f"{path}/home", "home.example", "mx", clock, **entry))


def call(
    caller: Mailbox,
    up: Stream,
    answerer: Mailbox,
    down: Stream,
    options: Options = Options(),  # noqa: B008
) -> tuple[Result, Result]:
    """A call between two sites over a line that is there."""
    results: dict[str, Result] = {}
    threads = [
        threading.Thread(target=lambda: results.update(a=hold(answerer, down, ANSWERER)), daemon=True),
        threading.Thread(target=lambda: results.update(c=hold(caller, up, CALLER, options)), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert not any(thread.is_alive() for thread in threads), "the call hangs"
    return results["c"], results["a"]


def hold(mailbox: Mailbox, stream: Stream, role: str, options: Options = Options()) -> Result:  # noqa: B008
    """One end of a call."""
    right = Line(mailbox.spool, mailbox.context.peer.name)
    assert right.acquire(role)
    try:
        return Call(mailbox.context, right, role, options, lambda _: None, lambda *_: None).run(stream)
    except BaseException:
        stream.close()  # as a process leaves it that ends
        raise
    finally:
        right.close()


class CutStream(SocketStream):
    """Breaks, both ways, when so many octets were written."""

    def __init__(self, sock: socket.socket, octets: int | None):
        super().__init__(sock)
        self._left = octets
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        if self._left is None:
            super().write(data)
            return
        with self._lock:
            part = data[: self._left]
            self._left -= len(part)
        if part:
            super().write(part)
        if not self._left:
            self.close()


class line:  # noqa: N801
    """A line: the caller's stream and the answerer's."""

    def __init__(self, cut_up: int | None = None, cut_down: int | None = None):
        ends = socket.socketpair()
        self._streams = CutStream(ends[0], cut_up), CutStream(ends[1], cut_down)

    def __enter__(self) -> tuple[Stream, Stream]:
        return self._streams

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.close()


def messages(count: int, seed: int = 0, octets: int = 300) -> list[bytes]:
    """Messages that differ and hardly compress."""
    source = random.Random(seed)
    return [
        b"Subject: %d\r\n\r\n" % n + source.randbytes(octets // 2).hex(" ", 30).replace(" ", "\r\n").encode() + b"\r\n"
        for n in range(count)
    ]


def payload(dropped: bytes) -> bytes:
    """The content below our Received: line of a dropped file, stuffed as it is."""
    text = dropped.partition(b"DATA\r\n")[2].removesuffix(b".\r\nQUIT\r\n")
    lines = text.split(b"\r\n")
    rest = itertools.dropwhile(lambda row: row.startswith((b"Received:", b" ")), lines)
    return b"\r\n".join(rest)
