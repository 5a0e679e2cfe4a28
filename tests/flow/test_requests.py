"""Requests between two sites: carried, done once whatever is cut or stopped, answered; old peers are spared."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from batchmail.core import request as core
from batchmail.core.jsontext import Fields
from batchmail.core.outcome import WITHDRAWN
from batchmail.core.request import WITHDRAW, Answer, Request
from batchmail.core.schedule import Span
from batchmail.core.settings import DAY_MS
from batchmail.flow import requests, seal
from batchmail.flow.context import Context
from batchmail.flow.requests import Desk
from batchmail.flow.seal import Sealer
from batchmail.flow.tidy import tidy
from batchmail.store.ledger import Ledger
from batchmail.store.plans import HOLD, REMOVE, Plan, Plans
from batchmail.store.received import Received
from batchmail.store.requests import Asked, Requests, Wishes
from batchmail.store.sent import Sent
from tests.crash import test_steps as steps
from tests.crash.stops import every_stop
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path)


def ask(site: Mailbox, kind: str, **payload: object) -> str:
    ledger = site.context.open_ledger()
    identifier = site.context.new_id()
    Requests(ledger).ask(Request(kind, identifier, payload), NOW_MS)
    ledger.close()
    return identifier


def asked(site: Mailbox, identifier: str) -> Asked:
    ledger = site.context.open_ledger()
    found = Requests(ledger).find(identifier)
    ledger.close()
    assert found
    return found


def verdict(site: Mailbox, identifier: str) -> str:
    answer = asked(site, identifier).answer
    return answer.verdict if answer else ""


def echo(_context: Context, _ledger: Ledger, request: Request) -> Answer:
    return Answer(request.id, "echoed", "", {"said": Fields(request.payload, "echo").text("say", 60_000)})


@pytest.fixture
def a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(requests.KINDS, "echo", echo)


@pytest.mark.parametrize("up", [True, False])
def test_a_request_is_answered_in_the_same_call(pair: Pair, up: bool, a_kind: None) -> None:
    site, far = (pair.home, pair.mx) if up else (pair.mx, pair.home)
    identifier = ask(site, "echo", say="hello")
    results = pair.call()
    assert [result.error for result in results] == [None, None]
    site.run()
    answer = asked(site, identifier).answer
    assert answer and (answer.verdict, answer.payload) == ("echoed", {"said": "hello"})
    assert site.outbox() == far.outbox() == site.inbox() == far.inbox() == []


def test_more_than_a_file_holds(pair: Pair, a_kind: None) -> None:
    said = [f"{n}" * 20_000 for n in range(60)]
    identifiers = [ask(pair.mx, "echo", say=text) for text in said]
    pair.call()
    pair.call()
    pair.mx.run()
    answers = [asked(pair.mx, identifier).answer for identifier in identifiers]
    assert [answer and answer.payload["said"] for answer in answers] == said


def test_a_payload_that_is_wrong_is_answered_so(pair: Pair, a_kind: None) -> None:
    wrong = [ask(pair.home, "echo"), ask(pair.home, WITHDRAW, tx="no"), ask(pair.home, WITHDRAW)]
    pair.call()
    assert [verdict(pair.home, identifier) for identifier in wrong] == [core.REFUSED] * 3


def test_a_kind_that_the_far_side_does_not_know_waits_there(pair: Pair) -> None:
    identifier = ask(pair.home, "echo", say="hello")
    assert pair.call()[0].error is None
    assert asked(pair.home, identifier).file == ""
    assert verdict(pair.home, identifier) == ""


def test_a_kind_that_is_not_known_is_answered_so(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = ask(pair.home, "echo", say="hello")
    monkeypatch.setattr(requests, "KINDS", requests.KINDS | {"echo": echo})
    monkeypatch.setattr(Desk, "_answer", lambda _, request: Answer(request.id, core.UNKNOWN))
    pair.call()
    assert verdict(pair.home, identifier) == core.UNKNOWN


def test_a_peer_that_knows_nothing_of_requests_gets_none(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "KINDS", {})
    identifier = ask(pair.home, WITHDRAW, tx="0" * 26)
    assert pair.call()[0].error is None
    assert asked(pair.home, identifier).file == ""
    monkeypatch.undo()
    pair.call()
    assert verdict(pair.home, identifier) == core.MISSING


@pytest.mark.parametrize("cut", range(100, 2200, 150))
def test_however_the_line_is_cut(pair: Pair, cut: int, a_kind: None) -> None:
    up, down = ask(pair.home, "echo", say="up" * 300), ask(pair.mx, "echo", say="down" * 200)
    pair.call(cut_up=cut)
    pair.call(cut_down=cut)
    pair.call()
    pair.call()
    pair.mx.run()
    assert (verdict(pair.home, up), verdict(pair.mx, down)) == ("echoed", "echoed")


# Withdrawal


class Nothing(steps.CountingTarget):
    """Takes nothing now."""

    def deliver(self, delivery: object, before_dot: object, settled: object) -> None:
        raise AssertionError("nothing is to be replayed")


def outcomes(site: Mailbox) -> set[str]:
    ledger = site.context.open_ledger()
    found = {row[0] for row in ledger.rows("SELECT action FROM out_rcpt")}
    ledger.close()
    return found


def with_plan(site: Mailbox) -> None:
    """What is withdrawn is to go in silence."""
    ledger = site.context.open_ledger()
    for (identifier,) in ledger.rows("SELECT id FROM out_tx"):
        Plans(ledger).make([Plan(identifier, REMOVE, "", "", "", "", NOW_MS)])
    ledger.close()


def carried_out(tmp_path: object) -> Pair:
    """mx has sent messages, home has them in custody, and mx wants one back."""
    pair = make_pair(tmp_path)
    identifiers = pair.mx.accept(*messages(2))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    ask(pair.mx, WITHDRAW, tx=identifiers[0])
    return pair


def exchange(origin: Mailbox, far: Mailbox) -> None:
    ledger = origin.context.open_ledger()
    sealer = Sealer(origin.context, ledger)
    sealer.recover()
    sealer.seal_answer()
    sealer.seal_request(requests.KINDS)
    ledger.close()
    steps.seal(origin)
    steps.carry(origin, far)


def serve(site: Mailbox) -> None:
    ledger = site.context.open_ledger()
    Desk(site.context, ledger).run(lambda: False)
    ledger.close()


def test_a_withdrawn_transaction_is_not_delivered(tmp_path: object) -> None:
    pair = carried_out(tmp_path)
    exchange(pair.mx, pair.home)
    serve(pair.home)
    target = steps.CountingTarget()
    steps.replay(pair.home, target)
    assert len(target.given) == 1
    exchange(pair.home, pair.mx)
    serve(pair.mx)
    with_plan(pair.mx)
    steps.settle(pair.mx, Nothing())
    assert outcomes(pair.mx) == {WITHDRAWN, "delivered"}
    assert pair.mx.outbox() == []
    ledger = pair.mx.context.open_ledger()
    assert Requests(ledger).open() == []
    ledger.close()


def test_stopped_anywhere_while_it_is_asked(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=8):
        pair = carried_out(f"{tmp_path}/{stop}")
        with machine:
            exchange(pair.mx, pair.home)
        for _ in range(2):
            exchange(pair.mx, pair.home)
        ledger = pair.home.context.open_ledger()
        assert len(Desk(pair.home.context, ledger)._received.in_custody("request")) == 1
        assert Sent(ledger).files("sealed") == []
        ledger.close()


def test_stopped_anywhere_while_it_is_done(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=6):
        pair = carried_out(f"{tmp_path}/{stop}")
        exchange(pair.mx, pair.home)
        with machine:
            serve(pair.home)
        serve(pair.home)
        ledger = pair.home.context.open_ledger()
        assert [answer.verdict for answer in Wishes(ledger).unsent(9)] == [core.DONE]
        ledger.close()
        steps.carry(pair.mx, pair.home)
        assert [name.rpartition(".")[2] for name in pair.home.inbox()] == ["batch"]


def test_stopped_anywhere_while_the_answer_is_read(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=4):
        pair = carried_out(f"{tmp_path}/{stop}")
        exchange(pair.mx, pair.home)
        serve(pair.home)
        exchange(pair.home, pair.mx)
        with machine:
            serve(pair.mx)
        serve(pair.mx)
        ledger = pair.mx.context.open_ledger()
        assert Requests(ledger).open() == []
        ledger.close()


def test_what_comes_back_in_several_reports_is_written_anew_whole(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "_MAX_REPORT", 1)
    monkeypatch.setattr(Received, "due", lambda *_: {})  # nothing is replayed there
    (identifier,) = pair.mx.accept(*messages(1), rcpts=("<a@home.example>", "<b@home.example>", "<c@home.example>"))
    pair.call()
    ledger = pair.mx.context.open_ledger()
    Plans(ledger).make([Plan(identifier, HOLD, "", pair.mx.context.new_id(), "", "", NOW_MS)])
    ledger.close()
    for _ in range(3):
        pair.mx.run()
        pair.call()
    held = f"{pair.mx.root}/out/home/held"
    texts = [Path(held, name).read_text() for name in os.listdir(held)]
    found = sorted(line for text in texts for line in text.splitlines() if line.startswith("RCPT"))
    assert found == [f"RCPT TO:<{one}@home.example>" for one in "abc"]


def test_what_is_withdrawn_before_it_comes_is_remembered_as_long_as_it_may(tmp_path: object) -> None:
    """Its batch may wait for longer than `remember`, as where a person holds the peer."""
    site = make_pair(tmp_path, lifetime=Span(30 * DAY_MS), give_up_ms=20 * DAY_MS, remember_ms=5 * DAY_MS).home
    with closing(site.context.open_ledger()) as ledger:
        Received(ledger).withdraw("01KAHQ8M5P0123456789ABCDEF", site.clock.now_ms)
        for days, left in ((49, 1), (2, 0)):
            site.clock.now_ms += days * DAY_MS
            tidy(site.context, ledger)
            assert ledger.rows("SELECT COUNT(*) FROM withdrawn") == [(left,)]
