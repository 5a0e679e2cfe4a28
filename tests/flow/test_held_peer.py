"""A person has a peer sent no mail, and mail again, while a call is open."""

import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from batchmail.flow.ahead import Ahead
from batchmail.flow.exchange import Options
from batchmail.flow.outgoing import Outgoing
from batchmail.flow.seal import Sealer
from batchmail.proto.frames import Data, Open
from batchmail.proto.hello import Hello, Limits
from batchmail.store.bell import MAIL, YIELD, ring
from batchmail.store.line import ANSWERER, CALLER
from tests.sites import HANG_S, NOW_MS, Mailbox, Pair, hold, line, make_pair, messages


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path)


def pause(site: Mailbox, held: bool) -> None:
    with closing(site.context.open_ledger()) as ledger:
        ledger.note("on_hold", "1" if held else "")
    ring(site.root, site.context.peer.name, MAIL)


def wait_for(condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_nothing_more_is_sealed_until_it_is_let_go(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    with closing(pair.mx.context.open_ledger()) as ledger:
        sealer = Sealer(pair.mx.context, ledger)
        assert sealer.has_waiting()
        pause(pair.mx, True)
        assert not sealer.has_waiting()
        assert sealer.seal_batch("home.example", 1 << 20, 1 << 20) is None
        pause(pair.mx, False)
        assert sealer.has_waiting()
        assert sealer.seal_batch("home.example", 1 << 20, 1 << 20)


def test_a_batch_of_which_nothing_was_sent_is_held_back(pair: Pair) -> None:
    pair.mx.accept(*messages(2, octets=3000))
    with closing(pair.mx.context.open_ledger()) as ledger:
        sealer = Sealer(pair.mx.context, ledger)
        numbers = [sealer.seal_batch("home.example", 4000, octets) for octets in (4000, 4000)]
        outgoing = Outgoing(pair.mx.context, ledger, sealer, Ahead(pair.mx.context, lambda: None))
        limits = Limits(1 << 20, 1 << 20, 1 << 20)
        outgoing.greet(Hello("home.example", (1,), NOW_MS, "m", limits, (), ()))
        first, data = outgoing.next_events(100, 100)
        assert isinstance(first, Open) and first.number == numbers[0] and isinstance(data, Data)
        pause(pair.mx, True)
        outgoing.look()
        assert all(isinstance(event, Data) for event in outgoing.next_events(1 << 20, 1 << 20))
        assert outgoing.next_events(1 << 20, 1 << 20) == []
        pause(pair.mx, False)
        outgoing.look()
        second = outgoing.next_events(1 << 20, 1 << 20)[0]
        assert isinstance(second, Open) and second.number == numbers[1]
        outgoing.close(cut=False)


def test_what_was_held_at_the_beginning_goes_in_the_same_call(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    with closing(pair.mx.context.open_ledger()) as ledger:
        assert Sealer(pair.mx.context, ledger).seal_batch("home.example", 1 << 20, 1 << 20)
    pair.mx.accept(*messages(1, 1))
    pause(pair.mx, True)
    pair.home.accept(*messages(1, 2))
    with line() as (up, down):
        ends = [
            threading.Thread(target=hold, args=(pair.mx, down, ANSWERER), daemon=True),
            threading.Thread(target=hold, args=(pair.home, up, CALLER, Options(stay=True)), daemon=True),
        ]
        for end in ends:
            end.start()
        wait_for(pair.mx.dropped)
        assert pair.home.dropped() == {}
        pause(pair.mx, False)
        wait_for(lambda: len(pair.home.dropped()) == 2)
        ring(pair.home.root, "mx", YIELD)
        for end in ends:
            end.join(HANG_S)
            assert not end.is_alive()
