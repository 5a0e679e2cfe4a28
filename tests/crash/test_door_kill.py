"""The door killed under load, again and again: what got 250 is in the spool once, and nothing is there twice.

In turn the process that watches, a worker, and all at once.  What got no answer is offered again, as an MTA does,
under the same identity.  BATCHMAIL_KILLS sets the rounds.
"""

import functools
import os
import random
import re
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from tests.cli.test_lmtpd import HANG_S, DoorSite, reply_of, say

ROUNDS = int(os.environ.get("BATCHMAIL_KILLS", "5"))
CLIENTS, EACH = 6, 12
_TOKEN = re.compile(rb"^Token: (\S+)\r\n", re.MULTILINE)


class Load:
    """Clients that offer their messages until all have their answer, or the door is gone."""

    def __init__(self, site: DoorSite, kill: Callable[[], None] = lambda: None, kill_at: int = 0):
        self._kill, self._left, self._port = kill, kill_at, site.port
        self._lock = threading.Lock()
        self.accepted: list[str] = []

    def run(self, shares: list[list[str]]) -> None:
        threads = [threading.Thread(target=self._offer, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
            assert not thread.is_alive()

    def _offer(self, tokens: list[str]) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self._port), HANG_S) as sock:
                reply_of(sock)
                say(sock, b"EHLO me\r\n")
                for token in tokens:
                    self._one(sock, token)
        except OSError:
            pass  # killed

    def _one(self, sock: socket.socket, token: str) -> None:
        size = 100 if _is_small(token) else 400_000  # beyond what is held in memory
        content = f"Token: {token}\r\n\r\n".encode() + b"text\r\n" * (size // 6)
        recipients = b"RCPT TO:<a@home.example>\r\nRCPT TO:<b@x.far.example>\r\n" if size == 100 else b""
        commands = b"XFORWARD IDENT=%b\r\nMAIL FROM:<s@x.example>\r\nRCPT TO:<c@home.example>\r\n" % token.encode()
        steps = [commands + recipients + b"DATA\r\n", content, b".\r\n"]
        for step in steps:
            with self._lock:
                self._left -= 1
                if self._left == 0:
                    self._kill()
            sock.sendall(step)
        for _ in range(4 + recipients.count(b"RCPT")):
            if not reply_of(sock):
                raise OSError
        if reply_of(sock).startswith(b"250 "):
            with self._lock:
                self.accepted.append(token)


def _kill(victims: list[int]) -> None:
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def _is_small(token: str) -> bool:
    return int(token.rpartition(".")[2]) % 5 > 0


def _found(site: DoorSite, peer: str, seen: set[str]) -> list[str]:
    """The tokens of what has come since the last time."""
    tokens = []
    for where, _, names in os.walk(f"{site.spool}/out/{peer}/waiting"):
        for name in names:
            path = os.path.join(where, name)
            if path not in seen:
                seen.add(path)
                with open(path, "rb") as file:
                    (token,) = _TOKEN.findall(file.read(2000))
                tokens.append(token.decode())
    return tokens


def test_killed_under_load(tmp_path: Path) -> None:
    site = DoorSite(tmp_path, "workers = 2")
    site.configure(entry=site.entry.replace("max_message = 2000\n", ""))
    chance = random.Random(7)
    seen: set[str] = set()
    interrupted = 0
    for turn in range(ROUNDS):
        shares = [[f"{turn}.{client}.{n}" for n in range(EACH)] for client in range(CLIENTS)]
        everything = sorted(token for share in shares for token in share)
        site.start()
        victims = [[site.process.pid], site.workers()[:1], [site.process.pid, *site.workers()]][turn % 3]
        load = Load(site, functools.partial(_kill, victims), chance.randrange(1, 3 * CLIENTS * EACH))
        load.run(shares)
        site.process.kill()
        site.process.wait(HANG_S)
        interrupted += len(load.accepted) < len(everything)
        site.start()
        rest = Load(site)
        rest.run([[token for token in share if token not in load.accepted] for share in shares])
        assert site.stop() == 0
        assert sorted(load.accepted + rest.accepted) == everything
        assert sorted(_found(site, "home", seen)) == everything
        both = [token for token in everything if _is_small(token)]
        assert sorted(_found(site, "away", seen)) == both
    assert interrupted
