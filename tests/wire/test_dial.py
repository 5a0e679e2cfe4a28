"""Connections that are made while somebody gets ready."""

import socket
import threading

import pytest

from batchmail.core.errors import LineError
from batchmail.wire import dial as dials
from batchmail.wire.dial import Dialing
from tests.servers.host import LOOPBACK, free_port


@pytest.fixture
def listener():
    with socket.create_server((LOOPBACK, 0)) as sock:
        sock.settimeout(20)
        yield sock


def test_it_is_connected_when_it_is_taken_and_then_the_takers(listener):
    dialing = Dialing(*listener.getsockname(), 20.0)
    with dialing.take() as sock, listener.accept()[0] as far:
        dialing.close()
        sock.sendall(b"x")
        assert far.recv(9) == b"x"
    with pytest.raises(LineError):
        dialing.take()


def test_nobody_listens():
    dialing = Dialing(LOOPBACK, port := free_port(), 20)
    with pytest.raises(LineError, match=f"cannot reach {LOOPBACK}:{port}: "):
        dialing.take()
    dialing.close()


@pytest.mark.parametrize("connected_first", [True, False])
def test_what_nobody_takes_is_closed(listener, monkeypatch, connected_first):
    go_on, real = threading.Event(), dials.dial

    def late(*place):
        sock = real(*place)
        assert go_on.wait(20)
        return sock

    monkeypatch.setattr(dials, "dial", late)
    dialing = Dialing(*listener.getsockname(), 20.0)
    if connected_first:
        go_on.set()
        dialing._thread.join()
    dialing.close()
    go_on.set()
    with listener.accept()[0] as far:
        far.settimeout(20)
        assert far.recv(9) == b""
