"""Looking into many ledgers: right whatever was remembered, and without opening those that have not changed."""

import os
import shutil
import time
from contextlib import closing

import pytest

from batchmail.core.errors import SpoolError
from batchmail.store import looks, view
from batchmail.store.ledger import Ledger
from batchmail.store.looks import Looks
from batchmail.store.spool import Spool
from batchmail.store.view import Look
from tests.spools import PEER, make_spool

LATER_NS = time.time_ns() + 3600 * 10**9  # long after every change here


@pytest.fixture
def spool(tmp_path: object) -> Spool:
    spool = make_spool(tmp_path)
    Ledger(spool, PEER).close()
    return spool


@pytest.fixture(autouse=True)
def few_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_WORTH_WRITING", 1)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The peers whose ledgers are opened."""
    seen: list[str] = []

    def look(spool: Spool, peer: str) -> Look | None:
        seen.append(peer)
        return view.look(spool, peer)

    monkeypatch.setattr(looks, "look", look)
    return seen


def seen(spool: Spool, now_ns: int = LATER_NS) -> Look | None:
    """What a program sees that looks once; the truth."""
    all_looks = Looks(spool, now_ns)
    found = all_looks.look(spool, PEER)
    all_looks.keep()
    assert found == view.look(spool, PEER)
    return found


def change(spool: Spool, name: str, value: str) -> None:
    with closing(Ledger(spool, PEER)) as ledger:
        ledger.set_fact(name, value)


def test_what_has_not_changed_is_not_opened_again(spool: Spool, opened: list[str]) -> None:
    change(spool, "call_text", 'the far "side" said \u20ac')
    first = seen(spool)
    assert first and first.facts["call_text"] == 'the far "side" said \u20ac'
    assert [seen(spool), seen(spool)] == [first, first]
    assert opened == [PEER]


def test_each_change_is_seen(spool: Spool, opened: list[str]) -> None:
    for count, text in enumerate(("a", "b", "c"), 1):
        change(spool, "stopped", text)
        found = seen(spool)
        assert found and found.facts["stopped"] == text
        assert len(opened) == count


def test_a_ledger_that_somebody_has_open_is_looked_into(spool: Spool, opened: list[str]) -> None:
    seen(spool)
    with closing(Ledger(spool, PEER)) as other:
        for text in ("a", "b"):
            other.set_fact("stopped", text)
            found = seen(spool)
            assert found and found.facts["stopped"] == text
    assert len(opened) == 3


def test_one_that_has_just_changed_is_not_trusted(spool: Spool, opened: list[str]) -> None:
    changed_ns = os.stat(f"{spool.root}/ledger/{PEER}").st_mtime_ns
    for _ in range(2):
        seen(spool, changed_ns + looks._SETTLED_NS)
    assert len(opened) == 2


@pytest.mark.parametrize(
    "damage", [b"", b"not JSON\n", b"[]\n", b'["1 2 3 4"]\n', b"PLACE[1]\n", b"PLACE{}\n", b"\xff"]
)
def test_a_damaged_memory_is_none(spool: Spool, opened: list[str], damage: bytes) -> None:
    seen(spool)
    with open(f"{spool.root}/looks", "rb") as file:
        place = file.readline()
    with open(f"{spool.root}/looks", "wb") as file:
        file.write(damage.replace(b"PLACE", place))
    seen(spool)
    assert len(opened) == 2


def test_a_copy_of_a_spool_does_not_go_by_the_memory_of_the_first(spool: Spool) -> None:
    seen(spool)
    shutil.copytree(spool.root, f"{spool.root}.copy")
    with pytest.raises(SpoolError, match="made for another directory"):
        Looks(Spool(f"{spool.root}.copy"), LATER_NS).look(Spool(f"{spool.root}.copy"), PEER)


def test_a_ledger_that_is_gone_is_not_remembered(spool: Spool) -> None:
    assert seen(spool)
    os.unlink(f"{spool.root}/ledger/{PEER}")
    assert seen(spool) is None


def test_where_nothing_can_be_written_nothing_fails(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(looks, "replace", replace)
    assert seen(spool)
    assert not os.path.exists(f"{spool.root}/looks")
