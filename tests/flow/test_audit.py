"""Audit: agreement is cheap, and what one side has lost or made up is named."""

from contextlib import closing

import pytest

from batchmail.core.errors import PeerError
from batchmail.core.names import make_id
from batchmail.core.request import AUDIT, DONE, REFUSED, Answer, Request
from batchmail.flow import audit, requests
from batchmail.flow.audit import Result
from batchmail.store.audit import RECEIVED, SENT
from batchmail.store.received import Received
from batchmail.store.requests import Requests
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path)


def ask(pair: Pair, site: Mailbox) -> Result:
    """An audit that `site` asks for, with the calls that it takes."""
    site.clock.now_ms += 1000
    with closing(site.context.open_ledger()) as ledger:
        name = audit.ask(site.context, ledger)
        for _ in range(4):
            assert [str(result.error or "") for result in pair.call()] == ["", ""]
            found = audit.result(site.context, ledger, name)
            if not found.open:
                return found
    raise AssertionError("no answer")


def traffic(pair: Pair, count: int = 5) -> list[str]:
    ids = pair.mx.accept(*messages(count))
    pair.home.accept(*messages(count, seed=1))
    for _ in range(3):
        pair.call()
    return ids


def change(site: Mailbox, query: str, *values: object) -> None:
    with closing(site.context.open_ledger()) as ledger, ledger.transaction():
        assert ledger.database.execute(query, values).rowcount


def test_nothing_at_all(pair: Pair) -> None:
    found = ask(pair, pair.home)
    assert (found.problems, found.refused) == ([], "")
    assert found.here == {SENT: {"waiting": 0, "held": 0}, RECEIVED: {}}


@pytest.mark.parametrize("asker", ["home", "mx"])
def test_all_is_settled(pair: Pair, asker: str) -> None:
    traffic(pair)
    found = ask(pair, getattr(pair, asker))
    assert found.problems == []
    assert found.here[SENT]["settled"] == found.there[SENT]["done"] == 5
    assert found.here[RECEIVED]["done"] == found.there[RECEIVED]["settled"] == 5
    with closing(getattr(pair, asker).context.open_ledger()) as ledger:
        assert ledger.rows("SELECT COUNT(*) FROM request WHERE kind = ?", AUDIT) == [(2,)], "digests were enough"


def test_what_is_on_its_way_is_no_problem(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic(pair)
    pair.mx.accept(*messages(3, seed=5))
    monkeypatch.setattr(Received, "due_batches", lambda *_: [])
    found = ask(pair, pair.mx)
    assert found.problems == []
    pair.mx.accept(*messages(3, seed=6))
    found = ask(pair, pair.mx)
    assert found.problems == []
    assert found.there[SENT]["waiting"] >= 3


def test_a_transaction_that_the_far_side_has_lost(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic(pair)
    monkeypatch.setattr(Received, "due_batches", lambda *_: [])
    lost, *_ = pair.mx.accept(*messages(4, seed=5))
    pair.call()
    change(pair.home, "DELETE FROM in_tx WHERE id = ?", lost)
    (found,) = ask(pair, pair.mx).problems
    assert (found.id, found.way) == (lost, SENT) and "not known there: lost" in found.text
    (found,) = ask(pair, pair.home).problems
    assert (found.id, found.way) == (lost, RECEIVED) and "not known here: lost" in found.text


def test_one_that_was_never_sent(pair: Pair) -> None:
    ids = traffic(pair)
    change(pair.mx, "DELETE FROM out_tx WHERE id = ?", ids[2])
    (found,) = ask(pair, pair.mx).problems
    assert (found.id, found.text) == (ids[2], "known there, but not as sent here")
    (found,) = ask(pair, pair.home).problems
    assert (found.id, found.text) == (ids[2], "known here, but not as sent there")


def test_outcomes_that_differ(pair: Pair) -> None:
    ids = traffic(pair)
    change(pair.home, "UPDATE in_rcpt SET action = 'failed' WHERE id = ?", ids[1])
    (found,) = ask(pair, pair.mx).problems
    assert found.id == ids[1] and "outcomes differ" in found.text and "failed there" in found.text


def test_one_that_was_settled_too_early(pair: Pair) -> None:
    ids = traffic(pair)
    change(pair.home, "UPDATE in_tx SET state = 'waiting', next_ms = ? WHERE id = ?", NOW_MS * 2, ids[0])
    (found,) = ask(pair, pair.mx).problems
    assert (found.id, found.text) == (ids[0], "settled here, and not finished there")


def test_many_are_compared_step_by_step(pair: Pair) -> None:
    """One of thousands is found with few questions."""
    rows = [make_id(NOW_MS - n, n.to_bytes(10, "big")) for n in range(5000)]
    number = "A" * 16
    with closing(pair.mx.context.open_ledger()) as ledger, ledger.transaction():
        ledger.database.execute(
            "INSERT INTO sent (stream, seq, kind, identity, octets, state, sealed_ms, custody_ms)"
            " VALUES (?, 1, 'batch', '', 1, 'settled', 0, 0)",
            (number,),
        )
        ledger.database.executemany(
            "INSERT INTO out_tx (id, stream, seq, arrival_ms, recipients, open, settled_ms) VALUES (?,?,1,0,1,0,1)",
            ((row, number) for row in rows),
        )
    with closing(pair.home.context.open_ledger()) as ledger, ledger.transaction():
        ledger.database.executemany(
            "INSERT INTO in_tx (id, stream, seq, custody_ms, arrival_ms, expire_ms, recipients, state, next_ms)"
            " VALUES (?,?,1,0,0,0,1,'done',0)",
            ((row, number) for row in rows if row != rows[1234]),
        )
    found = ask(pair, pair.mx)
    assert [(one.id, one.text) for one in found.problems] == [(rows[1234], "settled here, and not known there")]
    with closing(pair.mx.context.open_ledger()) as ledger:
        assert ledger.rows("SELECT COUNT(*) FROM request")[0][0] <= 5


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"audit": "x", "way": "sent", "from": 0, "prefix": "01M"},
        {"audit": "x", "way": "sent", "from": 0, "prefix": "'; --"},
        {"audit": "x", "way": "sent", "from": -1, "prefix": ""},
        {"audit": "x", "way": 7, "from": 0, "prefix": ""},
    ],
)
def test_malformed_questions_are_refused(pair: Pair, payload: dict[str, object]) -> None:
    with closing(pair.mx.context.open_ledger()) as ledger, pytest.raises(PeerError):
        audit.answer(pair.mx.context, ledger, Request(AUDIT, make_id(1, bytes(10)), payload))


def test_only_so_many_answers_wait_at_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are long, and what asks for them is short."""
    monkeypatch.setattr(requests, "_MOST_AUDITS", 3)
    pair.mx.accept(*messages(1))
    pair.call()
    for _ in range(2):
        with closing(pair.mx.context.open_ledger()) as ledger:
            ids = [pair.mx.context.new_id() for _ in range(5)]
            for one in ids:
                payload = {"audit": one, "way": "sent", "from": 0, "prefix": ""}
                Requests(ledger).ask(Request(AUDIT, one, payload), pair.mx.clock.now_ms)
        pair.call()
        pair.mx.run()
        with closing(pair.mx.context.open_ledger()) as ledger:
            answers = [asked.answer for one in ids if (asked := Requests(ledger).find(one))]
        assert sorted(one.verdict for one in answers if one) == [DONE] * 3 + [REFUSED] * 2


def test_a_lying_answer_is_only_a_wrong_answer(pair: Pair) -> None:
    ids = traffic(pair)
    with closing(pair.mx.context.open_ledger()) as ledger:
        name = audit.ask(pair.mx.context, ledger)
        asked = [one.request for one in audit._of(Requests(ledger), name)]
        lie = {"from": 0, "buckets": ["x", "", "ZZZZZ 1 2", f"{ids[0][:5]} many", 7, "\x7f"]}
        audit.follow(pair.mx.context, ledger, asked[0], Answer(asked[0].id, DONE, "", lie))
        assert {one.request.payload["prefix"] for one in audit._of(Requests(ledger), name)} == {"", ids[0][:5]}
        assert audit._line("../../x s passed").id == ""
