"""batchmail-lmtpd as it is started: real clients over TCP and unix sockets, many at once, and its end."""

import contextlib
import os
import selectors
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchmail.cli import lmtpd
from batchmail.cli.config import load
from batchmail.core.errors import SpoolError
from batchmail.store.spool import Spool
from batchmail.store.waiting import WaitingRoom, read_entry
from tests.cli.programs import BIN, CliSite
from tests.servers.host import free_port, wait_until
from tests.spools import Mail, read_text

HANG_S = 60.0
MESSAGE = b"Subject: one\r\n\r\n.dot\r\n..two\r\n"


class DoorSite(CliSite):
    """A site with the peers home and away, and a running door."""

    def __init__(self, directory: Path, door: str = "", reserve: str = "0"):
        self.port, self.path = free_port(), f"{directory}/s"
        entry = f'listen = ["unix:{self.path}"]\n[peers.away]\ndomains = [".far.example"]\nmax_message = 2000\n'
        top = f'reserve = {reserve}\n[door]\nlisten = "127.0.0.1:{self.port}"\n{door}\n'
        super().__init__(directory, "mx.example", "home", entry, top)
        self.configure(domains="home.example")
        self.process: subprocess.Popen[bytes]

    def start(self, **options: object) -> None:
        """With the word READY=1 that it says to systemd."""
        notify = f"{self.directory}/notify"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(notify)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(notify)
            ready.settimeout(HANG_S)
            command = [sys.executable, os.path.join(BIN, "batchmail-lmtpd"), "-c", self.config]
            self.process = subprocess.Popen(command, env={**os.environ, "NOTIFY_SOCKET": notify}, **options)  # type: ignore[call-overload]
            assert ready.recv(100) == b"READY=1"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANG_S)

    def workers(self) -> list[int]:
        """The processes that serve."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def smtp(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, timeout=HANG_S)

    def lmtp(self) -> smtplib.LMTP:
        return smtplib.LMTP(self.path, timeout=HANG_S)

    def connect(self) -> socket.socket:
        """A raw connection, its greeting read."""
        sock = socket.create_connection(("127.0.0.1", self.port), HANG_S)
        assert line_of(sock).startswith(b"220 mx.example ")
        return sock

    def waiting(self, peer: str = "home") -> list[Mail]:
        found = []
        for waiting in WaitingRoom(Spool(self.spool), peer).scan():
            entry, text = read_entry(waiting)
            found.append(Mail(entry, *read_text(b"".join(text()))))
        return found


def line_of(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        octet = sock.recv(1)
        if not octet:
            break
        line += octet
    return line


def reply_of(sock: socket.socket) -> bytes:
    """The last line of a reply."""
    while (line := line_of(sock))[3:4] == b"-":
        pass
    return line


def say(sock: socket.socket, text: bytes) -> bytes:
    sock.sendall(text)
    return reply_of(sock)


@pytest.fixture(params=[1, 2])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DoorSite]:
    site = DoorSite(tmp_path, f"workers = {request.param}")
    site.start()
    yield site
    if site.process.poll() is None:
        assert site.stop() == 0


def test_smtp_with_all_parameters(site: DoorSite) -> None:
    with site.smtp() as client:
        client.ehlo("mta.example")
        assert {"dsn", "size", "8bitmime", "smtputf8", "pipelining", "chunking", "xforward"} <= set(
            client.esmtp_features
        )
        assert client.docmd("XFORWARD", "NAME=c.example ADDR=192.0.2.7 HELO=helo IDENT=4A1")[0] == 250
        assert client.mail("a@b.example", ["ret=hdrs", "ENVID=x+2Bz"])[0] == 250
        assert client.rcpt("r@home.example", ["NOTIFY=SUCCESS,delay", "ORCPT=rfc822;r+2B@x.example"])[0] == 250
        code, text = client.data(MESSAGE)
    assert (code, text[:16]) == (250, b"2.0.0 queued as ")
    (mail,) = site.waiting()
    assert mail.entry.id == text.split()[-1].decode()
    assert mail.content == MESSAGE
    assert [bytes(p) for p in mail.envelope.parameters] == [b"ret=hdrs", b"ENVID=x+2Bz"]
    (recipient,) = mail.envelope.recipients
    assert [bytes(p) for p in recipient.parameters] == [b"NOTIFY=SUCCESS,delay", b"ORCPT=rfc822;r+2B@x.example"]
    assert (mail.entry.queue_id, mail.entry.client.name, mail.entry.client.address) == (
        "4A1",
        b"c.example",
        b"192.0.2.7",
    )


def test_lmtp_over_a_unix_socket(site: DoorSite) -> None:
    """Any domain: the socket is the peer's."""
    assert os.stat(site.path).st_mode & 0o777 == 0o660
    with site.lmtp() as client:
        assert client.sendmail("", ["b@elsewhere.example"], MESSAGE) == {}
    (mail,) = site.waiting()
    assert [recipient.address for recipient in mail.envelope.recipients] == [b"b@elsewhere.example"]
    assert mail.envelope.sender == b""


def test_recipients_of_several_peers(site: DoorSite) -> None:
    with site.smtp() as client:
        rcpts = ["1@home.example", "2@mx.far.example", "3@home.example", "4@far.example"]
        refused = client.sendmail("s@b.example", rcpts, MESSAGE)
    assert refused == {"4@far.example": (550, b"5.1.2 no peer takes mail for far.example")}
    for peer, addresses in (("home", [b"1@home.example", b"3@home.example"]), ("away", [b"2@mx.far.example"])):
        (mail,) = site.waiting(peer)
        assert [recipient.address for recipient in mail.envelope.recipients] == addresses
        assert mail.content == MESSAGE


def test_lmtp_tells_each_recipient_what_its_peer_takes(site: DoorSite) -> None:
    """One of the peers takes no large message: known by SIZE at once, else with the content."""
    large = b"x" * 78 + b"\r\n"
    with site.connect() as sock:
        say(sock, b"LHLO me\r\n")
        say(sock, b"MAIL FROM:<a@b.example> SIZE=5000\r\n")
        assert say(sock, b"RCPT TO:<1@mx.far.example>\r\n").startswith(b"552 5.3.4 away ")
        say(sock, b"RSET\r\n")
        say(sock, b"MAIL FROM:<a@b.example>\r\n")
        say(sock, b"RCPT TO:<1@mx.far.example>\r\n")
        say(sock, b"RCPT TO:<2@home.example>\r\n")
        assert say(sock, b"DATA\r\n").startswith(b"354")
        assert say(sock, large * 50 + b".\r\n").startswith(b"552 5.3.4 ")
        assert reply_of(sock).startswith(b"250 2.0.0 ")
    assert len(site.waiting("home")) == 1
    assert site.waiting("away") == []


def test_chunks(site: DoorSite) -> None:
    with site.connect() as sock:
        say(sock, b"EHLO me\r\n")
        sock.sendall(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<r@home.example>\r\nBDAT 5\r\n.\r\nab")
        assert [reply_of(sock)[:3] for _ in range(3)] == [b"250"] * 3
        assert say(sock, b"BDAT 6 LAST\r\nc\r\n.\r\n").startswith(b"250 2.0.0 queued as ")
    assert [mail.content for mail in site.waiting()] == [b".\r\nabc\r\n.\r\n"]


def test_a_second_offer_is_queued_once(site: DoorSite) -> None:
    """By IDENT, or by the id of the topmost Received: line; a message without either is another each time."""
    received = b"Received: from x by mx (MTA id 0) with ESMTP id Q1;\r\n\tFri, 20 Nov 2026 10:00:00 +0000\r\n"
    answers = []
    with site.smtp() as client:
        client.ehlo("me")
        for ident, content in (("A", MESSAGE), ("A", MESSAGE), ("B", MESSAGE), ("", received + MESSAGE)):
            for _ in range(2):
                if ident:
                    client.docmd("XFORWARD", f"IDENT={ident}")
                client.mail("a@b.example")
                client.rcpt("r@home.example")
                answers.append(client.data(content)[1])
    assert len(set(answers[:4])) == len(set(answers[4:6])) == len(set(answers[6:])) == 1
    assert len(site.waiting()) == 3
    with site.smtp() as client:
        for _ in range(2):
            client.sendmail("a@b.example", ["r@home.example"], MESSAGE)
    assert len(site.waiting()) == 5


@pytest.mark.parametrize("content", [b"a\0b\r\n", b"x" * 2500 + b"\r\n"], ids=["NUL", "large"])
def test_content_that_is_refused_leaves_nothing(site: DoorSite, content: bytes) -> None:
    with site.connect() as sock:
        for command in (b"HELO me", b"MAIL FROM:<a@b.example>", b"RCPT TO:<r@mx.far.example>"):
            assert say(sock, command + b"\r\n").startswith(b"250")
        assert say(sock, b"DATA\r\n").startswith(b"354")
        assert say(sock, content + b".\r\n").startswith((b"552 5.3.4", b"554 5.6.0"))
        assert say(sock, b"NOOP\r\n").startswith(b"250")
    assert site.waiting("away") == []
    assert os.listdir(f"{site.spool}/tmp") == []


def test_a_thousand_idle_connections_and_others_served(tmp_path: Path) -> None:
    site = DoorSite(tmp_path, "connections = 1002\nworkers = 2")
    site.start()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", site.port), HANG_S)) for _ in range(1000)]
        for sock in idle:
            assert line_of(sock).startswith(b"220 ")
        client, other = stack.enter_context(site.lmtp()), stack.enter_context(site.connect())
        for _ in range(3):
            client.sendmail("a@b.example", ["r@home.example"], MESSAGE)
        too_many = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), HANG_S))
        assert line_of(too_many).startswith(b"421 4.7.0 ")
        assert line_of(too_many) == b""
        for pid in (site.process.pid, *site.workers()):
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                memory_kib = int(file.read().partition("VmRSS:")[2].split()[0])
            assert memory_kib < 64 << 10
        assert client.noop()[0] == 250 and say(other, b"NOOP\r\n").startswith(b"250")
    assert len(site.waiting()) == 3
    assert site.stop() == 0


def test_who_does_not_read_is_not_read_from(site: DoorSite) -> None:
    """Commands are sent until no more are taken, or the client is told to go; meanwhile others are served."""
    with site.connect() as sock, selectors.DefaultSelector() as selector:
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_WRITE)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while selector.select(1.0):
                sent += sock.send(b"EHLO x\r\n" * 8000)
                assert sent < 100 << 20
        with site.lmtp() as client:
            client.sendmail("a@b.example", ["r@home.example"], MESSAGE)
    assert len(site.waiting()) == 1


def test_a_slow_writer(site: DoorSite) -> None:
    """Octet by octet, with others between."""
    text = b"EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<r@home.example>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"
    with site.connect() as sock:
        for place in range(len(text)):
            sock.sendall(text[place : place + 1])
            if place % 20 == 0:
                with site.smtp() as other:
                    other.noop()
        replies = []
        while line := reply_of(sock):
            replies.append(line[:3])
    assert replies == [b"250", b"250", b"250", b"354", b"250", b"221"]
    assert [mail.content for mail in site.waiting()] == [b"hello\r\n"]


def test_it_ends_with_421_and_exit_0(site: DoorSite) -> None:
    with site.connect() as idle, site.connect() as busy:
        say(busy, b"EHLO me\r\n")
        say(busy, b"MAIL FROM:<a@b.example>\r\n")
        say(busy, b"RCPT TO:<r@home.example>\r\n")
        say(busy, b"DATA\r\n")
        busy.sendall(b"half of it\r\n")
        site.process.send_signal(signal.SIGTERM)
        assert line_of(idle).startswith(b"421 4.3.2 ")
        assert line_of(busy).startswith(b"421 4.3.2 ")
        assert line_of(idle) == line_of(busy) == b""
    assert site.process.wait(HANG_S) == 0
    assert site.waiting() == []
    assert not os.path.exists(site.path)


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """Who was connected to it offers again; the others notice nothing."""
    site = DoorSite(tmp_path, "connections = 3\nworkers = 2")
    site.start()
    first = site.workers()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(site.connect()) for _ in range(3)]
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        for sock in idle:
            assert line_of(sock) == b""
    wait_until(lambda: len(set(site.workers()) - set(first)) == 2, "other workers")
    wait_until(lambda: _serves(site, 3), "room for as many connections as before")
    wait_until(lambda: _takes_mail(site), "their end")
    assert len(site.waiting()) == 1
    assert site.stop() == 0


def _takes_mail(site: DoorSite) -> bool:
    try:
        with site.lmtp() as client:
            client.sendmail("a@b.example", ["r@home.example"], MESSAGE)
    except smtplib.SMTPConnectError:  # connections that were closed here are still counted there
        return False
    return True


def _serves(site: DoorSite, connections: int) -> bool:
    with contextlib.ExitStack() as stack:
        address = "127.0.0.1", site.port
        socks = [stack.enter_context(socket.create_connection(address, HANG_S)) for _ in range(connections)]
        return all(line_of(sock).startswith(b"220 ") for sock in socks)


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    """They close the sockets at once, and give the answers that are due."""
    site = DoorSite(tmp_path, "workers = 2")
    site.start()
    workers = site.workers()
    with site.connect() as sock:
        site.process.kill()
        site.process.wait(HANG_S)
        assert line_of(sock).startswith(b"421 4.3.2 ")
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "the workers' end")
    site.start()  # at the same addresses
    assert site.stop() == 0


def test_no_room_is_452_until_there_is(tmp_path: Path) -> None:
    site = DoorSite(tmp_path, reserve='"1000T"')
    site.start()
    with site.smtp() as client:
        with pytest.raises(smtplib.SMTPDataError) as caught:
            client.sendmail("a@b.example", ["r@home.example"], MESSAGE)
        assert caught.value.smtp_code == 452
        assert caught.value.smtp_error.startswith(b"4.3.1 only ")
        site.configure(top=site.top.replace('"1000T"', "0"))
        assert site.run("setup").returncode == 0
        client.sendmail("a@b.example", ["r@home.example"], MESSAGE)  # the same connection
    assert len(site.waiting()) == 1
    assert site.stop() == 0


def test_a_peer_that_setup_adds_is_known_at_once(site: DoorSite) -> None:
    with site.smtp() as client:
        assert client.sendmail("a@b.example", ["r@home.example"], MESSAGE) == {}
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("a@b.example", ["r@new.example"], MESSAGE)
        site.configure(entry=f'{site.entry}[peers.new]\ndomains = ["new.example"]\n')
        assert site.run("setup").returncode == 0
        assert client.sendmail("a@b.example", ["r@new.example"], MESSAGE) == {}
    assert len(site.waiting("new")) == 1


def test_sockets_of_systemd(tmp_path: Path) -> None:
    """Two of them, one for a peer and one for all; the configuration's own are not made."""
    site = DoorSite(tmp_path)
    for_all, for_home = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    for_home.bind(f"{tmp_path}/passed")
    for_home.listen()
    script = (
        "import fcntl, os, sys\n"
        f"a, b = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in ({for_all.fileno()}, {for_home.fileno()}))\n"
        "os.dup2(a, 3); os.dup2(b, 4)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='table:home')\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    notify = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(notify)
        ready.settimeout(HANG_S)
        site.process = subprocess.Popen(
            [sys.executable, "-c", script, os.path.join(BIN, "batchmail-lmtpd"), "-c", site.config],
            env={**os.environ, "NOTIFY_SOCKET": notify},
            pass_fds=(for_all.fileno(), for_home.fileno()),
        )
        assert ready.recv(100) == b"READY=1"
    with socket.create_connection(for_all.getsockname(), HANG_S) as sock:
        replies = [reply_of(sock), say(sock, b"EHLO me\r\n"), say(sock, b"MAIL FROM:<a@b.example>\r\n")]
        assert [reply[:3] for reply in replies] == [b"220", b"250", b"250"]
        assert say(sock, b"RCPT TO:<r@z.example>\r\n").startswith(b"550 5.1.2 ")
    with smtplib.LMTP(f"{tmp_path}/passed", timeout=HANG_S) as client:
        client.sendmail("a@b.example", ["r@z.example"], MESSAGE)
    assert len(site.waiting()) == 1
    assert not os.path.exists(site.path)
    assert site.stop() == 0
    for_all.close()
    for_home.close()


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(site: DoorSite) -> None:
    command = [sys.executable, os.path.join(BIN, "batchmail-lmtpd"), "-c", site.config]
    site.configure(top=site.top.replace(str(site.port), str(free_port())))
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 78
    assert f"unix:{site.path}: another program serves it" in done.stderr
    site.process.kill()
    site.process.wait(HANG_S)
    assert os.path.exists(site.path)
    site.configure(top=site.top)
    site.start()
    with site.lmtp() as client:
        client.sendmail("a@b.example", ["r@home.example"], MESSAGE)
    assert len(site.waiting()) == 1


def test_what_one_left_that_was_killed_before_its_socket_had_its_name(tmp_path: Path) -> None:
    """Its number may be ours now, as the first process of a container has always the same."""
    here = CliSite(tmp_path, "mx.example", "home", f'listen = ["unix:{tmp_path}/s"]\n')
    here.configure()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/s.{os.getpid()}")
    made: dict[str, os.stat_result] = {}
    (entrance,) = lmtpd._listen(load(here.config), made)
    entrance.sock.close()
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("s")) == ["s", "spool"]


def test_another_user_than_the_owner_is_told_of_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = CliSite(tmp_path, "mx.example", "home", f'listen = ["unix:{tmp_path}/s"]\n')
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(SpoolError, match=r"belongs to .*, this program runs as 54321"):
        list(lmtpd._listen(load(here.config), {}))


def test_the_socket_of_who_has_begun_meanwhile_stays(site: DoorSite) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{site.path}.new")
        os.rename(f"{site.path}.new", site.path)
        assert site.stop() == 0
        assert os.path.exists(site.path)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["x"], 64, "unknown argument x"),
        (["-c"], 64, "-c needs a value"),
        (["-c", "/nonexistent/b.toml"], 78, "/nonexistent/b.toml: No such file"),
    ],
)
def test_arguments_that_are_wrong(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert lmtpd.main(arguments) == code
    assert said in capsys.readouterr().err


def test_nowhere_to_listen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.toml"
    path.write_text(f'site = "mx.example"\nspool = "{tmp_path}/spool"\n[peers.home]\n')
    assert lmtpd.main(["-c", str(path)]) == 78
    assert "nowhere to listen: set listen = " in capsys.readouterr().err
