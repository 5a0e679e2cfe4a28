"""What a sender is told is true, and told once: of served recipients, after a jump of the clock, over long waits."""

import pytest

from batchmail.core.envelope import Envelope, Parameter, Recipient
from batchmail.core.names import make_id
from batchmail.core.outcome import DELAYED, Outcome
from batchmail.core.report import Reported
from batchmail.core.schedule import Span
from batchmail.core.settings import DAY_MS
from batchmail.flow.accept import Intake, Origin
from batchmail.flow.settle import Settler
from batchmail.flow.tidy import tidy
from batchmail.store import reader
from batchmail.store.deadlines import Deadline, Deadlines
from batchmail.store.plans import HOLD, REMOVE, REQUEUE, Plan, Plans
from batchmail.store.sent import Sent
from batchmail.store.spool import Door
from batchmail.store.waiting import WaitingRoom
from tests.crash import test_steps as steps
from tests.crash.test_plans import plan
from tests.disks import unreadable
from tests.flow.test_expire import HOUR_MS, fields, notices, pass_days, told
from tests.flow.test_may_have import TWO, held_with_an_outcome, mark_whole, report
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages


def pair_of(path: object, **entry: object) -> Pair:
    spans = {"lifetime": Span(10 * DAY_MS), "delay_notice": Span(3 * DAY_MS), "give_up_ms": 5 * DAY_MS}
    return make_pair(path, **(spans | entry))


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return pair_of(tmp_path)


def told_of(site: Mailbox) -> list[str]:
    return [one["final-recipient"] for letter in notices(site) for one in fields(letter)[1:]]


def tidied(site: Mailbox) -> None:
    ledger = site.context.open_ledger()
    tidy(site.context, ledger)
    ledger.close()


def test_no_delay_is_told_of_a_recipient_who_has_it(pair: Pair) -> None:
    identifier = held_with_an_outcome(pair)
    plan(pair.mx, [identifier], REQUEUE)
    pair.mx.run()
    assert pair.mx.waiting() == [identifier]
    pass_days(pair.mx, 4)
    assert told_of(pair.mx) == ["rfc822; q@home.example"]


def test_nor_that_it_did_not_come_in_time(pair: Pair) -> None:
    (identifier,) = pair.mx.accept(*messages(1), rcpts=TWO, sender="<s@mx.example> BY=3600;N")
    Deadlines(pair.mx.spool, "home").mark(identifier, Deadline(NOW_MS + HOUR_MS, False))
    steps.seal(pair.mx)
    mark_whole(pair.mx)
    report(pair.mx, identifier)
    steps.reseal(pair.mx, {identifier})
    plan(pair.mx, [identifier], REQUEUE)
    pair.mx.run()
    pair.mx.clock.now_ms += 2 * HOUR_MS
    pair.mx.run()
    assert told_of(pair.mx) == ["rfc822; q@home.example"]


def test_what_a_person_holds_is_not_late_for_want_of_a_line(pair: Pair) -> None:
    (identifier,) = pair.mx.accept(*messages(1), sender="<s@mx.example> BY=3600;N")
    Deadlines(pair.mx.spool, "home").mark(identifier, Deadline(NOW_MS + HOUR_MS, False))
    plan(pair.mx, [identifier], HOLD)
    pair.mx.run()
    pair.mx.clock.now_ms += 2 * HOUR_MS
    pair.mx.run()
    (letter,) = notices(pair.mx)
    assert "held back at mx.example" in letter.as_string()
    assert "not connected" not in letter.as_string()


def test_nobody_tries_longer_than_the_sender_asked_for(pair: Pair) -> None:
    pair.mx.accept(*messages(1), sender="<s@mx.example> BY=432000;R")
    pass_days(pair.mx, 3.5)
    (letter,) = notices(pair.mx)
    assert fields(letter)[1]["will-retry-until"] == fields(letter)[0]["deliver-by-date"]


@pytest.mark.parametrize("urgent_notice_days", [1, 3])
def test_what_came_in_with_an_urgent_one_has_its_own_time(tmp_path: object, urgent_notice_days: int) -> None:
    """They wait together, by the most urgent of their input."""
    lifetime = Span(10 * DAY_MS, ((5, 2 * DAY_MS),))
    notice = Span(3 * DAY_MS, ((5, urgent_notice_days * DAY_MS),))
    site = pair_of(tmp_path, lifetime=lifetime, delay_notice=notice).mx
    door = Door("home", "mx.example", 1 << 30, 0, "normalize")
    intake = Intake(site.spool, door, Origin(), make_id(NOW_MS, bytes(10)), NOW_MS)
    for parameters in ((), (Parameter(b"MT-PRIORITY", b"6"),)):
        intake.begin(Envelope(b"s@mx.example", parameters, (Recipient(b"r@home.example"),)), b"\r\n")
        intake.content(b"Subject: x\r\n\r\nx\r\n")
        intake.end()
    intake.commit()
    of_urgent = [(1.5, "delayed")] if urgent_notice_days == 1 else []
    assert pass_days(site, 3) == [*of_urgent, (2.5, "failed")]
    (left,) = WaitingRoom(site.spool, "home").scan()
    assert left.urgency == "09"
    assert pass_days(site, 9) == [(3.5, "delayed"), (10.5, "failed")]


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_delay_is_told_once_however_short_the_memory(tmp_path: object, is_sealed: bool) -> None:
    pair = pair_of(tmp_path, lifetime=Span(30 * DAY_MS), remember_ms=5 * DAY_MS)
    pair.mx.accept(*messages(1))
    if is_sealed:
        steps.seal(pair.mx)
    seen = []
    for _ in range(25):
        seen += pass_days(pair.mx, 1)
        tidied(pair.mx)
    assert seen == [(3.5, "delayed")]


def test_a_delay_of_what_was_held_is_told_when_it_waits_again(pair: Pair) -> None:
    held, _ = pair.mx.accept(*messages(2))
    plan(pair.mx, [held], HOLD)
    pair.mx.run()
    assert pass_days(pair.mx, 5) == [(3.5, "delayed")]
    plan(pair.mx, [held], REQUEUE)
    pair.mx.run()
    tidied(pair.mx)
    assert pass_days(pair.mx, 0.5) == [(5.5, "delayed")]


@pytest.mark.parametrize("days", [1, 100])
def test_a_clock_that_was_ahead_hides_no_delay(pair: Pair, days: int) -> None:
    site = pair.mx
    site.clock.now_ms += days * DAY_MS
    site.accept(*messages(1, seed=5))
    site.run()
    site.clock.now_ms = pair.home.clock.now_ms = NOW_MS + DAY_MS
    for _ in range(2):
        pair.call()
        pair.home.run()
    site.run()
    site.accept(*messages(1, seed=7))
    assert [action for _, action in pass_days(site, 12)] == ["delayed", "failed"]


def test_a_clock_that_was_ahead_hides_no_summary(pair: Pair) -> None:
    site = pair.mx

    def fail() -> None:
        site.accept(*messages(1, seed=site.clock.now_ms % 1000), sender="<>")
        plan(site, [site.waiting()[0]], REMOVE)
        site.run()

    def summaries() -> int:
        return sum(b"Subject: 1 notice" in text for text in site.dropped().values())

    site.clock.now_ms += 100 * DAY_MS
    fail()
    assert summaries() == 1
    site.clock.now_ms = pair.home.clock.now_ms = NOW_MS + DAY_MS
    pair.call()
    pair.home.run()
    site.run()
    fail()
    pass_days(site, 1)
    assert summaries() == 2


def test_an_unknown_fate_names_what_was_heard_last(pair: Pair) -> None:
    (identifier,) = pair.mx.accept(*messages(1))
    steps.seal(pair.mx)
    mark_whole(pair.mx)
    ledger = pair.mx.context.open_ledger()
    outcome = Outcome(0, DELAYED, 450, "4.2.1", b"4.2.1 mailbox full", b"mta.example", NOW_MS)
    Settler(pair.mx.context, ledger, steps.CountingTarget()).take([Reported(identifier, outcome, False)], "a report")
    ledger.close()
    assert pass_days(pair.mx, 16)[-1] == (15.5, "failed")
    text = " ".join(notices(pair.mx)[-1].as_string().split())
    assert "has told nothing since" in text
    assert "when it was delayed: 450 4.2.1 mailbox full; its fate is unknown" in text


@pytest.mark.parametrize(("status", "told_in_the_end"), [("", []), ("5.7.1", [("failed", "5.7.1")])])
def test_who_removed_it_is_obeyed_though_the_far_side_never_answers(
    pair: Pair, status: str, told_in_the_end: list[tuple[str, str]]
) -> None:
    (identifier,) = pair.mx.accept(*messages(1), rcpts=("<r@home.example> NOTIFY=FAILURE",))
    steps.seal(pair.mx)
    mark_whole(pair.mx)
    ledger = pair.mx.context.open_ledger()
    Plans(ledger).make([Plan(identifier, REMOVE, "", identifier, status, "text", NOW_MS)])
    ledger.close()
    pass_days(pair.mx, 16)
    assert told(pair.mx) == told_in_the_end
    ledger = pair.mx.context.open_ledger()
    assert Sent(ledger).open_recipients(identifier) == []
    ledger.close()


def test_a_notice_that_cannot_be_read_holds_up_no_other(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    site = pair.mx
    with monkeypatch.context() as patch:
        patch.setattr(Settler, "hand_over", lambda *_: None)
        plan(site, site.accept(*messages(3)), REMOVE)
        site.run()
    ledger = site.context.open_ledger()
    bad = min(row[0] for row in ledger.rows("SELECT id FROM notice WHERE state = 'owed'"))
    ledger.close()

    unreadable(monkeypatch, reader, f"{site.root}/in/home/notices/{bad}")
    pass_days(site, 1)
    assert len(notices(site)) == 2
    pass_days(site, 12)
    ledger = site.context.open_ledger()
    assert ledger.rows("SELECT state FROM notice WHERE id = ?", bad) == [("shown",)], "to the postmaster"
    ledger.close()
