"""A list of a hundred thousand addresses: what a lookup costs, and that one which is not whole is seen to be so."""

import os
import tracemalloc
from pathlib import Path

import pytest

from batchmail.core import valid
from batchmail.core.errors import SpoolError
from batchmail.core.valid import Terms
from batchmail.store import recipients
from batchmail.store.recipients import Common, Head, Listing, Parts, open_sound, read_head, remove_list, write_list
from batchmail.store.setup import set_up
from batchmail.store.spool import Spool

MANY = 100_000
TERMS = Terms("0123456789abcdef", "+")


def make_list(root: Path, count: int) -> str:
    set_up(str(root), [])
    words = valid.words_of(b"user%d@home.example" % n for n in range(count))
    keys = sorted(valid.key_of(word, TERMS.salt) for word in words)
    path = f"{root}/recipients"
    head = Head(valid.identity_of(TERMS, keys), 1795222800000, count, len(keys), TERMS)
    write_list(Spool(str(root)), path, head, keys)
    return path


def test_a_lookup_in_a_long_list_reads_little_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_list(tmp_path, MANY)
    reads: list[int] = []
    pread = os.pread

    def count(fd: int, octets: int, offset: int) -> bytes:
        reads.append(octets)
        return pread(fd, octets, offset)

    monkeypatch.setattr(os, "pread", count)
    tracemalloc.start()
    try:
        with Listing(path) as found:
            assert found.accepts(b"User99999+x@home.example")
            assert not found.accepts(b"user100000@home.example")
        assert len(reads) < 8 * 18
        assert sum(reads) < 2000
        found = Listing(path)
        found.check()
        found.close()
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_none_is_missed(tmp_path: Path) -> None:
    path = make_list(tmp_path, 1000)
    with Listing(path) as found:
        assert all(found.accepts(b"user%d@home.example" % n) for n in range(1000))
        assert not any(found.accepts(b"user%d@home.example" % n) for n in range(1000, 2000))


def test_every_octet_of_a_list_is_watched(tmp_path: Path) -> None:
    path = Path(make_list(tmp_path, 5))
    sound = path.read_bytes()
    for at in range(256, len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(SpoolError, match="is damaged"):
            read_head(str(path))
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        with pytest.raises(SpoolError, match="is damaged"):
            read_head(str(path))
    path.write_bytes(sound + b"x")
    with pytest.raises(SpoolError, match="is damaged"):
        read_head(str(path))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"recipients":1', b'"recipients":2'),
        (b'"keys":6', b'"keys":7'),
        (b'"keys":6', b'"keys":-'),
        (b'"time":1795222800000', b'"time":9995222800000000'),
        (b'"delimiters":"+"', b'"delimiters":"@"'),
        (b'"delimiters":"+"', b'"delimiters":"-"'),
        (b'"salt":"0', b'"salt":"1'),
        (b'"list"', b'"lisp"'),
    ],
)
def test_a_first_line_that_is_not_what_was_written(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = Path(make_list(tmp_path, 5))
    sound = path.read_bytes()
    assert old in sound
    changed = sound[:256].replace(old, new).rstrip()
    path.write_bytes(changed.ljust(255) + b"\n" + sound[256:])
    with pytest.raises(SpoolError, match="is damaged"):
        read_head(str(path))


def test_no_list(tmp_path: Path) -> None:
    path = f"{tmp_path}/recipients"
    assert open_sound(path) is None
    remove_list(path)


def test_a_list_is_gone_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_list(tmp_path, 1)
    synced: list[tuple[str, bool]] = []
    monkeypatch.setattr(recipients, "sync_dir", lambda name: synced.append((name, os.path.exists(path))))
    remove_list(path)
    assert synced == [(str(tmp_path), False)]


def test_parts_of_another_list_go(tmp_path: Path) -> None:
    set_up(str(tmp_path), [])
    (tmp_path / "out" / "home").mkdir()
    spool, place = Spool(str(tmp_path)), tmp_path / "out" / "home" / "recipients.parts"
    old, new = (Parts(spool, "home", Common(name * 16, "", 3, 2, TERMS)) for name in "ab")
    assert not old.put(0, [b"A" * 6], [])
    assert not old.put(2, [b"C" * 6], [])
    assert len(os.listdir(place)) == 2
    assert not new.put(1, [b"X" * 6], [b"B" * 6])
    assert len(os.listdir(place)) == 1
    assert not new.put(0, [], [])
    assert not new.put(0, [b"Y" * 6], [])
    assert new.put(2, [], [])
    keys = {b"B" * 6, b"D" * 6}
    new.apply(keys)
    assert keys == {b"D" * 6, b"X" * 6, b"Y" * 6}
    new.drop()
    assert not place.exists()
    new.drop()
