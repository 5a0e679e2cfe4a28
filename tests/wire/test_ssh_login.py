"""Logins that wait for nothing they need not wait for, with the servers there are and with what they may want."""

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from pathlib import Path

import paramiko
import pytest

from batchmail.core.errors import KeyRefused, LineError
from batchmail.wire import ssh_login
from batchmail.wire.keys import ensure_key
from batchmail.wire.ssh import connect_ssh
from batchmail.wire.ssh_address import SshAddress
from batchmail.wire.ssh_server import serve
from tests.servers.dropbear import Dropbear
from tests.servers.host import Unavailable, open_directory, wait_until
from tests.servers.sshd import Sshd

FIRST = b"hello, and all that comes with it\n" * 40
KEXINIT, NEWKEYS, ECDH_INIT = 20, 21, 30


@pytest.fixture
def place():
    with open_directory() as path:
        yield path


@pytest.fixture
def call(place):
    """call(port, known_hosts line) -> stream to which FIRST was written, closed after the test."""
    Path(place, "ssh_config").write_text("")
    with contextlib.ExitStack() as stack:

        def connect(port, known, identities=("me",), first=FIRST, timeout_s=20.0):
            Path(place, "known").write_text(f"{known}\n")
            stream = connect_ssh(
                SshAddress("root", "127.0.0.1", port),
                identities=tuple(f"{place}/{name}" for name in identities),
                known_hosts=(f"{place}/known",),
                use_agent=False,
                config_file=f"{place}/ssh_config",
                connect_timeout_s=timeout_s,
                first=first,
            )
            return stack.enter_context(contextlib.closing(stream))

        yield connect


def key_of(place, name="me"):
    return ensure_key(f"{place}/{name}", "test")[0]


@contextlib.contextmanager
def openssh(place, command="cat", more="", key=None):
    try:
        server = Sshd(place, more=more)
        server.authorize_line(f'restrict,command="{command}" {key or key_of(place)}')
        with server:
            yield server
    except Unavailable as why:
        pytest.skip(str(why))


def read_exactly(stream, octets):
    data = bytearray()
    while len(data) < octets and (more := stream.read(65536)):
        data += more
    return bytes(data)


def transport_of(stream):
    return stream._connection.transport


def count_connections(monkeypatch):
    made = []
    ordinary = ssh_login.Transport.__init__

    def counting(self, *arguments, early, **more):
        made.append(early)
        ordinary(self, *arguments, early=early, **more)

    monkeypatch.setattr(ssh_login.Transport, "__init__", counting)
    return made


class Hold:
    """A proxy that lets the client talk and keeps back what the server says: all, or all after the keys are made."""

    def __init__(self, port, until):
        self.heard = bytearray()
        self._said, self._until, self._release = bytearray(), until, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._far = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        self._near, _ = self._listener.accept()
        threading.Thread(target=self._up, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := self._far.recv(65536):
                held = len(self._said)
                self._said += data
                free = len(self._said) if self._release.is_set() else self._until(bytes(self._said))
                if free > held:
                    self._near.sendall(self._said[held:free])
                if free < len(self._said):
                    self._release.wait(20)
                    self._near.sendall(self._said[max(free, held) :])

    def _up(self):
        with contextlib.suppress(OSError):
            while data := self._near.recv(65536):
                self.heard += data
                self._far.sendall(data)

    def release(self):
        self._release.set()

    def close(self):
        self.release()
        for sock in (self._listener, self._far, self._near):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def packets(said):
    """(type, end) of the packets in plain text, up to and with NEWKEYS."""
    at = said.index(b"\n") + 1 if b"\n" in said else len(said)
    while at + 6 <= len(said):
        length = int.from_bytes(said[at : at + 4])
        kind, at = said[at + 5], at + 4 + length
        if at > len(said):
            return
        yield kind, at
        if kind == NEWKEYS:
            return


def after_keys(said):
    ends = [end for kind, end in packets(said) if kind == NEWKEYS]
    return ends[0] if ends else len(said)


@pytest.mark.real
def test_our_half_of_the_key_exchange_goes_before_anything_is_heard(place, call):
    with openssh(place) as server, contextlib.closing(Hold(server.port, lambda _: 0)) as hold:
        known = server.known_hosts().replace(str(server.port), str(hold.port))
        thread = threading.Thread(target=call, args=(hold.port, known))
        thread.start()
        wait_until(lambda: [kind for kind, _ in packets(bytes(hold.heard))] == [KEXINIT, ECDH_INIT], "both packets")
        hold.release()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.real
def test_login_command_and_data_go_before_the_login_is_answered(place, call):
    done = f"{place}/heard"
    command = f"head -c {len(FIRST)} >{done}.new; mv {done}.new {done}; cat {done}"
    with openssh(place, command) as server, contextlib.closing(Hold(server.port, after_keys)) as hold:
        known = server.known_hosts().replace(str(server.port), str(hold.port))
        streams = []
        thread = threading.Thread(target=lambda: streams.append(call(hold.port, known)))
        thread.start()
        wait_until(lambda: os.path.exists(done), "the far program to have had the data")
        assert not streams  # nothing was heard of it so far
        hold.release()
        thread.join(20)
        assert Path(done).read_bytes() == FIRST
        assert read_exactly(streams[0], len(FIRST)) == FIRST


@pytest.mark.real
def test_nothing_that_names_the_user_goes_to_a_host_that_is_not_known(place, call):
    with openssh(place) as server, contextlib.closing(Hold(server.port, after_keys)) as hold:
        with pytest.raises(KeyRefused, match="unknown host key"):
            call(hold.port, "[127.0.0.1]:1 ssh-ed25519 AAAA")
        *_, (_, end) = packets(bytes(hold.heard))
        assert [kind for kind, _ in packets(bytes(hold.heard))] == [KEXINIT, ECDH_INIT, NEWKEYS]
        assert len(hold.heard) == end


@pytest.mark.real
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_openssh_takes_every_kind_of_key_at_once(place, call, monkeypatch, kind):
    made = count_connections(monkeypatch)
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", kind, "-f", f"{place}/me"], check=True)
    with openssh(place, key=Path(place, "me.pub").read_text().strip()) as server:
        stream = call(server.port, server.known_hosts())
        assert read_exactly(stream, len(FIRST)) == FIRST
        assert made == [True]
        assert transport_of(stream).takes_input_in_order
        stream.write(b"and more")
        assert stream.read(99) == b"and more"


@pytest.mark.real
def test_what_is_too_much_for_one_flight_follows_it(place, call):
    much = bytes(range(256)) * 300
    with openssh(place) as server:
        stream = call(server.port, server.known_hosts(), first=much)
        assert read_exactly(stream, len(much)) == much


@pytest.mark.real
def test_a_window_that_was_overdrawn_is_paid_back(place, call):
    """More goes through than the server's window: the account of it is right."""
    much = bytes(range(256)) * 4096 * 6
    with openssh(place) as server:
        stream = call(server.port, server.known_hosts())
        assert read_exactly(stream, len(FIRST)) == FIRST
        writer = threading.Thread(target=stream.write, args=(much,))
        writer.start()
        assert read_exactly(stream, len(much)) == much
        writer.join(20)


@pytest.mark.real
@pytest.mark.parametrize(
    ("more", "connections"),
    [
        ("Banner /etc/hostname", [True]),
        ("KexAlgorithms ecdh-sha2-nistp256", [True, False]),
        ("KexAlgorithms diffie-hellman-group14-sha256", [True, False]),
        ("Ciphers aes192-ctr", [True, False]),
        ("MACs hmac-sha1", [True, False]),
        ("MACs hmac-sha2-512-etm@openssh.com\nCiphers aes256-gcm@openssh.com,aes256-ctr", [True]),
        ("UsePAM yes", [True]),
        ("RekeyLimit 1K", [True]),
        ("Compression no", [True]),
    ],
)
def test_servers_with_other_settings_are_logged_in_to(place, call, monkeypatch, more, connections):
    made = count_connections(monkeypatch)
    with openssh(place, more=more) as server:
        stream = call(server.port, server.known_hosts())
        assert read_exactly(stream, len(FIRST)) == FIRST
        assert made == connections


@pytest.mark.real
def test_a_refused_key_costs_no_connection_and_no_data(place, call, monkeypatch):
    made = count_connections(monkeypatch)
    key_of(place, "stranger")
    with openssh(place) as server:
        stream = call(server.port, server.known_hosts(), identities=("stranger", "me"))
        assert read_exactly(stream, len(FIRST)) == FIRST
        stream.write(b"x")
        assert stream.read(9) == b"x"
        assert made == [True]
        assert server.log().count("Starting session") == 1


@pytest.mark.real
def test_no_key_that_is_taken(place, call):
    key_of(place, "stranger")
    with openssh(place) as server, pytest.raises(KeyRefused, match="accepts no key of ours for root: tried"):
        call(server.port, server.known_hosts(), identities=("stranger",))


@pytest.mark.real
@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ("MaxSessions 0", LineError, "does not run our command"),
        ("AuthenticationMethods publickey,publickey", KeyRefused, "accepts no key of ours"),
        ("PubkeyAuthentication no", KeyRefused, "does not let root log in with a key"),
        ("AllowUsers nobody", KeyRefused, "accepts no key of ours"),
    ],
)
def test_what_a_server_refuses_is_said_as_it_was(place, call, monkeypatch, more, error, said):
    """The same words, and the same number of connections, as step by step."""
    made = count_connections(monkeypatch)
    with openssh(place, more=more) as server:
        with pytest.raises(error, match=said) as at_once:
            call(server.port, server.known_hosts())
        monkeypatch.setattr(ssh_login.Transport, "takes_input_in_order", False)
        with pytest.raises(error) as in_steps:
            call(server.port, server.known_hosts())
        assert str(at_once.value) == str(in_steps.value)
        assert made == [True, True]


@pytest.mark.real
@pytest.mark.parametrize("command", ["exit 3", "echo no such spool >&2; exit 127"])
def test_a_far_program_that_ends_at_once_is_heard(place, call, command):
    with openssh(place, command) as server:
        stream = call(server.port, server.known_hosts())
        assert stream.read(99) == b""
        assert stream.exit_status() == int(command.rpartition(" ")[2])
        assert stream.diagnostics() == ("no such spool" if "spool" in command else "")


@pytest.mark.real
def test_dropbear_takes_it_in_one_flight(place, call, monkeypatch):
    made = count_connections(monkeypatch)
    try:
        with Dropbear(place, [key_of(place)], "cat") as server:
            stream = call(server.port, server.known_hosts())
            assert read_exactly(stream, len(FIRST)) == FIRST
            assert transport_of(stream).takes_input_in_order
            key_of(place, "stranger")
            with pytest.raises(KeyRefused, match="accepts no key of ours"):
                call(server.port, server.known_hosts(), identities=("stranger",))
            stream = call(server.port, server.known_hosts(), identities=("stranger", "me"))
            assert read_exactly(stream, len(FIRST)) == FIRST
            assert made == [True, True, True]
    except Unavailable as why:
        pytest.skip(str(why))


def test_the_embedded_server_is_logged_in_to_step_by_step(place, call, monkeypatch):
    made = count_connections(monkeypatch)
    host_line = key_of(place, "host_key")
    with contextlib.closing(serve(f"{place}/host_key", {key_of(place): ["cat"]})) as server:
        stream = call(server.port, f"[127.0.0.1]:{server.port} {' '.join(host_line.split()[:2])}")
        assert read_exactly(stream, len(FIRST)) == FIRST
        assert not transport_of(stream).takes_input_in_order
        assert made == [True]


def test_asyncssh_is_logged_in_to_step_by_step(place, call):
    asyncssh = pytest.importorskip("asyncssh")
    host_line, key = key_of(place, "host_key"), key_of(place)
    Path(place, "authorized").write_text(f"{key}\n")

    async def echo(process):
        while data := await process.stdin.read(65536):
            process.stdout.write(data)
        process.exit(0)

    async def finish():
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    loop = asyncio.new_event_loop()
    options = {"server_host_keys": [f"{place}/host_key"], "authorized_client_keys": f"{place}/authorized"}
    listening = asyncssh.listen("127.0.0.1", 0, process_factory=echo, encoding=None, **options)
    server = loop.run_until_complete(listening)
    port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        stream = call(port, f"[127.0.0.1]:{port} {' '.join(host_line.split()[:2])}")
        assert read_exactly(stream, len(FIRST)) == FIRST
        stream.close()
    finally:
        asyncio.run_coroutine_threadsafe(finish(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


def test_a_server_that_gives_up_once_it_has_named_itself_is_called_again(place, call, monkeypatch):
    made = count_connections(monkeypatch)
    key_of(place)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            for _ in range(2):
                connected, _ = listener.accept()
                with connected:
                    connected.sendall(b"SSH-2.0-old\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(LineError, match="the SSH handshake failed"):
            call(listener.getsockname()[1], "")
        thread.join(20)
    assert made == [True, False]


def test_the_library_s_parts_that_are_driven_are_there():
    """What begins with an underscore may go in any release: a new one fails here, not on a line."""
    for name in ("_check_banner", "_send_kex_init", "_parse_kex_init", "_next_channel", "_send_message"):
        assert callable(getattr(paramiko.Transport, name))
    assert "curve25519-sha256@libssh.org" in paramiko.Transport._preferred_kex
