"""The server's loop: who is told to go, and when; its time is the test's."""

import contextlib
import socket
from types import SimpleNamespace

import pytest

from batchmail.wire import serve
from batchmail.wire.serve import Listener, Server

IDLE_S = 300.0


class Talk:
    """A session that says `text` first; `is_over` with it or after a timeout."""

    wants_input = True

    def __init__(self, text: bytes, is_over: bool):
        self.text, self.is_over, self.is_gone = text, is_over, False

    def receive(self, data: bytes) -> None:
        pass

    def output(self) -> bytes:
        text, self.text = self.text, b""
        return text

    def timeout(self) -> None:
        self.is_over = True

    def shutdown(self) -> None:
        self.is_over = True

    def gone(self) -> None:
        self.is_gone = True


def test_last_words_have_their_own_time_beside_who_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not take them keeps a descriptor, and an older idle connection is no reason to let it."""
    now_s = 1000.0
    monkeypatch.setattr(serve, "time", SimpleNamespace(monotonic=lambda: now_s))
    server = Server([], IDLE_S, 1.0, pytest.fail)
    idle, over = Talk(b"", False), Talk(b"x" * (1 << 24), True)
    with contextlib.ExitStack() as stack:
        for talk in (idle, over):
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            ours.setblocking(False)
            server._open(Listener(ours, lambda *_, talk=talk: talk), ours, "")  # type: ignore[misc]
            now_s += 1
        assert server.connections == 2
        assert server._wait_s() == pytest.approx(serve._LAST_WORDS_S - 1, abs=0.01)
        server._see_who_is_idle()
        assert (idle.is_gone, over.is_gone) == (False, False)
        now_s += serve._LAST_WORDS_S
        server._see_who_is_idle()
        assert (idle.is_gone, over.is_gone) == (False, True)
        now_s += IDLE_S
        server._see_who_is_idle()
        assert idle.is_gone
        assert server.connections == 0
