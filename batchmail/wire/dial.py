"""Reaching a host: by TCP, or through a program that connects us to it."""

import encodings.idna  # noqa: F401  # getaddrinfo loads it by name, when this may no longer run as root
import socket

from batchmail.core.errors import LineError
from batchmail.wire.child import ChildStream
from batchmail.wire.peer_text import address_text, printable, reason


class Proxy(ChildStream):
    """The program of a ProxyCommand or ProxyJump."""

    @property
    def socket(self) -> socket.socket:
        """What it says and hears, for a client that wants a socket of its own."""
        return self._socket

    def diagnostics(self) -> str:
        """What it said on its standard error before it ended, ready to stand behind an error."""
        self.exit_status()
        said = " / ".join(printable(self.stderr_tail().encode()).split("\n"))
        return f" (the proxy program said: {said})" if said else ""


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
