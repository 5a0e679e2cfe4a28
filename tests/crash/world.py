"""Two sites and the world around them: mail servers behind both, senders that offer again what was not taken.

`World.live` is a life without trouble, from the first mail at a door to the last notice.  After a cut `World.recover`
is what programs and senders do next, and `World.check` compares all that the servers were given with what is owed.
"""

import os
import re
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from batchmail.core.names import make_id
from batchmail.flow.accept import Intake, Origin
from batchmail.flow.accept_batch import read_batch
from batchmail.store.spool import Spool, find_door
from batchmail.wire.stream import Stream
from tests.crash.journal import Choice, Cut, Journal
from tests.servers.smtp_log import Rule, SmtpLog, Transaction
from tests.sites import NOW_MS, Clock, CutStream, Mailbox, Pair, call, make_site

GOOD, BAD = "u@home.example", "bad@home.example"
_CALLS = 6  # more than any state should need
_PLACES = ("out/waiting", "out/held", "out/outbox", "in/partial", "in/inbox", "in/notices")


class Mail(NamedTuple):
    """A message by its subject, and whom it is for."""

    subject: str
    rcpts: tuple[str, ...] = (GOOD,)
    octets: int = 100

    def bsmtp(self) -> bytes:
        rcpts = "".join(f"RCPT TO:<{rcpt}>\r\n" for rcpt in self.rcpts)
        line = f"{self.subject} ".ljust(60, "x") + "\r\n"
        body = line * (self.octets // 60 + 1)
        text = f"MAIL FROM:<s@mx.example>\r\n{rcpts}DATA\r\nSubject: {self.subject}\r\n\r\n{body}.\r\n"
        return text.encode()

    @property
    def taken(self) -> bool:
        return any(rcpt != BAD for rcpt in self.rcpts)


class Offer(NamedTuple):
    """What an MTA gives to a door in one input, under a queue id."""

    site: str  # mx or home
    queue_id: str
    mails: tuple[Mail, ...]


OFFERS = (
    Offer("mx", "Q1", (Mail("m1"),)),
    Offer("mx", "Q2", (Mail("m2", (BAD,)), Mail("m3", (GOOD, BAD, "v@home.example")))),
    Offer("home", "Q3", (Mail("h1", ("r@mx.example",)),)),
    Offer("mx", "Q4", (Mail("m4"),)),
)
EXTRA = (Offer("mx", "Q8", (Mail("m8"),)), Offer("home", "Q9", (Mail("h9", ("r@mx.example",)),)))


class Given(NamedTuple):
    """What a server took: at which site, and what it was: ("mail", subject), or ("notice", subject, Message-ID)."""

    site: str
    session: int
    id: str  # the transaction's or the notice's
    what: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        return (self.site, *self.what)


class _Server(SmtpLog):
    """Tells the world of each transaction before the client hears of it."""

    def __init__(self, told: Callable[[Transaction], None], **options: Any):
        super().__init__(**options)
        self._told = told

    def _take(self, transaction: Transaction) -> None:
        self._told(transaction)


class FrameStream(CutStream):
    """Notes in the journal what is about to leave."""

    world: "World"
    root: str

    def write(self, data: bytes) -> None:
        self.world.mark(self.root, "sent", len(data))
        super().write(data)


class World:
    """The pair, and all that was seen of it."""

    def __init__(self, directory: str, offers: tuple[Offer, ...] = OFFERS, **entry: Any):
        self.offers = offers
        self.given: list[Given] = []
        self.told: set[str] = set()  # queue ids
        self.doubts: Counter[tuple[str, ...]] = Counter()  # at how many cuts it had been given, and nobody knew
        self.doubled = 0  # in all worlds that this one has been: what was given twice
        self.journal: Journal | None = None
        self.clock = Clock()
        servers = {name: _Server(self._taker(name), rules=rules) for name, rules in _RULES.items()}
        self.servers = [server.start() for server in servers.values()]
        self.roots = {name: f"{directory}/{name}" for name in servers}
        target = {name: f"smtp://127.0.0.1:{server.port}" for name, server in servers.items()}
        mx = make_site(self.roots["mx"], "mx.example", "home", self.clock, target=target["mx"], **entry)
        home = make_site(self.roots["home"], "home.example", "mx", self.clock, target=target["home"], **entry)
        self.pair = Pair(mx, home)

    def close(self) -> None:
        for server in self.servers:
            server.stop()

    def site(self, name: str) -> Mailbox:
        return self.pair.mx if name == "mx" else self.pair.home

    def mark(self, root: str, kind: str, value: Any = None) -> None:
        if self.journal:
            self.journal.mark(root, kind, value)

    def _taker(self, name: str) -> Callable[[Transaction], None]:
        def take(transaction: Transaction) -> None:
            try:
                given = Given(name, transaction.session, *_read(transaction))
            except AssertionError as error:
                given = Given(name, transaction.session, "", ("strange", str(error)))
            self.given.append(given)
            self.mark(self.roots[name], "given", given)

        return take

    # -- what is done -------------------------------------------------------------------------------------------

    def offer(self, offer: Offer) -> None:
        """As the pipe door does it; what the MTA hears is noted."""
        site = self.site(offer.site)
        now_ms = self.clock.now_ms
        spool = Spool(site.root)
        door = find_door(site.root, site.context.peer.name)
        intake = Intake(spool, door, Origin(offer.queue_id), make_id(now_ms, os.urandom(10)), now_ms)
        pieces = [b"".join(mail.bsmtp() for mail in offer.mails)]
        try:
            read_batch(lambda _: pieces.pop() if pieces else b"", intake)
            intake.commit()
            self.mark(site.root, "told", offer.queue_id)
            self.told.add(offer.queue_id)
        finally:
            intake.discard()

    def call(self, cut_up: int | None = None, cut_down: int | None = None) -> str:
        """A call; what the ends have to say of it.  The line breaks after so many octets up (to mx) or down."""
        with _line(self, cut_up, cut_down) as (up, down):
            results = call(self.pair.home, up, self.pair.mx, down)
        self.pair.mx.run()  # what the answering program leaves to a run of its own
        return "; ".join(str(result.error) for result in results if result.error)

    def live(self) -> None:
        """Mail, a call, more mail, two calls."""
        late = len(self.offers) * 3 // 4
        for offers in (self.offers[:late], self.offers[late:]):
            for offer in offers:
                self.offer(offer)
            self.call()
        self.pair.home.run()
        self.call()

    def recover(self) -> None:
        """Programs start again, senders offer what was not taken, mail of a later day comes, until nothing is left."""
        for offer in self.offers + EXTRA:
            if offer.queue_id not in self.told:
                self.offer(offer)
        for _ in range(_CALLS):
            error = self.call()
            self.pair.home.run()
            if not self.left() and not error:
                return
            self.clock.now_ms += 120_000  # what was put off is tried again
        raise AssertionError(f"{_CALLS} calls have left {self.left()}; the last one: {error or 'no error'}")

    # -- what is there ------------------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """Files that hold mail or its fate."""
        found = []
        for name, root in self.roots.items():
            for place in _PLACES:
                top = f"{root}/{place.replace('/', f'/{self.site(name).context.peer.name}/')}"
                found += [
                    os.path.relpath(f"{below}/{file}", root) for below, _, files in os.walk(top) for file in files
                ]
        return sorted(found)

    def _known(self, name: str) -> set[str]:
        """Transactions with an outcome and notices with an end in a site's ledger: what may not be given again."""
        if not os.path.exists(f"{self.roots[name]}/ledger/{self.site(name).context.peer.name}"):
            return set()
        rows = self._ask(name, "SELECT id FROM in_tx WHERE state = 'done'")
        rows += self._ask(name, "SELECT id FROM notice WHERE state <> 'owed'")
        return {row[0] for row in rows}

    def _ask(self, name: str, query: str) -> list[tuple[Any, ...]]:
        ledger = self.site(name).context.open_ledger()
        rows = ledger.rows(query)
        ledger.close()
        return rows

    def doubt(self) -> None:
        """All programs are dead: the last that each session took may come again where no outcome was recorded."""
        known = {name: self._known(name) for name in self.roots}
        for given in {(given.site, given.session): given for given in self.given}.values():
            if given.id not in known[given.site]:
                self.doubts[given.key] += 1

    def check(self) -> None:
        """All was given once, apart from what was in doubt."""
        self.check_given(self.offers + EXTRA)

    def check_given(self, offers: tuple[Offer, ...]) -> None:
        counts = Counter(given.key for given in self.given)
        wanted: Counter[tuple[str, ...]] = Counter()
        for offer in offers:
            far = "home" if offer.site == "mx" else "mx"
            wanted.update((far, "mail", mail.subject) for mail in offer.mails if mail.taken)
            wanted.update((offer.site, "notice", mail.subject) for mail in offer.mails if BAD in mail.rcpts)
        letters = Counter(key[:3] for key in counts)  # a notice that was written twice has two Message-IDs
        assert letters == wanted, f"missing {wanted - letters}, not owed {letters - wanted}"
        double = {key: count - 1 for key, count in counts.items() if count > 1}
        assert Counter(double) <= self.doubts, f"given twice although it was known: {double}"
        for name in self.roots:
            again = sum(count for key, count in double.items() if key[:2] == (name, "mail"))
            marked = self._ask(name, "SELECT COALESCE(SUM(doubtful), 0) FROM in_tx")[0][0]
            assert marked >= again, f"{again} came twice at {name}, {marked} are marked as doubtful"
        for name in self.roots:
            assert not self._ask(name, "SELECT id FROM out_tx WHERE settled_ms IS NULL")
            assert not self._ask(name, "SELECT seq FROM sent WHERE state <> 'settled'")
            assert not self._ask(name, "SELECT id FROM in_tx WHERE state <> 'done'")
        self.doubled += sum(double.values())


_RULES = {"mx": (), "home": (Rule("RCPT", b"550 5.1.1 no such user", match=b"bad@"),)}


def _read(transaction: Transaction) -> tuple[str, tuple[str, ...]]:
    """ID, and what it is; anything but what was offered, octet by octet, fails."""
    content = transaction.content.decode("latin-1")
    subjects = re.findall(r"^Subject: ([mh]\d+)\r$", content, re.M)
    assert len(subjects) == 1, f"something else was delivered: {content}"
    subject = subjects[0]
    if transaction.mail.upper().startswith(b"MAIL FROM:<>"):
        letter = re.search(r"^Message-ID:\s*<(\w{26})@\S+\r$", content, re.M | re.I)
        assert letter, content
        return letter[1], ("notice", subject, letter[1])
    received, found = content.partition("Subject:")[0], content.partition("\r\n\r\n")[2]
    identifier = re.search(r"\b[0-9A-Z]{26}\b", received)
    assert identifier, content
    assert found and not found.replace(f"{subject} ".ljust(60, "x") + "\r\n", ""), content
    return identifier[0], ("mail", subject)


@contextmanager
def _line(world: World, cut_up: int | None, cut_down: int | None) -> Iterator[tuple[Stream, Stream]]:
    ends = socket.socketpair()
    streams = []
    for end, name, cut in zip(ends, ("home", "mx"), (cut_up, cut_down), strict=True):
        stream = FrameStream(end, cut)
        stream.world, stream.root = world, world.roots[name]
        streams.append(stream)
    try:
        yield streams[0], streams[1]
    finally:
        for stream in streams:
            stream.close()


@contextmanager
def new_world(offers: tuple[Offer, ...] = OFFERS, **entry: Any) -> Iterator[World]:
    """A world on a file system in memory where there is one: what lasts is the journal's business, not the disk's."""
    directory = tempfile.mkdtemp(prefix="crash.", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    world = World(directory, offers, **entry)
    try:
        yield world
    finally:
        world.close()
        shutil.rmtree(directory)


def record(world: World, life: Callable[[], None], pause_s: float = 0.002) -> Journal:
    """The journal of a life."""
    with Journal(*world.roots.values(), pause_s=pause_s) as journal:
        world.journal = journal
        try:
            life()
        finally:
            world.journal = None
    return journal


def survive(world: World, cut: Cut, choice: Choice) -> None:
    """Restore a state after a cut, and see that all comes right."""
    power_off(world, cut, choice)
    world.doubt()
    world.recover()
    world.check()


def power_off(world: World, cut: Cut, choice: Choice, lived: tuple[list[Given], set[str]] = ([], set())) -> None:
    """The world as it was at the cut; `lived` is what had been given and told before the journal began."""
    marks = [operation[1:] for _, operation in cut.marks()]
    world.given = lived[0] + [value for kind, value in marks if kind == "given"]
    world.told = lived[1] | {value for kind, value in marks if kind == "told"}
    world.doubts = Counter()
    world.clock.now_ms = NOW_MS
    cut.restore(choice)
