"""What mail costs in octets: all that both sides write in calls, greeting, HELLO, manifests and reports included.

The mail is that of directories of message files ($BATCHMAIL_CORPUS, separated by colons).  A login costs what it
does beside this; `bench.calls` tells.
"""

import glob
import os
import socket
import tempfile
from collections.abc import Iterable

from batchmail.wire.stream import SocketStream
from bench.tables import show
from tests.sites import Pair, call, make_pair

_HISTORY, _SINGLE = 150, 50  # messages of a list before the calls that are measured, and these


class _Counted(SocketStream):
    octets = 0

    def write(self, data: bytes) -> None:
        self.octets += len(data)
        super().write(data)


def run() -> None:
    directories = [path for path in os.environ.get("BATCHMAIL_CORPUS", "").split(":") if path]
    if not directories:
        print("\nOctets of real mail are not measured: BATCHMAIL_CORPUS names no directories of messages")
        return
    rows = []
    with tempfile.TemporaryDirectory() as path:
        for number, directory in enumerate(directories):
            messages = list(_messages(directory))
            rows.append(_together(f"{path}/{number}t", directory, messages))
            if len(messages) >= _HISTORY + _SINGLE:
                rows.append(_one_by_one(f"{path}/{number}s", directory, messages[: _HISTORY + _SINGLE]))
    head = ("", "messages", "calls", "raw kB", "there kB", "back kB", "idle kB", "ratio", "without idle")
    show("Octets of calls, both ways; idle: what as many calls with nothing to do would cost", head, rows)


def _messages(directory: str) -> Iterable[bytes]:
    for path in sorted(glob.glob(f"{directory}/**/*.eml", recursive=True)):
        with open(path, "rb") as file:
            yield file.read().replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\0", b"").replace(b"\n", b"\r\n")


def _call(pair: Pair) -> tuple[int, int]:
    """Octets to the caller, and from it."""
    up, down = (_Counted(end) for end in socket.socketpair())
    result, _ = call(pair.home, up, pair.mx, down)
    assert result.error is None, result.error
    up.close()
    down.close()
    return down.octets, up.octets


def _offer(pair: Pair, messages: Iterable[bytes]) -> None:
    for content in messages:
        pair.mx.clock.now_ms += 977_000
        pair.mx.accept(content, sender="<list-bounces@lists.example>", rcpts=("<reader@home.example>",))


def _together(path: str, directory: str, messages: list[bytes]) -> tuple[str, ...]:
    pair = make_pair(path, level=19, batch_octets=16 << 20)
    _offer(pair, messages)
    there, back = _call(pair)
    return _row(f"{os.path.basename(directory)}, together", messages, 1, there, back, _idle(pair))


def _one_by_one(path: str, directory: str, messages: list[bytes]) -> tuple[str, ...]:
    pair = make_pair(path, level=19)
    for content in messages[:_HISTORY]:
        _offer(pair, [content])
        _call(pair)
    there = back = 0
    for content in messages[_HISTORY:]:
        _offer(pair, [content])
        octets = _call(pair)
        there, back = there + octets[0], back + octets[1]
    return _row(f"{os.path.basename(directory)}, one by one", messages[_HISTORY:], _SINGLE, there, back, _idle(pair))


def _idle(pair: Pair) -> int:
    _call(pair)  # reports of the last call are acknowledged
    return sum(_call(pair))


def _row(what: str, messages: list[bytes], calls: int, there: int, back: int, idle: int) -> tuple[str, ...]:
    raw = sum(len(content) - content.count(b"\r\n") for content in messages)
    counts = f"{len(messages)}", f"{calls}"
    sizes = (f"{octets / 1e3:.1f}" for octets in (raw, there, back, calls * idle))
    return what, *counts, *sizes, f"{(there + back) / raw:.3f}", f"{(there + back - calls * idle) / raw:.3f}"


if __name__ == "__main__":
    run()
