"""Requests in the ledger: each step may be said twice, and what is known is not done again."""

import pytest

from batchmail.core.manifest import Item
from batchmail.core.numbered import ANSWER, BATCH, REQUEST, Number
from batchmail.core.outcome import WITHDRAWN, Outcome
from batchmail.core.request import AUDIT, DONE, LATE, MISSING, WITHDRAW, Answer, Request
from batchmail.store.ledger import Ledger
from batchmail.store.received import Received
from batchmail.store.requests import Requests, Wishes
from batchmail.store.sent import Sent
from batchmail.store.streams import begin_new_stream
from tests import batches
from tests.spools import make_spool

NOW = 1795222800000
THEIRS = "FEDCBA9876543210"


@pytest.fixture
def ledger(tmp_path: object) -> Ledger:
    return Ledger(make_spool(f"{tmp_path}/spool"), "home")


def ask(number: int = 1, kind: str = WITHDRAW) -> Request:
    return Request(kind, batches.describe(batches.PLAIN, number).id, {"tx": "x" * number})


def test_a_request_is_carried_once_and_answered_once(ledger: Ledger) -> None:
    requests, sent = Requests(ledger), Sent(ledger)
    for _ in range(2):
        requests.ask(ask(1), NOW)
        requests.ask(ask(2, "other"), NOW)
    assert requests.unsent(None, 9) == [ask(1), ask(2, "other")]
    assert (requests.unsent([WITHDRAW], 9), requests.unsent([], 9), requests.unsent(None, 1)) == ([ask()], [], [ask()])
    number = sent.reserve(REQUEST, NOW)
    for _ in range(2):
        requests.carried(number, [ask(1)])
    requests.carried(Number(number.stream, 9, REQUEST), [ask(1)])
    assert requests.unsent(None, 9) == [ask(2, "other")]
    (first, _) = requests.open()
    assert (first.file, first.answer) == (number.file_name, None)
    answer = Answer(ask(1).id, LATE, "too late", {"n": 1})
    assert requests.answered(answer, NOW) == ask(1)
    assert requests.answered(answer._replace(verdict=DONE), NOW + 1) is None
    found = requests.find(ask(1).id)
    assert found and (found.answer, found.answered_ms) == (answer, NOW)
    assert requests.answered(Answer("0" * 26, DONE), NOW) is None
    requests.prune(NOW)
    assert requests.find(ask(1).id)
    requests.prune(NOW + 1)
    assert requests.find(ask(1).id) is None
    assert [one.request for one in requests.open()] == [ask(2, "other")]


def test_a_wish_is_done_once_and_its_answer_is_kept_until_it_is_known(ledger: Ledger) -> None:
    wishes, sent = Wishes(ledger), Sent(ledger)
    answer = Answer(ask().id, DONE, "so be it", {"n": 1})
    assert not wishes.repeat(ask().id)
    wishes.done(ask(), answer, NOW)
    wishes.done(ask(), answer._replace(verdict=LATE), NOW)
    assert (wishes.unsent(9), wishes.count()) == ([answer], 1)
    number = sent.reserve(ANSWER, NOW)
    wishes.carried(number, [answer])
    assert wishes.unsent(9) == []
    sent.seal(number, "0" * 64, 1)
    wishes.prune(NOW + 9)
    assert wishes.count() == 1
    sent.custody(number, NOW)
    wishes.prune(NOW + 1)
    assert wishes.count() == 0


def test_the_answer_to_an_audit_is_kept_until_it_is_known(ledger: Ledger) -> None:
    wishes, sent = Wishes(ledger), Sent(ledger)
    answer = Answer(ask().id, DONE, "", {"n": 1})
    wishes.done(ask()._replace(kind=AUDIT), answer, NOW)
    assert (wishes.count(AUDIT), wishes.count("withdraw"), wishes.count()) == (1, 0, 1)
    number = sent.reserve(ANSWER, NOW)
    wishes.carried(number, [answer])
    sent.seal(number, "0" * 64, 1)
    assert wishes.count(AUDIT) == 1
    sent.custody(number, NOW)
    assert wishes.count() == 0


def test_what_is_asked_again_is_answered_again(ledger: Ledger) -> None:
    wishes = Wishes(ledger)
    answer = Answer(ask().id, DONE)
    wishes.done(ask(), answer, NOW)
    wishes.carried(Number(THEIRS, 1, ANSWER), [answer])
    assert wishes.repeat(ask().id)
    assert wishes.unsent(9) == [answer]


def test_a_new_stream_carries_all_again(ledger: Ledger) -> None:
    requests, wishes = Requests(ledger), Wishes(ledger)
    requests.ask(ask(), NOW)
    requests.carried(Number(THEIRS, 1, REQUEST), [ask()])
    wishes.done(ask(2), Answer(ask(2).id, DONE), NOW)
    wishes.carried(Number(THEIRS, 1, ANSWER), [Answer(ask(2).id, DONE)])
    begin_new_stream(ledger)
    assert (len(requests.unsent(None, 9)), len(wishes.unsent(9))) == (1, 1)


# Withdrawal


def item(recipients: int = 2) -> Item:
    return Item(batches.describe(batches.PLAIN, 1, recipients=recipients), 0, 86_400_000)


def custody(received: Received, seq: int = 1) -> None:
    received.custody(Number(THEIRS, seq, BATCH), f"{seq}" * 64, [item()], NOW, 0)


def test_what_waits_is_withdrawn(ledger: Ledger) -> None:
    received, identifier = Received(ledger), item().entry.id
    custody(received)
    received.outcomes(identifier, [Outcome(0, "delivered", 250, "2.0.0", b"", b"", NOW)], NOW)
    for _ in range(2):
        assert received.withdraw(identifier, NOW) == (DONE, 1)
    assert [row.outcome.action for row in received.unreported(9)] == ["delivered", WITHDRAWN]
    assert received.due_batches(NOW) == []


def test_what_is_done_or_may_be_is_too_late(ledger: Ledger) -> None:
    received, identifier = Received(ledger), item().entry.id
    custody(received)
    received.before_dot(identifier)
    assert received.withdraw(identifier, NOW) == (LATE, 0)
    assert received.due_batches(NOW)
    received.outcomes(identifier, [Outcome(n, "failed", 550, "5.0.0", b"", b"", NOW) for n in (0, 1)], NOW)
    assert received.withdraw(identifier, NOW) == (LATE, 0)
    assert {row.outcome.action for row in received.unreported(9)} == {"failed"}


def test_what_comes_after_it_was_withdrawn_is_not_replayed(ledger: Ledger) -> None:
    received, identifier = Received(ledger), item().entry.id
    for _ in range(2):
        assert received.withdraw(identifier, NOW) == (MISSING, 0)
    custody(received)
    assert received.due_batches(NOW) == []
    assert [row.outcome.action for row in received.unreported(9)] == [WITHDRAWN, WITHDRAWN]
    assert received.withdraw(identifier, NOW) == (DONE, 2)
