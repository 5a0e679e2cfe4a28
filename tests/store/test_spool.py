"""The spool: made, checked, and the doors' files."""

import os
import time

import pytest

from batchmail.core.errors import SpoolError, UsageError
from batchmail.store import spool as spools
from batchmail.store.setup import is_current, is_served, is_set_up, set_up, sweep
from batchmail.store.spool import Spool, become_owner, find_door
from batchmail.store.waiting import WaitingRoom
from tests.disks import Disk
from tests.spools import door_of, drafts, make_spool


def test_set_up_is_idempotent_and_writes_only_what_changed(tmp_path):
    spool = make_spool(tmp_path / "spool")
    assert spool.peers() == ["home"]
    assert os.stat(spool.root).st_mode & 0o777 == 0o700
    with Disk() as disk:
        make_spool(tmp_path / "spool")
    assert not [done for done in disk.done if done[0] in ("write", "rename", "unlink")]
    with Disk() as disk:
        make_spool(tmp_path / "spool", reserve_octets=7)
    assert find_door(spool.root, "home").reserve_octets == 7
    assert drafts(spool) == []


def test_set_up_can_be_stopped_anywhere(tmp_path):
    for stop in range(1000):
        root = tmp_path / str(stop)
        with Disk(stop=stop) as disk:
            make_spool(root)
        spool = make_spool(root)
        assert find_door(spool.root, "home.example").peer == "home"
        assert WaitingRoom(spool, "home").is_empty()
        if not disk.stopped:
            break
    assert stop > 30


def test_find_door(tmp_path):
    spool = make_spool(tmp_path)
    other = door_of(spool, peer="mx.example")
    set_up(spool.root, [(door_of(spool), ["home.example", ".sub.example"]), (other, ["other.example"])])
    assert find_door(spool.root, "home") == door_of(spool)
    for name in ("HOME", "home.example", "Home.Example.", "a.sub.example", "a.b.sub.example"):
        assert find_door(spool.root, name).peer == "home"
    assert find_door(spool.root, "mx.example").peer == "mx.example"  # a peer's name may hold dots
    for name in ("sub.example", "x.home.example", "", "..", "../VERSION", "a/b", "\n", "x" * 300, "[192.0.2.1]"):
        with pytest.raises(SpoolError, match=r"no peer .*; known: home, mx.example; after editing .* batchmail setup"):
            find_door(spool.root, name)


def test_a_domain_by_its_letters_and_by_its_name_in_the_dns(tmp_path):
    spool = make_spool(tmp_path)
    set_up(spool.root, [(door_of(spool), ["xn--bcher-kva.example"])])
    for name in ("b\u00fccher.example", "B\u00fccher.Example.", "xn--bcher-kva.example"):
        assert find_door(spool.root, name).peer == "home"
        assert find_door(spool.root, os.fsencode(name).decode("ascii", "surrogateescape")).peer == "home"


def test_a_domain_taken_away(tmp_path):
    spool = make_spool(tmp_path)
    set_up(spool.root, [(door_of(spool), ["*"])])
    assert find_door(spool.root, "anything.example").peer == "home"
    assert find_door(spool.root, "[192.0.2.1]").peer == "home"
    with pytest.raises(SpoolError, match="no peer ;"):
        find_door(spool.root, "")
    set_up(spool.root, [(door_of(spool), [])])
    with pytest.raises(SpoolError, match="no peer"):
        find_door(spool.root, "home.example")


def test_what_one_peer_needs_is_looked_at_without_the_others(tmp_path):
    spool = make_spool(tmp_path)
    home, domains = door_of(spool), ["home.example", ".sub.example"]
    assert is_served(spool.root, home, domains)
    assert not is_served(spool.root, home, [*domains, "new.example"])
    assert not is_served(spool.root, home._replace(max_message_octets=7), domains)
    assert not is_served(spool.root, home._replace(peer="other"), [])
    assert not is_served(f"{tmp_path}/none", home, domains)


def test_another_configuration_is_noticed_by_its_digest_alone(tmp_path):
    spool = make_spool(tmp_path)
    peers = [(door_of(spool), ["home.example"])]
    set_up(spool.root, peers, "abc")
    assert is_current(spool.root, "abc")
    assert not is_current(spool.root, "bc")
    assert not is_current(f"{tmp_path}/none", "abc")
    assert is_set_up(spool.root, peers, "abc")
    assert not is_set_up(spool.root, peers, "abd")
    assert not is_set_up(spool.root, [], "abc")


def test_more_peers_than_are_named(tmp_path):
    spool = make_spool(tmp_path)
    set_up(spool.root, [(door_of(spool, peer=f"p{n}"), []) for n in range(20)])
    with pytest.raises(SpoolError, match=r"known: p0, p1, p10, .*, \.\.\.; after"):
        find_door(spool.root, "nope")


@pytest.mark.parametrize("domain", ["a b", "a/b", "", ".", "x" * 250])
def test_not_a_domain(tmp_path, domain):
    spool = make_spool(tmp_path)
    with pytest.raises(UsageError, match="not a domain"):
        set_up(spool.root, [(door_of(spool), [domain])])


def test_a_damaged_door(tmp_path):
    spool = make_spool(tmp_path)
    for text in (b"", b"peer=home\n", b"\xff" * 300):
        (tmp_path / "doors" / "peer.home").write_bytes(text)
        with pytest.raises(SpoolError, match=r"peer.home is damaged: run batchmail setup"):
            find_door(spool.root, "home")
    make_spool(tmp_path)
    assert find_door(spool.root, "home") == door_of(spool)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"2\n", "is of version 2, this program knows 1: install a newer"),
        (b"", "damaged"),
        (b"one\n", "damaged"),
        (b"1", "damaged"),
    ],
)
def test_version(tmp_path, text, words):
    make_spool(tmp_path)
    (tmp_path / "VERSION").write_bytes(text)
    with pytest.raises(SpoolError, match=words):
        Spool(str(tmp_path))


def test_no_spool(tmp_path):
    with pytest.raises(SpoolError, match=r"no spool at .*: run batchmail setup"):
        Spool(str(tmp_path / "none"))
    with pytest.raises(SpoolError, match=r"VERSION: No such file.*: run batchmail setup"):
        Spool(str(tmp_path))


def test_another_user(tmp_path, monkeypatch):
    make_spool(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(SpoolError, match=r"belongs to \w+, this program runs as nobody: run it as "):
        Spool(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_becomes_the_owner_for_good(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    child = os.fork()
    if not child:
        try:
            become_owner(str(tmp_path))
            ids = (os.getresuid(), os.getresgid(), os.getgroups())
            os._exit(0 if ids[:2] == ((65534,) * 3, (65534,) * 3) and 0 not in ids[2] else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    become_owner(str(tmp_path / "none"))  # nothing to become


def test_user_names():
    assert spools.user_name(0) == "root"
    assert spools.user_name(123456789) == "123456789"


def test_sweep(tmp_path):
    spool = make_spool(tmp_path)
    for name in ("old", "new"):
        (tmp_path / "tmp" / name).write_bytes(b"x")
        (tmp_path / "tmp" / f"{name}.d").mkdir()
        (tmp_path / "tmp" / f"{name}.d" / "link").write_bytes(b"x")
    for name in ("old", "old.d"):
        os.utime(tmp_path / "tmp" / name, (0, 0))
    sweep(spool, time.time())
    assert sorted(drafts(spool)) == ["new", "new.d"]
