"""A stream over an SSH channel: the usual carrier of a call, to any sshd.

In order: find the route, reach the host (TCP, or a proxy program), agree on
keys, believe the host key or not, log in with a key, run batchmail-receive.
`wire.ssh_login` does the last two in one flight where the server is one that
takes it; the ordinary way is here, and is gone when that one turns out wrong.
None of the SSH library's exceptions leaves this file: `KeyRefused` is for a
person, `LineError` may be gone at the next call.  It knows nothing of what the
stream carries, and does nothing to notice a silent line: the call itself does.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import paramiko

from batchmail.core.errors import KeyRefused, LineError
from batchmail.wire.dial import Dialing, Proxy, dial
from batchmail.wire.known_hosts import KnownKey, check_host_key, fingerprint, known_keys, name_in_files
from batchmail.wire.peer_text import address_text, printable, reason
from batchmail.wire.ssh_address import SshAddress
from batchmail.wire.ssh_config import Route, find_route
from batchmail.wire.ssh_keys import LoginKeys
from batchmail.wire.ssh_login import FIRST_OCTETS, Login, Transport, Unlike

# What the far sshd would run if the key were not bound to a command of its own.
REMOTE_COMMAND = "batchmail-receive"

_WRITE_OCTETS = 16 << 10
_DIAGNOSTIC_OCTETS = 2048
_CLOSE_S = 1.0

_FOREIGN = (paramiko.SSHException, OSError, EOFError)
# A known_hosts line names a kind of key; for RSA the host then signs in one of these ways.  SHA-1 is not among them.
_RSA = ("rsa-sha2-512", "rsa-sha2-256")
_SCANNED = (("ssh-ed25519",), ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"), _RSA)

# The library reports to its log what we raise; no handler of ours or lastResort may print it.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


class _Misjudged(LineError):
    """The server is not one that we can speak to without waiting."""


class HostKeyLine(NamedTuple):
    """A line for a known_hosts file, and the fingerprint to compare with what the host's operator says."""

    line: str
    fingerprint: str


class SshStream:
    """The channel on which batchmail-receive runs at the other end."""

    def __init__(self, connection: "_Connection", channel: paramiko.Channel):
        self._connection, self._channel, self.place = connection, channel, connection.to
        self._closed = False
        self._diagnostics = b""
        # Standard error shares the channel's window: unread, it would stop the call.
        self._drain = threading.Thread(target=self._keep_diagnostics, name="batchmail-ssh-stderr", daemon=True)
        self._drain.start()

    def read(self, limit: int) -> bytes:
        try:
            data = self._channel.recv(limit)
        except _FOREIGN as error:
            raise self._cut(error) from None
        # The library says "end" for a lost connection too.
        if data or self._channel.eof_received or self._closed:
            return data
        raise self._cut(self._connection.transport.get_exception())

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                sent = self._channel.send(bytes(view[:_WRITE_OCTETS]))
                if not sent:
                    raise EOFError
                view = view[sent:]
        except _FOREIGN as error:
            raise self._cut(error) from None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # Saying goodbye needs the line, which may be dead or full: then it is cut without.
        with contextlib.suppress(*_FOREIGN), self._connection.deadline(_CLOSE_S):
            self._channel.close()
        self._connection.close()

    def diagnostics(self) -> str:
        """The last that the far program said on its standard error."""
        if self._channel.eof_received or self._closed:
            self._drain.join(_CLOSE_S)
        return printable(self._diagnostics)

    def exit_status(self) -> int | None:
        """The far program's exit status; None if it has not ended, or not by itself."""
        if self._channel.eof_received:
            self._channel.status_event.wait(_CLOSE_S)
        return self._channel.exit_status if self._channel.exit_status >= 0 else None

    def _keep_diagnostics(self) -> None:
        with contextlib.suppress(*_FOREIGN):
            while data := self._channel.recv_stderr(_DIAGNOSTIC_OCTETS):
                self._diagnostics = (self._diagnostics + data)[-_DIAGNOSTIC_OCTETS:]

    def _cut(self, error: Exception | None) -> LineError:
        if self._closed:
            return LineError(f"the line to {self._connection.to} is closed")
        return LineError(f"the line to {self._connection.to} was cut{reason(error)}")


def connect_ssh(
    address: SshAddress,
    *,
    identities: tuple[str, ...],
    known_hosts: tuple[str, ...],
    use_agent: bool,
    config_file: str | None,
    connect_timeout_s: float,
    first: bytes = b"",
    dialing: Dialing | None = None,
) -> SshStream:
    """Log in at `address`, start batchmail-receive there and write `first` to it.

    Every step has `connect_timeout_s`.  `dialing`, if it is to the right place, is the first connection.
    """
    route = find_route(address, config_file)
    keys = LoginKeys((*identities, *route.identities), use_agent)
    files = known_hosts + route.known_hosts
    name = name_in_files(route.known_as, route.port)
    known = known_keys(files, name)

    if dialing and (route.proxy or (route.host, route.port) != (dialing.host, dialing.port)):
        dialing = None

    def log_in(early: bool, dialing: Dialing | None) -> SshStream:
        with _connected(route, connect_timeout_s, early, dialing) as connection:
            connection.agree(_known_first(known))
            host_key = connection.host_key()
            check_host_key(known, files, name, host_key.get_name(), host_key.asbytes())
            return SshStream(connection, _log_in(connection, route.user, keys, first))

    with keys:
        try:
            return log_in(early=True, dialing=dialing)
        except _Misjudged:
            return log_in(early=False, dialing=None)


def host_key_lines(
    address: SshAddress, *, config_file: str | None, connect_timeout_s: float
) -> tuple[HostKeyLine, ...]:
    """The known_hosts lines of every key that the host at `address` shows.  Who asks has to check the fingerprints."""
    route = find_route(address, config_file)
    name = name_in_files(route.known_as, route.port)
    lines, refusal = [], None
    for algorithms in _SCANNED:
        connection = _Connection(route, connect_timeout_s, early=False)
        try:
            connection.agree(algorithms, only=True)
            key = connection.host_key()
            lines.append(HostKeyLine(f"{name} {key.get_name()} {key.get_base64()}", fingerprint(key.asbytes())))
        except LineError as error:
            refusal = error  # as a rule: it has no key of this kind
        finally:
            connection.close()
    if refusal and not lines:
        raise refusal
    return tuple(lines)


def _log_in(connection: "_Connection", user: str, keys: LoginKeys, first: bytes) -> paramiko.Channel:
    """Authenticate, start the far program and write `first` to it: with the first key at once where that can be."""
    tried: list[str] = []
    at_once = connection.may_log_in_at_once(len(keys))
    for label, key in keys:
        tried.append(f"{label} ({fingerprint(key.asbytes())})")
        if at_once and len(tried) == 1:
            channel = connection.log_in_at_once(user, key, tried, first[:FIRST_OCTETS])
            first = first[FIRST_OCTETS:] if channel else first
        else:
            channel = connection.execute() if connection.authenticate(user, key, tried) else None
        if channel is not None:
            connection.write(channel, first)
            return channel
    raise connection.refused(user, tried, keys.unusable)


def _known_first(known: tuple[KnownKey, ...]) -> tuple[str, ...]:
    """Ask for the kinds of key that known_hosts has, in its order, so that the host shows one that we can compare."""
    kinds = [key.key_type for key in known if not key.marker]
    return tuple(algorithm for kind in kinds for algorithm in (_RSA if kind == "ssh-rsa" else (kind,)))


@contextlib.contextmanager
def _connected(route: Route, timeout_s: float, early: bool, dialing: Dialing | None) -> "Iterator[_Connection]":
    """A connection that is closed again if the block fails."""
    connection = _Connection(route, timeout_s, early, dialing)
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


class _Connection:
    """The transport below the channel: each step is cut when it takes too long, and foreign errors are made ours."""

    def __init__(self, route: Route, timeout_s: float, early: bool, dialing: Dialing | None = None):
        self.to = address_text(route.host, route.port)
        self._timeout_s = timeout_s
        self._proxy = Proxy(route.proxy) if route.proxy else None
        if self._proxy:
            self._socket = self._proxy.socket
        else:
            self._socket = dialing.take() if dialing else dial(route.host, route.port, timeout_s)
        self.transport = Transport(self._socket, early=early)
        # Ours is the one deadline; the library's, which differ from step to step, come after it.
        self.transport.banner_timeout = self.transport.auth_timeout = 2 * timeout_s
        self.transport.handshake_timeout = self.transport.channel_timeout = 2 * timeout_s

    def agree(self, algorithms: tuple[str, ...], *, only: bool = False) -> None:
        """Exchange keys; the host is asked to show a key of these algorithms first, or of these `only`."""
        options = self.transport.get_security_options()
        supported = [algorithm for algorithm in options.key_types if algorithm not in {"ssh-rsa", "ssh-dss"}]
        wanted = [algorithm for algorithm in algorithms if algorithm in supported]
        options.key_types = tuple(dict.fromkeys(wanted if only else wanted + supported))
        with self._step("the SSH handshake failed"):
            self.transport.start_client()

    def host_key(self) -> paramiko.PKey:
        with self._step("the SSH handshake failed"):
            return self.transport.get_remote_server_key()

    def may_log_in_at_once(self, keys: int) -> bool:
        """Whether the server takes a login in one flight, and if it refuses the first of so many keys the next one."""
        return self.transport.takes_input_in_order and (keys == 1 or self.transport.stays_after_refusal)

    def log_in_at_once(self, user: str, key: paramiko.PKey, tried: list[str], first: bytes) -> paramiko.Channel | None:
        """Authenticate, start the far program and write `first` to it in one flight; None: the key was refused."""
        with self._step("logging in failed"):
            login = Login(self.transport, user, key, REMOTE_COMMAND, first)
        if not self._accepts(user, tried, login.accepted):
            return None
        with self._step("the server does not run our command"):
            return login.channel()

    def authenticate(self, user: str, key: paramiko.PKey, tried: list[str]) -> bool:
        """Whether the server lets `user` in with `key`."""
        # Something is left to do if the server wants a second factor, which we do not have.
        return self._accepts(user, tried, lambda: not self.transport.auth_publickey(user, key))

    def _accepts(self, user: str, tried: list[str], ask: Callable[[], bool]) -> bool:
        with self._step("logging in failed"):
            try:
                return ask()
            except paramiko.BadAuthenticationType as error:
                offered = printable(", ".join(error.allowed_types).encode()) or "nothing"
                raise KeyRefused(f"{self.to} does not let {user} log in with a key; it offers {offered}") from None
            except paramiko.AuthenticationException:
                if self.transport.is_active():
                    return False
                if len(tried) > 1:  # MaxAuthTries, as a rule: what was refused, was
                    raise self.refused(user, tried, ["it then hung up"]) from None
                raise

    def refused(self, user: str, tried: list[str], also: list[str]) -> KeyRefused:
        """What to say when no key was taken."""
        return KeyRefused(
            f"{self.to} accepts no key of ours for {user}: tried {', '.join(tried)}{''.join('; ' + a for a in also)}; "
            f"add the line that `batchmail key PEER` prints to {user}'s .ssh/authorized_keys there"
        )

    def execute(self) -> paramiko.Channel:
        with self._step("the server does not run our command"):
            channel = self.transport.open_session()
            channel.exec_command(REMOTE_COMMAND)
            return channel

    def write(self, channel: paramiko.Channel, data: bytes) -> None:
        with self._step("the far program takes no data"):
            try:
                channel.sendall(data)
            except OSError:
                if not channel.closed or not self.transport.is_active():
                    raise  # else that program has ended, and who reads hears how

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> "Iterator[threading.Event]":
        """Cut the connection if the block takes longer: whatever it waits for then comes to an end."""
        late = threading.Event()

        def cut() -> None:
            late.set()
            self._shut()

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def close(self) -> None:
        self._shut()
        # The transport's own thread sees the end, wakes whoever waits, and closes the socket: closed from here, its
        # number could be another file's while that thread still reads from it.
        if self.transport.is_alive():
            self.transport.join(_CLOSE_S)
        else:
            self._socket.close()
        if self._proxy:
            self._proxy.close()

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _step(self, failure: str) -> Iterator[None]:
        try:
            with self.deadline(self._timeout_s) as late:
                yield
        except _FOREIGN as error:
            self._shut()
            why = f": no answer in {self._timeout_s:g} s" if late.is_set() else reason(error)
            said = self._proxy.diagnostics() if self._proxy else ""
            misjudged = isinstance(error, Unlike) or (self.transport.may_be_misjudged and not late.is_set())
            raise (_Misjudged if misjudged else LineError)(f"{self.to}: {failure}{why}{said}") from None
