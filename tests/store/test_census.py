"""Counting what waits: right whatever was remembered, and without a look at what has not changed."""

import os

import pytest

from batchmail.core.names import make_id, time_of_id
from batchmail.store import census
from batchmail.store.census import Count, count
from batchmail.store.waiting import WaitingRoom
from tests.spools import PEER, make_spool

NOW_MS = 1795222800000
LATER_NS = (1 << 62) + 0  # long after every change of these directories
_STEP_MS = 60_000  # a bucket for each


def fill(spool, first, number, octets=100, priority="09"):
    names = []
    for n in range(first, first + number):
        identifier = make_id(NOW_MS + n * _STEP_MS, bytes(10))
        path = f"{spool.root}/out/{PEER}/waiting/{priority}/{identifier[:7]}"
        os.makedirs(path, exist_ok=True)
        with open(f"{path}/{identifier}.{octets}.bsmtp", "xb"):
            names.append(f"{path}/{identifier}.{octets}.bsmtp")
    return names


@pytest.fixture
def spool(tmp_path, monkeypatch):
    monkeypatch.setattr(census, "_WORTH_WRITING", 1)
    monkeypatch.setattr(census, "_EDGE", 2)
    return make_spool(tmp_path)


def listed(monkeypatch):
    """The directories of files that are read."""
    seen = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: seen.append(path) or real(path))
    return lambda: [path for path in seen if os.path.basename(os.path.dirname(path)).isdigit()]


def test_nothing_waits(spool):
    assert count(spool, PEER, LATER_NS, None) == Count()
    assert not os.path.exists(f"{spool.root}/out/{PEER}/census")


def test_counts_like_a_look_at_every_name(spool):
    fill(spool, 0, 10)
    fill(spool, 3, 4, 7, "18")
    fill(spool, 5, 1, 1, "00")
    with open(f"{spool.root}/out/{PEER}/waiting/09/stray", "xb"):
        pass
    seen = list(WaitingRoom(spool, PEER).scan())
    found = count(spool, PEER, LATER_NS, None)
    assert found == Count(len(seen), sum(w.text_octets for w in seen), False, min(time_of_id(w.id) for w in seen))
    assert count(spool, PEER, LATER_NS, None) == count(spool, PEER, LATER_NS, 0) == found


def test_what_has_not_changed_is_not_read_again(spool, monkeypatch):
    names = fill(spool, 0, 10)
    count(spool, PEER, LATER_NS, None)
    seen = listed(monkeypatch)
    assert count(spool, PEER, LATER_NS, None).number == 10
    assert set(seen()) == {os.path.dirname(names[0])}  # for the oldest


def test_what_comes_and_goes_is_seen(spool):
    names = fill(spool, 0, 10)
    count(spool, PEER, LATER_NS, None)
    os.unlink(names[0])
    os.unlink(names[9])
    fill(spool, 10, 1, 5)
    assert count(spool, PEER, LATER_NS, 100) == Count(9, 805, False, NOW_MS + _STEP_MS)


def test_quick_counts_look_at_the_edges_and_careful_ones_at_all(spool):
    names = fill(spool, 0, 10)
    count(spool, PEER, LATER_NS, None)
    os.unlink(names[5])
    assert count(spool, PEER, LATER_NS, 100).number == 10
    assert count(spool, PEER, LATER_NS, None).number == 9
    assert count(spool, PEER, LATER_NS, 100).number == 9


def test_quick_counts_say_when_there_is_more_and_get_further_each_time(spool):
    fill(spool, 0, 10)
    found = [count(spool, PEER, LATER_NS, 6) for _ in range(4)]
    assert [one.has_more for one in found] == [True, True, True, False]
    assert [one.number for one in found] == [3, 6, 9, 10]
    assert {one.oldest_ms for one in found} == {NOW_MS}


def test_a_bucket_that_has_changed_just_now_is_not_remembered(spool):
    (name,) = fill(spool, 0, 1)
    changed_ns = os.stat(os.path.dirname(name)).st_mtime_ns
    count(spool, PEER, changed_ns + 1_000_000_000, None)
    os.unlink(name)
    os.utime(os.path.dirname(name), ns=(changed_ns, changed_ns))  # within the clock's step
    assert count(spool, PEER, changed_ns + 1_000_000_000, None).number == 0


@pytest.mark.parametrize("octets", [b"", b"\n\n", b"09/X 1 2\n", b"\xff" * 100, b"09/0HXYZ00 1 2 three\n"])
def test_a_damaged_memory_costs_nothing_but_time(spool, octets):
    fill(spool, 0, 3)
    with open(f"{spool.root}/out/{PEER}/census", "wb") as file:
        file.write(octets)
    assert count(spool, PEER, LATER_NS, None).number == 3


def test_a_memory_that_cannot_be_written(spool, monkeypatch):
    fill(spool, 0, 3)

    def fail(*_):
        raise OSError(28, "full")

    monkeypatch.setattr(census, "replace", fail)
    assert count(spool, PEER, LATER_NS, None).number == 3
