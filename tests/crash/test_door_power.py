"""The power fails at every operation of a group that the socket door accepts, and whatever of the unsynced is lost.

What was told is there, whole and once.  What was not may be there, be torn or not be there; where the MTA offers it
again under its identity, all of it is there whole and once, in the place of what is torn.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from batchmail.core.envelope import Client, Envelope, Recipient
from batchmail.core.errors import SpoolError
from batchmail.core.names import make_id
from batchmail.store.durable import Directories
from batchmail.store.group import Put, put_group
from batchmail.store.setup import set_up
from batchmail.store.spool import Door, Spool
from batchmail.store.waiting import WaitingRoom, read_entry
from tests.crash.journal import Journal

NOW_MS = 1_795_222_800_000
PEERS = ("home", "away")
ENVELOPE = Envelope(b"a@b", (), (Recipient(b"c@d"),))
Result = list[str] | OSError


@contextmanager
def new_spool() -> Iterator[Spool]:
    root = tempfile.mkdtemp(prefix="crash.", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    set_up(root, [(Door(peer, "mx.example", 1 << 20, 0, "normalize"), [f"{peer}.example"]) for peer in PEERS])
    try:
        yield Spool(root)
    finally:
        shutil.rmtree(root)


def units(spool: Spool, offered: bool, first: int) -> list[list[Put]]:
    """One for a peer, one for both, and the first one offered once more."""

    def put(peer: str, number: int, said: int, held_octets: int = 1 << 18) -> Put:
        room = WaitingRoom(spool, peer)
        identifier = make_id(NOW_MS, bytes([number]) * 10)
        draft, writer = room.write(identifier, NOW_MS, 0, "", Client(), ENVELOPE, held_octets)
        writer.content(b"%d\r\n" % said * 20)
        return Put(room, draft, writer.end()[0], 0, f"{said:02x}" if offered else "", NOW_MS)

    large = put("home", first + 1, first + 1, 100)  # written before the group is accepted
    again = [[put("home", first + 3, first)]] if offered else []
    return [[put("home", first, first)], [large, put("away", first + 2, first + 2)], *again]


def accept(group: list[list[Put]]) -> list[Result]:
    directories = Directories()
    try:
        return put_group(group, directories)
    finally:
        directories.close()
        for unit in group:
            for put in unit:
                put.draft.discard()


def whole(spool: Spool) -> tuple[list[str], int]:
    """What waits and is as it was written, and how many are not."""
    found, torn = [], 0
    for peer in PEERS:
        for waiting in WaitingRoom(spool, peer).scan():
            try:
                for _ in read_entry(waiting)[1]():
                    pass
            except SpoolError:
                torn += 1
            else:
                found.append(waiting.id)
    return sorted(found), torn


@pytest.mark.parametrize("offered", [False, True], ids=["unnamed", "offered"])
def test_the_power_fails_while_mail_is_accepted(offered: bool) -> None:
    with new_spool() as spool:
        told: list[Result] = []
        with Journal(spool.root, pause_s=0) as journal:
            for first in (10, 20):
                results = accept(units(spool, offered, first))
                told += results
                journal.mark(spool.root, "told", results)
        assert not any(isinstance(result, OSError) for result in told)
        states = torn_states = 0
        for cut in journal.cuts(spool.root):
            for choice in cut.choices():
                states += 1
                cut.restore(choice)
                heard = [unit for kind, results in (mark[1:] for _, mark in cut.marks()) for unit in results]
                found, torn = whole(spool)
                ids = sorted({identifier for unit in heard for identifier in unit})
                assert set(ids) <= set(found), f"{cut}\n{choice}"
                torn_states += torn > 0
                if not offered:
                    continue
                again = accept(units(spool, offered, 10)) + accept(units(spool, offered, 20))
                assert again[: len(heard)] == heard, f"{cut}\n{choice}"
                ids = sorted({identifier for unit in again if not isinstance(unit, OSError) for identifier in unit})
                assert len(ids) == 6 and whole(spool) == (ids, 0), f"{cut}\n{choice}"
        print(f"{states} states, in {torn_states} of them something is torn")
        assert states > 100 and torn_states


def test_a_door_is_killed_before_it_has_synced_and_the_power_fails_after_the_second_offer() -> None:
    with new_spool() as spool:
        with Journal(spool.root, pause_s=0) as journal:
            ((put,),) = units(spool, True, 10)[:1]
            put.room.link(put.draft, put.room.choose(put)[0])
            put.draft.discard()
            (told,) = accept(units(spool, True, 10)[:1])
        (cut,) = journal.cuts(spool.root, at=journal.points(spool.root)[-1:])
        for choice in cut.choices():
            cut.restore(choice)
            assert whole(spool)[0] == told, choice


def test_what_is_torn_and_held_gives_way_too() -> None:
    with new_spool() as spool:
        (result,) = accept(units(spool, True, 10)[:1])
        room = WaitingRoom(spool, "home")
        (waiting,) = room.scan()
        room.hold(waiting)
        assert accept(units(spool, True, 10)[:1]) == [result] and not list(room.scan())
        (held,) = room.scan_held()
        os.truncate(held.path, 20)
        assert accept(units(spool, True, 10)[:1]) == [result]
        assert whole(spool) == (result, 0) and not list(room.scan_held())
