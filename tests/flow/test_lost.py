"""Lost disks, restored backups, copies: noticed before anything is sent, told at both sides, and mended by a person."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing

import pytest

from batchmail.core.errors import SpoolError
from batchmail.core.request import DONE, LATE
from batchmail.core.settings import DAY_MS
from batchmail.flow import audit
from batchmail.flow.damage import Damage
from batchmail.flow.overview import CRITICAL, find, look_at
from batchmail.flow.queue import list_queue
from batchmail.flow.seal import Sealer
from batchmail.flow.tidy import tidy
from batchmail.store.ledger import Ledger
from batchmail.store.plans import REMOVE, REQUEUE, Plan, Plans
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from batchmail.store.streams import Again, begin_new_stream, to_send_again
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, make_site, messages

_PLACES = ("ledger", "out", "in")


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path)


def call(pair: Pair) -> list[str]:
    """One call; why it failed at home and at mx."""
    return [str(result.error or "") for result in pair.call()]


def well(pair: Pair) -> None:
    """Calls until nothing is on its way."""
    for _ in range(4):
        assert call(pair) == ["", ""]
    for site in pair:
        assert (site.outbox(), site.inbox(), site.waiting()) == ([], [], [])


def back_up(site: Mailbox) -> str:
    backup = f"{site.root}.backup"
    for place in _PLACES:
        shutil.copytree(f"{site.root}/{place}", f"{backup}/{place}")
    return backup


def restore(site: Mailbox, backup: str) -> None:
    """As an image of the disk does: the directories have the inodes that they had."""
    for place in _PLACES:
        for where, _, names in os.walk(f"{site.root}/{place}"):
            for name in names:
                os.unlink(f"{where}/{name}")
        shutil.copytree(f"{backup}/{place}", f"{site.root}/{place}", dirs_exist_ok=True)


def lose(site: Mailbox) -> Mailbox:
    """The disk is new, and empty but for what was delivered."""
    shutil.rmtree(site.root)
    peer = site.context.peer
    return make_site(site.root, site.context.site.name, peer.name, site.clock)


def resend(site: Mailbox, since_ms: int = 0) -> Again:
    with closing(Ledger(site.spool, site.context.peer.name)) as ledger:
        again = to_send_again(site.spool, ledger, site.context.peer.name, since_ms)
        begin_new_stream(ledger, since_ms)
    return again


def mend(pair: Pair) -> None:
    """What an operator does who goes by what the sides say, until all is well."""
    for _ in range(3):
        problems = call(pair)
        for site, problem in zip((pair.home, pair.mx), problems, strict=True):
            if problem:
                assert f"batchmail resend {site.context.peer.name}" in problem
                resend(site)
    well(pair)


def troubles(site: Mailbox) -> str:
    return " ".join(trouble.text for trouble in look_at(site.context).troubles)


@pytest.fixture
def no_replay(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What comes is not replayed until the function is called."""
    monkeypatch.setattr(Received, "due_batches", lambda *_: [])
    return monkeypatch.undo


def test_an_away_host_that_comes_back_empty(pair: Pair, no_replay: Callable[[], None]) -> None:
    ids = pair.mx.accept(*messages(3))
    call(pair)
    no_replay()
    pair = pair._replace(home=lose(pair.home))
    at_home, at_mx = pair.call()
    assert "batchmail resend home" in str(at_mx.error)
    assert "no longer has files that it took" in at_home.note
    assert "no longer has files that it took" in troubles(pair.mx)
    assert "the other side says: home.example no longer has files" in troubles(pair.home)
    assert pair.home.dropped() == {}
    assert resend(pair.mx) == Again(3, 3)
    well(pair)
    assert sorted(pair.home.dropped()) == sorted(ids)
    assert troubles(pair.mx) == troubles(pair.home) == ""


def test_a_new_ledger_there_is_told_with_what_may_come_twice(
    pair: Pair, no_replay: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.mx.accept(*messages(2))
    call(pair)
    pair.mx.accept(*messages(3, seed=1))
    with closing(pair.mx.context.open_ledger()) as ledger:  # as where the answer was lost
        ledger.rows("UPDATE sent SET state = 'sealed', custody_ms = NULL WHERE kind = 'batch'")
    no_replay()
    pair = pair._replace(home=lose(pair.home))
    told: list[str] = []
    monkeypatch.setattr("batchmail.wire.maillog.trouble", lambda _, text: told.append(text))
    for _ in range(2):
        call(pair)
    beginning = "home.example has a new ledger, its spool was lost: 2 transactions that it may have"
    assert [text.startswith(beginning) for text in told if "new ledger" in text] == [True]
    well(pair)
    assert len(pair.home.dropped()) == 5


def test_what_no_ledger_knows_is_counted(pair: Pair, no_replay: Callable[[], None]) -> None:
    """The ledger alone is lost: what lies in the boxes goes again, and people are told how much that is."""
    ids = pair.mx.accept(*messages(3))
    call(pair)
    no_replay()
    for site in pair:
        peer = site.context.peer.name
        os.unlink(f"{site.root}/ledger/{peer}")
        Ledger(site.spool, peer, adopt=True).close()
    assert resend(pair.home) == Again(0, 0, here=3)
    assert [resend(pair.mx), resend(pair.mx)] == [Again(3, 3)] * 2
    well(pair)
    assert sorted(pair.home.dropped()) == sorted(ids)


def test_the_other_direction_goes_on_meanwhile(pair: Pair, no_replay: Callable[[], None]) -> None:
    pair.mx.accept(*messages(1))
    call(pair)
    no_replay()
    pair = pair._replace(home=lose(pair.home))
    ids = pair.home.accept(*messages(2, seed=1))
    assert call(pair)[1] != ""
    assert sorted(pair.mx.dropped()) == sorted(ids)


def test_what_was_delivered_and_is_remembered_does_not_come_twice(pair: Pair, no_replay: Callable[[], None]) -> None:
    ids = pair.mx.accept(*messages(2))
    call(pair)
    no_replay()
    pair.home.run()
    delivered = {name: os.stat(f"{pair.home.drop}/{name}.bsmtp").st_ino for name in pair.home.dropped()}
    assert sorted(delivered) == sorted(ids)
    assert resend(pair.mx) == Again(2, 2)
    well(pair)
    assert {name: os.stat(f"{pair.home.drop}/{name}.bsmtp").st_ino for name in pair.home.dropped()} == delivered


def test_an_origin_that_was_restored_uses_its_numbers_anew(pair: Pair) -> None:
    """Numbers that the far side has seen are other mail's now: nothing of it is taken for sent."""
    call(pair)
    backup = back_up(pair.mx)
    old = pair.mx.accept(*messages(3))
    call(pair)
    well(pair)
    restore(pair.mx, backup)
    new = pair.mx.accept(*messages(3, seed=1))
    at_home, at_mx = pair.call()
    assert "this spool has gone back" in str(at_mx.error)
    assert "this spool has gone back" in at_home.note
    assert sorted(pair.mx.waiting()) == sorted(new)
    assert resend(pair.mx) == Again(0, 0)
    mend(pair)
    assert sorted(pair.home.dropped()) == sorted(old + new)


def test_an_origin_restored_to_a_batch_that_has_crossed_since(pair: Pair) -> None:
    sealer = Sealer(pair.mx.context, pair.mx.context.open_ledger())
    old = pair.mx.accept(*messages(2))
    sealer.seal_batch("home.example", 1 << 30, 1 << 30)
    backup = back_up(pair.mx)
    between = pair.mx.accept(*messages(2, seed=1))
    call(pair)
    well(pair)
    delivered = pair.home.dropped()
    assert sorted(delivered) == sorted(old + between)
    restore(pair.mx, backup)
    assert "has gone back" in call(pair)[1]
    assert resend(pair.mx).transactions == 2
    mend(pair)
    assert pair.home.dropped() == delivered


def test_a_far_side_that_was_restored_is_sent_what_it_took_since(pair: Pair, no_replay: Callable[[], None]) -> None:
    early = pair.mx.accept(*messages(2))
    call(pair)
    backup = back_up(pair.home)
    pair.mx.clock.now_ms += DAY_MS
    backup_ms = pair.mx.clock.now_ms
    pair.mx.clock.now_ms += 1000
    late = pair.mx.accept(*messages(3, seed=1))
    call(pair)
    no_replay()
    restore(pair.home, backup)
    assert "no longer has files that it took" in call(pair)[1]
    assert sorted(pair.home.dropped()) == sorted(early)
    kept = set(pair.mx.outbox())
    assert resend(pair.mx, backup_ms) == Again(3, 3)
    well(pair)
    assert sorted(pair.home.dropped()) == sorted(early + late)
    assert kept


def test_since_keeps_older_batches_where_they_are(pair: Pair, no_replay: Callable[[], None]) -> None:
    pair.mx.accept(*messages(1))
    call(pair)
    (kept,) = pair.mx.outbox()
    pair.mx.clock.now_ms += DAY_MS
    pair.mx.accept(*messages(1, seed=1))
    call(pair)
    assert resend(pair.mx, pair.mx.clock.now_ms) == Again(1, 1)
    assert call(pair) == ["", ""]
    assert kept in pair.mx.outbox()
    assert resend(pair.mx, pair.mx.clock.now_ms + 1) == Again(1, 1), "a third stream: the oldest goes again"
    no_replay()
    well(pair)
    assert len(pair.home.dropped()) == 2


def test_a_copy_in_another_place_is_not_used(pair: Pair, tmp_path: object) -> None:
    pair.mx.accept(*messages(1))
    call(pair)
    shutil.copytree(pair.home.root, f"{tmp_path}/copy", ignore=shutil.ignore_patterns("*.bell"))
    copy = make_site(f"{tmp_path}/copy", "home.example", "mx")
    with pytest.raises(SpoolError, match=r"is a copy or a restored backup; .* setup --adopt mx"):
        Ledger(copy.spool, "mx")
    assert copy.accept(*messages(1)), "doors go on"


def clone(site: Mailbox, path: str) -> Mailbox:
    """An image of the disk in another machine: all is the same, also what tells of the place."""
    shutil.copytree(site.root, path, ignore=shutil.ignore_patterns("*.bell"))
    copy = make_site(path, site.context.site.name, site.context.peer.name, site.clock)
    Ledger(copy.spool, site.context.peer.name, adopt=True).close()
    return copy


def test_a_clone_that_took_mail_is_noticed_when_the_original_calls(
    pair: Pair, tmp_path: object, no_replay: Callable[[], None]
) -> None:
    copy = clone(pair.home, f"{tmp_path}/clone")
    ids = pair.mx.accept(*messages(2))
    assert call(pair._replace(home=copy)) == ["", ""]
    assert "no longer has files that it took" in call(pair)[1]
    assert pair.home.dropped() == {}
    no_replay()
    assert resend(pair.mx) == Again(2, 2)
    well(pair)
    assert sorted(pair.home.dropped()) == sorted(ids)


def test_a_clone_that_sent_mail_is_noticed_when_the_original_does(pair: Pair, tmp_path: object) -> None:
    pair.home.accept(*messages(1))
    call(pair)
    copy = clone(pair.home, f"{tmp_path}/clone")
    theirs = copy.accept(*messages(2, seed=1))
    call(pair._replace(home=copy))
    ours = pair.home.accept(*messages(2, seed=2))
    assert "this spool has gone back" in call(pair)[0]
    assert not set(ours) & set(pair.mx.dropped())
    mend(pair)
    assert set(ours) | set(theirs) < set(pair.mx.dropped())
    assert "has gone back" in call(pair._replace(home=copy))[0] or not copy.outbox()


def test_a_clone_whose_next_number_is_another_file(pair: Pair, tmp_path: object) -> None:
    """Both have sealed one file more, and it is not the same."""
    pair.home.accept(*messages(1))
    call(pair)
    copy = clone(pair.home, f"{tmp_path}/clone")
    ours = pair.home.accept(*messages(1, seed=1))
    sealer = Sealer(pair.home.context, pair.home.context.open_ledger())
    sealer.seal_batch("mx.example", 1 << 30, 1 << 30)
    theirs = copy.accept(*messages(1, seed=2))
    call(pair._replace(home=copy))
    assert set(theirs) < set(pair.mx.dropped())
    assert call(pair)[0], "the number is the clone's now"
    assert not set(ours) & set(pair.mx.dropped())
    mend(pair)
    assert set(ours) < set(pair.mx.dropped())


def test_the_ledger_of_another_peer(pair: Pair) -> None:
    call(pair)
    shutil.copy(f"{pair.mx.root}/ledger/home", f"{pair.mx.root}/ledger/office")
    with pytest.raises(SpoolError, match="ledger/office is that of the peer home"):
        Ledger(pair.mx.spool, "office")
    with pytest.raises(SpoolError, match="ledger/office is that of the peer home"):
        Ledger(pair.mx.spool, "office", adopt=True)


# -- what is not remembered any more ------------------------------------------------------------------------------


def with_held(tmp_path: object) -> tuple[Pair, list[str], list[str]]:
    """Two sites; what is held at home, being too old to know whether it was delivered, and what was delivered."""
    pair = make_pair(tmp_path, remember_ms=5 * DAY_MS)
    call(pair)
    old = pair.mx.accept(*messages(2))
    backup = back_up(pair.mx)
    call(pair)
    well(pair)
    pair.mx.clock.now_ms += pair.home.context.peer.remember_ms + DAY_MS
    with closing(pair.home.context.open_ledger()) as ledger:
        tidy(pair.home.context, ledger)
        assert ledger.rows("SELECT COUNT(*) FROM in_tx") == [(0,)]
    shutil.rmtree(pair.home.drop)
    restore(pair.mx, backup)
    new = pair.mx.accept(*messages(1, seed=1))
    assert "gone back" in call(pair)[1]
    resend(pair.mx)
    resend(pair.home)
    assert call(pair) == ["", ""]
    assert list(pair.home.dropped()) == new
    return pair, old, new


def test_what_may_have_been_delivered_long_ago_is_held(tmp_path: object) -> None:
    pair, old, new = with_held(tmp_path)
    state = look_at(pair.home.context)
    assert state.replay == 0
    assert "2 of its transactions" in troubles(pair.home)
    at_mx = pair.call()[1]
    assert at_mx.note == "2 of your transactions are held here: they are too old to know whether they came before"
    with closing(pair.home.context.open_ledger()) as ledger:
        received = Received(ledger)
        assert [received.release(identifier, pair.home.clock.now_ms) for identifier in (*old, *new)] == [
            True,
            True,
            False,
        ]
    well(pair)
    assert sorted(pair.home.dropped()) == sorted(old + new)


def test_what_may_have_been_delivered_long_ago_is_not_sent_again_unasked(tmp_path: object) -> None:
    pair, old, new = with_held(tmp_path)
    new_ids = [pair.mx.context.new_id() for _ in old]
    with closing(pair.mx.context.open_ledger()) as ledger:
        plans = zip(old, (REQUEUE, REMOVE), new_ids, strict=True)
        Plans(ledger).make(Plan(tx, verb, "", new_id, "", "", NOW_MS) for tx, verb, new_id in plans)
    for _ in range(3):
        pair.mx.run()
        assert call(pair) == ["", ""]
    assert list(pair.home.dropped()) == new
    assert (pair.mx.held(), pair.mx.waiting(), pair.mx.outbox()) == (new_ids[:1], [], [])


def test_what_was_released_is_in_doubt(tmp_path: object) -> None:
    pair, old, _ = with_held(tmp_path)
    now_ms = pair.home.clock.now_ms
    with closing(pair.home.context.open_ledger()) as ledger:
        received = Received(ledger)
        assert received.release(old[0], now_ms)
        assert received.withdraw(old[0], now_ms) == (LATE, 0)
        assert [received.withdraw(old[1], now_ms) for _ in range(2)] == [(DONE, 1)] * 2


def test_what_comes_late_in_the_first_stream_is_not_held(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    call(pair)
    well(pair)
    late = pair.mx.accept(*messages(1, seed=1))
    pair.mx.clock.now_ms += pair.home.context.peer.remember_ms + DAY_MS
    with closing(pair.home.context.open_ledger()) as ledger:
        tidy(pair.home.context, ledger)
    call(pair)
    assert set(late) < set(pair.home.dropped())


def test_history_is_bounded_and_numbers_stay_known(pair: Pair) -> None:
    for n in range(12):
        pair.mx.accept(*messages(1, seed=n))
        pair.home.accept(*messages(1, seed=n))
        call(pair)
    well(pair)
    pair.mx.clock.now_ms += pair.mx.context.peer.remember_ms + DAY_MS
    for site in pair:
        with closing(site.context.open_ledger()) as ledger:
            last = Sent(ledger).last_seq(ledger.stream)
            tidy(site.context, ledger)
            rows = {table: ledger.rows(f"SELECT COUNT(*) FROM {table}")[0][0] for table in _TABLES}
            assert rows == dict.fromkeys(_TABLES, 0) | {"sent": 1, "received": 1}
            assert Sent(ledger).last_seq(ledger.stream) == last
            stream, up_to = ledger.rows("SELECT stream, up_to FROM heard")[0]
            received = Received(ledger)
            assert [received.identity(stream, seq) for seq in (1, up_to - 1, up_to + 1)] == ["", "", None]
            assert received.identity(stream, up_to)
    delivered = pair.home.dropped()
    pair.mx.accept(*messages(1, seed=99))
    well(pair)
    assert len(pair.home.dropped()) == len(delivered) + 1


_TABLES = ("sent", "out_tx", "out_rcpt", "notice", "received", "in_tx", "in_rcpt", "request", "wish", "withdrawn")


# -- what is lost itself cannot be sent again ---------------------------------------------------------------------


def states(site: Mailbox) -> list[str]:
    return [row.state for row in list_queue(site.context)]


def found_wrong(site: Mailbox) -> list[str]:
    return [found.problem for found in Damage(site.context, None, lambda _: None).findings() if found.problem]


def lose_batch(pair: Pair, no_replay: Callable[[], None]) -> tuple[list[str], str]:
    """Two transactions that the far side takes, and then it loses its disk, and we the batch: it lies beside."""
    ids = sorted(pair.mx.accept(*messages(2)))
    call(pair)
    no_replay()
    (name,) = pair.mx.outbox()
    os.rename(f"{pair.mx.root}/out/home/outbox/{name}", f"{pair.mx.root}/{name}")
    lose(pair.home)
    return ids, name


def test_a_batch_that_is_gone_is_not_sent_again_and_stays_in_sight(pair: Pair, no_replay: Callable[[], None]) -> None:
    ids, name = lose_batch(pair, no_replay)
    assert states(pair.mx) == ["custody"] * 2
    for _ in range(2):
        assert resend(pair.mx) == Again(0, 0, lost=tuple(ids))
        well(pair)
    assert states(pair.mx) == ["lost"] * 2
    record = find(pair.mx.context, ids[0])
    assert record and record.state == "lost"
    state = look_at(pair.mx.context)
    assert (state.sealed, state.lost, [trouble.level for trouble in state.troubles]) == (0, 2, [CRITICAL])
    (problem,) = found_wrong(pair.mx)
    assert problem.startswith("is missing, and of its transactions 2 are not settled; restore it")
    os.rename(f"{pair.mx.root}/{name}", f"{pair.mx.root}/out/home/outbox/{name}")
    assert states(pair.mx) == ["sealed"] * 2
    well(pair)
    assert sorted(pair.home.dropped()) == ids
    assert (states(pair.mx), found_wrong(pair.mx), troubles(pair.mx)) == ([], [], "")


def test_what_is_lost_does_not_balance_at_either_side(pair: Pair, no_replay: Callable[[], None]) -> None:
    ids, _ = lose_batch(pair, no_replay)
    resend(pair.mx)
    for site, words in ((pair.mx, "lost here"), (pair.home, "lost there")):
        with closing(site.context.open_ledger()) as ledger:
            site.clock.now_ms += 1000
            name = audit.ask(site.context, ledger)
            for _ in range(4):
                assert call(pair) == ["", ""]
            result = audit.result(site.context, ledger, name)
        assert [(one.id, one.text.startswith(words)) for one in result.problems] == [(one, True) for one in ids]
        assert (result.here if site is pair.mx else result.there)["sent" if site is pair.mx else "received"][
            "lost"
        ] == 2


def test_a_damaged_batch_is_not_said_to_be_sent_again(pair: Pair, no_replay: Callable[[], None]) -> None:
    ids = sorted(pair.mx.accept(*messages(2)))
    call(pair)
    no_replay()
    path = f"{pair.mx.root}/out/home/outbox/{pair.mx.outbox()[0]}"
    os.truncate(path, os.path.getsize(path) - 20)
    assert resend(pair.mx) == Again(0, 0, lost=tuple(ids))
    assert states(pair.mx) == ["damaged"] * 2
    assert call(pair) == ["", ""]
    assert sorted(pair.home.dropped()) == ids, "it was there"


def test_a_person_gives_up_what_is_lost_and_the_postmaster_is_told(pair: Pair, no_replay: Callable[[], None]) -> None:
    ids, _ = lose_batch(pair, no_replay)
    resend(pair.mx)
    with closing(pair.mx.context.open_ledger()) as ledger:
        Plans(ledger).make(Plan(one, REMOVE, "", "", "5.7.1", "given up", pair.mx.clock.now_ms) for one in ids)
    for _ in range(3):
        pair.mx.run()
        call(pair)
    pair.mx.run()
    assert (states(pair.mx), found_wrong(pair.mx)) == ([], [])
    letters = b"".join(pair.mx.dropped().values())
    assert all(one.encode() in letters for one in ids)
