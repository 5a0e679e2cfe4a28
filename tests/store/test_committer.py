"""The committing thread: what is submitted is answered once it is on stable storage, also after the thread has died."""

import errno
import queue
import threading
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier

import pytest

from batchmail.core.envelope import Client, Envelope, Recipient
from batchmail.core.names import make_id
from batchmail.store import committer as committer_module
from batchmail.store.committer import Committer, Done
from batchmail.store.durable import Directories
from batchmail.store.group import Put
from batchmail.store.lock import Numbered
from batchmail.store.spool import Spool
from batchmail.store.waiting import WaitingRoom
from tests.spools import PEER, drafts, make_spool

NOW_MS = 1_795_222_800_000
HANG_S = 60.0
OFFERS = 30
ENVELOPE = Envelope(b"a@b", (), (Recipient(b"c@d"),))


def _unit(spool: Spool, number: int) -> list[Put]:
    room = WaitingRoom(spool, PEER)
    draft, writer = room.write(make_id(NOW_MS, bytes([number]) * 10), NOW_MS, 0, "", Client(), ENVELOPE)
    writer.content(b"%d\r\n" % number)
    name, _ = writer.end()
    return [Put(room, draft, name, 0, "", NOW_MS)]


def _waiting(spool: Spool) -> list[str]:
    return [waiting.id for waiting in WaitingRoom(spool, PEER).scan()]


@pytest.mark.parametrize("slow_names", [False, True])
def test_all_that_came_meanwhile_is_a_group(tmp_path: object, slow_names: bool) -> None:
    """And each gets its own answer, also where helpers take a part of them, and directories are synced beside files."""
    spool = make_spool(tmp_path)
    groups: queue.Queue[list[Done]] = queue.Queue()
    let_go = threading.Event()

    def report(answers: list[Done]) -> None:
        groups.put(answers)
        let_go.wait(HANG_S)

    committer = Committer(Numbered(f"{tmp_path}/lock/offers"), report)
    if slow_names:
        committer._trials, committer._names_s = committer_module._TRIALS, 1.0
    units = [_unit(spool, number) for number in range(30)]
    committer.submit(0, units[0])
    first = groups.get(timeout=HANG_S)
    for number in range(1, 30):
        committer.submit(number, units[number])
    units[7][0].draft.discard()  # it cannot be synced any more
    let_go.set()
    committer.close()
    second = groups.get(timeout=HANG_S)
    assert groups.empty()
    assert [done.tag for done in [*first, *second]] == list(range(30))
    for done, (put,) in zip([*first, *second], units, strict=True):
        if done.tag == 7:
            assert isinstance(done.result, OSError)
        else:
            assert done.result == [put.name[:26]]
    assert _waiting(spool) == [put.name[:26] for number, (put,) in enumerate(units) if number != 7]
    assert drafts(spool) == []


@pytest.mark.parametrize("slow_names", [False, True])
def test_a_directory_that_cannot_be_synced_is_no_yes(
    tmp_path: object, slow_names: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "no disk")

    monkeypatch.setattr(Directories, "sync", fail)
    spool = make_spool(tmp_path)
    committer = Committer(Numbered(f"{tmp_path}/lock/offers"), lambda _: None)
    if slow_names:
        committer._trials, committer._names_s = committer_module._TRIALS, 1.0
    unit = _unit(spool, 1)
    (done,) = committer.accept(0, unit)
    committer.close()
    unit[0].draft.discard()
    assert isinstance(done.result, OSError)
    assert _waiting(spool) == []


def _offer(path: str, ready: Barrier, answers: "Queue[list[str] | OSError]", number: int) -> None:
    """One process of several that are offered the same at once, again and again."""
    spool = Spool(path)
    committer = Committer(Numbered(f"{path}/lock/offers"), lambda _: None)
    for turn in range(OFFERS):
        (put,) = _unit(spool, 2 * turn + number)
        ready.wait(HANG_S)
        (done,) = committer.accept(0, [put._replace(offered=f"{turn:040x}")])
        answers.put(done.result)
        put.draft.discard()
    committer.close()


def test_two_processes_that_are_offered_the_same_at_once_accept_it_once(tmp_path: object) -> None:
    spool = make_spool(tmp_path)
    forked = get_context("spawn")
    ready, answers = forked.Barrier(2), forked.Queue()
    processes = [forked.Process(target=_offer, args=(str(tmp_path), ready, answers, number)) for number in (0, 1)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=HANG_S) for _ in range(2 * OFFERS)]
    for process in processes:
        process.join(HANG_S)
        assert process.exitcode == 0
    told = [identifier for result in found if not isinstance(result, OSError) for identifier in result]
    assert len(told) == 2 * OFFERS
    assert len(set(told)) == OFFERS
    assert _waiting(spool) == sorted(set(told))
    assert drafts(spool) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_does_not_end_the_service(tmp_path: object) -> None:
    spool = make_spool(tmp_path)
    reported: list[object] = []

    def fail(answers: list[Done]) -> None:
        reported.append(answers[0].result)
        if len(reported) == 1:
            raise MemoryError

    committer = Committer(Numbered(f"{tmp_path}/lock/offers"), fail)
    units = [_unit(spool, number) for number in range(3)]
    committer.submit(0, units[0])
    committer._thread.join(HANG_S)
    committer.submit(1, units[1])
    committer.submit(2, units[2])
    committer.close()
    assert reported == [[put.name[:26]] for (put,) in units]
    assert _waiting(spool) == [put.name[:26] for (put,) in units]
