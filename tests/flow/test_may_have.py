"""What the far side has, or may have, is not ended here, and what it told of before is not forgotten."""

import pytest

from batchmail.core.errors import LineError
from batchmail.core.outcome import DELIVERED, Outcome
from batchmail.core.report import Reported
from batchmail.core.schedule import Span
from batchmail.core.settings import DAY_MS
from batchmail.flow.outgoing import Outgoing
from batchmail.flow.settle import Settler
from batchmail.proto.frames import Data, Open
from batchmail.store.aging import Aging
from batchmail.store.boxes import Inbox
from batchmail.store.ledger import Ledger
from batchmail.store.plans import HOLD, REMOVE, REQUEUE
from batchmail.store.sent import Sent
from batchmail.store.streams import begin_new_stream
from tests.crash import test_steps as steps
from tests.crash.stops import every_stop
from tests.crash.test_plans import plan
from tests.flow.test_expire import fields, notices, pass_days, told
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages

TWO = ("<r@home.example>", "<q@home.example>")


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path, lifetime=Span(10 * DAY_MS), delay_notice=Span(30 * DAY_MS), give_up_ms=5 * DAY_MS)


def report(site: Mailbox, identifier: str, recipient: int = 0) -> None:
    """The peer says that it has delivered a transaction to one of its recipients."""
    ledger = site.context.open_ledger()
    outcome = Outcome(recipient, DELIVERED, 250, "2.0.0", b"ok", b"mta.example", NOW_MS)
    Settler(site.context, ledger, steps.CountingTarget()).take([Reported(identifier, outcome, False)], "a report")
    ledger.close()


def deliver(pair: Pair) -> dict[str, bytes]:
    """Calls until all is said; what the far side's target was given."""
    for _ in range(3):
        assert pair.call()[0].error is None
        pair.home.run()
        pair.mx.run()
    return pair.home.dropped()


def batches(site: Mailbox) -> list[str]:
    return [name for name in site.outbox() if name.endswith(".batch")]


def mark_whole(site: Mailbox) -> None:
    """The last octet of all that is sealed leaves, and nothing is heard of it."""
    ledger = site.context.open_ledger()
    for file in Sent(ledger).files("sealed"):
        Sent(ledger).whole(file.number, NOW_MS)
    ledger.close()


def test_half_of_a_batch_that_the_far_side_has_under_another_number(pair: Pair) -> None:
    ids = pair.mx.accept(*messages(2))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    pair.home.run()
    ledger = Ledger(pair.mx.spool, "home", adopt=True)
    begin_new_stream(ledger)
    ledger.close()
    steps.seal(pair.mx)
    steps.reseal(pair.mx, {ids[0]})
    assert pair.mx.held() == [ids[0]]
    assert pass_days(pair.mx, 11) == []
    assert sorted(pair.home.dropped()) == sorted(ids)
    assert len(batches(pair.mx)) == 1


def test_halves_with_outcomes_are_not_lost_by_time(pair: Pair) -> None:
    (first,) = pair.mx.accept(*messages(1), rcpts=TWO)
    (second,) = pair.mx.accept(*messages(1, seed=1))
    steps.seal(pair.mx)
    mark_whole(pair.mx)
    report(pair.mx, first)
    steps.reseal(pair.mx, {second})
    assert pair.mx.held() == [second]
    assert pass_days(pair.mx, 11) == []
    assert first in deliver(pair)
    assert batches(pair.mx) == []


def test_halves_of_what_the_far_side_may_have_are_never_ours_to_end(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=8):
        pair = make_pair(f"{tmp_path}/{stop}")
        ids = pair.mx.accept(*messages(4))
        steps.seal(pair.mx)
        mark_whole(pair.mx)
        with machine:
            steps.reseal(pair.mx, {ids[0]})
        steps.seal(pair.mx)  # as the next call begins
        ledger = pair.mx.context.open_ledger()
        assert Aging(ledger).expired(NOW_MS + 1000 * DAY_MS, 10) == []
        ledger.close()


def test_what_a_person_ends_while_a_refused_batch_is_parted_is_not_sent_as_well(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=8):
        pair = make_pair(f"{tmp_path}/{stop}")
        ids = pair.mx.accept(*messages(3))
        steps.seal(pair.mx)
        with machine:
            steps.reseal(pair.mx, {ids[0]})
        plan(pair.mx, ids, REMOVE)
        pair.mx.run()
        come = set(deliver(pair))
        letters = b"".join(pair.mx.dropped().values())
        assert [one in come for one in ids] == [one.encode() not in letters for one in ids]


def test_a_neighbour_that_was_told_of_before_it_left_is_not_lost_by_a_plan(pair: Pair) -> None:
    (first,) = pair.mx.accept(*messages(1), rcpts=TWO)
    (second,) = pair.mx.accept(*messages(1, seed=1))
    steps.seal(pair.mx)
    report(pair.mx, first)
    plan(pair.mx, [second], HOLD)
    pair.mx.run()
    assert first in deliver(pair)
    assert batches(pair.mx) == []


def test_one_that_was_told_of_before_it_left_is_not_lost_by_time(pair: Pair) -> None:
    (identifier,) = pair.mx.accept(*messages(1), rcpts=TWO)
    steps.seal(pair.mx)
    report(pair.mx, identifier)
    assert pass_days(pair.mx, 11) == []
    assert list(deliver(pair)) == [identifier]
    assert batches(pair.mx) == []


def test_a_batch_of_which_only_the_word_is_missing_may_be_there_from_then_on(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.mx.accept(*messages(1))
    steps.seal(pair.mx)
    ledger = pair.mx.context.open_ledger()
    (file,) = Sent(ledger).files("sealed")
    incoming = Inbox(pair.home.spool, "mx").begin(file.number, file.identity, 0)
    with open(f"{pair.mx.root}/out/home/outbox/{file.number.file_name}", "rb") as octets:
        incoming.append(octets.read())
    incoming.close()
    events = Outgoing.next_events

    def cut(self: Outgoing, *arguments: int) -> list[Open | Data]:
        found = list(events(self, *arguments))
        if any(isinstance(event, Open) for event in found):
            assert len(found) == 1
            raise LineError("cut just behind")
        return found

    monkeypatch.setattr(Outgoing, "next_events", cut)
    assert "cut just behind" in str(pair.call()[1].error)
    monkeypatch.undo()
    assert ledger.rows("SELECT COUNT(*) FROM sent WHERE whole_ms IS NOT NULL") == [(1,)]
    ledger.close()


def held_with_an_outcome(pair: Pair) -> str:
    """Refused alone, and its first recipient has been served."""
    (identifier,) = pair.mx.accept(*messages(1), rcpts=TWO)
    steps.seal(pair.mx)
    mark_whole(pair.mx)
    report(pair.mx, identifier)
    steps.reseal(pair.mx, {identifier})
    assert pair.mx.held() == [identifier]
    return identifier


def test_what_was_held_with_an_outcome_is_settled_when_it_goes_again(pair: Pair) -> None:
    identifier = held_with_an_outcome(pair)
    plan(pair.mx, [identifier], REQUEUE)
    pair.mx.run()
    assert list(deliver(pair)) == [identifier]
    assert (batches(pair.mx), pair.mx.waiting()) == ([], [])


def test_who_was_served_is_not_told_of_as_failed(pair: Pair) -> None:
    identifier = held_with_an_outcome(pair)
    plan(pair.mx, [identifier], REMOVE)
    pair.mx.run()
    assert told(pair.mx) == [("failed", "5.7.1")]
    (letter,) = notices(pair.mx)
    assert "q@home.example" in fields(letter)[1]["final-recipient"]
    assert pair.mx.held() == []
