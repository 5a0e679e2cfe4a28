"""The waiting room: accepted once and whole wherever it is stopped, listed in order, let go."""

import os

import pytest

from batchmail.core.envelope import Client, Envelope, Recipient
from batchmail.core.errors import SpoolError
from batchmail.core.names import is_id, make_id, next_id
from batchmail.store import arrivals
from batchmail.store.setup import sweep
from batchmail.store.waiting import WaitingRoom, read_entry
from tests.disks import Disk
from tests.spools import drafts, make_spool, read_waiting

NOW_MS = 1_795_222_800_000
DAY_MS = 86_400_000
ENVELOPE = Envelope(b"a@b", (), (Recipient(b"c@d"), Recipient(b"e@f")))


@pytest.fixture
def spool(tmp_path):
    return make_spool(tmp_path)


def _write(room, identifier, content=b"text\r\n", priority=0, now_ms=NOW_MS):
    draft, writer = room.write(identifier, now_ms, priority, "4A1", Client(helo=b"me"), ENVELOPE)
    writer.content(content)
    name, _ = writer.end()
    return draft, name


def _put(room, identifier, priority=0, offered="", now_ms=NOW_MS, content=b"text\r\n"):
    draft, name = _write(room, identifier, content, priority, now_ms)
    with draft:
        return room.put(draft, name, priority, offered, now_ms)


def _put_all(room, first, count=3, offered="", now_ms=NOW_MS):
    members = [_write(room, next_id(first, n), b"%d\r\n" % n) for n in range(count)]
    try:
        return room.put_all(members, 0, offered, now_ms)
    finally:
        for draft, _ in members:
            draft.discard()


def test_what_was_put_comes_back(spool):
    room = WaitingRoom(spool, "home")
    identifier = make_id(NOW_MS, b"0123456789")
    assert _put(room, identifier, content=b".\r\n..x\r\n\xff") == identifier
    (mail,) = read_waiting(spool)
    assert (mail.envelope, mail.content) == (ENVELOPE, b".\r\n..x\r\n\xff\r\n")
    entry = mail.entry
    assert (entry.id, entry.arrival_ms, entry.bits, entry.queue_id) == (identifier, NOW_MS, 8, "4A1")
    assert (entry.client, entry.recipients, entry.size_octets) == (Client(helo=b"me"), 2, 11)
    assert drafts(spool) == []


def test_order(spool):
    room = WaitingRoom(spool, "home")
    ids = [make_id(NOW_MS + n * 20_000, bytes([n]) * 10) for n in range(6)]
    for identifier, priority in zip(ids, (0, 4, -4, 0, 9, 4), strict=True):
        _put(room, identifier, priority)
    scanned = list(room.scan())
    assert [waiting.id for waiting in scanned] == [ids[n] for n in (4, 1, 5, 0, 3, 2)]
    assert [waiting.urgency for waiting in scanned] == ["00", "05", "05", "09", "09", "13"]


def test_several_at_once_keep_their_order(spool):
    room = WaitingRoom(spool, "home")
    first = make_id(NOW_MS, b"\xff" * 10)
    assert _put_all(room, first, 12) == [next_id(first, n) for n in range(12)]
    assert [mail.content for mail in read_waiting(spool)] == [b"%d\r\n" % n for n in range(12)]


def test_the_same_offer_is_accepted_once(spool):
    room = WaitingRoom(spool, "home")
    first, second = make_id(NOW_MS, b"1" * 10), make_id(NOW_MS + 1, b"2" * 10)
    assert _put(room, first, offered="ab") == first
    assert _put(room, second, offered="ab") == first
    assert _put(room, second, offered="ab", priority=4, now_ms=NOW_MS + DAY_MS) == first
    assert [mail.entry.id for mail in read_waiting(spool)] == [first]
    assert _put(room, second, offered="cd") == second
    # Once sealed it comes back under the same ID, which the sealed batch's manifest makes a leftover.
    room.remove([waiting.path for waiting in room.scan()])
    assert _put(room, make_id(NOW_MS + 2, b"3" * 10), offered="ab") == first
    assert [mail.entry.id for mail in read_waiting(spool)] == [first]


def test_the_same_offer_of_several(spool):
    room = WaitingRoom(spool, "home")
    first, second = make_id(NOW_MS, b"1" * 10), make_id(NOW_MS + 1, b"2" * 10)
    ids = _put_all(room, first, offered="ab")
    assert _put_all(room, second, offered="ab") == ids
    assert [mail.entry.id for mail in read_waiting(spool)] == ids
    room.remove([waiting.path for waiting in room.scan()])
    assert _put_all(room, second, offered="ab") == ids
    assert [mail.entry.id for mail in read_waiting(spool)] == ids
    assert drafts(spool) == []


def test_what_an_operator_holds_is_not_accepted_again(spool):
    room = WaitingRoom(spool, "home")
    first, second = make_id(NOW_MS, b"1" * 10), make_id(NOW_MS + 1, b"2" * 10)
    _put(room, first, offered="ab")
    ids = _put_all(room, second, offered="cd")
    for waiting in list(room.scan()):
        room.hold(waiting)
    assert _put(room, second, offered="ab") == first
    assert _put_all(room, first, offered="cd") == ids
    assert room.is_empty()
    assert len(os.listdir(f"{spool.root}/out/home/held")) == 4


def test_offers_are_forgotten(spool):
    room = WaitingRoom(spool, "home")
    for day in range(5):
        _put(room, make_id(NOW_MS + day, bytes(10)), offered="ab", now_ms=NOW_MS + 2 * day * DAY_MS)
    room.tidy(NOW_MS + 8 * DAY_MS)
    assert os.listdir(f"{spool.root}/out/home/offered") == [str(NOW_MS // DAY_MS + 8)]


@pytest.mark.parametrize("priority", [0, 4])
@pytest.mark.parametrize("offered", ["", "ab"], ids=["unnamed", "queue-id"])
@pytest.mark.parametrize("count", [1, 3])
def test_stopped_anywhere(tmp_path, count, offered, priority):
    """At no point half of it; at no point a second copy where the MTA names what it offers."""
    first, again = make_id(NOW_MS, b"1" * 10), make_id(NOW_MS + 1, b"2" * 10)
    for stop in range(1000):
        spool = make_spool(tmp_path / str(stop))
        room = WaitingRoom(spool, "home")
        with Disk(stop=stop) as disk:
            _ = _put(room, first, priority, offered) if count == 1 else _put_all(room, first, 3, offered)
        assert len(read_waiting(spool)) in (0, count)
        accepted = bool(read_waiting(spool))
        _ = _put(room, again, priority, offered) if count == 1 else _put_all(room, again, 3, offered)
        found = read_waiting(spool)
        assert len(found) == (2 * count if accepted and not offered else count)
        assert all(is_id(mail.entry.id) for mail in found)
        sweep(spool, 4e9)
        assert drafts(spool) == []
        assert len(read_waiting(spool)) == len(found)
        if not disk.stopped:
            break
    assert stop > 8


@pytest.mark.parametrize("what", ["fsync", "link", "rename", "mkdir", "symlink", "write"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_failing_disk_accepts_nothing(tmp_path, count, what):
    identifier = make_id(NOW_MS, b"1" * 10)
    for nth in range(100):
        spool = make_spool(tmp_path / str(nth))
        room = WaitingRoom(spool, "home")
        with Disk(fail=(what, nth)) as disk:
            try:
                _ = _put(room, identifier, 4, "ab") if count == 1 else _put_all(room, identifier, 3, "ab")
            except OSError:
                assert disk.failed
                assert room.is_empty()
            else:
                assert len(read_waiting(spool)) == count
        if not disk.failed:
            break


def test_a_bucket_that_goes_while_a_door_comes(spool, monkeypatch):
    room = WaitingRoom(spool, "home")
    real, gone = os.link, []

    def link(source, final):
        if not gone:
            gone.append(os.path.dirname(final))
            os.rmdir(gone[0])
        real(source, final)

    monkeypatch.setattr(os, "link", link)
    _put(room, make_id(NOW_MS, b"1" * 10))
    assert gone
    assert len(read_waiting(spool)) == 1


def test_emptied_buckets_go_but_not_the_youngest(spool):
    room = WaitingRoom(spool, "home")
    place = f"{spool.root}/out/home/waiting/09"
    for n in range(5):
        _put(room, make_id(NOW_MS + n * 60_000, bytes([n]) * 10))
    everything = list(room.scan())
    room.remove([waiting.path for waiting in everything[:1]])
    assert len(os.listdir(place)) == 4
    room.remove([waiting.path for waiting in everything])  # some are gone already
    assert len(os.listdir(place)) == 2
    for n in range(5, 8):
        _put(room, make_id(NOW_MS + n * 60_000, bytes([n]) * 10))
    room.tidy(NOW_MS)
    assert len(os.listdir(place)) == 3
    assert len(read_waiting(spool)) == 3


def test_foreign_names_are_passed_over(spool):
    room = WaitingRoom(spool, "home")
    bucket = f"{spool.root}/out/home/waiting/09/0000000"
    os.mkdir(bucket)
    for name in ("x", "0" * 26 + ".1.bsmtp~", "0" * 26 + ".x.bsmtp", "u" * 26 + ".1.bsmtp"):
        with open(f"{bucket}/{name}", "w"):
            pass
    assert room.is_empty()


def _damage(path, change):
    with open(path, "rb") as file:
        text = change(file.read())
    with open(path, "wb") as file:
        file.write(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text[1:],
        lambda text: b"",
        lambda text: text + b"x",
        lambda text: text.replace(b"text\r\n", b"test\r\n"),
        lambda text: text.replace(b"text\r\n", b"text text\r\n"),
        lambda text: text.replace(b"text=0", b"text=1"),
        lambda text: text.replace(b"MAIL FROM:<a@b>", b"MAIL FROM:<x@b>"),
    ],
)
def test_damage_is_seen(spool, change):
    room = WaitingRoom(spool, "home")
    _put(room, make_id(NOW_MS, b"1" * 10))
    (waiting,) = room.scan()
    _damage(waiting.path, change)
    with pytest.raises(SpoolError, match="damaged"):
        b"".join(read_entry(waiting)[1]())


@pytest.mark.parametrize("step", ["_is_whole", "sync_file"])
def test_offered_once_more_while_the_first_goes_with_a_batch(spool, monkeypatch, step):
    """The file is there when the name is tried, and gone when it is looked at: sealed, and known by its ID."""
    room = WaitingRoom(spool, "home")
    first, again = make_id(NOW_MS, b"1" * 10), make_id(NOW_MS + 1, b"2" * 10)
    assert _put(room, first, offered="ab") == first
    (waiting,) = room.scan()
    real, calls = getattr(arrivals, step), []

    def gone(path):
        calls.append(path)
        if len(calls) == 1:
            room.remove([waiting.path])
        return real(path)

    monkeypatch.setattr(arrivals, step, gone)
    assert _put(room, again, offered="ab") == first
    assert len(calls) == 1
    assert [one.id for one in room.scan()] == [first]
