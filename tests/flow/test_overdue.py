"""Deliver-By over the whole way (RFC 2852): who tells what when the time is over, and where a message ends."""

import os
from collections.abc import Callable
from contextlib import closing

import pytest

from batchmail.core.outcome import DELAYED, Outcome
from batchmail.core.report import Reported
from batchmail.core.schedule import Span
from batchmail.core.settings import DAY_MS
from batchmail.flow import clock
from batchmail.flow.settle import Settler
from batchmail.store.deadlines import Deadline, Deadlines
from batchmail.store.plans import HOLD, MOVE, REQUEUE, Plan, Plans
from batchmail.store.streams import begin_new_stream
from tests.crash import test_steps as steps
from tests.fake_smtp import END, FakeSmtp, Script
from tests.flow.test_expire import HOUR_MS, fields, notices, told
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages

S = "<s@mx.example>"
NOTIFIES = ("", " NOTIFY=NEVER", " NOTIFY=SUCCESS", " NOTIFY=FAILURE", " NOTIFY=DELAY")
RCPTS = tuple(f"<r{n}@home.example>{notify}" for n, notify in enumerate(NOTIFIES))


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path, lifetime=Span(10 * DAY_MS), delay_notice=Span(3 * DAY_MS))


def marks(site: Mailbox) -> list[str]:
    root = f"{site.root}/out/{site.context.peer.name}/deadlines"
    return sorted(name for _, _, names in os.walk(root) for name in names)


def who(site: Mailbox) -> list[tuple[str, str, str]]:
    return [
        (one["final-recipient"].removeprefix("rfc822; ")[:2], one["action"], one["status"])
        for letter in notices(site)
        for one in fields(letter)[1:]
    ]


def after(site: Mailbox, seconds: float) -> None:
    site.clock.now_ms += round(1000 * seconds)
    site.run()


def plan(site: Mailbox, tx: str, verb: str, peer: str = "") -> None:
    ledger = site.context.open_ledger()
    Plans(ledger).make([Plan(tx, verb, peer, "", "", "", site.clock.now_ms)])
    ledger.close()
    site.run()


def seal(pair: Pair) -> None:
    steps.seal(pair.mx)


def nothing(_: Pair) -> None:
    pass


@pytest.mark.parametrize("before", [nothing, seal])
def test_what_is_to_be_given_back_in_time_is(pair: Pair, before: Callable[[Pair], None]) -> None:
    pair.mx.accept(*messages(1), sender=f"{S} BY=3600;R", rcpts=RCPTS)
    pair.mx.accept(*messages(1, seed=2), sender=f"{S} BY=7200;R")
    before(pair)
    after(pair.mx, 3599)
    assert who(pair.mx) == []
    after(pair.mx, 1)
    assert who(pair.mx) == [("r0", "failed", "5.4.7"), ("r3", "failed", "5.4.7")]
    (letter,) = notices(pair.mx)
    assert fields(letter)[0]["deliver-by-date"] == "Sat, 21 Nov 2026 02:00:00 +0000"
    assert fields(letter)[0]["arrival-date"] == "Sat, 21 Nov 2026 01:00:00 +0000"
    assert "to be delivered by" in letter.get_payload(0).get_content()  # type: ignore[union-attr]
    assert (len(pair.mx.waiting()), len(marks(pair.mx))) == (1, 1)
    assert pair.call()[0].error is None
    assert len(pair.home.dropped()) == 1
    after(pair.mx, 7200)
    assert len(notices(pair.mx)) == 1
    assert marks(pair.mx) == []


@pytest.mark.parametrize("before", [nothing, seal])
def test_of_what_goes_on_a_delay_is_told_once(pair: Pair, before: Callable[[Pair], None]) -> None:
    pair.mx.accept(*messages(1), sender=f"{S} BY=3600;N", rcpts=RCPTS)
    before(pair)
    after(pair.mx, 3599)
    assert who(pair.mx) == []
    after(pair.mx, 1)
    delayed = [("r0", "delayed", "4.4.7"), ("r4", "delayed", "4.4.7")]
    assert who(pair.mx) == delayed
    text = notices(pair.mx)[0].get_payload(0).get_content()  # type: ignore[union-attr]
    assert "The time by which your message was to be delivered is over" in text
    assert "has not yet been delivered" not in text
    for _ in range(2):
        after(pair.mx, 4 * 24 * 3600)  # delay_notice is over as well
    assert who(pair.mx) == delayed
    assert marks(pair.mx) == []
    pair.call()
    pair.mx.run()
    assert who(pair.mx) == delayed
    (text_there,) = pair.home.dropped().values()
    assert b"BY=-691200;N\r\n" in text_there


def test_the_time_of_what_is_sent_again_is_not_forgotten(pair: Pair) -> None:
    """A pass comes between `resend` and the call that seals it anew, and the far side tells that it waits there."""
    (identifier,) = pair.mx.accept(*messages(1), sender=f"{S} BY=3600;N")
    seal(pair)
    ledger = pair.mx.context.open_ledger()
    begin_new_stream(ledger)
    after(pair.mx, 3600)
    assert (told(pair.mx), len(marks(pair.mx))) == ([], 1)
    seal(pair)
    outcome = Outcome(0, DELAYED, 450, "4.2.1", b"4.2.1 mailbox full", b"mta.example", NOW_MS)
    Settler(pair.mx.context, ledger, steps.CountingTarget()).take([Reported(identifier, outcome, False)], "a report")
    ledger.close()
    after(pair.mx, 1)
    assert told(pair.mx) == [("delayed", "4.4.7")]
    after(pair.mx, 1)
    assert marks(pair.mx) == []


def test_a_delay_that_was_told_before_is_another(pair: Pair) -> None:
    pair.mx.accept(*messages(1), sender=f"{S} BY={5 * 24 * 3600};N")
    for _ in range(6):
        after(pair.mx, 24 * 3600)
    assert told(pair.mx) == [("delayed", "4.4.1"), ("delayed", "4.4.7")]


def test_seconds_are_counted_anew(pair: Pair) -> None:
    pair.mx.accept(*messages(1), sender=f"{S} BY=3600;R")
    pair.mx.clock.now_ms += 600_500
    pair.call()
    (text,) = pair.home.dropped().values()
    assert b"MAIL FROM:<s@mx.example> BY=2999;R\r\n" in text
    after(pair.mx, 2 * 3600)
    assert (who(pair.mx), marks(pair.mx)) == ([], [])


def test_the_far_side_gives_back_what_came_too_late(pair: Pair) -> None:
    pair.mx.accept(*messages(1), sender=f"{S} BY=3600;R")
    pair.mx.clock.now_ms += HOUR_MS  # a call, and no run before it
    pair.call()
    pair.mx.run()
    assert told(pair.mx) == [("failed", "5.4.7")]
    assert pair.home.dropped() == {}
    assert (pair.mx.outbox(), pair.home.inbox()) == ([], [])


def refusing(tmp_path: object, script: Script) -> tuple[Pair, FakeSmtp]:
    server = FakeSmtp(script)
    pair = make_pair(tmp_path, lifetime=Span(10 * DAY_MS), delay_notice=Span(3 * DAY_MS))
    entry = pair.home.context.peer._replace(target=server.url())
    return pair._replace(home=pair.home._replace(context=pair.home.context._replace(peer=entry))), server


def test_a_clock_in_doubt_promises_nothing(pair: Pair) -> None:
    pair.home.run()  # takes note of the time
    for mode in "RN":
        pair.mx.accept(*messages(1), sender=f"{S} BY=3600;{mode}")
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    after(pair.home, -8 * 3600)
    assert [text.count(b";N\r\n") for text in pair.home.dropped().values()] == [1]
    after(pair.home, 8 * 3600 + 100)
    assert len(pair.home.dropped()) == 1
    with closing(pair.home.context.open_ledger()) as ledger:
        clock.compare(ledger, pair.home.clock.now_ms, pair.home.clock.now_ms)  # as the next call's HELLO has it
    after(pair.home, 1801)  # the next attempt
    assert len(pair.home.dropped()) == 2


LATER = Script(ehlo=(b"DSN", b"DELIVERBY"), replies={END: b"451 4.2.0 later"})


def test_the_far_side_gives_back_what_was_refused_for_now(tmp_path: object) -> None:
    pair, server = refusing(tmp_path, LATER)
    with server:
        pair.mx.accept(*messages(1), sender=f"{S} BY=60;R")
        pair.call()
        after(pair.home, 59)
        after(pair.home, 1)  # at once, whenever the next attempt had been due
        assert [command for command in server.commands if command.startswith(b"MAIL")] == [
            b"MAIL FROM:<s@mx.example> BY=60;R"
        ]
        pair.call()
        pair.mx.run()
    assert told(pair.mx) == [("failed", "5.4.7")]


def test_of_what_the_far_side_could_not_serve_a_delay_is_told_when_the_time_is_over(tmp_path: object) -> None:
    pair, server = refusing(tmp_path, LATER)
    with server:
        pair.mx.accept(*messages(1), sender=f"{S} BY=3600;N")
        pair.call()
        pair.mx.run()
        after(pair.mx, 3599)
        assert told(pair.mx) == []
        after(pair.mx, 1)
        assert told(pair.mx) == [("delayed", "4.4.7")]
        assert "451 4.2.0 later" in fields(notices(pair.mx)[0])[1]["diagnostic-code"]
        after(pair.mx, 1)
    assert told(pair.mx) == [("delayed", "4.4.7")]


def test_what_the_far_side_has_may_have_been_served_in_time(pair: Pair) -> None:
    pair.mx.accept(*messages(2), sender=f"{S} BY=3600;N")
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    after(pair.mx, 3600)
    assert (told(pair.mx), len(marks(pair.mx))) == ([], 2)
    pair.home.run()  # an hour late
    pair.call()
    pair.mx.run()
    assert told(pair.mx) == [("delayed", "4.4.7")] * 2
    assert "was handed on at" in fields(notices(pair.mx)[0])[1]["diagnostic-code"]
    assert "has not yet been delivered" not in notices(pair.mx)[0].get_payload(0).get_content()  # type: ignore
    after(pair.mx, 60)
    assert (len(notices(pair.mx)), marks(pair.mx)) == (2, [])


def test_what_was_served_in_time_is_not_late_when_told_late(pair: Pair) -> None:
    pair.mx.accept(*messages(1), sender=f"{S} BY=3600;N")
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    pair.home.run()
    after(pair.mx, 3 * 3600)
    pair.call()
    after(pair.mx, 3600)
    assert (told(pair.mx), marks(pair.mx)) == ([], [])


@pytest.mark.parametrize(
    ("by", "ehlo", "actions"),
    [
        ("3600;N", (b"DSN",), [("r0", "relayed"), ("r2", "relayed"), ("r3", "relayed"), ("r4", "relayed")]),
        ("3600;N", (b"DSN", b"DELIVERBY"), []),
        ("3600;N", (), [("r0", "relayed"), ("r2", "relayed"), ("r3", "relayed"), ("r4", "relayed")]),
        (
            "3600;NT",
            (b"DSN", b"DELIVERBY"),
            [("r0", "relayed"), ("r2", "relayed"), ("r3", "relayed"), ("r4", "relayed")],
        ),
        ("3600;R", (b"DSN", b"DELIVERBY"), []),
        ("3600;R", (b"DSN",), [("r0", "failed"), ("r3", "failed")]),
        ("0;N", (b"DSN",), []),
    ],
)
def test_the_last_hop(tmp_path: object, by: str, ehlo: tuple[bytes, ...], actions: list[tuple[str, str]]) -> None:
    pair, server = refusing(tmp_path, Script(ehlo=ehlo))
    with server:
        pair.mx.accept(*messages(1), sender=f"{S} BY={by}", rcpts=RCPTS)
        pair.call()
        pair.mx.run()
    assert [(name, action) for name, action, _ in who(pair.mx)] == actions
    if ("r0", "failed") in actions:
        assert "mx.test offers no DELIVERBY" in fields(notices(pair.mx)[0])[1]["diagnostic-code"]


def test_nobody_is_told_about_the_null_sender(pair: Pair) -> None:
    pair.mx.accept(*messages(1), sender="<> BY=60;N")
    pair.mx.accept(*messages(1, seed=2), sender="<> BY=60;R")
    after(pair.mx, 60)
    after(pair.mx, 2 * 3600)
    assert (notices(pair.mx), len(pair.mx.waiting()), marks(pair.mx)) == ([], 1, [])


def test_what_is_held_ends_at_the_far_side(pair: Pair) -> None:
    (tx,) = pair.mx.accept(*messages(1), sender=f"{S} BY=60;R")
    plan(pair.mx, tx, HOLD)
    after(pair.mx, 60)
    assert (told(pair.mx), pair.mx.held()) == ([], [tx])
    plan(pair.mx, tx, REQUEUE)
    pair.call()
    pair.mx.run()
    assert told(pair.mx) == [("failed", "5.4.7")]


def test_a_mark_goes_with_what_is_moved(pair: Pair) -> None:
    (tx,) = pair.mx.accept(*messages(1), sender=f"{S} BY=60;R")
    plan(pair.mx, tx, MOVE, "other")
    assert Deadlines(pair.mx.spool, "other").find(tx) == Deadline(NOW_MS + 60_000, True)


def test_a_mark_of_nothing_goes_in_its_time(pair: Pair) -> None:
    found = Deadlines(pair.mx.spool, "home")
    for mode in (True, False):
        found.mark(f"{mode}", Deadline(NOW_MS + 1000, mode))
    after(pair.mx, 60)
    assert marks(pair.mx) == ["False", "True"]  # a door may be about to accept them
    after(pair.mx, 2 * 3600)
    assert marks(pair.mx) == []
    after(pair.mx, 2 * 3600)
    assert os.listdir(f"{pair.mx.root}/out/home/deadlines") == []


def test_a_message_that_cannot_be_read_holds_up_no_other(pair: Pair) -> None:
    first, _ = pair.mx.accept(*messages(2), sender=f"{S} BY=60;R")
    (path,) = [f"{at}/{n}" for at, _, names in os.walk(f"{pair.mx.root}/out/home/waiting") for n in names if first in n]
    with open(path, "r+b") as file:
        file.write(b"XXXX")
    after(pair.mx, 60)
    assert told(pair.mx) == [("failed", "5.4.7")]
    assert pair.mx.waiting() == [first]
    assert marks(pair.mx) == [first]


def test_no_marks_without_a_time(pair: Pair) -> None:
    pair.mx.accept(*messages(2))
    pair.mx.accept(*messages(1, seed=5), sender=f"{S} BY=0;N")
    assert marks(pair.mx) == []
