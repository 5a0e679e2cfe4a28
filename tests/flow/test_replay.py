"""Replay with several sessions: fake targets, each in its lane."""

import threading
import time
from collections.abc import Callable

import pytest

from batchmail.core.errors import SpoolError, TargetDown
from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, Outcome
from batchmail.flow.delivery import BeforeDot, Delivery, Settled
from batchmail.flow.replay import Replayer
from batchmail.store.ledger import Ledger
from batchmail.store.received import Received
from tests.crash.test_steps import carry, seal
from tests.disks import Disk
from tests.sites import HANG_S, NOW_MS, Clock, Pair, make_pair, messages


class Fake:
    """Takes what it is given; `before` and `after` happen before and after the dot."""

    offers = ""

    def __init__(self, before: Callable[[], object] = int, after: Callable[[], object] = int):
        self._before, self._after = before, after
        self.given: list[str] = []

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        self._before()
        before_dot()
        self.given.append(delivery.id)
        self._after()
        for number in delivery.recipients:
            settled(Outcome(number, DELIVERED, 250, "2.0.0", b"text", b"mta.example", NOW_MS))

    def close(self) -> None:
        pass


def raising(error: BaseException) -> Callable[[], None]:
    def stumble() -> None:
        raise error

    return stumble


def first(action: Callable[[], object]) -> Callable[[], object]:
    """Only the first time."""
    actions = iter([action])
    return lambda: next(actions, int)()


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    made = make_pair(tmp_path)
    made.mx.accept(*messages(60))
    seal(made.mx)
    carry(made.mx, made.home)
    return made


def replay(pair: Pair, *targets: Fake) -> Ledger:
    """The ledger, for a look at what became of all."""
    ledger = pair.home.context.open_ledger()
    Replayer(pair.home.context, ledger, targets, lambda *_: None).run(lambda: False)
    return ledger


def states(ledger: Ledger) -> dict[str, int]:
    return dict(ledger.rows("SELECT state, count(*) FROM in_tx GROUP BY state"))


def test_each_goes_to_one_session_and_all_have_a_share(pair: Pair) -> None:
    meeting = threading.Barrier(3, timeout=HANG_S)
    lanes = [Fake(before=first(meeting.wait)) for _ in range(3)]  # the first of each lane waits for the two others
    ledger = replay(pair, *lanes)
    given = [identifier for lane in lanes for identifier in lane.given]
    assert len(given) == len(set(given)) == 60
    assert all(lane.given for lane in lanes)
    assert states(ledger) == {"done": 60}
    assert not ledger.rows("SELECT 1 FROM in_tx WHERE doubtful")


def test_a_directory_takes_several_files_at_once_and_one_that_fails_costs_none(pair: Pair) -> None:
    with Disk(fail=("link", 20)) as disk:
        pair.home.run()
    assert disk.failed
    assert len(pair.home.dropped()) == 60
    assert states(pair.home.context.open_ledger()) == {"done": 60}


def test_the_dot_is_on_disk_before_it_is_written(pair: Pair) -> None:
    seen: list[object] = []

    def look() -> None:
        ledger = pair.home.context.open_ledger()
        seen.append(ledger.rows("SELECT count(*) > 0 FROM in_tx WHERE state = 'dot'")[0][0])
        ledger.close()

    replay(pair, Fake(after=look), Fake(after=look))
    assert seen == [1] * 60


class Refusing(Fake):
    """Takes each third; to the others it says "later" before it has come to a dot."""

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        self.given.append(delivery.id)
        if len(self.given) % 3 == 0:
            before_dot()
            self._after()
        action, code = (DELIVERED, 250) if len(self.given) % 3 == 0 else (DELAYED, len(self.given) % 3 == 1 and 451)
        for number in delivery.recipients:
            settled(Outcome(number, action, code, "2.0.0", b"text", b"mta.example", NOW_MS))


def test_a_dot_that_was_announced_and_not_written_is_not_in_doubt(pair: Pair) -> None:
    def look() -> None:
        ledger = pair.home.context.open_ledger()
        seen.append(ledger.rows("SELECT state FROM in_tx WHERE id = ?", lane.given[-1])[0][0])
        ledger.close()

    seen: list[str] = []
    lane = Refusing(after=look)
    ledger = replay(pair, lane)
    assert seen == ["dot"] * 20
    assert states(ledger) == {"done": 20, "waiting": 40}
    ledger.rows("UPDATE in_tx SET next_ms = 0")
    assert states(replay(pair, Fake())) == {"done": 60}
    assert not ledger.rows("SELECT 1 FROM in_tx WHERE doubtful")


def test_a_dot_that_was_announced_to_a_session_that_ended_is_not_in_doubt(pair: Pair) -> None:
    lane = Fake()
    lane._before = lambda: raising(TargetDown("421 going down"))() if len(lane.given) == 5 else None
    with pytest.raises(TargetDown, match="going down"):
        replay(pair, lane)
    assert states(pair.home.context.open_ledger()) == {"done": 5, "waiting": 55}


def test_what_was_in_doubt_stays_so_until_a_dot_is_answered(pair: Pair) -> None:
    ledger = pair.home.context.open_ledger()
    ledger.rows("UPDATE in_tx SET state = 'dot'")
    replay(pair, Refusing())
    assert states(ledger) == {"done": 20, "dot": 40}
    assert ledger.rows("SELECT doubtful, count(*) FROM in_tx GROUP BY doubtful") == [(0, 40), (1, 20)]


def test_a_session_that_cannot_be_had_leaves_its_transaction_to_the_others(pair: Pair) -> None:
    down, good = Fake(before=raising(TargetDown("421 too many connections"))), Fake()
    assert states(replay(pair, down, good, down)) == {"done": 60}
    assert (len(good.given), down.given) == (60, [])


def test_a_target_that_is_down_in_all_sessions_is_down(pair: Pair) -> None:
    lanes = [Fake(before=raising(TargetDown("no route"))) for _ in range(3)]
    with pytest.raises(TargetDown, match="no route"):
        replay(pair, *lanes)
    assert states(pair.home.context.open_ledger()) == {"waiting": 60}


def test_a_transaction_that_a_target_stumbles_over_stops_no_other(pair: Pair) -> None:
    lane = Fake(before=first(raising(ValueError("odd"))))
    assert states(replay(pair, lane, Fake())) == {"done": 59, "waiting": 1}


def test_no_dot_is_written_that_the_ledger_could_not_be_told_of(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Received, "before_dot", lambda *_: raising(SpoolError("the disk is full"))())
    lanes = [Fake(), Fake(), Fake()]
    with pytest.raises(SpoolError, match="the disk is full"):
        replay(pair, *lanes)
    assert [lane.given for lane in lanes] == [[], [], []]
    assert states(pair.home.context.open_ledger()) == {"waiting": 60}


def test_a_dot_of_the_only_session_is_not_written_either(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Received, "before_dot", lambda *_: raising(SpoolError("the disk is full"))())
    lane = Fake()
    with pytest.raises(SpoolError, match="the disk is full"):
        replay(pair, lane)
    assert lane.given == []
    assert states(pair.home.context.open_ledger()) == {"waiting": 60}


class OneByOne(Fake):
    """Refuses its recipients, one after the other."""

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        for number in delivery.recipients:
            time.sleep(0.001)
            settled(Outcome(number, FAILED, 550, "5.1.1", b"text", b"mta.example", NOW_MS))


def test_what_is_found_while_a_dot_is_being_announced_is_recorded(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_pair(tmp_path)
    made.mx.accept(*messages(60), rcpts=tuple(f"<r{number}@home.example>" for number in range(4)))
    seal(made.mx)
    carry(made.mx, made.home)
    before_dot = Received.before_dot
    monkeypatch.setattr(Received, "before_dot", lambda *call: (time.sleep(0.006), before_dot(*call))[1])
    assert states(replay(made, *[OneByOne() for _ in range(5)])) == {"done": 60}


class Late(Fake):
    """Each dot is answered after ten minutes, and the next one was asked for behind it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock, self.times = clock, list[bytes]()

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        self.times += [word.value or b"" for word in delivery.envelope.parameters if word.keyword == b"BY"]
        super().deliver(delivery, before_dot, settled)
        delivery.following()
        self._clock.now_ms += 600_000


def test_time_that_is_left_is_told_as_it_is_in_its_turn(tmp_path: object) -> None:
    made = make_pair(tmp_path)
    made.mx.accept(*messages(2), sender="<s@mx.example> BY=3600;N")
    seal(made.mx)
    carry(made.mx, made.home)
    late = Late(made.home.clock)
    replay(made, late)
    assert late.times == [b"3600;N", b"3000;N"]


class Eager(Fake):
    """Asks for the next one behind each dot, as a server that pipelines lets it."""

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        super().deliver(delivery, before_dot, lambda outcome: (delivery.following(), settled(outcome))[1])
        following = delivery.following()
        self.announced.append(following.id if following else "")

    announced: list[str]


def test_the_only_session_knows_its_next_job(pair: Pair) -> None:
    lane = Eager()
    lane.announced = []
    assert states(replay(pair, lane)) == {"done": 60}
    assert [*lane.given[1:], ""] == lane.announced


def test_what_cannot_be_read_ahead_costs_the_one_at_hand_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    lane, job = Eager(), Replayer._job
    lane.announced = []

    def failing(self: Replayer, *arguments: object) -> object:
        return raising(SpoolError("cannot be read"))() if len(lane.given) == 3 else job(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Replayer, "_job", failing)
    with pytest.raises(SpoolError, match="cannot be read"):
        replay(pair, lane)
    assert states(pair.home.context.open_ledger()) == {"done": 3, "waiting": 57}


def test_few_transactions_are_given_in_one_session(pair: Pair) -> None:
    ledger = pair.home.context.open_ledger()
    ledger.rows("UPDATE in_tx SET next_ms = ? WHERE id NOT IN (SELECT id FROM in_tx LIMIT 9)", NOW_MS + 1)
    lanes = [Fake(), Fake()]
    replay(pair, *lanes)
    assert [len(lane.given) for lane in lanes] == [9, 0]


def test_when_it_is_to_stop_what_is_at_hand_is_ended(pair: Pair) -> None:
    ledger = pair.home.context.open_ledger()
    lane = Fake()
    Replayer(pair.home.context, ledger, [lane], lambda *_: None).run(lambda: len(lane.given) >= 3)
    assert 3 <= len(lane.given) <= 5
    assert states(ledger) == {"done": len(lane.given), "waiting": 60 - len(lane.given)}
