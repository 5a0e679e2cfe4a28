"""Marks of deadlines: found when the time is over, durable before what they stand for, gone when it is done."""

import os

import pytest

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Client, Envelope
from batchmail.core.names import make_id
from batchmail.store.deadlines import Deadline, Deadlines, deadline_of
from batchmail.store.spool import Spool
from batchmail.store.waiting import WaitingRoom
from tests.disks import Disk
from tests.spools import make_spool

HOUR_MS = 3_600_000
NOW_MS = 1_795_222_800_000  # a full hour


@pytest.fixture
def spool(tmp_path: object) -> Spool:
    made: Spool = make_spool(tmp_path)
    return made


def envelope(by: str) -> Envelope:
    return Envelope(*parse_mail(f"MAIL FROM:<a@b> {by}".encode()), (parse_rcpt(b"RCPT TO:<c@d>"),))


def over(spool: Spool, now_ms: int) -> list[str]:
    return [marked.id for marked in Deadlines(spool, "home").over(now_ms)]


@pytest.mark.parametrize(
    ("by", "deadline"),
    [
        ("", None),
        ("BY=0;N", None),
        ("BY=-5;NT", None),
        ("BY=5;N", Deadline(NOW_MS + 5000, False)),
        ("BY=7200;R", Deadline(NOW_MS + 7_200_000, True)),
    ],
)
def test_who_has_a_deadline(by: str, deadline: Deadline | None, spool: Spool) -> None:
    assert deadline_of(envelope(by), NOW_MS) == deadline
    found = Deadlines(spool, "home")
    found.mark("one", deadline_of(envelope(by), NOW_MS))
    assert found.find("one") == deadline


def test_found_when_the_time_is_over(spool: Spool) -> None:
    found = Deadlines(spool, "home")
    times = {"a": NOW_MS + 2 * HOUR_MS, "b": NOW_MS, "c": NOW_MS + 1, "d": NOW_MS - HOUR_MS * 990}
    for name, time_ms in times.items():
        found.mark(name, Deadline(time_ms, True))
        found.mark(name, Deadline(time_ms, True))
    assert over(spool, NOW_MS - 1) == ["d"]
    assert over(spool, NOW_MS) == ["d", "b"]
    assert over(spool, NOW_MS + 9 * HOUR_MS) == ["d", "b", "c", "a"]
    for marked in found.over(NOW_MS + HOUR_MS):
        found.forget(marked)
        found.forget(marked)
    assert over(spool, NOW_MS + 9 * HOUR_MS) == ["a"]
    assert len(os.listdir(f"{spool.root}/out/home/deadlines")) == 1


def test_a_later_hour_is_not_read(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    for hour in range(50):
        Deadlines(spool, "home").mark("x", Deadline(NOW_MS + hour * HOUR_MS, False))
    read: list[str] = []
    listdir = os.listdir

    def noted(path: str) -> list[str]:
        read.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", noted)
    assert over(spool, NOW_MS + HOUR_MS) == ["x", "x"]
    assert len(read) == 3


def test_what_is_no_mark_is_passed_over(spool: Spool) -> None:
    hour = f"{spool.root}/out/home/deadlines/{NOW_MS // HOUR_MS}"
    os.makedirs(hour)
    os.makedirs(f"{spool.root}/out/home/deadlines/lost+found")
    open(f"{hour}/file", "w").close()
    for number, text in enumerate(("", "5", "5 X", "x N", "-5 N", "5 N ", "../../../etc/passwd", "9" * 16 + " N")):
        if text:
            os.symlink(text, f"{hour}/{number}")
    assert over(spool, NOW_MS + 9 * HOUR_MS) == []


def test_the_mark_is_durable_before_the_name(spool: Spool) -> None:
    room = WaitingRoom(spool, "home")
    with Disk() as disk:
        draft, writer = room.write(make_id(NOW_MS, bytes(10)), NOW_MS, 0, "", Client(), envelope("BY=60;R"))
        writer.content(b"x\r\n")
        name, _ = writer.end()
        room.put(draft, name, 0, "", NOW_MS)
    deadlines = f"{spool.root}/out/home/deadlines"
    link = next(step for step, (done, _) in enumerate(disk.done) if done == "link")
    for path in (f"{deadlines}/{NOW_MS // HOUR_MS}", deadlines):
        assert ("fsync", path) in disk.done[:link]
    assert disk.done.index(("symlink", f"{deadlines}/{NOW_MS // HOUR_MS}/{name[:26]}")) < disk.done.index(
        ("fsync", f"{deadlines}/{NOW_MS // HOUR_MS}")
    )
