"""Each step of a transaction's way, stopped at every lasting operation: nothing is lost, nothing comes twice."""

import os
import queue
import tempfile
from collections.abc import Callable, Iterator

import pytest

from batchmail.core.numbered import BATCH, REPORT, VOID, Number
from batchmail.core.outcome import DELIVERED, FAILED, Outcome
from batchmail.flow.delivery import BeforeDot, Delivery, Settled
from batchmail.flow.incoming import Answer, Arrivals
from batchmail.flow.replay import Replayer
from batchmail.flow.seal import Sealer
from batchmail.flow.settle import Settler
from batchmail.proto.hello import Have
from batchmail.proto.session import Custody, Data, Open
from batchmail.store import batchfile
from batchmail.store.sent import Sent
from tests.crash.stops import every_stop
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages

MESSAGES = messages(5)
OUTBOX_STATES = ("sealed", "custody")


class CountingTarget:
    """Takes everything, or fails it, and remembers how often."""

    offers = ""

    def __init__(self, action: str = DELIVERED):
        self._action = action
        self.given: list[tuple[str, tuple[int, ...], bytes]] = []

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        before_dot()
        self.given.append((delivery.id, delivery.recipients, b"".join(delivery.content())))
        code, status = (250, "2.0.0") if self._action == DELIVERED else (550, "5.1.1")
        for number in delivery.recipients:
            settled(Outcome(number, self._action, code, status, b"text", b"mta.example", NOW_MS))

    def close(self) -> None:
        pass


# What the programs do, a step each, always beginning as the programs begin


def seal(site: Mailbox) -> None:
    ledger = site.context.open_ledger()
    sealer = Sealer(site.context, ledger)
    sealer.recover()
    while sealer.seal_batch("home.example", 1 << 30, 1 << 40):
        pass
    while sealer.seal_report():
        pass
    ledger.close()


def reseal(site: Mailbox, refused: set[str]) -> None:
    """The peer refuses, for good, every batch that holds one of these."""
    ledger = site.context.open_ledger()
    sealer = Sealer(site.context, ledger)
    sealer.recover()
    again = True
    while again:
        again = False
        for file in Sent(ledger).files("sealed"):
            if file.number.kind == BATCH and refused & {item.entry.id for item in items_of(site, file.number)}:
                sealer.reseal(file, "home.example", "no")
                again = True
    ledger.close()


def carry(origin: Mailbox, far: Mailbox) -> None:
    """All that `origin` has sealed comes into the custody of `far`, which then says so."""
    there, here = origin.context.open_ledger(), far.context.open_ledger()
    sent = Sent(there)
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    arrivals = Arrivals(far.context, here, answers.put)
    arrivals.recover()
    have, _ = arrivals.have()
    arrivals._far_site = origin.context.site.name  # what `greet` does, but for starting the thread
    for file in sent.files("sealed"):
        if not any(h.holds(file.number.seq) for h in have if h.stream == file.number.stream):
            arrivals.open(Open(file.number, file.identity, "zst", file.octets, 0))
            with open(f"{origin.root}/out/{origin.context.peer.name}/outbox/{file.number.file_name}", "rb") as octets:
                arrivals.data(Data(*file.number[:2], 0, octets.read()))
    arrivals._jobs.put(None)
    arrivals._work()
    while not answers.empty():
        assert isinstance(answers.get().event, Custody)
    have, _ = arrivals.have()
    hold_custody(origin, sent, have)
    there.close()
    here.close()


def hold_custody(origin: Mailbox, sent: Sent, have: tuple[Have, ...]) -> None:
    for file in sent.files("sealed"):
        if any(h.holds(file.number.seq) for h in have if h.stream == file.number.stream):
            sent.custody(file.number, NOW_MS)
            if file.number.kind != BATCH:
                os.unlink(f"{origin.root}/out/{origin.context.peer.name}/outbox/{file.number.file_name}")


def replay(site: Mailbox, target: CountingTarget) -> None:
    ledger = site.context.open_ledger()
    Replayer(site.context, ledger, [target], lambda *_: None).run(lambda: False)
    ledger.close()


def settle(site: Mailbox, target: CountingTarget) -> None:
    ledger = site.context.open_ledger()
    settler = Settler(site.context, ledger, target)
    settler.sweep()
    settler.run(lambda: False)
    ledger.close()


# What is there


def items_of(site: Mailbox, number: Number) -> list[batchfile.Item]:
    return batchfile.read_manifest(f"{site.root}/out/{site.context.peer.name}/outbox/{number.file_name}")[1]


def sealed_once(site: Mailbox) -> dict[str, str]:
    """Every sealed transaction and the batch that counts; outbox, ledger and numbers agree."""
    ledger = site.context.open_ledger()
    files = Sent(ledger).files("reserved", *OUTBOX_STATES)
    rows = ledger.rows("SELECT id, stream, seq FROM out_tx WHERE settled_ms IS NULL")
    ledger.close()
    assert [file.number.seq for file in files] == list(range(1, len(files) + 1)), "a number without a file"
    assert {file.state for file in files} <= set(OUTBOX_STATES)
    assert site.outbox() == sorted(file.number.file_name for file in files)
    found: dict[str, str] = {}
    for file in files:
        path = f"{site.root}/out/{site.context.peer.name}/outbox/{file.number.file_name}"
        if file.number.kind == BATCH:
            _, items, identity = batchfile.check_batch(path)
            assert identity == file.identity
            for item in items:
                if (item.entry.id, *file.number[:2]) in rows:
                    assert item.entry.id not in found
                    found[item.entry.id] = file.number.file_name
        else:
            assert file.number.kind in (VOID, REPORT)
            assert batchfile.unpack(path)[1] == file.identity
    assert set(found) == {row[0] for row in rows}
    return found


@pytest.fixture
def new_pair() -> Iterator[Callable[[int], Pair]]:
    """In memory where that is possible: what is asked here is the order, not the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:
        yield lambda stop: make_pair(f"{path}/{stop}", batch_octets=700)


def accepted(pair: Pair) -> list[str]:
    return pair.mx.accept(*MESSAGES)


def test_sealing(new_pair: Callable[[int], Pair]) -> None:
    for stop, machine in every_stop(at_least=60):
        pair = new_pair(stop)
        ids = accepted(pair)
        with machine:
            seal(pair.mx)
        seal(pair.mx)
        assert set(sealed_once(pair.mx)) == set(ids)
        assert (pair.mx.waiting(), pair.mx.held()) == ([], [])
        texts = [
            b"".join(text)
            for name in pair.mx.outbox()
            if name.endswith(BATCH)
            for _, text in batchfile.read_transactions(f"{pair.mx.root}/out/home/outbox/{name}")
        ]
        assert sorted(text.count(message) for text in texts for message in MESSAGES) == [0] * 20 + [1] * 5


@pytest.mark.parametrize("bad", [0, 2])
def test_sealing_anew_after_a_refusal(new_pair: Callable[[int], Pair], bad: int) -> None:
    """58 steps where one halving leaves the bad one alone, 93 where it takes two, which its place in the batch decides.

    Of these none is a transaction within another, so that counting those or not makes no difference here.
    """
    for stop, machine in every_stop(at_least=58):
        pair = new_pair(stop)
        ids = pair.mx.accept(*messages(3, octets=100))
        seal(pair.mx)
        assert len(pair.mx.outbox()) == 1
        with machine:
            reseal(pair.mx, {ids[bad]})
        reseal(pair.mx, {ids[bad]})
        assert set(sealed_once(pair.mx)) == set(ids) - {ids[bad]}
        assert (pair.mx.waiting(), pair.mx.held()) == ([], [ids[bad]])


def test_custody(new_pair: Callable[[int], Pair]) -> None:
    for stop, machine in every_stop(at_least=40):
        pair = new_pair(stop)
        ids = accepted(pair)
        seal(pair.mx)
        with machine:
            carry(pair.mx, pair.home)
        carry(pair.mx, pair.home)
        assert (pair.home.inbox(), pair.home.partial()) == (pair.mx.outbox(), [])
        target = CountingTarget()
        replay(pair.home, target)
        assert sorted(identifier for identifier, _, _ in target.given) == sorted(ids)


def doubtful(site: Mailbox) -> set[str]:
    ledger = site.context.open_ledger()
    found = {row[0] for row in ledger.rows("SELECT id FROM in_tx WHERE doubtful > 0")}
    ledger.close()
    return found


def test_replay_and_its_report(new_pair: Callable[[int], Pair]) -> None:
    twice = 0
    for stop, machine in every_stop(at_least=20):
        pair = new_pair(stop)
        ids = accepted(pair)
        seal(pair.mx)
        carry(pair.mx, pair.home)
        target = CountingTarget()
        with machine:
            replay(pair.home, target)
            seal(pair.home)
        replay(pair.home, target)
        seal(pair.home)
        given = [identifier for identifier, _, _ in target.given]
        assert set(given) == set(ids)
        again = {identifier for identifier in ids if given.count(identifier) > 1}
        assert len(given) == len(ids) + len(again)
        assert again <= doubtful(pair.home)
        assert len(doubtful(pair.home)) <= 1
        twice += len(again)
        carry(pair.home, pair.mx)
        settle(pair.mx, CountingTarget())
        assert (pair.mx.outbox(), pair.mx.inbox()) == ([], [])
        replay(pair.home, target)
        assert (pair.home.outbox(), pair.home.inbox()) == ([], [])
    assert twice <= 2 * len(MESSAGES)  # the one window: between the final dot and the commit of its outcome


def test_settling(new_pair: Callable[[int], Pair]) -> None:
    for stop, machine in every_stop(at_least=60):
        pair = new_pair(stop)
        ids = accepted(pair)
        seal(pair.mx)
        carry(pair.mx, pair.home)
        replay(pair.home, CountingTarget(FAILED))
        seal(pair.home)
        carry(pair.home, pair.mx)
        notices = CountingTarget()
        with machine:
            settle(pair.mx, notices)
        settle(pair.mx, notices)
        seal(pair.mx)  # the next call removes names whose row was done already
        carry(pair.home, pair.mx)
        letters: dict[str, set[str]] = {}
        for identifier, recipients, content in notices.given:
            assert recipients == (0,)
            letters.setdefault(next(i for i in ids if i.encode() in content), set()).add(identifier)
        assert set(letters) == set(ids)
        assert all(len(same) == 1 for same in letters.values()), "two notices for one failure"
        assert len(notices.given) <= len(ids) + 1  # in doubt the same one is handed over again
        assert (pair.mx.outbox(), pair.mx.inbox()) == ([], [])
        assert os.listdir(f"{pair.mx.root}/in/home/notices") == []
        assert settled_all(pair.mx, ids)


def settled_all(site: Mailbox, ids: list[str]) -> bool:
    ledger = site.context.open_ledger()
    rows = ledger.rows("SELECT id FROM out_tx WHERE settled_ms IS NOT NULL")
    ledger.close()
    return {row[0] for row in rows} == set(ids)
