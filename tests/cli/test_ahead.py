"""What a call does before its libraries are loaded."""

import socket

import pytest

from batchmail.cli import ahead
from batchmail.core.settings import Peer, Site
from batchmail.flow.context import Context
from batchmail.store.line import CALLER, Line
from tests.servers.host import LOOPBACK
from tests.spools import make_spool


@pytest.fixture
def listener():
    with socket.create_server((LOOPBACK, 0)) as sock:
        sock.settimeout(20)
        yield sock


@pytest.fixture
def context(tmp_path, listener):
    way = f"ssh://nobody@{LOOPBACK}:{listener.getsockname()[1]}"

    def make(*ways, ssh_config=""):
        spool = make_spool(tmp_path / "spool")
        peer = Peer("home", call=ways or (way,), ssh_config=ssh_config)
        return Context(
            spool, Site("mx.example.test", spool.root, "batchmail", 0, "fold", {"home": peer}), peer, lambda: 0, bytes
        )

    return make


def test_the_host_is_dialled_and_the_line_is_ours(context, listener):
    begun = ahead.begin(context())
    try:
        with listener.accept()[0] as far:
            begun.give_up()
            far.settimeout(20)
            assert far.recv(9) == b"", "nothing is said before the checks"
    finally:
        begun.give_up()
    again = Line(context().spool, "home")
    assert again.acquire(CALLER)
    again.close()


def test_nothing_is_dialled_while_another_call_is_going_on(context, listener, monkeypatch):
    monkeypatch.setattr(ahead, "_WOKEN_WAIT_S", 0)
    monkeypatch.setattr(ahead, "Dialing", lambda *_: pytest.fail("it was dialled"))
    given = context()
    line = Line(given.spool, "home")
    assert line.acquire(CALLER)
    try:
        assert ahead.begin(given) is None
    finally:
        line.close()


@pytest.mark.parametrize("way", ["command:true", "ssh://"])
def test_other_ways_are_left_to_who_knows_them(context, monkeypatch, way):
    monkeypatch.setattr(ahead, "Dialing", lambda *_: pytest.fail("it was dialled"))
    begun = ahead.begin(context(way))
    assert begun.dialing is None
    begun.give_up()


def test_openssh_s_configuration_may_name_another_host(context, monkeypatch, tmp_path):
    monkeypatch.setattr(ahead, "Dialing", lambda *_: pytest.fail("it was dialled"))
    begun = ahead.begin(context(ssh_config=str(tmp_path / "ssh_config")))
    assert begun.dialing is None
    begun.give_up()
