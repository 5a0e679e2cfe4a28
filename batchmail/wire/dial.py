"""Reaching a host: by TCP, or through a program that connects us to it."""

import encodings.idna  # noqa: F401  # getaddrinfo loads it by name, when this may no longer run as root
import socket
import threading

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


class Dialing:
    """A connection that is being made while whoever wants it gets ready."""

    def __init__(self, host: str, port: int, timeout_s: float):
        self.host, self.port, self._timeout_s = host, port, timeout_s
        self._wanted = threading.Lock()  # held by whoever decides what becomes of the socket
        self._socket: socket.socket | None = None
        self._error: LineError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batchmail-dial", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            sock = dial(self.host, self.port, self._timeout_s)
        except LineError as error:
            self._error = error
            return
        with self._wanted:
            if self._closed:
                sock.close()
            else:
                self._socket = sock

    def take(self) -> socket.socket:
        """The socket, once it is connected; from then on it is the caller's.  Raises LineError."""
        self._thread.join()
        with self._wanted:
            sock, self._socket = self._socket, None
        if sock is None:
            raise self._error or LineError(f"no connection to {address_text(self.host, self.port)}")
        return sock

    def close(self) -> None:
        """Nobody wants it, if nobody took it; what is still under way is closed when it is there."""
        with self._wanted:
            self._closed = True
            if self._socket is not None:
                self._socket.close()
                self._socket = None
