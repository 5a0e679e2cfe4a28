"""Mail servers as targets: what they delivered to their Maildir, and waiting for it."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tests.servers.daemon import Daemon
from tests.servers.host import PATIENCE_S, Delivered, wait_until

T = TypeVar("T")
_LINE_END = re.compile(rb"\r?\n")


class Maildir(Generic[T]):
    """The delivered files of a Maildir, each read and parsed once."""

    def __init__(self, path: str, parse: Callable[[bytes], T]):
        self.path = path
        self._parse = parse
        self._known: dict[str, T] = {}

    def read(self) -> list[T]:
        new = os.path.join(self.path, "new")
        names = os.listdir(new) if os.path.isdir(new) else []
        for name in sorted(set(names) - self._known.keys()):
            with open(os.path.join(new, name), "rb") as file:
                self._known[name] = self._parse(file.read())
        return list(self._known.values())


class Target(Daemon):
    """A server that delivers to where the tests can read."""

    def messages(self) -> list[Delivered]:
        """What is delivered by now, in no certain order."""
        raise NotImplementedError

    def wait_for(self, count: int, timeout_s: float = PATIENCE_S) -> list[Delivered]:
        """Wait until at least `count` transactions were delivered; all of them."""
        wait_until(lambda: len(self.messages()) >= count, f"{count} messages", timeout_s)
        return self.messages()


def crlf(text: bytes) -> bytes:
    """The servers store LF line ends."""
    return _LINE_END.sub(b"\r\n", text)


def split_headers(text: bytes, names: Sequence[bytes]) -> tuple[dict[bytes, bytes], bytes]:
    """The header fields `names` at the very top, each at most once and in this order, and the octets below them."""
    found = {}
    for name in names:
        match = re.match(rb"(?i)%s:((?:.*\n)(?:[ \t].*\n)*)" % re.escape(name), text)
        if match:
            found[name] = match[1].strip()
            text = text[match.end() :]
    return found, text
