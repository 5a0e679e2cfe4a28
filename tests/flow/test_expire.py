"""Time: a fortnight and more of an away host; which notices are written when, and by whom a transaction ends."""

import email
import email.policy
import os
from datetime import datetime
from email.message import EmailMessage
from zoneinfo import ZoneInfo

import pytest

from batchmail.core.outcome import DELAYED, Outcome
from batchmail.core.request import WITHDRAW
from batchmail.core.schedule import Calendar, Rule, Span, parse_rule
from batchmail.core.settings import DAY_MS
from batchmail.flow import expire
from batchmail.flow.delivery import BeforeDot, Delivery, Settled
from batchmail.flow.plans import AT_ONCE
from batchmail.store.requests import Requests
from batchmail.store.sent import Sent
from batchmail.store.waiting import WaitingRoom
from tests.crash import test_steps as steps
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages

HOUR_MS = DAY_MS // 24


def notices(site: Mailbox) -> list[EmailMessage]:
    """What the site's target was given beside mail: the notices, oldest first."""
    found = []
    for _, octets in sorted(site.dropped().items()):
        text = octets.partition(b"DATA\r\n")[2].removesuffix(b".\r\nQUIT\r\n").replace(b"\r\n..", b"\r\n.")
        letter = email.message_from_bytes(text, policy=email.policy.default)
        assert isinstance(letter, EmailMessage)
        if letter.get_content_type() == "multipart/report":
            assert letter.defects == []
            found.append(letter)
    return found


def fields(letter: EmailMessage) -> list[dict[str, str]]:
    """The groups of its delivery status: of the message, then of each recipient."""
    status = letter.get_payload(1)
    assert isinstance(status, EmailMessage)
    groups = status.get_payload()
    return [{key.lower(): str(value) for key, value in group.items()} for group in groups]  # type: ignore


def told(site: Mailbox) -> list[tuple[str, str]]:
    return [(one["action"], one["status"]) for letter in notices(site) for one in fields(letter)[1:]]


def pass_days(site: Mailbox, days: float, step_h: int = 12) -> list[tuple[float, str]]:
    """Run every few hours; when which notices came, in days since the start."""
    seen: list[tuple[float, str]] = []
    end_ms = site.clock.now_ms + round(days * DAY_MS)
    while site.clock.now_ms < end_ms:
        site.clock.now_ms += step_h * HOUR_MS
        before = len(told(site))
        site.run()
        day = (site.clock.now_ms - NOW_MS) / DAY_MS
        seen += [(day, action) for action, _ in told(site)[before:]]
    return seen


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path, lifetime=Span(10 * DAY_MS), delay_notice=Span(3 * DAY_MS), give_up_ms=5 * DAY_MS)


def test_a_fortnight_without_a_call(pair: Pair) -> None:
    pair.mx.accept(*messages(2))
    assert pass_days(pair.mx, 14) == [(3.5, "delayed"), (3.5, "delayed"), (10.5, "failed"), (10.5, "failed")]
    assert told(pair.mx)[-1] == ("failed", "5.4.7")
    assert (pair.mx.waiting(), pair.mx.outbox()) == ([], [])
    first = notices(pair.mx)[0]
    assert fields(first)[1]["will-retry-until"]
    assert "home" in first.get_payload(0).get_content()  # type: ignore[union-attr]
    assert pair.call()[0].error is None
    assert pair.home.dropped() == {}


@pytest.mark.parametrize(
    ("notify", "actions"),
    [
        ("", ["delayed", "failed"]),
        (" NOTIFY=NEVER", []),
        (" NOTIFY=DELAY", ["delayed"]),
        (" NOTIFY=FAILURE", ["failed"]),
        (" NOTIFY=SUCCESS", []),
    ],
)
def test_what_the_sender_wants_to_know(pair: Pair, notify: str, actions: list[str]) -> None:
    pair.mx.accept(*messages(1), rcpts=(f"<r@home.example>{notify}",))
    assert [action for _, action in pass_days(pair.mx, 14)] == actions
    assert pair.mx.waiting() == []


def test_nobody_is_told_about_the_null_sender(pair: Pair) -> None:
    pair.mx.accept(*messages(1), sender="<>")
    assert pass_days(pair.mx, 14) == []
    assert pair.mx.waiting() == []


def test_by_priority(tmp_path: object) -> None:
    span = Span(10 * DAY_MS, ((-5, 12 * DAY_MS), (3, 2 * DAY_MS), (6, DAY_MS)))
    assert [span.at(n) for n in (-9, -5, -4, 0, 2, 3, 5, 6, 9)] == [
        d * DAY_MS for d in (12, 12, 10, 10, 10, 2, 2, 1, 1)
    ]
    pair = make_pair(tmp_path, lifetime=span, delay_notice=Span(30 * DAY_MS))
    for priority in (0, 7):
        pair.mx.accept(*messages(1), priority=priority)
    assert pass_days(pair.mx, 11) == [(1.5, "failed"), (10.5, "failed")]


def test_many_are_told_a_part_in_each_pass(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expire, "_MOST", 2)
    monkeypatch.setattr(expire, "_AT_ONCE", 2)
    for message in messages(5):
        pair.mx.accept(message)
        pair.mx.clock.now_ms += 2 * HOUR_MS
    pair.mx.clock.now_ms = NOW_MS
    assert [day for day, _ in pass_days(pair.mx, 6, 24)] == [4, 4, 5, 5, 5]


def away(tmp_path: object, calendar: Calendar) -> Pair:
    return make_pair(tmp_path, lifetime=Span(30 * DAY_MS), delay_notice=Span(DAY_MS), calendar=calendar)


def test_a_known_absence_is_no_delay(tmp_path: object) -> None:
    pair = away(tmp_path, Calendar((parse_rule("daily 06:00"),), NOW_MS + 7 * DAY_MS))
    pair.mx.accept(*messages(1))
    assert pass_days(pair.mx, 6.5) == []
    ((day, action),) = pass_days(pair.mx, 7)
    assert (7 < day <= 8.5, action) == (True, "delayed")
    assert "is expected to be connected next on" in notices(pair.mx)[0].get_payload(0).get_content()  # type: ignore


def test_a_call_that_was_not_missed_is_waited_for(tmp_path: object) -> None:
    pair = away(tmp_path, Calendar((Rule(every_ms=4 * DAY_MS),)))
    assert pair.call()[0].error is None
    pair.mx.accept(*messages(1))
    ((day, _),) = pass_days(pair.mx, 9)
    assert 4 < day <= 4.5


def test_what_was_delivered_is_not_late(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    pair.call()
    pair.mx.run()
    assert pass_days(pair.mx, 14) == []


def test_what_the_far_side_has_and_says_nothing_of(pair: Pair) -> None:
    (identifier,) = pair.mx.accept(*messages(1))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    seen = pass_days(pair.mx, 20)
    assert seen == [(3.5, "delayed"), (15.5, "failed")]
    letter = notices(pair.mx)[-1]
    assert "fate is unknown" in fields(letter)[1]["diagnostic-code"]
    assert pair.mx.outbox() == []
    ledger = pair.mx.context.open_ledger()
    assert [asked.request for asked in Requests(ledger).open()] == [(WITHDRAW, identifier, {"tx": identifier})]
    ledger.close()


def test_a_batch_that_never_left_is_unsealed_to_expire(pair: Pair) -> None:
    pair.mx.accept(*messages(2))
    steps.seal(pair.mx)
    pair.mx.clock.now_ms += 5 * DAY_MS
    (late,) = pair.mx.accept(*messages(1, seed=5))
    steps.seal(pair.mx)
    assert len(pair.mx.outbox()) == 2
    assert [action for _, action in pass_days(pair.mx, 6)] == ["delayed"] * 3 + ["failed"] * 2
    assert pair.mx.waiting() == []
    assert pair.call()[0].error is None
    assert list(pair.home.dropped()) == [late]


def test_a_damaged_batch_does_not_keep_others_from_expiring(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    steps.seal(pair.mx)
    (name,) = pair.mx.outbox()
    os.truncate(f"{pair.mx.root}/out/home/outbox/{name}", 60)
    pair.mx.accept(*messages(1, seed=5))
    pair.mx.clock.now_ms += 11 * DAY_MS
    pair.mx.run()
    pair.mx.run()
    assert [action for action, _ in told(pair.mx)] == ["failed"]
    assert pair.mx.outbox() == [name]


def damage_waiting(site: Mailbox, count: int) -> list[str]:
    """The first that wait lose their ends; their IDs."""
    first = list(WaitingRoom(site.spool, "home").scan())[:count]
    for waiting in first:
        os.truncate(waiting.path, 60)
    return [waiting.id for waiting in first]


def test_what_is_damaged_does_not_keep_others_from_being_told(pair: Pair) -> None:
    pair.mx.accept(*messages(3))
    damaged = damage_waiting(pair.mx, 1)
    assert [action for _, action in pass_days(pair.mx, 4)] == ["delayed", "delayed"]
    assert pair.mx.held() == damaged


def test_what_is_damaged_does_not_keep_others_from_expiring(pair: Pair) -> None:
    pair.mx.accept(*messages(AT_ONCE + 1))
    damaged = damage_waiting(pair.mx, AT_ONCE)
    pair.mx.clock.now_ms += 11 * DAY_MS
    pair.mx.run()
    pair.mx.run()
    assert [action for action, _ in told(pair.mx)] == ["failed"]
    assert (pair.mx.held(), pair.mx.waiting()) == (damaged, [])


def test_what_a_crash_left_of_a_sealed_one_does_not_expire(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    room = WaitingRoom(pair.mx.spool, "home")
    (waiting,) = room.scan()
    os.link(waiting.path, f"{pair.mx.root}/kept")
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    os.makedirs(os.path.dirname(waiting.path), exist_ok=True)
    os.rename(f"{pair.mx.root}/kept", waiting.path)
    assert [action for _, action in pass_days(pair.mx, 12)] == ["delayed"]
    assert [name.rpartition(".")[2] for name in pair.mx.outbox()] == ["batch"]


def test_a_batch_that_left_whole_and_was_not_answered_is_the_far_sides(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    steps.seal(pair.mx)
    ledger = pair.mx.context.open_ledger()
    (file,) = Sent(ledger).files("sealed")
    Sent(ledger).whole(file.number, NOW_MS)
    ledger.close()
    seen = pass_days(pair.mx, 14)
    assert [action for _, action in seen] == ["delayed"]


@pytest.mark.parametrize("text", ["every 10min", "every 2 h", "every 3d", "daily 06:00", "mon,thu 23:59"])
def test_rules(text: str) -> None:
    rule = parse_rule(text)
    for now_ms in range(NOW_MS, NOW_MS + 10 * DAY_MS, 7 * HOUR_MS):
        found = rule.next_ms(now_ms)
        assert now_ms < found <= now_ms + 7 * DAY_MS
        assert rule.every_ms or not any(now_ms < rule.next_ms(t) < found for t in range(now_ms, found, HOUR_MS))


def test_days_of_the_week() -> None:
    saturday_ms = NOW_MS // DAY_MS * DAY_MS  # 21 November 2026
    assert parse_rule("sat 12:00").next_ms(saturday_ms) == saturday_ms + 12 * HOUR_MS
    assert parse_rule("sat 12:00").next_ms(saturday_ms + 12 * HOUR_MS) == saturday_ms + 7 * DAY_MS + 12 * HOUR_MS
    assert parse_rule("mon,sun 00:00").next_ms(saturday_ms) == saturday_ms + DAY_MS


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def test_a_time_of_day_is_that_of_its_zone_in_summer_too() -> None:
    daily = parse_rule("daily 02:30", ZoneInfo("Europe/Berlin"))
    found = [at("2027-03-26T12:00Z")]
    for _ in range(4):
        found.append(daily.next_ms(found[-1]))
    assert found[1:] == [
        at("2027-03-27T02:30+01:00"),
        at("2027-03-28T03:30+02:00"),  # there is no 02:30 on that day
        at("2027-03-29T02:30+02:00"),
        at("2027-03-30T02:30+02:00"),
    ]
    monday = parse_rule("mon 00:30", ZoneInfo("Pacific/Auckland"))
    assert monday.next_ms(at("2026-11-21T00:00Z")) == at("2026-11-23T00:30+13:00")
    twice = parse_rule("daily 02:30", ZoneInfo("Europe/Berlin"))  # on that day it is so twice, and once is meant
    assert twice.next_ms(at("2026-10-24T12:00Z")) == at("2026-10-25T02:30+02:00")
    assert twice.next_ms(at("2026-10-25T02:30+02:00")) == at("2026-10-26T02:30+01:00")


@pytest.mark.parametrize(
    "text", ["", "daily", "daily 24:00", "daily 06:60", "every 0min", "every 5s", "fun 06:00", "Mon 06:00"]
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rule(text)


def test_who_is_away_for_ever_is_not_expected() -> None:
    away = Calendar((parse_rule("daily 06:00"),), at("9999-12-31T00:00Z"))
    assert away.next_ms(NOW_MS) > away.away_until_ms  # type: ignore[operator]
    assert not away.has_missed(NOW_MS, NOW_MS + 1000 * DAY_MS)


def test_a_calendar() -> None:
    assert Calendar().next_ms(NOW_MS) is None
    assert Calendar().has_missed(NOW_MS, NOW_MS + 1)
    back = Calendar((), NOW_MS + DAY_MS)
    assert back.next_ms(NOW_MS) == back.away_until_ms
    assert not back.has_missed(NOW_MS, back.away_until_ms)
    assert back.has_missed(NOW_MS, back.away_until_ms + 2 * HOUR_MS)
    every = Calendar((Rule(every_ms=HOUR_MS),))
    assert every.expected_ms(NOW_MS, NOW_MS + 10) == NOW_MS + HOUR_MS
    assert every.expected_ms(NOW_MS, NOW_MS + 9 * HOUR_MS) == NOW_MS + 10 * HOUR_MS


class LaterTarget(steps.CountingTarget):
    """A server that is full."""

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        before_dot()
        for number in delivery.recipients:
            settled(Outcome(number, DELAYED, 452, "4.2.2", b"mailbox full", b"mx.far.example", NOW_MS))


@pytest.mark.parametrize("calendar", [Calendar(), Calendar((parse_rule("every 1h"),))])
def test_what_a_server_there_puts_off_is_told_in_its_words(tmp_path: object, calendar: Calendar) -> None:
    pair = away(tmp_path, calendar)
    pair.mx.accept(*messages(1), rcpts=("<r@home.example>", "<q@home.example> NOTIFY=FAILURE"))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    steps.replay(pair.home, LaterTarget())
    steps.seal(pair.home)
    steps.carry(pair.home, pair.mx)
    ledger = pair.mx.context.open_ledger()
    ledger.note("peer_site", "home.example")  # learned in a call
    ledger.close()
    assert pass_days(pair.mx, 4) == [(1.5, "delayed")]
    (letter,) = notices(pair.mx)
    message, recipient = fields(letter)
    assert message["reporting-mta"] == "dns; home.example"
    assert (recipient["status"], recipient["remote-mta"]) == ("4.2.2", "dns; mx.far.example")
    assert recipient["diagnostic-code"] == "smtp; 452 4.2.2 mailbox full"
    assert recipient["will-retry-until"]
