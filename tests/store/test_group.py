"""Group commit: what is said to be accepted is there once, whatever fails or stops; directories are synced once."""

import errno
import itertools
import os

import pytest

from batchmail.core.envelope import Client, Envelope, Recipient
from batchmail.core.names import make_id
from batchmail.store.durable import Directories
from batchmail.store.group import Put, put_group
from batchmail.store.setup import set_up, sweep
from batchmail.store.spool import Door, Spool
from batchmail.store.waiting import WaitingRoom
from tests.disks import Disk
from tests.spools import drafts

NOW_MS = 1_795_222_800_000
PEERS = ("home", "away")
ENVELOPE = Envelope(b"a@b", (), (Recipient(b"c@d"),))


@pytest.fixture
def spool(tmp_path):
    return _make(tmp_path)


def _make(path):
    set_up(str(path), [(Door(peer, "mx.example", 1 << 20, 0, "normalize"), [f"{peer}.example"]) for peer in PEERS])
    return Spool(str(path))


def _put(spool, peer, number, offered="", priority=0):
    room = WaitingRoom(spool, peer)
    draft, writer = room.write(make_id(NOW_MS, bytes([number]) * 10), NOW_MS, priority, "", Client(), ENVELOPE)
    writer.content(b"%d\r\n" % number)
    name, _ = writer.end()
    return Put(room, draft, name, priority, offered, NOW_MS)


def _units(spool, offered=True):
    """Three units for one peer, one for both, one for another priority; and one that is offered twice."""
    mark = (lambda n: f"{n:02x}") if offered else (lambda n: "")
    units = [[_put(spool, "home", number, mark(number))] for number in range(3)]
    units.append([_put(spool, "home", 3, mark(3)), _put(spool, "away", 4, mark(4))])
    units.append([_put(spool, "away", 5, mark(5), priority=4)])
    units.append([_put(spool, "home", 6, mark(2))])
    return units


def _waiting(spool):
    return sorted(waiting.id for peer in PEERS for waiting in WaitingRoom(spool, peer).scan())


def _commit(units):
    directories = Directories()
    try:
        return put_group(units, directories)
    finally:
        directories.close()
        for put in itertools.chain.from_iterable(units):
            put.draft.discard()


def test_all_are_accepted_and_each_directory_is_synced_once(spool):
    units = _units(spool)
    directories = Directories()
    results = put_group(units, directories)
    assert results[5] == results[2]  # the same offer
    assert _waiting(spool) == sorted({identifier for ids in results for identifier in ids})
    again = [[_put(spool, "home", number, f"{number:02x}")] for number in range(10, 20)]
    with Disk() as disk:
        put_group(again, directories)
    synced = [path for name, path in disk.done if name == "fsync" and os.path.isdir(path)]
    assert [os.path.basename(path) for path in synced] == ["20778", make_id(NOW_MS, bytes(10))[:7]]
    directories.close()


def test_the_order_that_keeps_the_promise(spool):
    """Marks are on stable storage before a name is given; drafts, and then the names, before the yes."""
    with Disk() as disk:
        _commit(_units(spool))
    linked = [step for step, (name, _) in enumerate(disk.done) if name == "link"]
    buckets = [
        step
        for step, (name, path) in enumerate(disk.done)
        if name == "fsync" and "/waiting/" in path and len(os.path.basename(path)) == 7
    ]
    synced = [step for step, (name, path) in enumerate(disk.done) if name == "fsync" and os.path.isfile(path)]
    drafts_synced = [step for step, (name, path) in enumerate(disk.done) if name == "fsync" and spool.tmp in path]
    assert len(linked) == len(drafts_synced) == 6 and len(buckets) == 3, synced
    assert linked[-1] < drafts_synced[0] and drafts_synced[-1] < buckets[0]
    for step, (name, path) in enumerate(disk.done):
        if name == "fsync" and "/offered/" in path:
            assert step < linked[0]
        if name == "unlink" and path.startswith(spool.tmp):
            assert step > buckets[-1]


def test_a_bucket_that_was_made_again_is_synced_with_its_name(spool):
    directories = Directories()
    put_group([[_put(spool, "home", 1)]], directories)
    (waiting,) = WaitingRoom(spool, "home").scan()
    bucket = os.path.dirname(waiting.path)
    os.unlink(waiting.path)
    os.rmdir(bucket)
    with Disk() as disk:
        put_group([[_put(spool, "home", 2)]], directories)
    assert ("fsync", os.path.dirname(bucket)) in disk.done
    directories.close()


@pytest.mark.parametrize("offered", [False, True], ids=["unnamed", "offered"])
@pytest.mark.parametrize("what", ["fsync", "link", "mkdir", "symlink"])
def test_a_failure_is_only_of_those_it_concerns(tmp_path, what, offered):
    nth = 0
    while True:
        spool = _make(tmp_path / str(nth))
        units = _units(spool, offered)
        with Disk(fail=(what, nth)) as disk:
            results = _commit(units)
        accepted = {identifier for result in results if not isinstance(result, OSError) for identifier in result}
        assert _waiting(spool) == sorted(accepted)
        assert drafts(spool) == []
        if not disk.failed:
            break
        assert any(isinstance(result, OSError) for result in results)
        if what == "link" or (what == "symlink" and offered):
            assert len(accepted) >= 4
        nth += 1
    assert nth > 1 or (what == "symlink" and not offered)


def test_what_cannot_be_synced_for_a_fault_of_ours_is_taken_back(spool):
    def stumble(drafts, names):
        raise RuntimeError("can't start new thread")

    directories = Directories()
    results = put_group(_units(spool), directories, stumble)
    directories.close()
    assert {str(result) for result in results} == {"RuntimeError: can't start new thread"}
    assert _waiting(spool) == []


@pytest.mark.parametrize("offered", [False, True], ids=["unnamed", "offered"])
def test_stopped_anywhere(tmp_path, offered):
    """The MTA heard nothing and offers all of it again: nothing is there twice where it has an identity."""
    for stop in range(1000):
        spool = _make(tmp_path / str(stop))
        units = _units(spool, offered)
        with Disk(stop=stop) as disk:
            _commit(units)
        before = _waiting(spool)
        results = _commit(_units(spool, offered) if offered else [])
        if offered:
            assert _waiting(spool) == sorted({identifier for ids in results for identifier in ids})
            assert set(before) <= set(_waiting(spool))
        sweep(spool, 4e9)
        assert drafts(spool) == []
        if not disk.stopped:
            break
    assert stop > 20


def test_a_name_that_cannot_be_taken_back_costs_the_others_nothing(spool, monkeypatch):
    """A disk that takes nothing more after its first error, as one that is remounted for reading only."""
    units = [[_put(spool, "home", 1)], [_put(spool, "away", 2)]]
    directories = Directories()
    put_group([[_put(spool, "home", 8)], [_put(spool, "away", 9)]], directories)  # their buckets are known now
    with Disk(fail=("fsync", 2)) as disk, monkeypatch.context() as patch:  # of home's bucket
        patch.setattr(os, "unlink", _read_only)
        failed, taken = put_group(units, directories)
    assert disk.failed
    assert isinstance(failed, OSError)
    assert taken == [units[1][0].name[:26]]
    directories.close()


def _read_only(path):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
