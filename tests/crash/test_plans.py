"""Plans and time, stopped at every lasting step: nothing is lost, nothing is there twice, each notice comes once."""

import itertools
import os
from contextlib import closing

import pytest

from batchmail.core.outcome import DELIVERED, WITHDRAWN, Outcome
from batchmail.core.report import Reported
from batchmail.core.schedule import Span
from batchmail.core.settings import DAY_MS
from batchmail.flow.expire import Expirer
from batchmail.flow.plans import Planner
from batchmail.flow.requests import KINDS, Desk
from batchmail.flow.seal import Sealer
from batchmail.flow.settle import Settler
from batchmail.store import batchfile
from batchmail.store.deadlines import Deadlines
from batchmail.store.plans import HOLD, MOVE, REMOVE, REQUEUE, Plan, Plans
from batchmail.store.sent import Sent
from batchmail.store.setup import set_up
from batchmail.store.spool import Door
from batchmail.store.waiting import WaitingRoom
from tests.crash import test_steps as steps
from tests.crash.stops import every_stop
from tests.disks import Stop
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages


def stop(*_: object) -> None:
    raise Stop


def make(tmp_path: object) -> tuple[Pair, list[str]]:
    pair = make_pair(tmp_path, lifetime=Span(10 * DAY_MS), delay_notice=Span(3 * DAY_MS), give_up_ms=5 * DAY_MS)
    set_up(pair.mx.root, [(Door(peer, "mx.example", 1 << 30, 0, "normalize"), []) for peer in ("home", "other")])
    return pair, sorted(pair.mx.accept(*messages(2)))


def plan(site: Mailbox, identifiers: list[str], verb: str) -> None:
    ledger = site.context.open_ledger()
    peer = "other" if verb == MOVE else ""
    status = "5.7.1" if verb == REMOVE else ""
    Plans(ledger).make(
        Plan(one, verb, peer, f"{one[:-1]}{'Z' if one[-1] != 'Z' else 'Y'}", status, "text", NOW_MS)
        for one in identifiers
    )
    ledger.close()


def work(site: Mailbox, target: steps.CountingTarget) -> None:
    """What a pass does at the origin."""
    ledger = site.context.open_ledger()
    settler = Settler(site.context, ledger, target)
    settler.sweep()
    planner = Planner(site.context, ledger, settler)
    Desk(site.context, ledger).run(lambda: False)
    settler.run(lambda: False)
    planner.run(lambda: False)
    Expirer(site.context, ledger, settler, planner).run(lambda: False)
    settler.hand_over(lambda: False)
    ledger.close()


def exchange(origin: Mailbox, far: Mailbox) -> None:
    ledger = origin.context.open_ledger()
    sealer = Sealer(origin.context, ledger)
    sealer.recover()
    while sealer.seal_answer() or sealer.seal_request(KINDS):
        pass
    ledger.close()
    steps.seal(origin)
    steps.carry(origin, far)


def everywhere(site: Mailbox) -> list[str]:
    """The transactions that wait or are held, for whichever peer."""
    rooms = [WaitingRoom(site.spool, peer) for peer in ("home", "other")]
    return sorted(one.id for room in rooms for one in itertools.chain(room.scan(), room.scan_held()))


def told(target: steps.CountingTarget) -> list[str]:
    """The notices, by their Message-ID: handing the same one over again is no second notice."""
    return sorted({identifier for identifier, _, _ in target.given})


@pytest.mark.parametrize(("verb", "is_sealed"), [(HOLD, False), (REQUEUE, True), (MOVE, True), (REMOVE, True)])
def test_what_is_here(tmp_path: object, verb: str, is_sealed: bool) -> None:
    for stop, machine in every_stop(at_least=6):
        pair, identifiers = make(f"{tmp_path}/{stop}")
        if is_sealed:
            steps.seal(pair.mx)
        plan(pair.mx, identifiers[:1], verb)
        target = steps.CountingTarget(DELIVERED)
        with machine:
            work(pair.mx, target)
        work(pair.mx, target)
        work(pair.mx, target)
        left = identifiers[1:] if verb == REMOVE else identifiers
        assert everywhere(pair.mx) == left
        assert len(told(target)) == (1 if verb == REMOVE else 0)
        ledger = pair.mx.context.open_ledger()
        assert Plans(ledger).open() == []
        ledger.close()
        assert os.listdir(f"{pair.mx.root}/in/home/notices") == []


def test_what_is_being_written_anew_is_not_moved_before_that_is_recorded(tmp_path: object) -> None:
    pair, identifiers = make(tmp_path)
    plan(pair.mx, ["Z" * 26], HOLD)
    with closing(pair.mx.context.open_ledger()) as ledger:
        Plans(ledger).anew("Z" * 26, identifiers[0])
    plan(pair.mx, identifiers, MOVE)
    work(pair.mx, steps.CountingTarget(DELIVERED))
    with closing(pair.mx.context.open_ledger()) as ledger:
        assert [one.tx for one in Plans(ledger).open() if one.verb == MOVE] == identifiers[:1]


def sealed(site: Mailbox, peer: str) -> list[str]:
    """What a call with a peer has taken into batches so far."""
    context = site.context._replace(peer=site.context.peer._replace(name=peer))
    with closing(context.open_ledger()) as ledger:
        sealer = Sealer(context, ledger)
        sealer.recover()
        while sealer.seal_batch(f"{peer}.example", 1 << 30, 1 << 30):
            pass
    root = f"{site.root}/out/{peer}/outbox"
    names = [name for name in os.listdir(root) if name.endswith(".batch")]
    return [item.entry.id for name in names for item in batchfile.check_batch(f"{root}/{name}")[1]]


@pytest.mark.parametrize("is_held", [False, True])
def test_what_is_moved_goes_to_one_peer_also_when_calls_come_before_the_next_pass(
    tmp_path: object, is_held: bool
) -> None:
    for stop, machine in every_stop(at_least=6):
        pair, identifiers = make(f"{tmp_path}/{stop}")
        if is_held:
            plan(pair.mx, identifiers, HOLD)
            work(pair.mx, steps.CountingTarget(DELIVERED))
        plan(pair.mx, identifiers, MOVE)
        with machine:
            work(pair.mx, steps.CountingTarget(DELIVERED))
        for _ in range(2):
            found = sealed(pair.mx, "other") + sealed(pair.mx, "home")
            assert sorted(found) == sorted(set(found))
            work(pair.mx, steps.CountingTarget(DELIVERED))
        assert sorted({*sealed(pair.mx, "other"), *sealed(pair.mx, "home")}) == identifiers


def test_what_is_held_and_ends_is_not_sent_when_a_call_comes_before_the_next_pass(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=6):
        pair, identifiers = make(f"{tmp_path}/{stop}")
        target = steps.CountingTarget(DELIVERED)
        plan(pair.mx, identifiers[:1], HOLD)
        work(pair.mx, target)
        plan(pair.mx, identifiers[:1], REMOVE)
        with machine:
            work(pair.mx, target)
        ledger = pair.mx.context.open_ledger()
        settler = Settler(pair.mx.context, ledger, target)
        Planner(pair.mx.context, ledger, settler).run(lambda: True)  # a pass that was told to end
        ledger.close()
        assert sealed(pair.mx, "home") == identifiers[1:]
        work(pair.mx, target)
        work(pair.mx, target)
        assert everywhere(pair.mx) == []
        assert len(told(target)) == 1


def taken(tmp_path: object, verb: str) -> Pair:
    """The far side has it, was asked, and has given it back: its report has come."""
    pair, identifiers = make(tmp_path)
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    plan(pair.mx, identifiers[:1], verb)
    work(pair.mx, steps.CountingTarget(DELIVERED))
    exchange(pair.mx, pair.home)
    ledger = pair.home.context.open_ledger()
    Desk(pair.home.context, ledger).run(lambda: False)
    ledger.close()
    far = steps.CountingTarget(DELIVERED)
    steps.replay(pair.home, far)
    assert [identifier for identifier, _, _ in far.given] == identifiers[1:]
    exchange(pair.home, pair.mx)
    return pair


@pytest.mark.parametrize("verb", [HOLD, MOVE, REMOVE])
def test_what_the_far_side_gave_back(tmp_path: object, verb: str) -> None:
    for stop, machine in every_stop(at_least=10):
        pair = taken(f"{tmp_path}/{stop}", verb)
        target = steps.CountingTarget(DELIVERED)
        with machine:
            work(pair.mx, target)
        work(pair.mx, target)
        work(pair.mx, target)
        assert len(everywhere(pair.mx)) == (0 if verb == REMOVE else 1)
        assert len(told(target)) == (1 if verb == REMOVE else 0)
        steps.carry(pair.mx, pair.home)
        assert [name for name in pair.mx.outbox() if name.endswith("batch")] == []


def test_delays_and_expiry(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=20):
        pair, identifiers = make(f"{tmp_path}/{stop}")
        target = steps.CountingTarget(DELIVERED)
        stopped_at = stop % 2  # in the pass that tells of the delay, or in the one that ends them
        for number, days in enumerate((4, 7)):
            pair.mx.clock.now_ms += days * DAY_MS
            if number == stopped_at:
                with machine:
                    work(pair.mx, target)
            work(pair.mx, target)
        assert everywhere(pair.mx) == []
        actions = [b"Action: delayed" in content for _, _, content in {g[0]: g for g in target.given}.values()]
        assert (actions.count(True), actions.count(False)) == (len(identifiers),) * 2


@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize(("mode", "action"), [("R", b"Action: failed"), ("N", b"Action: delayed")])
def test_deadlines(tmp_path: object, mode: str, action: bytes, is_sealed: bool) -> None:
    for stop, machine in every_stop(at_least=6):
        pair, identifiers = make(f"{tmp_path}/{stop}")
        identifiers += pair.mx.accept(*messages(2, seed=3), sender=f"<s@mx.example> BY=60;{mode}")
        if is_sealed:
            steps.seal(pair.mx)
        target = steps.CountingTarget(DELIVERED)
        pair.mx.clock.now_ms += 60_000
        with machine:
            work(pair.mx, target)
        work(pair.mx, target)
        work(pair.mx, target)
        assert len(told(target)) == 2
        assert all(action in content for _, _, content in target.given)
        left = identifiers[:2] if mode == "R" else sorted(identifiers)
        assert everywhere(pair.mx) == (left if mode == "R" or not is_sealed else [])
        assert list(Deadlines(pair.mx.spool, "home").over(pair.mx.clock.now_ms)) == []


def test_what_is_accepted_has_its_mark(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=3):
        pair, others = make(f"{tmp_path}/{stop}")
        with machine:
            pair.mx.accept(*messages(2, seed=3), sender="<s@mx.example> BY=60;R")
        pair.mx.clock.now_ms += 60_000
        marked = {one.id for one in Deadlines(pair.mx.spool, "home").over(pair.mx.clock.now_ms)}
        assert set(everywhere(pair.mx)) - set(others) <= marked
        target = steps.CountingTarget(DELIVERED)
        work(pair.mx, target)
        assert everywhere(pair.mx) == others


def test_giving_up(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=6):
        pair, identifiers = make(f"{tmp_path}/{stop}")
        steps.seal(pair.mx)
        steps.carry(pair.mx, pair.home)
        target = steps.CountingTarget(DELIVERED)
        pair.mx.clock.now_ms += 4 * DAY_MS
        work(pair.mx, target)
        before = told(target)
        pair.mx.clock.now_ms += 14 * DAY_MS
        with machine:
            work(pair.mx, target)
        work(pair.mx, target)
        work(pair.mx, target)
        assert len(told(target)) == len(before) + len(identifiers) == 2 * len(identifiers)
        steps.seal(pair.mx)  # the next call begins by removing what is settled
        assert pair.mx.outbox() == []


@pytest.mark.parametrize("verb", [HOLD, MOVE, REMOVE])
def test_what_is_coming_back_is_not_decided_anew(tmp_path, monkeypatch, verb):
    """Stopped between the copy and the outcomes; then a person changes his mind, which is too late."""
    pair, (identifier, _) = make(tmp_path)
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    plan(pair.mx, [identifier], REQUEUE)
    rows = [Reported(identifier, Outcome(0, WITHDRAWN, 0, "5.0.0", b"withdrawn", b"", NOW_MS), False)]
    target = steps.CountingTarget()

    def take():
        ledger = pair.mx.context.open_ledger()
        try:
            Settler(pair.mx.context, ledger, target).take(rows, "a report")
        finally:
            ledger.close()

    with monkeypatch.context() as patch:
        patch.setattr(Sent, "settle", stop)
        with pytest.raises(Stop):
            take()
    plan(pair.mx, [identifier], verb)
    take()
    places = [f"{pair.mx.root}/out/{peer}/{place}" for peer in ("home", "other") for place in ("waiting", "held")]
    copies = [name for place in places for _, _, names in os.walk(place) for name in names]
    assert len(copies) == 1
    assert copies[0].startswith(identifier[:10])
    work(pair.mx, target)
    assert target.given == []
    ledger = pair.mx.context.open_ledger()
    assert [plan.verb for plan in Plans(ledger).open()] == []
    ledger.close()


def test_what_some_have_had_is_not_moved(tmp_path):
    pair, _ = make(tmp_path)
    (identifier,) = pair.mx.accept(*messages(1), rcpts=("<r@home.example>", "<q@home.example>"))
    steps.seal(pair.mx)
    ledger = pair.mx.context.open_ledger()
    for file in Sent(ledger).files("sealed"):
        Sent(ledger).whole(file.number, NOW_MS)
    outcome = Outcome(0, DELIVERED, 250, "2.0.0", b"ok", b"mta.example", NOW_MS)
    Settler(pair.mx.context, ledger, steps.CountingTarget()).take([Reported(identifier, outcome, False)], "a report")
    ledger.close()
    steps.reseal(pair.mx, {identifier})
    assert pair.mx.held() == [identifier]
    plan(pair.mx, [identifier], MOVE)
    work(pair.mx, steps.CountingTarget())
    assert pair.mx.held() == [identifier]
    ledger = pair.mx.context.open_ledger()
    found = Plans(ledger).find(identifier)
    ledger.close()
    assert found and found.result.startswith("not moved: some recipients have had it")
