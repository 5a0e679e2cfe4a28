"""What was settled long ago costs nothing: no step of a call or a pass goes through the history that a ledger keeps."""

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from batchmail.flow.called import note_call
from batchmail.flow.overview import look_at
from batchmail.flow.seal import Sealer
from batchmail.flow.tidy import tidy
from batchmail.store.ledger import Ledger
from tests.sites import Mailbox, Pair, make_pair, messages

DAY_MS = 86_400_000
HISTORY = ("sent", "out_tx", "out_rcpt", "notice", "received", "in_tx", "in_rcpt", "alias", "told", "plan")
_STATEMENT = re.compile(r"(SELECT|INSERT|UPDATE|DELETE)\b", re.IGNORECASE)


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path, senders=("mx.example",))


def pass_of(site: Mailbox) -> None:
    """What `batchmail run` and `status` do."""
    site.run()
    with closing(site.context.open_ledger()) as ledger:
        tidy(site.context, ledger)
        note_call(ledger, site.context.now_ms(), None, 1000.0)
    look_at(site.context)


def exchange(pair: Pair) -> None:
    """Mail both ways, some of it refused, so that there are notices; until it is settled."""
    pair.mx.accept(*messages(2))
    pair.home.accept(*messages(2), sender="<s@home.example>", rcpts=("<r@mx.example>",))
    for _ in range(3):
        pair.call()
        pass_of(pair.mx)
        pass_of(pair.home)


def statements_of(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """All that is asked of any ledger meanwhile."""
    heard: set[str] = set()
    connect = Ledger._connect

    def traced(ledger: Ledger) -> None:
        connect(ledger)
        ledger.database.set_trace_callback(heard.add)

    monkeypatch.setattr(Ledger, "_connect", traced)
    work()
    monkeypatch.undo()
    return {statement for statement in heard if _STATEMENT.match(statement.lstrip())}


def scans(statement: str, database: sqlite3.Connection) -> list[str]:
    """The tables of history that a statement goes through from end to end; an index of what is open is none."""
    partial = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE sql LIKE '%INDEX%WHERE%'")}
    count = statement.count("?")
    rows = database.execute(f"EXPLAIN QUERY PLAN {statement}", (None,) * count).fetchall()
    found = [re.match(r"SCAN (\w+)(?:.* INDEX (\w+))?", row[3]) for row in rows]
    return [step[0] for step in found if step and step[1] in HISTORY and step[2] not in partial]


def test_no_step_goes_through_the_history(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange(pair)
    statements = statements_of(lambda: exchange(pair), monkeypatch)
    assert len(statements) > 60
    with closing(pair.mx.context.open_ledger()) as ledger:
        assert scans("SELECT id FROM in_tx WHERE attempts = 1", ledger.database) == ["SCAN in_tx"], "it is not seen"
        found = {statement: scans(statement, ledger.database) for statement in sorted(statements)}
    slow = {statement: steps for statement, steps in found.items() if steps}
    assert slow == {}, "\n".join(slow)


def test_history_is_looked_through_for_what_is_old_once_a_day(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def prunings(after_ms: int) -> int:
        pair.mx.clock.now_ms = pair.home.clock.now_ms = began_ms + after_ms
        heard = statements_of(lambda: pass_of(pair.mx), monkeypatch)
        return sum(statement.startswith("SELECT MAX(arrival_ms) FROM in_tx ") for statement in heard)

    began_ms = pair.mx.clock.now_ms
    exchange(pair)
    assert [prunings(after_ms) for after_ms in (0, DAY_MS - 1, DAY_MS, 2 * DAY_MS - 1)] == [0, 0, 1, 0]
    with closing(pair.mx.context.open_ledger()) as ledger:
        ledger.set_fact("pruned_ms", str(began_ms + 900 * DAY_MS))  # by a clock that ran ahead
    assert prunings(2 * DAY_MS - 1) == 1


def test_a_name_that_came_back_is_known_after_its_batch_is_forgotten(pair: Pair) -> None:
    """Removals are not synced: a power cut may bring the name back, and the next call may be long after."""
    pair.mx.accept(*messages(1))
    with closing(pair.mx.context.open_ledger()) as ledger:
        assert Sealer(pair.mx.context, ledger).seal_batch("home.example", 1 << 30, 1 << 40)
    (batch,) = pair.mx.outbox()
    path = f"{pair.mx.root}/out/home/outbox/{batch}"
    os.link(path, f"{pair.mx.root}/kept")
    for seed in (1, 2):  # it was not the last one
        pair.mx.accept(*messages(1, seed=seed))
        pair.call()
        pass_of(pair.mx)
    pair.call()
    assert pair.mx.outbox() == []
    os.link(f"{pair.mx.root}/kept", path)
    for site in pair:
        site.clock.now_ms += site.context.peer.remember_ms + DAY_MS
        pass_of(site)
    for name in pair.home.dropped():
        os.unlink(f"{pair.home.drop}/{name}.bsmtp")
    for _ in range(2):
        pair.call()
    assert pair.home.dropped() == {}, "it was delivered twice"
    assert pair.mx.outbox() == []
