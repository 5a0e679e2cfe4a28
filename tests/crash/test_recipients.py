"""A list of valid recipients, stopped at every lasting step of who tells it and of who takes it."""

import os
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory

import pytest

from batchmail.core.request import RECIPIENTS, Request, unpack
from batchmail.flow import listed, recipients
from batchmail.flow.doors import Doors
from batchmail.flow.recipients import ASKED, NONE, THERE, Publisher
from batchmail.store.recipients import told_path
from batchmail.store.requests import Requests
from tests.crash.stops import every_stop
from tests.sites import NOW_MS, Mailbox, Pair, make_pair

OLD, NEW = ("ann@home.example", "bob@home.example"), ("bob@home.example", "carol@home.example")
EVERYBODY = ("ann", "bob", "carol", "dora")


@pytest.fixture
def new_pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Pair]]:
    monkeypatch.setattr(recipients, "_PIECE_OCTETS", 9)  # a part for each address
    with TemporaryDirectory() as path:
        yield lambda stop: make_pair(os.path.join(path, str(stop)))


def publish(site: Mailbox, *entries: str) -> None:
    """One pass of who tells."""
    context = site.context._replace(peer=site.context.peer._replace(valid_recipients=entries))
    ledger = context.open_ledger()
    try:
        Publisher(context, ledger).run(lambda: False)
    finally:
        ledger.close()


def greeted(pair: Pair) -> None:
    """The HELLO of the holding site has come."""
    ledger = pair.home.context.open_ledger()
    ledger.set_fact(THERE, listed.in_force(pair.mx.context) or NONE)
    if not Requests(ledger).open():
        ledger.set_fact(ASKED, "")
    ledger.set_fact("peer_memory", "there")
    ledger.close()


def take_all(pair: Pair) -> None:
    """What a call does with the requests, in their order: carried out there, answered here."""
    home, mx = pair.home.context.open_ledger(), pair.mx.context.open_ledger()
    try:
        for asked in Requests(home).open():
            answer = listed.take(pair.mx.context, mx, asked.request)
            recipients.answered(pair.home.context, home, asked.request, answer)
            Requests(home).answered(answer, NOW_MS)
    finally:
        home.close()
        mx.close()


def valid(pair: Pair) -> list[str]:
    doors = Doors(pair.mx.spool)
    door = doors.of_peer("home")
    assert door
    return [name for name in EVERYBODY if not doors.refused_since(door, f"{name}@home.example".encode())]


def told(pair: Pair, *entries: str) -> None:
    """The old list is in force, and known to be so."""
    greeted(pair)
    publish(pair.home, *entries)
    take_all(pair)


@pytest.mark.parametrize(("entries", "expected"), [(NEW, ["bob", "carol"]), ((), list(EVERYBODY))])
def test_who_takes(new_pair: Callable[[int], Pair], entries: tuple[str, ...], expected: list[str]) -> None:
    for stop, machine in every_stop(at_least=20 if entries else 4):
        pair = new_pair(stop)
        told(pair, *OLD)
        greeted(pair)
        publish(pair.home, *entries)
        assert valid(pair) == ["ann", "bob"]
        with machine:
            take_all(pair)
        assert valid(pair) in (["ann", "bob"], expected)
        take_all(pair)
        assert valid(pair) == expected
        assert "recipients.parts" not in os.listdir(f"{pair.mx.root}/out/home")


@pytest.mark.parametrize(("entries", "expected"), [(NEW, ["bob", "carol"]), ((), list(EVERYBODY))])
def test_who_tells(new_pair: Callable[[int], Pair], entries: tuple[str, ...], expected: list[str]) -> None:
    for stop, machine in every_stop(at_least=4):
        pair = new_pair(stop)
        told(pair, *OLD)
        greeted(pair)
        with machine:
            publish(pair.home, *entries)
        publish(pair.home, *entries)
        take_all(pair)
        assert valid(pair) == expected
        greeted(pair)
        publish(pair.home, "dora@home.example")  # whatever was left of our copy, the next change is right
        take_all(pair)
        assert valid(pair) == ["dora"]
        assert os.path.exists(told_path(pair.home.root, "mx"))


def test_a_part_that_comes_again_changes_nothing(new_pair: Callable[[int], Pair]) -> None:
    """An old answer was lost, and the request is carried out once more after a newer list."""
    pair = new_pair(0)
    told(pair, *OLD)
    ledger = pair.home.context.open_ledger()
    [payload] = [row[0] for row in ledger.rows("SELECT payload FROM request LIMIT 1")]
    ledger.close()
    greeted(pair)
    publish(pair.home, *NEW)
    take_all(pair)
    mx = pair.mx.context.open_ledger()
    again = Request(RECIPIENTS, pair.mx.context.new_id(), unpack(payload))
    answer = listed.take(pair.mx.context, mx, again)
    mx.close()
    assert answer.payload == {"list": listed.in_force(pair.mx.context)}
    assert valid(pair) == ["bob", "carol"]
