"""What a notice says of who decided: the far side, this site, or nobody, since the far side told nothing."""

import pytest

from batchmail.core.outcome import DELAYED, FAILED, Outcome
from batchmail.core.schedule import Calendar, Span, parse_rule
from batchmail.core.settings import DAY_MS
from batchmail.flow.choose import Chosen, plan
from batchmail.flow.delivery import BeforeDot, Delivery, Settled
from batchmail.store.plans import REMOVE
from tests.crash import test_steps as steps
from tests.flow.test_expire import HOUR_MS, fields, notices, pass_days
from tests.flow.test_requests import exchange, serve
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages

BOTH = ("<gone@home.example>", "<full@home.example>")


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    pair = make_pair(tmp_path, lifetime=Span(10 * DAY_MS), delay_notice=Span(3 * DAY_MS), give_up_ms=5 * DAY_MS)
    assert pair.call()[0].error is None  # they know each other's names
    return pair


def words(site: Mailbox, number: int = 0) -> str:
    """What a notice tells a person, in one line."""
    return " ".join(notices(site)[number].get_payload(0).get_content().split())  # type: ignore[union-attr]


class SomeTarget(steps.CountingTarget):
    """One mailbox is gone, the others are full."""

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        before_dot()
        for number in delivery.recipients:
            gone = delivery.envelope.recipients[number].address.startswith(b"gone")
            verdict = (FAILED, 550, "5.1.1", b"nobody") if gone else (DELAYED, 452, "4.2.2", b"full")
            settled(Outcome(number, *verdict, b"mx.far.example", NOW_MS))


def test_of_what_was_never_heard_of_nobody_says_that_it_failed(pair: Pair) -> None:
    pair.mx.accept(*messages(1), rcpts=("<r@home.example> NOTIFY=FAILURE",))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    pass_days(pair.mx, 16)
    (letter,) = notices(pair.mx)
    message, recipient = fields(letter)
    assert message["reporting-mta"] == "dns; mx.example", "the other has told nothing"
    assert (recipient["action"], recipient["status"]) == ("failed", "5.4.7")
    assert letter["subject"].startswith("Fate unknown: ")
    assert "It is not known whether your message was delivered to this recipient" in words(pair.mx)
    assert "could not be delivered" not in words(pair.mx)


def test_the_far_side_and_the_administrator_tell_for_themselves(pair: Pair) -> None:
    (identifier,) = pair.mx.accept(*messages(1), rcpts=BOTH)
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    steps.replay(pair.home, SomeTarget())
    plan([Chosen(pair.mx.context, identifier)], REMOVE, "", "5.7.1", "returned by the administrator")
    pair.mx.run()
    exchange(pair.mx, pair.home)
    serve(pair.home)
    exchange(pair.home, pair.mx)
    serve(pair.mx)
    pair.mx.run()
    found = {}
    for letter in notices(pair.mx):
        message, recipient = fields(letter)
        found[recipient["final-recipient"]] = (message["reporting-mta"], recipient["action"], recipient["status"])
    assert found == {
        "rfc822; gone@home.example": ("dns; home.example", "failed", "5.1.1"),
        "rfc822; full@home.example": ("dns; mx.example", "failed", "5.7.1"),
    }
    assert pair.mx.outbox() == []


@pytest.mark.parametrize("calendar", [Calendar(), Calendar((parse_rule("every 1h"),))])
def test_mail_for_a_held_peer_waits_for_the_administrator(tmp_path: object, calendar: Calendar) -> None:
    pair = make_pair(tmp_path, lifetime=Span(10 * DAY_MS), delay_notice=Span(3 * DAY_MS), calendar=calendar)
    ledger = pair.mx.context.open_ledger()
    ledger.note("on_hold", "1")
    ledger.close()
    pair.mx.accept(*messages(1))
    for _ in range(21):
        pair.mx.clock.now_ms += 12 * HOUR_MS
        assert pair.call()[0].error is None
        pair.mx.run()
    late, ended = (fields(letter)[1] for letter in notices(pair.mx))
    assert (late["action"], late["status"]) == ("delayed", "4.3.2")
    assert late["diagnostic-code"] == "x-batchmail; mail for home.example is held back at mx.example for now"
    assert "you will be told" in words(pair.mx)
    assert "is not connected now" not in words(pair.mx) and "be connected next" not in words(pair.mx)
    assert (ended["action"], ended["status"]) == ("failed", "5.4.7")
    assert "is held back at mx.example" in words(pair.mx, 1)


def test_nothing_is_held_back_that_the_peer_has(tmp_path: object) -> None:
    hourly = Calendar((parse_rule("every 1h"),))
    pair = make_pair(tmp_path, lifetime=Span(10 * DAY_MS), delay_notice=Span(3 * DAY_MS), calendar=hourly)
    pair.mx.accept(*messages(1))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    for _ in range(10):
        pair.mx.clock.now_ms += 12 * HOUR_MS
        ledger = pair.mx.context.open_ledger()
        ledger.note("on_hold", "1")
        ledger.note("contact_ms", str(pair.mx.clock.now_ms))
        ledger.close()
        pair.mx.run()
    assert notices(pair.mx) == [], "it calls, and will report"


def test_whom_the_message_came_from_is_told(pair: Pair) -> None:
    """The site that gave up had it from a mail server's client, the far one from this site."""
    pair.mx.accept(*messages(1), rcpts=BOTH)
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    steps.replay(pair.home, SomeTarget())
    steps.seal(pair.home)
    steps.carry(pair.home, pair.mx)
    pair.mx.run()
    (letter,) = notices(pair.mx)
    assert fields(letter)[0]["received-from-mta"] == "dns; mx.example"


class LaterTarget(steps.CountingTarget):
    """Puts everything off: says another thing each time, or nothing any more."""

    def __init__(self, *texts: bytes) -> None:
        super().__init__()
        self._texts = list(texts)

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        before_dot()
        text = self._texts.pop(0)
        for number in delivery.recipients:
            if text:
                settled(Outcome(number, DELAYED, 452, "4.2.2", text, b"mx.far.example", NOW_MS + len(self._texts)))
            else:
                settled(Outcome(number, DELAYED, 0, "4.4.2", b"no reply to the final dot", b"mx.far.example", NOW_MS))


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ((b"first", b"second"), ("4.2.2", "dns; mx.far.example", "smtp; 452 4.2.2 second")),
        (
            (b"first", b""),
            ("5.4.7", "dns; mx.far.example", "x-batchmail; delivery time expired: no reply to the final dot"),
        ),
    ],
)
def test_what_expired_there_fails_by_what_was_said_last(
    pair: Pair, texts: tuple[bytes, ...], told: tuple[str, str, str]
) -> None:
    pair.mx.accept(*messages(1), rcpts=("<r@home.example> NOTIFY=FAILURE",))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    target = LaterTarget(*texts)
    for days in (1, 10, 0):
        steps.replay(pair.home, target)
        for _ in range(2):  # a delay is reported once
            steps.seal(pair.home)
        pair.home.clock.now_ms += days * DAY_MS
    assert [name.rpartition(".")[2] for name in pair.home.outbox()] == ["report", "report"]
    steps.carry(pair.home, pair.mx)
    pair.mx.run()
    (letter,) = notices(pair.mx)
    message, recipient = fields(letter)
    assert message["reporting-mta"] == "dns; home.example"
    assert (recipient["action"], recipient["status"], recipient["remote-mta"], recipient["diagnostic-code"]) == (
        "failed",
        *told,
    )
    assert pair.mx.outbox() == []


@pytest.mark.parametrize(("limit", "is_whole"), [(0, False), (300, False), (1000, True)])
def test_how_much_of_a_message_is_returned(pair: Pair, limit: int, is_whole: bool) -> None:
    site = pair.mx.context.site._replace(return_octets=limit)
    mx = pair.mx._replace(context=pair.mx.context._replace(site=site))
    mx.accept(*messages(1), sender="<s@mx.example> RET=FULL", rcpts=("<r@home.example> NOTIFY=FAILURE",))
    pass_days(mx, 11)
    (letter,) = notices(mx)
    assert letter.get_payload(2).get_content_type() == ("message/rfc822" if is_whole else "text/rfc822-headers")  # type: ignore[union-attr]


def test_a_delay_without_a_reply_is_the_far_sides_too(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    steps.replay(pair.home, LaterTarget(b""))
    steps.seal(pair.home)
    steps.carry(pair.home, pair.mx)
    pass_days(pair.mx, 4)
    (letter,) = notices(pair.mx)
    message, recipient = fields(letter)
    assert (message["reporting-mta"], recipient["remote-mta"]) == ("dns; home.example", "dns; mx.far.example")
    assert (recipient["action"], recipient["status"]) == ("delayed", "4.4.2")


def test_what_it_has_reported_and_what_not_are_told_apart(pair: Pair) -> None:
    """Of two recipients whose outcomes travel in two reports one has come."""
    (identifier,) = pair.mx.accept(*messages(1), rcpts=("<a@home.example>", "<b@home.example>"))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    steps.replay(pair.home, LaterTarget(b"full"))
    steps.seal(pair.home)
    steps.carry(pair.home, pair.mx)
    ledger = pair.mx.context.open_ledger()
    steps.settle(pair.mx, steps.CountingTarget())
    with ledger.transaction():
        ledger.database.execute("DELETE FROM out_rcpt WHERE id = ? AND n = 1", (identifier,))
    ledger.close()
    pass_days(pair.mx, 4)
    found = {
        status[1]["final-recipient"]: (status[0]["reporting-mta"], status[1]["status"])
        for status in map(fields, notices(pair.mx))
    }
    assert found == {
        "rfc822; a@home.example": ("dns; home.example", "4.2.2"),
        "rfc822; b@home.example": ("dns; mx.example", "4.4.7"),
    }
