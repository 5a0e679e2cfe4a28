"""A damaged ledger goes to quarantine as a whole; a sound one, or none, is left."""

import os

import pytest

from batchmail.core.errors import SpoolError
from batchmail.store.ledger import Ledger
from batchmail.store.malformed import set_aside
from batchmail.store.spool import Spool
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


@pytest.mark.parametrize("offset", [0, 4096, 8192])
def test_a_damaged_one_is_moved_with_its_log(spool: Spool, offset: int) -> None:
    Ledger(spool, PEER).close()
    path = f"{spool.root}/ledger/{PEER}"
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 2000)
    for name in ("-wal", "-shm"):
        with open(path + name, "wb") as file:
            file.write(b"as a crash leaves it")
    with pytest.raises(SpoolError, match=f"is damaged: .*batchmail setup --adopt {PEER}"):
        Ledger(spool, PEER).rows("SELECT * FROM sent, fact, in_tx")
    assert set_aside(spool, PEER) == f"{spool.root}/quarantine/ledger/{PEER}"
    assert files(spool) == []
    with open(f"{spool.root}/quarantine/ledger/{PEER}", "rb") as file:
        file.seek(offset)
        assert file.read(2000) == b"\xa5" * 2000
    Ledger(spool, PEER, adopt=True).close()
    assert set_aside(spool, PEER) == ""
