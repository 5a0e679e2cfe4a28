"""What is durable when, and what a failing disk leaves."""

import errno
import os
import subprocess
import sys

import pytest

from batchmail.store import durable
from batchmail.store.durable import (
    Draft,
    adopt,
    make_dir,
    mark,
    move,
    publish_all,
    replace,
    sync_drafts,
)
from batchmail.store.lock import Lock
from tests.disks import Disk


@pytest.fixture
def place(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "in").mkdir()
    return str(tmp_path)


def _draft(place, text=b"text"):
    draft = Draft(f"{place}/tmp")
    draft.write(text)
    return draft


def test_publish(place):
    draft = _draft(place)
    assert b"".join(draft.read_back()) == b"text"
    with Disk() as disk:
        draft.publish(f"{place}/in/name")
    with open(f"{place}/in/name", "rb") as file:
        assert file.read() == b"text"
    assert os.stat(f"{place}/in/name").st_mode & 0o777 == 0o600
    assert os.listdir(f"{place}/tmp") == []
    # The content before the name, the name before the yes.
    assert [(name, os.path.basename(path)) for name, path in disk.done[:3]] == [
        ("fsync", os.path.basename(draft.path)),
        ("link", "name"),
        ("fsync", "in"),
    ]


def test_publish_never_overwrites(place):
    _draft(place).publish(f"{place}/in/name")
    with _draft(place, b"other") as other, pytest.raises(FileExistsError):
        other.publish(f"{place}/in/name")
    with open(f"{place}/in/name", "rb") as file:
        assert file.read() == b"text"
    assert os.listdir(f"{place}/tmp") == []


@pytest.mark.parametrize("what", ["fsync", "link"])
def test_a_failing_disk_is_a_no(place, what):
    for nth in range(3):
        with _draft(place) as draft, Disk(fail=(what, nth)) as disk:
            try:
                draft.publish(f"{place}/in/name{nth}")
            except OSError as error:
                assert error.errno == errno.EIO
            else:
                assert not disk.failed
        assert os.listdir(f"{place}/tmp") == []
        assert os.path.exists(f"{place}/in/name{nth}") == (not disk.failed)
        assert [name for name, _ in disk.done].count("fsync") <= 2  # one that failed is not tried again


def test_publish_all(place):
    members = [(_draft(place, b"%d" % n), f"n{n}") for n in range(3)]
    for draft, _ in members:
        draft.sync()
    publish_all(members, f"{place}/in/together")
    assert sorted(os.listdir(f"{place}/in/together")) == ["n0", "n1", "n2"]
    assert os.listdir(f"{place}/tmp") == []
    again = _draft(place)
    again.sync()
    with pytest.raises(FileExistsError):
        publish_all([(again, "n0")], f"{place}/in/together")
    again.discard()
    assert os.listdir(f"{place}/tmp") == []


@pytest.mark.parametrize("what", ["fsync", "link", "rename", "mkdir"])
def test_publish_all_fails_as_a_whole(place, what):
    for nth in range(4):
        members = [(_draft(place), f"n{n}") for n in range(3)]
        for draft, _ in members:
            draft.sync()
        final = f"{place}/in/{nth}"
        with Disk(fail=(what, nth)) as disk:
            try:
                publish_all(members, final)
            except OSError:
                assert disk.failed
        for draft, _ in members:
            draft.discard()
        assert os.listdir(f"{place}/tmp") == []
        assert os.path.exists(final) == (not disk.failed)


def test_replace(place):
    for text in (b"one", b"two"):
        replace(f"{place}/tmp", f"{place}/in/file", text)
        with open(f"{place}/in/file", "rb") as file:
            assert file.read() == text
    with Disk(fail=("fsync", 0)), pytest.raises(OSError, match="Input/output"):
        replace(f"{place}/tmp", f"{place}/in/file", b"three")
    with open(f"{place}/in/file", "rb") as file:
        assert file.read() == b"two"
    assert os.listdir(f"{place}/tmp") == []


@pytest.mark.parametrize("carry", [move, adopt])
def test_move_can_be_done_again(place, carry):
    for stop in range(10):
        source, final = f"{place}/in/a{stop}", f"{place}/in/b{stop}"
        _draft(place).publish(source)
        with Disk(stop=stop) as disk:
            carry(source, final)
        assert os.path.exists(source) or os.path.exists(final)
        if os.path.exists(source):
            carry(source, final)
        with open(final, "rb") as file:
            assert file.read() == b"text"
        assert not os.path.exists(source)
        if not disk.stopped:
            break
    assert stop > 2


@pytest.mark.parametrize("carry", [move, adopt])
def test_move_never_overwrites(place, carry):
    _draft(place).publish(f"{place}/in/a")
    _draft(place, b"other").publish(f"{place}/in/b")
    with pytest.raises(FileExistsError):
        carry(f"{place}/in/a", f"{place}/in/b")
    assert sorted(os.listdir(f"{place}/in")) == ["a", "b"]


def test_marks_and_directories(place):
    with Disk() as disk:
        make_dir(f"{place}/x/y")
        make_dir(f"{place}/x/y")
    synced = [os.path.basename(path) for name, path in disk.done if name == "fsync"]
    assert synced == [os.path.basename(place), "x"]
    mark("what", f"{place}/x/y/name")
    assert os.readlink(f"{place}/x/y/name") == "what"
    with pytest.raises(FileExistsError):
        mark("else", f"{place}/x/y/name")


def test_removing_what_is_gone(place):
    durable.retire(f"{place}/in/none")
    durable.retire_dir(f"{place}/none")
    _draft(place).publish(f"{place}/in/some")
    durable.retire_dir(f"{place}/in")
    assert os.listdir(f"{place}/in") == ["some"]
    durable.retire_tree(f"{place}/in")
    assert not os.path.exists(f"{place}/in")


def test_lock(place):
    lock, other = Lock(f"{place}/lock"), Lock(f"{place}/lock")
    assert lock.acquire()
    lock.note("me")
    assert not other.acquire()
    assert other.read_note() == "me"
    lock.note("x")
    assert other.read_note() == "x"
    lock.close()
    assert other.acquire()
    other.close()


def test_a_lock_ends_with_its_process(place):
    script = (
        "import sys, os; sys.path.insert(0, sys.argv[1]); from batchmail.store.lock import Lock;"
        "lock = Lock(sys.argv[2]); print(lock.acquire(), flush=True); os.kill(os.getpid(), 9)"
    )
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(durable.__file__)))
    done = subprocess.run([sys.executable, "-c", script, checkout, f"{place}/lock"], capture_output=True)
    assert done.stdout == b"True\n"
    assert Lock(f"{place}/lock").acquire()


def test_drafts_that_are_synced_together(place):
    """Each is written before one is waited for; one that cannot be written is a no, and stays one."""
    drafts = [Draft(f"{place}/tmp", held_octets=100) for _ in range(3)]
    for draft in drafts:
        draft.write(b"x")
    with Disk(fail=("write", 1)) as disk:
        errors = sync_drafts(drafts)
    assert [error and error.errno for error in errors] == [None, errno.EIO, None]
    names = [name for name, _ in disk.done]
    assert names == ["write", "write", "fsync", "fsync"]
    assert [error and error.errno for error in sync_drafts(drafts)] == [None, errno.EIO, None]
    assert sorted(map(os.path.getsize, (draft.path for draft in drafts))) == [0, 1, 1]
    for draft in drafts:
        draft.discard()
