"""Calls by SSH, to the embedded server and, where it can be had, to OpenSSH's sshd."""

import base64
import contextlib
import hashlib
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
from typing import NamedTuple

import pytest

from batchmail.core.errors import KeyRefused, LineError
from batchmail.wire import ssh
from batchmail.wire.dial import Dialing
from batchmail.wire.keys import ensure_key
from batchmail.wire.known_hosts import fingerprint
from batchmail.wire.ssh import connect_ssh, host_key_lines
from batchmail.wire.ssh_address import SshAddress
from batchmail.wire.ssh_server import serve
from batchmail.wire.stream import Program
from tests.servers.host import Unavailable, free_port, open_directory, wait_until
from tests.servers.sshd import Sshd, quote

ECHO = ("cat",)
SILENT = ("tail", "-f", "/dev/null")
FAILS = ("sh", "-c", "echo 'no such spool' >&2; exit 127")
CHATTY = ("sh", "-c", "head -c 6000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; cat")
MEBIBYTE = bytes(range(256)) * 4096
# Says all it has to say before it listens at all, then what it heard.
TALKS_FIRST = (
    sys.executable,
    "-c",
    "import hashlib, sys\n"
    "for _ in range(8): sys.stdout.buffer.write(bytes(range(256)) * 4096)\n"
    "sys.stdout.flush()\n"
    "print(hashlib.sha256(sys.stdin.buffer.read(8 << 20)).hexdigest(), end='', flush=True)\n",
)


class Far(NamedTuple):
    """A server that runs a forced command."""

    port: int
    known: str


def key_of(path):
    return ensure_key(str(path), "test")[0]


def fingerprint_of(line):
    return fingerprint(base64.b64decode(line.split()[1]))


@contextlib.contextmanager
def embedded(directory, forced):
    host_line = key_of(os.path.join(directory, "host_key"))
    server = serve(os.path.join(directory, "host_key"), forced)
    try:
        yield Far(server.port, f"[127.0.0.1]:{server.port} {' '.join(host_line.split()[:2])}")
    finally:
        server.close()


@contextlib.contextmanager
def openssh(directory, forced, more=""):
    try:
        server = Sshd(directory, more=more)
    except Unavailable as why:
        pytest.skip(str(why))
    for number, (line, arguments) in enumerate(forced.items()):
        script = server.write(f"forced{number}", f"exec {quote(arguments)}\n")  # authorized_keys takes one line
        server.authorize_line(f'restrict,command="sh {script}" {line}')
    with server:
        yield Far(server.port, server.known_hosts())


KINDS = [pytest.param(embedded, id="embedded"), pytest.param(openssh, id="sshd", marks=pytest.mark.real)]


@pytest.fixture(params=KINDS)
def far_side(request):
    """Start a server: far_side({public key line: arguments}) -> Far."""
    with contextlib.ExitStack() as stack:

        def start(forced, **more):
            return stack.enter_context(request.param(stack.enter_context(open_directory()), forced, **more))

        yield start


@pytest.fixture
def sshd():
    with contextlib.ExitStack() as stack:

        def start(forced, more=""):
            return stack.enter_context(openssh(stack.enter_context(open_directory()), forced, more))

        yield start


@pytest.fixture
def known_hosts(tmp_path):
    def write(*lines):
        (tmp_path / "known_hosts").write_text("".join(f"{line}\n" for line in lines))
        return str(tmp_path / "known_hosts")

    return write


@pytest.fixture
def call(tmp_path):
    """call(far, known_hosts=…) -> stream, closed after the test."""
    (tmp_path / "ssh_config").write_text("")
    with contextlib.ExitStack() as stack:

        def connect(far, *, known_hosts=(), identities=("me",), host="127.0.0.1", **more):
            options = {
                "use_agent": False,
                "config_file": str(tmp_path / "ssh_config"),
                "connect_timeout_s": 20.0,
            } | more
            files = (known_hosts,) if isinstance(known_hosts, str) else known_hosts
            paths = tuple(str(tmp_path / name) for name in identities)
            address = SshAddress("root", host, far.port)
            return stack.enter_context(
                contextlib.closing(connect_ssh(address, identities=paths, known_hosts=files, **options))
            )

        yield connect


def read_to_end(stream):
    return b"".join(iter(lambda: stream.read(65536), b""))


def read_exactly(stream, octets):
    data = bytearray()
    while len(data) < octets and (more := stream.read(65536)):
        data += more
    return bytes(data)


def test_what_is_written_arrives_and_comes_back(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): ECHO})
    stream = call(far, known_hosts=known_hosts(far.known))
    stream.write(b"there and back\r\n\0")
    assert read_exactly(stream, 17) == b"there and back\r\n\0"
    assert stream.exit_status() is None


def test_a_connection_that_was_made_ahead_is_used(far_side, call, known_hosts, tmp_path, monkeypatch):
    far = far_side({key_of(tmp_path / "me"): ECHO})
    dialing = Dialing("127.0.0.1", far.port, 20.0)
    monkeypatch.setattr(ssh, "dial", lambda *_: pytest.fail("it was dialled again"))
    stream = call(far, known_hosts=known_hosts(far.known), dialing=dialing)
    stream.write(b"x")
    assert read_exactly(stream, 1) == b"x"


def test_a_connection_to_another_place_is_not(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): ECHO})
    with socket.create_server(("127.0.0.1", 0)) as other:
        dialing = Dialing(*other.getsockname(), 20.0)
        stream = call(far, known_hosts=known_hosts(far.known), dialing=dialing)
        stream.write(b"x")
        assert read_exactly(stream, 1) == b"x"
        dialing.take().close()


def test_an_ipv6_or_second_address_of_the_host_will_do(far_side, call, known_hosts, tmp_path, monkeypatch):
    far = far_side({key_of(tmp_path / "me"): ECHO})
    nobody = ("127.0.0.1", free_port())
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in (nobody, ("127.0.0.1", far.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    stream = call(far, host="mx.test", known_hosts=known_hosts(far.known.replace("127.0.0.1", "mx.test")))
    stream.write(b"x")
    assert stream.read(9) == b"x"


def test_the_second_key_of_several_is_tried(far_side, call, known_hosts, tmp_path):
    key_of(tmp_path / "stranger")
    far = far_side({key_of(tmp_path / "me"): ECHO})
    stream = call(far, known_hosts=known_hosts(far.known), identities=("missing", "stranger", "me"))
    stream.write(b"x")
    assert stream.read(9) == b"x"


@pytest.mark.real
@pytest.mark.parametrize(
    "options", [["-t", "rsa"], ["-t", "ecdsa"], ["-t", "ecdsa", "-b", "521"], ["-t", "rsa", "-m", "PEM"]]
)
def test_keys_of_every_kind_log_in(sshd, call, known_hosts, tmp_path, options):
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", tmp_path / "me", *options], check=True)
    far = sshd({(tmp_path / "me.pub").read_text().strip(): ECHO})
    stream = call(far, known_hosts=known_hosts(far.known))
    stream.write(b"x")
    assert stream.read(9) == b"x"


def test_a_key_that_is_not_accepted_is_named_with_what_to_do(far_side, call, known_hosts, tmp_path):
    key_of(tmp_path / "me")
    ours = key_of(tmp_path / "stranger")
    far = far_side({key_of(tmp_path / "me"): ECHO})
    with pytest.raises(KeyRefused) as refused:
        call(far, known_hosts=known_hosts(far.known), identities=("stranger", "missing"))
    said = str(refused.value)
    for part in (
        f"127.0.0.1:{far.port}",
        "root",
        "stranger",
        fingerprint_of(ours),
        "missing cannot be read",
        "batchmail key",
    ):
        assert part in said
    assert "\n" not in said


@pytest.mark.real
def test_a_server_that_hangs_up_after_too_many_keys_has_refused_them(sshd, call, known_hosts, tmp_path):
    names = [f"stranger{n}" for n in range(4)]
    for name in names:
        key_of(tmp_path / name)
    far = sshd({key_of(tmp_path / "me"): ECHO}, more="MaxAuthTries 2")
    with pytest.raises(KeyRefused, match="hung up"):
        call(far, known_hosts=known_hosts(far.known), identities=(*names, "me"))


@pytest.mark.real
def test_a_server_that_wants_more_than_a_key_is_not_logged_in_to(sshd, call, known_hosts, tmp_path):
    far = sshd({key_of(tmp_path / "me"): ECHO}, more="AuthenticationMethods publickey,publickey")
    with pytest.raises(KeyRefused):
        call(far, known_hosts=known_hosts(far.known))


@pytest.mark.real
def test_a_server_that_takes_no_keys(sshd, call, known_hosts, tmp_path):
    far = sshd({key_of(tmp_path / "me"): ECHO}, more="PubkeyAuthentication no")
    with pytest.raises(KeyRefused, match="does not let root log in with a key; it offers nothing"):
        call(far, known_hosts=known_hosts(far.known))


def test_without_any_key_no_call_is_made(call, tmp_path):
    with pytest.raises(KeyRefused, match=r"missing cannot be read: No such file.*`batchmail key PEER` makes one"):
        call(Far(1, ""), identities=("missing",))


@pytest.mark.real
def test_a_key_with_a_passphrase_needs_the_agent(sshd, call, known_hosts, tmp_path, monkeypatch):
    path = str(tmp_path / "me")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", path], check=True)
    far = sshd({(tmp_path / "me.pub").read_text().strip(): ECHO}, more="MaxAuthTries 2")
    with pytest.raises(KeyRefused, match="has a passphrase"):
        call(far, known_hosts=known_hosts(far.known))
    with ssh_agent(tmp_path) as where:
        monkeypatch.setenv("SSH_AUTH_SOCK", where)
        with pytest.raises(KeyRefused, match="has a passphrase"):
            call(far, known_hosts=known_hosts(far.known), use_agent=True)
        for n in range(3):  # more keys than the server lets us try
            key_of(tmp_path / f"other{n}")
            subprocess.run(["ssh-add", "-q", tmp_path / f"other{n}"], check=True, stderr=subprocess.DEVNULL)
        subprocess.run(
            ["ssh-keygen", "-q", "-p", "-P", "secret", "-N", "", "-f", path], check=True, stdout=subprocess.DEVNULL
        )
        subprocess.run(["ssh-add", "-q", path], check=True, stderr=subprocess.DEVNULL)
        subprocess.run(
            ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", path], check=True, stdout=subprocess.DEVNULL
        )
        stream = call(far, known_hosts=known_hosts(far.known), use_agent=True)
        stream.write(b"x")
        assert stream.read(9) == b"x"


@contextlib.contextmanager
def ssh_agent(directory):
    where = str(directory / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", where], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.exists(where), "the agent's socket")
        yield where
    finally:
        agent.terminate()
        agent.wait()


def test_an_unknown_host_is_not_logged_in_to(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): ECHO})
    file = known_hosts("elsewhere.example ssh-ed25519 AAAA")
    with pytest.raises(KeyRefused, match="unknown host key") as refused:
        call(far, known_hosts=file)
    for part in (f"[127.0.0.1]:{far.port}", fingerprint_of(far.known.partition(" ")[2]), file, "batchmail key PEER"):
        assert part in str(refused.value)


@pytest.mark.real
def test_the_remedy_for_a_changed_key_is_one(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): ECHO})
    name, _, new = far.known.partition(" ")
    old = key_of(tmp_path / "old")
    file = known_hosts("# comment", f"{name} {old}")
    with pytest.raises(KeyRefused, match="CHANGED") as refused:
        call(far, known_hosts=file)
    for part in (fingerprint_of(old), fingerprint_of(new), f"{file} line 2"):
        assert part in str(refused.value)
    remedy = re.search(r"ssh-keygen -R .*?(?=, then)", str(refused.value))[0]
    subprocess.run(["sh", "-c", remedy], check=True, capture_output=True)
    with open(file, "a") as lines:
        lines.write(far.known + "\n")
    call(far, known_hosts=file)


@pytest.mark.real
@pytest.mark.parametrize("known_type", ["rsa", "ecdsa", "ed25519"])
def test_the_host_is_asked_for_a_key_that_is_known(sshd, call, known_hosts, tmp_path, known_type):
    for kind in ("rsa", "ecdsa"):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / kind], check=True)
    more = f"HostKey {tmp_path}/rsa\nHostKey {tmp_path}/ecdsa"
    far = sshd({key_of(tmp_path / "me"): ECHO}, more=more)
    lines = {line.line.split()[1]: line.line for line in host_key_lines(
        SshAddress("root", "127.0.0.1", far.port), config_file=str(tmp_path / "ssh_config"), connect_timeout_s=20
    )}  # fmt: skip
    assert set(lines) == {"ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519"}
    assert lines["ssh-ed25519"] == far.known
    (line,) = (line for kind, line in lines.items() if known_type in kind)
    call(far, known_hosts=known_hosts(line))


def test_the_scanned_lines_make_a_host_known(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): ECHO})
    (tmp_path / "ssh_config").write_text("")
    address = SshAddress("root", "127.0.0.1", far.port)
    (found,) = host_key_lines(address, config_file=str(tmp_path / "ssh_config"), connect_timeout_s=20)
    assert found.line == far.known
    assert found.fingerprint == fingerprint_of(far.known.partition(" ")[2])
    call(far, known_hosts=known_hosts(found.line))


@contextlib.contextmanager
def tcp_server(talk):
    """Give each connection to `talk`; the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connected, _ = listener.accept()
                    with connected, contextlib.suppress(OSError):
                        talk(connected)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield Far(listener.getsockname()[1], "")
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def greet_and_hang_up(connected):
    connected.sendall(b"SSH-2.0-test\r\n")


def speak_smtp(connected):
    connected.sendall(b"220 \x1b[2Jmx.example.net ESMTP\r\n" * 200)
    connected.recv(1000)


def say_nothing(connected):
    while connected.recv(1000):
        pass


@pytest.mark.parametrize(
    ("talk", "timeout_s", "said"),
    [
        (lambda _: None, 20, "SSH handshake failed"),
        (greet_and_hang_up, 20, "SSH handshake failed"),
        (speak_smtp, 20, "SSH handshake failed"),
        (say_nothing, 0.3, "no answer in 0.3 s"),
    ],
    ids=["hangs up", "greets and hangs up", "no sshd", "silent"],
)
def test_no_ssh_is_a_line_error_and_nothing_is_printed(call, tmp_path, capfd, talk, timeout_s, said):
    key_of(tmp_path / "me")
    with tcp_server(talk) as far, pytest.raises(LineError) as failed:
        call(far, connect_timeout_s=timeout_s)
    assert said in str(failed.value)
    assert f"127.0.0.1:{far.port}" in str(failed.value)
    assert str(failed.value).isprintable()
    assert capfd.readouterr() == ("", "")


def test_nobody_listens(call, tmp_path):
    key_of(tmp_path / "me")
    port = free_port()
    with pytest.raises(LineError, match=f"cannot reach 127.0.0.1:{port}: 127.0.0.1: Connection refused"):
        call(Far(port, ""))


def test_a_name_that_cannot_be(call, tmp_path):
    key_of(tmp_path / "me")
    with pytest.raises(LineError, match=r"cannot look up mx\.\.example:22"):
        call(Far(22, ""), host="mx..example")


def test_a_far_program_that_fails_is_heard(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): FAILS})
    stream = call(far, known_hosts=known_hosts(far.known))
    assert read_to_end(stream) == b""
    assert isinstance(stream, Program)
    assert stream.diagnostics() == "no such spool"
    assert stream.exit_status() == 127
    assert stream.place == f"127.0.0.1:{far.port}"


def test_what_a_far_program_complains_does_not_stop_the_call_or_fill_memory(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): CHATTY})
    stream = call(far, known_hosts=known_hosts(far.known))
    stream.write(b"x")
    assert stream.read(9) == b"x"
    wait_until(lambda: stream.diagnostics().endswith("the end"), "the end of the complaints")
    assert len(stream.diagnostics()) <= 2048


def test_both_directions_at_once(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): TALKS_FIRST})
    stream = call(far, known_hosts=known_hosts(far.known))
    writer = threading.Thread(target=lambda: [stream.write(MEBIBYTE) for _ in range(8)])
    writer.start()
    received = read_exactly(stream, (8 << 20) + 64)
    writer.join()
    assert received[: 8 << 20] == MEBIBYTE * 8
    assert received[8 << 20 :].decode() == hashlib.sha256(MEBIBYTE * 8).hexdigest()


@pytest.mark.real
def test_new_session_keys_in_the_middle(sshd, call, known_hosts, tmp_path):
    far = sshd({key_of(tmp_path / "me"): ECHO}, more="RekeyLimit 1M")
    stream = call(far, known_hosts=known_hosts(far.known))
    writer = threading.Thread(target=lambda: [stream.write(MEBIBYTE) for _ in range(8)])
    writer.start()
    assert read_exactly(stream, 8 << 20) == MEBIBYTE * 8
    writer.join()


def test_close_ends_a_read_that_waits(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): SILENT})
    stream = call(far, known_hosts=known_hosts(far.known))
    ends = []
    reader = threading.Thread(target=lambda: ends.append(stream.read(1)))
    reader.start()
    stream.close()
    reader.join()
    assert ends == [b""]


def test_close_ends_a_write_that_waits(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): SILENT})
    stream = call(far, known_hosts=known_hosts(far.known))
    ends = []

    def write_for_ever():
        try:
            while True:
                stream.write(MEBIBYTE)
        except LineError as error:
            ends.append(error)

    writer = threading.Thread(target=write_for_ever)
    writer.start()
    wait_until(lambda: stream._channel.out_window_size == 0, "the window to be used up")
    stream.close()
    writer.join()
    assert len(ends) == 1


class Relay:
    """A line between us and the server, which can break in two ways."""

    def __init__(self, to_port):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that a silent line is soon full
        self.port = self._listener.getsockname()[1]
        self._dead = threading.Event()
        self._to_port = to_port
        self._sockets = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._to_port))
        self._sockets = [near, far]
        for pair in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source, to):
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and not self._dead.is_set():
                to.sendall(data)
        self._dead.wait()  # pass on no end

    def go_silent(self):
        self._dead.set()

    def cut(self):
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._dead.set()
        for end in (*self._sockets, self._listener):
            end.close()


@pytest.fixture
def relayed(far_side, call, known_hosts, tmp_path):
    """A call over a relay: (stream, relay)."""

    @contextlib.contextmanager
    def start(arguments):
        far = far_side({key_of(tmp_path / "me"): arguments})
        with contextlib.closing(Relay(far.port)) as relay:
            known = far.known.replace(str(far.port), str(relay.port))
            yield call(Far(relay.port, known), known_hosts=known_hosts(known)), relay

    return start


def test_a_line_that_is_cut_is_not_an_end(relayed):
    with relayed(SILENT) as (stream, relay):
        relay.cut()
        with pytest.raises(LineError, match="was cut"):
            stream.read(1)
        with pytest.raises(LineError, match="was cut"):
            stream.write(b"x")


def test_a_dead_line_can_be_closed_while_a_write_waits(relayed):
    with relayed(SILENT) as (stream, relay):
        sock = stream._connection._socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        relay.go_silent()
        ends = []

        def write_for_ever():
            try:
                while True:
                    stream.write(MEBIBYTE)
            except LineError as error:
                ends.append(error)

        writer = threading.Thread(target=write_for_ever)
        writer.start()
        reader = threading.Thread(target=lambda: stream.read(1))
        reader.start()
        wait_until(lambda: not select.select([], [sock], [], 0)[1], "the line to be full")
        stream.close()
        writer.join()
        reader.join()
        assert len(ends) == 1


def proxy_script(tmp_path):
    """A program that connects its standard input and output to a port."""
    script = tmp_path / "relay.py"
    script.write_text(
        "import os, socket, sys, threading\n"
        "sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): sock.sendall(data)\n"
        "    sock.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := sock.recv(65536): os.write(1, data)\n"
    )
    return f"exec {sys.executable} {script}"


def test_a_proxy_command(far_side, call, known_hosts, tmp_path):
    far = far_side({key_of(tmp_path / "me"): ECHO})
    (tmp_path / "ssh_config").write_text(
        f"Host mx.test\n HostName 127.0.0.1\n Port 9\n User nobody\n ProxyCommand {proxy_script(tmp_path)} %h %p\n"
    )
    stream = call(far, host="mx.test", known_hosts=known_hosts(far.known))
    stream.write(b"x")
    assert stream.read(9) == b"x"
    child = stream._connection._proxy._child
    stream.close()
    assert child.returncode is not None


def test_a_proxy_command_that_fails_is_heard(call, tmp_path):
    key_of(tmp_path / "me")
    (tmp_path / "ssh_config").write_text("ProxyCommand sh -c 'echo no route to %h >&2'\n")
    with pytest.raises(LineError, match=r"no route to mx\.test"):
        call(Far(22, ""), host="mx.test")


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh")
def test_a_proxy_jump(call, known_hosts, tmp_path):
    with open_directory() as directory:
        server = Sshd(directory)
        server.authorize_line(f'restrict,command="{quote(ECHO)}" {key_of(tmp_path / "me")}')
        server.authorize_line(key_of(tmp_path / "jumper"))
        with server:
            file = known_hosts(server.known_hosts(), server.known_hosts("localhost"))
            (tmp_path / "ssh_config").write_text(
                f"Host hop\n HostName 127.0.0.1\n Port {server.port}\n User root\n IdentityFile {tmp_path}/jumper\n"
                f"Host *\n UserKnownHostsFile {file}\n"
                "Host localhost\n ProxyJump hop\n"
            )
            stream = call(Far(server.port, ""), host="localhost")
            stream.write(b"through")
            assert read_exactly(stream, 7) == b"through"


@pytest.mark.real
def test_the_embedded_server_serves_nothing_else(tmp_path):
    if not shutil.which("ssh"):
        pytest.skip("no ssh")
    with embedded(str(tmp_path), {key_of(tmp_path / "me"): ("echo", "forced")}) as far:
        (tmp_path / "kh").write_text(far.known + "\n")
        base = [
            "ssh",
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            f"UserKnownHostsFile={tmp_path}/kh",
            "-p",
            str(far.port),
        ]
        me = ["-o", "IdentitiesOnly=yes", "-i", str(tmp_path / "me"), "root@127.0.0.1"]

        def ssh(*arguments):
            return subprocess.run([*base, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)

        assert ssh(*me, "rm", "-rf", "x").stdout == "forced\n"
        assert ssh("-W", "127.0.0.1:1", *me).returncode == 255
        key_of(tmp_path / "stranger")
        assert (
            "Permission denied"
            in ssh("-o", "IdentitiesOnly=yes", "-i", str(tmp_path / "stranger"), "root@127.0.0.1").stderr
        )
