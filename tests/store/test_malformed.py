"""A damaged ledger goes to quarantine as a whole; a sound one, or none, is left."""

import itertools
import os

import pytest

from batchmail.core.errors import SpoolError
from batchmail.store.ledger import Ledger
from batchmail.store.malformed import set_aside
from batchmail.store.spool import Spool
from tests.disks import Disk
from tests.spools import make_spool

PEER = "home"


@pytest.fixture
def spool(tmp_path: object) -> Spool:
    return make_spool(f"{tmp_path}/spool")


def files(spool: Spool) -> list[str]:
    return sorted(os.listdir(f"{spool.root}/ledger"))


def test_none_and_a_sound_one_are_left(spool: Spool) -> None:
    assert set_aside(spool, PEER) == ""
    ledger = Ledger(spool, PEER)
    ledger.set_fact("x", "1")
    assert set_aside(spool, PEER) == "", "while it is open, too"
    ledger.close()
    assert Ledger(spool, PEER).fact("x") == "1"


def damage(spool: Spool, offset: int) -> Ledger:
    """Somebody looks into it, so that SQLite leaves its log beside it."""
    ledger = Ledger(spool, PEER)
    ledger.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(f"{spool.root}/ledger/{PEER}", "r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 2000)
    return ledger


@pytest.mark.parametrize("offset", [0, 4096, 8192])
def test_a_damaged_one_is_moved_with_its_log(spool: Spool, offset: int) -> None:
    looker = damage(spool, offset)
    with pytest.raises(SpoolError, match=f"is damaged: .*batchmail setup --adopt {PEER}"):
        Ledger(spool, PEER).rows("SELECT * FROM sent, fact, in_tx")
    assert set_aside(spool, PEER) == f"{spool.root}/quarantine/ledger/{PEER}"
    assert files(spool) == []
    assert {f"{PEER}-wal", f"{PEER}-shm"} <= set(os.listdir(f"{spool.root}/quarantine/ledger"))
    looker.close()
    with open(f"{spool.root}/quarantine/ledger/{PEER}", "rb") as file:
        file.seek(offset)
        assert file.read(2000) == b"\xa5" * 2000
    Ledger(spool, PEER, adopt=True).close()
    assert set_aside(spool, PEER) == ""


def test_a_crash_leaves_no_log_beside_a_new_ledger(tmp_path: object) -> None:
    for stop in itertools.count():
        spool = make_spool(f"{tmp_path}/{stop}")
        looker = damage(spool, 4096)
        with Disk(stop=stop) as disk:
            set_aside(spool, PEER)
        assert PEER in files(spool) or files(spool) == []
        set_aside(spool, PEER)
        assert files(spool) == []
        assert os.path.exists(f"{spool.root}/quarantine/ledger/{PEER}")
        looker.close()
        if not disk.stopped:
            break
    assert stop > 3
