"""Reaching a host: by TCP, or through a program that connects us to it."""

import os
import socket
import subprocess
import tempfile
from typing import IO

from batchmail.core.errors import LineError
from batchmail.wire.peer_text import address_text, printable, reason

_ERRORS_OCTETS = 2048
_END_S = 2.0


class Proxy:
    """The program of a ProxyCommand or ProxyJump; it speaks to a socket, so that reading it can time out."""

    def __init__(self, arguments: tuple[str, ...]):
        self._name = arguments[0]
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self.socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._child = subprocess.Popen(
                    arguments, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._errors
                )
            except OSError as error:
                self.socket.close()
                raise LineError(f"cannot start the proxy program {self._name}: {error.strerror}") from None

    def diagnostics(self) -> str:
        """What the program said on its standard error, ready to stand behind an error."""
        self._end()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _ERRORS_OCTETS))
        said = " / ".join(printable(self._errors.read()).split("\n"))
        return f" ({self._name}: {said})" if said else ""

    def close(self) -> None:
        self._end()
        self._errors.close()

    def _end(self) -> None:
        """It goes by itself when its connection ends, and is stopped when it doesn't."""
        try:
            self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def dial(host: str, port: int, timeout_s: float) -> socket.socket:
    """Connect to the first of the host's addresses that answers."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise LineError(f"cannot look up {address_text(host, port)}{reason(error)}") from None
    failures = []
    for family, kind, protocol, _, place in found:
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(timeout_s)
        try:
            sock.connect(place)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failures.append(f"{place[0]}{reason(error)}")
        else:
            return sock
    raise LineError(f"cannot reach {address_text(host, port)}: {'; '.join(failures)}")
