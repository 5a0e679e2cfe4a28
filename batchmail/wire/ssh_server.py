"""A small SSH server on the loopback address, for the demonstration and the tests: it stands in for sshd.

Like an authorized_keys file with forced commands it knows a set of keys, each
bound to one program, and whatever the client asks to run, that is what runs.
Nothing else is served: no password, no terminal, no forwarding.  A real site
uses a real sshd.
"""

import contextlib
import logging
import socket
import subprocess
import threading
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)

from batchmail.core.errors import ConfigError
from batchmail.wire.listener import Listener

_CHUNK_OCTETS = 32 << 10
_WINDOW_OCTETS = 4 << 20
_ANSWER_S = 5.0  # nobody may have asked for an answer
_FOREIGN = (paramiko.SSHException, OSError, EOFError)

# What the library thinks of a client is no matter for the terminal.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


class SshServer:
    """Serves until closed; every connection and program has threads of its own."""

    def __init__(self, host_key: paramiko.PKey, forced: Mapping[bytes, Sequence[str]]):
        self._host_key, self._forced = host_key, forced
        self._lock = threading.Lock()
        self._transports: list[paramiko.Transport] = []
        self._programs: list[subprocess.Popen[bytes]] = []
        self._listener = Listener("ssh-server", self._accept)
        self.port = self._listener.port

    def close(self) -> None:
        """Stop listening, hang up, and end the programs."""
        self._listener.close()
        with self._lock:
            transports, programs = self._transports, self._programs
        for transport in transports:
            transport.close()
        for program in programs:
            program.terminate()
            program.wait()

    def _accept(self, connected: socket.socket) -> None:
        transport = _Transport(connected, default_window_size=_WINDOW_OCTETS)
        transport.add_server_key(self._host_key)
        with self._lock:
            self._transports = [*(t for t in self._transports if t.is_active()), transport]
        transport.start_server(threading.Event(), _Login(self._forced, self._start))

    def _start(self, channel: paramiko.Channel, arguments: Sequence[str]) -> bool:
        """Run the program, its standard input, output and error being the channel's."""
        pipe = subprocess.PIPE
        try:
            program = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        except OSError:
            return False
        with self._lock:
            self._programs = [*(p for p in self._programs if p.poll() is None), program]
        transport = channel.get_transport()
        assert isinstance(transport, _Transport)  # noqa: S101 - made above
        is_told = transport.told()
        threading.Thread(target=_feed, args=(channel, program), daemon=True).start()
        threading.Thread(target=_finish, args=(channel, program, is_told), daemon=True).start()
        return True


def serve(host_key: str, forced: Mapping[str, Sequence[str]]) -> SshServer:
    """Start a server that shows the key in file `host_key` and runs, for each public key line, its program."""
    try:
        key = paramiko.Ed25519Key.from_private_key_file(host_key)
    except (paramiko.SSHException, OSError) as error:
        raise ConfigError(f"cannot use host key {host_key}: {error}") from None
    return SshServer(key, {b64decode(line.split()[1]): arguments for line, arguments in forced.items()})


class _Transport(paramiko.Transport):
    """Knows when it has answered a request; the library answers only after the program was started."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._untold: list[threading.Event] = []

    def told(self) -> threading.Event:
        """Set when the request that is looked at now has been answered."""
        self._untold.append(threading.Event())
        return self._untold[-1]

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)  # type: ignore[misc]
        while self._untold and threading.current_thread() is self:
            self._untold.pop().set()


class _Login(paramiko.ServerInterface):
    """What one client may do."""

    def __init__(self, forced: Mapping[bytes, Sequence[str]], start: Callable[[paramiko.Channel, Sequence[str]], bool]):
        self._forced, self._start = forced, start
        self._arguments: Sequence[str] = ()

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        # Also called when a client only asks about a key: the last one is the one whose signature is then checked.
        self._arguments = self._forced.get(key.asbytes(), ())
        return AUTH_SUCCESSFUL if self._arguments else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED if kind == "session" else OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return self._start(channel, self._arguments)

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self._start(channel, self._arguments)


def _feed(channel: paramiko.Channel, program: subprocess.Popen[bytes]) -> None:
    assert program.stdin  # noqa: S101 - opened as a pipe
    with contextlib.suppress(*_FOREIGN), program.stdin as to:
        while data := channel.recv(_CHUNK_OCTETS):
            view = memoryview(data)
            while view:
                view = view[to.write(view) :]


def _finish(channel: paramiko.Channel, program: subprocess.Popen[bytes], is_told: threading.Event) -> None:
    """Pass on all that the program says, then how it ended; not before it was said that it runs."""
    is_told.wait(_ANSWER_S)
    errors = threading.Thread(target=_pass_on, args=(program.stderr, channel.sendall_stderr), daemon=True)
    errors.start()
    _pass_on(program.stdout, channel.sendall)
    errors.join()
    with contextlib.suppress(*_FOREIGN):
        channel.shutdown_write()
        status = program.wait()
        channel.send_exit_status(status if status >= 0 else 128 - status)  # ended by a signal: as a shell reports it
        channel.close()


def _pass_on(source: IO[bytes] | None, send: Callable[[bytes], None]) -> None:
    assert source  # noqa: S101 - opened as a pipe
    with contextlib.suppress(*_FOREIGN), source:
        while data := source.read(_CHUNK_OCTETS):
            send(data)
