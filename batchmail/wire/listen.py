"""Listening sockets: TCP, unix, and those that systemd hands over; and telling systemd how the server is."""

import contextlib
import errno
import os
import socket
from collections.abc import MutableMapping
from typing import NamedTuple

from batchmail.core.errors import ConfigError
from batchmail.core.listen import Address

_BACKLOG = 1024
_FIRST_FD = 3  # sd_listen_fds(3)


class AddressTaken(ConfigError):
    """Another program listens there; it may be about to end."""


class Passed(NamedTuple):
    """A listening socket of systemd's, and what its unit calls it (FileDescriptorName=)."""

    sock: socket.socket
    name: str


def listen_tcp(address: Address) -> socket.socket:
    """Raises ConfigError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        kind = AddressTaken if error.errno == errno.EADDRINUSE else ConfigError
        raise kind(f"cannot listen at {address.text}: {error.strerror}") from None
    return sock


def listen_unix(path: str) -> socket.socket:
    """At a path where nothing is; the mode is the umask's.  Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def somebody_listens(path: str) -> bool:
    """Whether a server answers at a unix socket; a socket without one was left behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # busy, or not for us
            return True
    return True


def passed_sockets(environment: MutableMapping[str, str]) -> list[Passed]:
    """What systemd has opened for this process; the variables are taken out of the environment.

    Raises ConfigError.
    """
    pid, count, names = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = names.split(":") if names else []
    passed = []
    for number in range(int(count)):
        fd = _FIRST_FD + number
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise ConfigError(f"systemd's socket number {number + 1} is none: {error.strerror}") from None
        passed.append(Passed(sock, found[number] if number < len(found) else ""))
    return passed


def tell_systemd(text: str, environment: MutableMapping[str, str]) -> None:
    """READY=1, STOPPING=1 and the like (sd_notify(3)); nothing where systemd did not ask."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        sock.sendall(text.encode())
