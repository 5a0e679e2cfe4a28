"""Damage is found and named; repair sets it aside, removes nothing, and lets what is intact go on."""

import os
from contextlib import closing

import pytest

from batchmail.core.numbered import Number
from batchmail.flow.damage import Damage, Finding
from batchmail.flow.repair import Repairer
from batchmail.flow.seal import Sealer
from batchmail.store import quarantine
from batchmail.store.plans import HOLD, Plan, Plans
from batchmail.store.received import Received
from batchmail.store.shelf import Shelf
from batchmail.store.streams import begin_new_stream
from batchmail.store.waiting import WaitingRoom
from tests.sites import Mailbox, Pair, make_pair, messages


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path)


def look(site: Mailbox, repair: bool = False) -> list[Finding]:
    """What is wrong."""
    with closing(site.context.open_ledger()) as ledger:
        repairer = Repairer(site.context, ledger) if repair else None
        return [one for one in Damage(site.context, repairer, lambda _: None).findings() if one.problem]


def quarantined(site: Mailbox) -> list[str]:
    root = f"{site.root}/quarantine"
    found = sorted(os.path.relpath(f"{where}/{name}", root) for where, _, names in os.walk(root) for name in names)
    notes = [name for name in found if name.endswith(".why")]
    assert found == sorted([*notes, *(name.removesuffix(".why") for name in notes)]), "each has its note"
    return [name for name in found if not name.endswith(".why")]


def break_file(path: str, at: float) -> None:
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek(int(size * at))
        octets = file.read(4)
        file.seek(int(size * at))
        file.write(bytes(octet ^ 0x55 for octet in octets))


def seal(site: Mailbox, far: str) -> Number:
    with closing(site.context.open_ledger()) as ledger:
        number = Sealer(site.context, ledger).seal_batch(far, 1 << 30, 1 << 30)
    assert number is not None
    return number


def well(pair: Pair) -> None:
    for _ in range(4):
        assert [str(result.error or "") for result in pair.call()] == ["", ""]
    for site in pair:
        assert (site.outbox(), site.inbox(), site.waiting()) == ([], [], [])
        assert look(site) == []


def test_nothing_is_wrong(pair: Pair) -> None:
    pair.mx.accept(*messages(3))
    seal(pair.mx, "home.example")
    pair.mx.accept(*messages(3, seed=1))
    assert look(pair.mx) == look(pair.mx, True) == []
    assert quarantined(pair.mx) == []
    well(pair)


@pytest.mark.parametrize("at", [0.01, 0.3, 0.99])
def test_a_damaged_waiting_file(pair: Pair, at: float) -> None:
    bad, *good = pair.mx.accept(*messages(3))
    path = next(
        f"{where}/{name}"
        for where, _, names in os.walk(f"{pair.mx.root}/out/home/waiting")
        for name in names
        if bad in name
    )
    break_file(path, at)
    (found,) = look(pair.mx)
    assert (found.subject, found.repaired) == (path, "") and "damaged" in found.problem
    (found,) = look(pair.mx, True)
    assert f"quarantine/{os.path.relpath(path, pair.mx.root)}; the postmaster is told of it" in found.repaired
    assert quarantined(pair.mx) == [os.path.relpath(path, pair.mx.root)]
    assert look(pair.mx) == []
    assert sorted(pair.mx.waiting()) == sorted(good)
    well(pair)
    assert sorted(pair.home.dropped()) == sorted(good)


def test_strays(pair: Pair) -> None:
    pair.call()
    pair.mx.accept(*messages(1))
    bucket = next(where for where, _, names in os.walk(f"{pair.mx.root}/out/home/waiting") if names)
    room = f"{pair.mx.root}/out/home/waiting"
    places = [
        bucket,
        os.path.dirname(bucket),
        room,
        *(f"{pair.mx.root}/{place}" for place in ("out/home/held", "out/home/outbox")),
    ]
    places += [f"{pair.mx.root}/in/home/{name}" for name in ("inbox", "partial", "notices")]
    for place in places:
        with open(f"{place}/core.123", "xb") as file:
            file.write(b"stray")
    assert sorted(found.subject for found in look(pair.mx)) == sorted(f"{place}/core.123" for place in places)
    assert len(look(pair.mx, True)) == 8
    assert len(quarantined(pair.mx)) == 8
    with open(f"{places[1]}/core.123", "xb") as file:
        file.write(b"another")
    look(pair.mx, True)
    assert len(quarantined(pair.mx)) == 9, "the first one of that name is not overwritten"
    well(pair)


@pytest.mark.parametrize("at", [0.05, 0.5, 0.95])
def test_a_damaged_batch_that_has_not_crossed(pair: Pair, at: float) -> None:
    ids = pair.mx.accept(*messages(40, octets=20_000))
    number = seal(pair.mx, "home.example")
    path = f"{pair.mx.root}/out/home/outbox/{number.file_name}"
    break_file(path, at)
    (found,) = look(pair.mx)
    assert (found.subject, found.problem.endswith("; batchmail check --repair seals anew what is intact of it")) == (
        path,
        True,
    )
    (found,) = look(pair.mx, True)
    assert "intact and sent in a new batch: " in found.repaired
    assert quarantined(pair.mx) == [f"out/home/outbox/{number.file_name}"]
    well(pair)
    come = set(pair.home.dropped())
    named = {identifier for identifier in ids if identifier in found.repaired}
    assert come | named == set(ids) or (at < 0.1 and not come)
    assert not come & named
    letters = b"".join(pair.mx.dropped().values())
    for identifier in ids:
        assert (identifier.encode() in letters, identifier in find_text(pair.mx, identifier)) == (
            identifier not in come,
        ) * 2


def test_of_what_is_lost_before_it_was_to_go_again_the_postmaster_is_told_too(pair: Pair) -> None:
    ids = pair.mx.accept(*messages(3, octets=20_000))
    number = seal(pair.mx, "home.example")
    with closing(pair.mx.context.open_ledger()) as ledger:
        begin_new_stream(ledger)
    break_file(f"{pair.mx.root}/out/home/outbox/{number.file_name}", 0.05)
    look(pair.mx, True)
    pair.mx.run()
    letters = b"".join(pair.mx.dropped().values())
    assert all(one.encode() in letters for one in ids)


def find_text(site: Mailbox, identifier: str) -> str:
    path = quarantine.find(site.spool, identifier)
    if not path:
        return ""
    with open(f"{path}.why", encoding="utf-8") as why:
        return why.read()


def test_a_damaged_batch_that_the_far_side_has(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pair.mx.accept(*messages(40, octets=20_000))
    monkeypatch.setattr(Received, "due_batches", lambda *_: [])
    pair.call()
    monkeypatch.undo()
    outbox = f"{pair.mx.root}/out/home/outbox"
    name = max(pair.mx.outbox(), key=lambda name: os.path.getsize(f"{outbox}/{name}"))
    break_file(f"{outbox}/{name}", 0.6)
    found, *left = look(pair.mx, True)
    assert "intact and sent in a new batch: " in found.repaired
    assert [one.subject for one in left] == [found.subject], "which is missing now, for what was damaged in it"
    pair.home.run()
    delivered = pair.home.dropped()
    assert set(delivered) == set(ids)
    for _ in range(4):
        assert [str(result.error or "") for result in pair.call()] == ["", ""]
    assert pair.home.dropped() == delivered


def test_a_damaged_report_is_written_anew(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.mx.accept(*messages(3))
    monkeypatch.setattr(Received, "due_batches", lambda *_: [])
    pair.call()
    monkeypatch.undo()
    pair.home.run()
    with closing(pair.home.context.open_ledger()) as ledger:
        number = Sealer(pair.home.context, ledger).seal_report()
    assert number is not None
    path = f"{pair.home.root}/out/mx/outbox/{number.file_name}"
    break_file(path, 0.5)
    assert [found.subject for found in look(pair.home, True)] == [path]
    well(pair)


def test_what_came_and_is_damaged(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.mx.accept(*messages(3))
    monkeypatch.setattr(Received, "due_batches", lambda *_: [])
    pair.call()
    (name,) = pair.home.inbox()
    path = f"{pair.home.root}/in/mx/inbox/{name}"
    break_file(path, 0.7)
    (found,) = look(pair.home, True)
    assert "left there" in found.repaired and "at mx, batchmail resend" in found.repaired
    os.unlink(path)
    (found,) = look(pair.home)
    assert found.subject == path and "is missing; at mx, batchmail resend" in found.problem


def test_a_missing_batch_of_ours(pair: Pair) -> None:
    pair.mx.accept(*messages(2))
    number = seal(pair.mx, "home.example")
    path = f"{pair.mx.root}/out/home/outbox/{number.file_name}"
    os.unlink(path)
    (found,) = look(pair.mx)
    assert found.subject == path and "2 are not settled" in found.problem


def owe_a_notice(pair: Pair) -> str:
    """A failure whose notice no mail server takes now; the path of its file."""
    entry = pair.home.context.peer._replace(recipients=("home.example",))
    pair = pair._replace(home=pair.home._replace(context=pair.home.context._replace(peer=entry)))
    pair.mx.accept(*messages(1), rcpts=("<r@elsewhere.example>",))
    os.mkdir(pair.mx.drop, 0o700)
    with open(f"{pair.mx.drop}/tmp", "xb"):  # a file where a directory should be
        pair.call()
    (name,) = os.listdir(f"{pair.mx.root}/in/home/notices")
    os.unlink(f"{pair.mx.drop}/tmp")
    return f"{pair.mx.root}/in/home/notices/{name}"


def lose_it(path: str, how: str) -> None:
    if how == "missing":
        os.unlink(path)
    else:
        break_file(path, {"head": 0.1, "text": 0.5}[how])


@pytest.mark.parametrize("how", ["missing", "head", "text"])
def test_a_notice_that_is_lost_is_told_to_the_postmaster(pair: Pair, how: str) -> None:
    path = owe_a_notice(pair)
    assert look(pair.mx) == []
    lose_it(path, how)
    assert [(found.subject, found.repaired) for found in look(pair.mx)] == [(path, "")]
    (found,) = look(pair.mx, True)
    assert found.repaired.endswith("the postmaster is told of it")
    assert len(quarantined(pair.mx)) == (how != "missing")
    well(pair)
    (letter,) = pair.mx.dropped().values()
    assert b"RCPT TO:<postmaster@mx.example>" in letter and b"its file was damaged" in letter


@pytest.mark.parametrize("how", ["missing", "head", "text"])
def test_a_notice_that_nobody_mends_is_given_up_after_its_lifetime(pair: Pair, how: str) -> None:
    lose_it(owe_a_notice(pair), how)
    for _ in range(3):
        pair.call()
        pair.mx.run()
    assert (len(pair.mx.outbox()), pair.mx.dropped()) == (1, {}), "somebody may mend it"
    pair.mx.clock.now_ms += pair.mx.context.peer.lifetime_ms  # of both: they share it
    for _ in range(2):
        pair.call()  # and find the clocks together
        pair.mx.run()
    (letter,) = pair.mx.dropped().values()
    assert b"RCPT TO:<postmaster@mx.example>" in letter and b"its file was damaged" in letter
    well(pair)


def test_a_damaged_file_of_what_was_about_to_end_holds_up_nothing_else(pair: Pair) -> None:
    bad, good = pair.mx.accept(*messages(2))
    room = WaitingRoom(pair.mx.spool, "home")
    waiting = room.find(bad)
    assert waiting
    path = Shelf(pair.mx.spool, "home").end(waiting).path  # and a crash
    break_file(path, 0.01)
    with closing(pair.mx.context.open_ledger()) as ledger:
        Plans(ledger).make([Plan(good, HOLD, "", "", "", "", pair.mx.clock.now_ms)])
    pair.mx.run()
    assert pair.mx.held() == [good]
    (found,) = look(pair.mx, True)
    assert found.subject == path and quarantined(pair.mx) == [os.path.relpath(path, pair.mx.root)]


def test_a_damaged_ledger(pair: Pair) -> None:
    pair.mx.accept(*messages(200))
    for _ in range(3):
        pair.call()
    with closing(pair.mx.context.open_ledger()) as ledger:
        ledger.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = ledger.rows("SELECT rootpage FROM sqlite_master WHERE name = 'out_rcpt'")[0]
        (size,) = ledger.rows("PRAGMA page_size")[0]
    with open(f"{pair.mx.root}/ledger/home", "r+b") as file:
        file.seek((root - 1) * size + 8)
        file.write(b"\xff" * 200)
    assert [found.subject for found in look(pair.mx)] == ["ledger of home"]
