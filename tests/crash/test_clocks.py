"""Clocks that jump, and any number of programs at once on one spool."""

import contextlib
import os
import threading
from collections.abc import Callable
from random import Random

import pytest

from batchmail.core.errors import BatchmailError
from batchmail.flow import clock
from batchmail.flow.tidy import tidy
from batchmail.flow.work import Busy
from batchmail.store.notices import Notices
from batchmail.store.owed import Owed
from batchmail.store.sent import Sent
from tests.crash.world import Mail, Offer, World, new_world
from tests.sites import NOW_MS, Clock, Mailbox, Pair, make_site, messages

DAY_MS = 86_400_000


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    """Two sites, each with a clock of its own; what cannot be delivered lives for two days."""
    mx = make_site(f"{tmp_path}/mx", "mx.example", "home", Clock())
    return Pair(mx, make_site(f"{tmp_path}/home", "home.example", "mx", Clock()))


def doubt(site: Mailbox) -> str:
    ledger = site.context.open_ledger()
    try:
        return ledger.fact("clock") or ""
    finally:
        ledger.close()


def test_nothing_expires_by_a_clock_that_is_far_from_the_other_sides(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    pair.mx.clock.now_ms += 40 * DAY_MS  # more than the lifetime
    for site, other in (pair, pair[::-1]):
        ledger = site.context.open_ledger()
        clock.compare(ledger, site.clock.now_ms, other.clock.now_ms)  # as HELLO has it
        ledger.close()
        site.run()
    assert "hours ahead" in doubt(pair.mx)
    assert "hours behind" in doubt(pair.home)
    assert len(pair.mx.waiting()) == 1
    pair.mx.clock.now_ms -= 40 * DAY_MS
    for _ in range(2):
        pair.call()
        pair.mx.run()
        pair.home.run()
    assert (doubt(pair.mx), doubt(pair.home)) == ("", "")
    assert len(pair.home.dropped()) == 1
    assert pair.mx.dropped() == {}, "a notice was sent"


@pytest.mark.parametrize("behind_ms", [40 * DAY_MS, 0], ids=["seen to be behind", "goes on from where it ended"])
def test_what_was_accepted_before_the_clock_was_right_is_not_as_old_as_it_looks(pair: Pair, behind_ms: int) -> None:
    """A machine without a clock of its own has an old time, or none, until the network tells it."""
    pair.mx.run()
    now_ms = NOW_MS + 40 * DAY_MS
    pair.mx.clock.now_ms -= behind_ms
    pair.mx.run()
    (identifier,) = pair.mx.accept(*messages(1))
    pair.mx.run()
    pair.mx.clock.now_ms = pair.home.clock.now_ms = now_ms
    pair.mx.run()
    assert "wrong before" in doubt(pair.mx)
    assert (pair.mx.waiting(), pair.mx.dropped()) == ([identifier], {})
    pair.call()
    pair.mx.run()
    assert (doubt(pair.mx), pair.mx.waiting()) == ("", [])
    assert b"Action: failed" not in b"".join(pair.mx.dropped().values())


def test_who_looks_every_third_day_ends_what_is_over(pair: Pair) -> None:
    pair.mx.run()
    pair.mx.accept(*messages(1))
    for _ in range(14):
        pair.mx.clock.now_ms += 3 * DAY_MS
        pair.mx.run()
    assert pair.mx.waiting() == []
    assert len(pair.mx.dropped()) > 0


def test_what_came_while_the_clock_here_was_behind_is_tried_for_a_day(pair: Pair) -> None:
    pair.home.clock.now_ms -= 40 * DAY_MS
    pair.mx.accept(*messages(1))
    blocked = pair.home._replace(
        context=pair.home.context._replace(peer=pair.home.context.peer._replace(target="smtp://127.0.0.1:1"))
    )
    Pair(pair.mx, blocked).call()
    pair.home.clock.now_ms += 40 * DAY_MS
    Pair(pair.mx, blocked).call()
    with contextlib.closing(pair.home.context.open_ledger()) as ledger:
        [(expire_ms,)] = ledger.rows("SELECT expire_ms FROM in_tx")
    assert expire_ms >= pair.home.clock.now_ms + DAY_MS


def test_a_clock_that_went_back_is_told_and_mail_goes_on(pair: Pair) -> None:
    pair.call()
    pair.mx.run()
    pair.home.run()
    for site in pair:
        site.clock.now_ms -= 3 * 3_600_000
        site.run()
        assert "went back by 180 minutes" in doubt(site)
    pair.mx.accept(*messages(2))
    results = pair.call()
    assert [result.error for result in results] == [None, None]
    pair.call()
    for site in pair:
        site.run()
        assert doubt(site) == ""  # both say the same time: it is right
    assert len(pair.home.dropped()) == 2
    assert pair.mx.outbox() == []


@pytest.mark.parametrize("step_ms", [-3_600_000, 3_600_000])
def test_daylight_saving_changes_nothing(step_ms: int, pair: Pair) -> None:
    """Times are UTC; where a clock is set by hand all the same, mail goes on and nothing is doubled."""
    pair.mx.accept(*messages(1))
    pair.call()
    for site in pair:
        site.clock.now_ms += step_ms
    pair.mx.accept(*messages(2, seed=1))
    pair.call()
    pair.call()
    pair.mx.run()
    assert len(pair.home.dropped()) == 3
    assert pair.mx.outbox() == []


def test_what_a_clock_that_ran_ahead_has_put_off_is_not_put_off_for_weeks(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    os.mkdir(pair.home.drop, 0o500)
    # Within the lifetime, else its origin wants it back.
    pair.home.clock.now_ms += 20 * DAY_MS
    pair.mx.clock.now_ms += 20 * DAY_MS
    with open(f"{pair.home.drop}/tmp", "w", encoding="ascii"):  # a file where a directory should be
        pair.call()
    ledger = pair.home.context.open_ledger()
    ledger.rows("UPDATE in_tx SET next_ms = ?", pair.home.clock.now_ms + 60_000)
    ledger.close()
    os.unlink(f"{pair.home.drop}/tmp")
    pair.home.clock.now_ms = pair.mx.clock.now_ms = NOW_MS
    pair.home.run()
    assert len(pair.home.dropped()) == 1


def test_nothing_is_pruned_by_a_clock_that_is_not_believed(pair: Pair) -> None:
    ids = pair.mx.accept(*messages(1))
    pair.call()
    pair.call()
    pair.mx.clock.now_ms += 400 * DAY_MS
    pair.call()
    pair.mx.run()
    ledger = pair.mx.context.open_ledger()
    tidy(pair.mx.context, ledger)
    assert Sent(ledger).settled_ids(ids) == set(ids)
    pair.home.clock.now_ms += 400 * DAY_MS  # it was the other one that was wrong
    pair.call()
    pair.mx.run()
    tidy(pair.mx.context, ledger)
    assert Sent(ledger).settled_ids(ids) == set()
    ledger.close()


@pytest.mark.parametrize("is_readable", [True, False])
def test_no_notice_is_given_up_by_a_clock_that_is_not_believed(tmp_path: object, is_readable: bool) -> None:
    for name, status in (("later", 75), ("never", 67)):
        with open(f"{tmp_path}/{name}", "w", encoding="ascii", opener=lambda path, f: os.open(path, f, 0o755)) as file:
            file.write(f"#!/bin/sh\nexit {status}\n")
    mx = make_site(f"{tmp_path}/mx", "mx.example", "home", Clock(), target=f"rmail:{tmp_path}/later")
    home = make_site(f"{tmp_path}/home", "home.example", "mx", Clock(), target=f"rmail:{tmp_path}/never")
    mx.accept(*messages(1))
    Pair(mx, home).call()
    mx.run()
    ledger = mx.context.open_ledger()
    notices = Notices(mx.spool, "home")
    (identifier,) = Owed(ledger).ids()
    if not is_readable:
        with open(notices.path(identifier), "wb"):
            pass
    mx.clock.now_ms += 365 * DAY_MS
    Pair(mx, home).call()
    mx.run()
    assert "hours ahead" in doubt(mx)
    assert ledger.rows("SELECT state, attempts FROM notice") == [("owed", 2)]
    home.clock.now_ms = mx.clock.now_ms  # it was right
    Pair(mx, home).call()
    mx.clock.now_ms += DAY_MS
    mx.run()
    assert ledger.rows("SELECT state FROM notice WHERE id = ?", identifier) != [("owed",)]
    ledger.close()


def test_a_peer_cannot_say_when_nothing_was_known(pair: Pair) -> None:
    ledger = pair.mx.context.open_ledger()
    assert clock.doubt(ledger, NOW_MS) == ""
    clock.compare(ledger, NOW_MS, 0)
    assert clock.doubt(ledger, NOW_MS)
    clock.compare(ledger, NOW_MS, NOW_MS + DAY_MS)
    assert clock.doubt(ledger, NOW_MS) == ""
    ledger.close()


def test_doors_calls_and_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as like, on both spools; what takes turns says so, and all comes through once."""
    numbers = iter(range(10, 70))
    offers = tuple(
        Offer(site, f"Q{n}", (Mail(f"{site[0]}{n}", ("u@home.example",) if site == "mx" else ("r@mx.example",)),))
        for site in ("mx", "home")
        for n in [next(numbers) for _ in range(15)]
    )
    with new_world(offers) as world:
        troubles: list[BaseException] = []
        threads = [threading.Thread(target=guarded, args=(troubles, step)) for step in together(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a deadlock"
        assert troubles == []
        world.recover()
        world.check()
        assert world.doubled == 0


def together(world: World) -> list[Callable[[], None]]:
    random = Random(1)
    line = threading.Lock()  # `call` takes the right to the line at both ends or fails the test

    def call() -> None:
        with line:
            world.call()

    def run(site: Mailbox) -> None:
        with contextlib.suppress(Busy):
            site.run()

    steps: list[Callable[[], None]] = [lambda offer=offer: world.offer(offer) for offer in world.offers]  # type: ignore[misc]
    steps += [lambda offer=offer: world.offer(offer) for offer in world.offers[::3]]  # type: ignore[misc]  # once more
    steps += [call] * 4
    steps += [lambda site=site: run(site) for site in world.pair for _ in range(3)]  # type: ignore[misc]
    random.shuffle(steps)
    return steps


def guarded(troubles: list[BaseException], step: Callable[[], None]) -> None:
    try:
        step()
    except Busy:
        pass
    except (BatchmailError, OSError, AssertionError, KeyError) as error:
        troubles.append(error)
