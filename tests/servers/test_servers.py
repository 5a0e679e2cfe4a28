"""Each server does what the other tests rely on, and leaves nothing running."""

import os
import pwd
import smtplib
import socket
import ssl
import subprocess
import threading
from collections.abc import Sequence

import pytest

from tests.servers.daemon import Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.exim import Exim, pipe_router, pipe_transport
from tests.servers.host import LOOPBACK, Delivered, Factory, Installed, answers, readable_by_all, wait_until
from tests.servers.link import Direction, Link
from tests.servers.opensmtpd import OpenSmtpd
from tests.servers.packages import _package_names
from tests.servers.postfix import Postfix
from tests.servers.rmail import Rmail, Run, Uucp
from tests.servers.sendmail import Sendmail
from tests.servers.smtp_log import Rule, SmtpLog, Transaction
from tests.servers.sshd import Sshd, login_account, quote

MESSAGE = (
    b"Return-Path: <kept@x.test>\r\nSubject: one\r\nBcc: kept\r\n\r\n.dot\r\n..\r\n\xe9\0\r\n" + b"l" * 5000 + b"\r\n"
)
# What OpenSMTPD and Sendmail leave as it is: they mend headers, and no option stops them.
MENDED = (
    b"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\nFrom: <s@src.test>\r\nMessage-ID: <1@src.test>\r\nSubject: one\r\n"
    b"\r\n.dot\r\n..\r\n\xe9\r\n" + b"l" * 5000 + b"\r\n"
)
RECIPIENTS = (b"one@a.test", b'"a b"@a.test')


def send(
    port: int, recipients: Sequence[bytes] = RECIPIENTS, message: bytes = MESSAGE, sender: str = "s@src.test"
) -> None:
    with smtplib.SMTP(LOOPBACK, port) as client:
        client.ehlo("client.test")
        addresses = [recipient.decode() for recipient in recipients]
        client.sendmail(sender, addresses, message, ["RET=HDRS", "ENVID=e+2B1"], ["NOTIFY=FAILURE,DELAY"])


def refusal(port: int, recipient: str) -> tuple[int, bytes]:
    with smtplib.SMTP(LOOPBACK, port) as client:
        client.ehlo("client.test")
        client.mail("s@src.test")
        return client.rcpt(recipient)


def stops_whole(server: Daemon) -> None:
    processes = server.processes()
    assert processes
    server.stop()
    assert not [pid for pid in processes if os.path.exists(f"/proc/{pid}")]


def whole(delivered: Sequence[Delivered]) -> list[tuple[bytes, set[bytes], bytes]]:
    return [(sender, set(recipients), content) for sender, recipients, content in delivered]


@pytest.mark.real
@pytest.mark.parametrize("kind", ["exim", "postfix", "opensmtpd", "sendmail"])
def test_mail_server_as_target(kind: str, request: pytest.FixtureRequest) -> None:
    server: Exim | Postfix | OpenSmtpd | Sendmail = request.getfixturevalue(kind)
    message = MESSAGE if kind in ("exim", "postfix") else MENDED
    recipients = (b"one@a.test", b"two@a.test") if kind == "opensmtpd" else RECIPIENTS  # no quoted ones there
    send(server.port, recipients, message)
    assert whole(server.wait_for(1)) == [(b"s@src.test", set(recipients), message)]
    assert refusal(server.port, "nobody@a.test")[0] == 550
    assert refusal(server.port, "later@a.test")[0] == 451
    assert refusal(server.port, "one@example.org")[0] in (550, 554)
    send(server.port, [b"one@a.test"], sender="<>")
    assert {delivered.sender for delivered in server.wait_for(2)} == {b"s@src.test", b""}
    stops_whole(server)


@pytest.mark.real
def test_exim_shows_the_commands_it_was_given(exim: Exim) -> None:
    send(exim.port, [b"one@a.test"])
    exim.wait_for(1)
    (commands,) = exim.commands()
    assert commands.mail.endswith(b" RET=HDRS ENVID=e+2B1")
    assert commands.rcpts == (b"rcpt TO:<one@a.test> NOTIFY=FAILURE,DELAY",)


@pytest.mark.real
def test_exim_as_upstream_runs_a_pipe_as_another_account(
    exim_factory: Factory[Exim], open_path: str, account: pwd.struct_passwd
) -> None:
    os.chown(open_path, account.pw_uid, account.pw_gid)
    exim = exim_factory(
        routers=pipe_router("far", "far.test", "batch"),
        transports=pipe_transport(
            "batch", f"/bin/sh -c 'id -un > {open_path}/user; cat > {open_path}/bsmtp'", account.pw_name
        ),
    )
    send(exim.port, [b"one@far.test", b"two@far.test"])
    exim.wait_for_log("Completed")
    with open(f"{open_path}/user") as user, open(f"{open_path}/bsmtp", "rb") as bsmtp:
        assert user.read() == f"{account.pw_name}\n"
        assert bsmtp.read().startswith(
            b"MAIL FROM:<s@src.test>\nRCPT TO:<one@far.test>\nRCPT TO:<two@far.test>\nDATA\n"
        )


@pytest.mark.real
def test_postfix_as_upstream_by_pipe_and_lmtp(
    postfix_factory: Factory[Postfix], open_path: str, smtp_log_factory: Factory[SmtpLog], account: pwd.struct_passwd
) -> None:
    os.chown(open_path, account.pw_uid, account.pw_gid)
    log = smtp_log_factory(lmtp=True)
    postfix = postfix_factory(
        strangers=True,
        transport=["/@far\\.test$/ show:far", f"/@port\\.test$/ lmtp:inet:{LOOPBACK}:{log.port}"],
        master=[
            "show unix - n n - - pipe",
            f"  flags=Fq. user={account.pw_name} argv=/usr/bin/tee {open_path}/from-$sender",
        ],
    )
    send(postfix.strangers_port, [b"one@far.test", b"two@port.test"])
    postfix.wait_for_log("removed")
    with open(f"{open_path}/from-s@src.test", "rb") as piped:
        assert piped.read().startswith(b"From s@src.test  ")
    (transaction,) = log.wait_for(1)
    assert transaction.mail.startswith(b"MAIL FROM:<s@src.test>")
    assert b"ENVID=e+2B1" in transaction.mail
    assert transaction.rcpts[0].startswith(b"RCPT TO:<two@port.test> ORCPT=rfc822;two@port.test")
    assert transaction.content.endswith(MESSAGE)


@pytest.mark.real
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_sendmail_as_upstream(
    sendmail_factory: Factory[Sendmail], smtp_log_factory: Factory[SmtpLog], protocol: str
) -> None:
    log = smtp_log_factory(lmtp=protocol == "lmtp")
    flags = "mDFMuXz" if protocol == "lmtp" else "mDFMuXa"
    sendmail = sendmail_factory(
        mailers=f"MAILER_DEFINITIONS\nMport, P=[IPC], F={flags}, E=\\r\\n, L=0, T=DNS/RFC822/SMTP,\n"
        f"\tS=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP, A=TCP [{LOOPBACK}] {log.port}",
        rules="R$* < @ port.test . > $*\t$#port $@ home $: $1 < @ port.test . > $2",
    )
    send(sendmail.port, [b"one@port.test", b"two@a.test"], MENDED)
    (transaction,) = log.wait_for(1)
    assert transaction.mail.startswith(b"MAIL From:<s@src.test> ") and b" ENVID=e+2B1" in transaction.mail
    assert transaction.rcpts == (b"RCPT To:<one@port.test> NOTIFY=FAILURE,DELAY",)
    assert transaction.content.endswith(MENDED)
    assert sendmail.wait_for(1)[0].recipients == (b"two@a.test",)


@pytest.mark.real
def test_opensmtpd_as_upstream(opensmtpd_factory: Factory[OpenSmtpd], smtp_log_factory: Factory[SmtpLog]) -> None:
    log = smtp_log_factory()
    opensmtpd = opensmtpd_factory(
        actions=f'action "port" relay host "smtp://{LOOPBACK}:{log.port}"',
        matches='match from any for domain "port.test" action "port"',
    )
    send(opensmtpd.port, [b"one@port.test", b"two@a.test"], MENDED)
    (transaction,) = log.wait_for(1)
    assert transaction.mail == b"MAIL FROM:<s@src.test> RET=HDRS ENVID=e+2B1"
    assert transaction.rcpts == (b"RCPT TO:<one@port.test> NOTIFY=FAILURE,DELAY",)
    assert transaction.content.endswith(MENDED)
    assert opensmtpd.wait_for(1)[0].recipients == (b"two@a.test",)


def lmtp(client: socket.socket, *recipients: str) -> list[bytes]:
    """One transaction, pipelined (smtplib reads a single reply after the dot); the replies from RCPT on."""
    rcpts = "".join(f"RCPT TO:<{recipient}>\r\n" for recipient in recipients)
    dialogue = f"LHLO client.test\r\nMAIL FROM:<s@src.test>\r\n{rcpts}DATA\r\n"
    with client:
        client.sendall(dialogue.encode() + b"Subject: one\r\n\r\n..\xe9\r\n.\r\nQUIT\r\n")
        replies = client.makefile("rb").readlines()
    return [line[:3] for line in replies if line[3:4] == b" "][3:-1]


@pytest.mark.real
def test_dovecot_over_tcp_and_a_unix_socket(dovecot: Dovecot) -> None:
    local = socket.socket(socket.AF_UNIX)
    local.connect(dovecot.socket)
    for client in (local, socket.create_connection((LOOPBACK, dovecot.port))):
        assert lmtp(client, "one@a.test", "two@a.test") == [b"250", b"250", b"354", b"250", b"250"]
    expected = (b"s@src.test", {b"one@a.test", b"two@a.test"}, b"Subject: one\r\n\r\n.\xe9\r\n")
    assert whole(dovecot.wait_for(2)) == [expected, expected]
    stops_whole(dovecot)


@pytest.mark.real
@pytest.mark.parametrize("user", ["batchmail", "root"])
def test_ssh_with_a_forced_command(user: str, sshd: Sshd) -> None:
    if os.geteuid():
        user = subprocess.check_output(["id", "-un"], text=True).strip()
    elif user == "batchmail":
        login_account(user)
    identity = sshd.make_key("client")
    sshd.authorize(f"{identity}.pub", quote(["sh", "-c", 'id -un; echo "not $SSH_ORIGINAL_COMMAND"; cat']), user)
    done = subprocess.run([*sshd.client(identity, user), "anything"], input=b"octets\0", capture_output=True)
    assert (done.stdout, done.returncode) == (f"{user}\nnot anything\n".encode() + b"octets\0", 0)
    other = sshd.make_key("stranger")
    assert subprocess.run([*sshd.client(other, user), "true"], capture_output=True).returncode == 255
    stops_whole(sshd)


@pytest.mark.real
def test_rmail_passes_the_code_of_sendmail_on(rmail: Rmail, open_path: str) -> None:
    with open(os.path.join(open_path, "message"), "w+b", buffering=0) as message:
        message.write(b"From s@src.test Fri Nov 20 23:42:41 2026\nSubject: one\n\ntext\n")
        for code in (0, 75):
            rmail.exit_with(code)
            message.seek(0)
            assert subprocess.run([rmail.program, "one@a.test"], stdin=message).returncode == code
    arguments = (b"-G", b"-oee", b"-odi", b"-oi", b"-pUUCP", b"-fs@src.test", b"one@a.test")
    assert [run.stdin for run in rmail.runs()] == [b"Subject: one\n\ntext\n"] * 2
    assert rmail.runs()[0].arguments[-2:] == arguments[-2:]


@pytest.mark.real
def test_uucp_starts_the_rmail_it_is_given(rmail: Rmail, uucp_factory: Factory[Uucp]) -> None:
    uucp = uucp_factory(rmail.program)
    uucp.send(b"From s@src.test Fri Nov 20 23:42:41 2026\n\ntext\n", "one@a.test", "two@a.test")
    assert (uucp.waiting(), rmail.runs()) == (1, [])
    uucp.execute()
    assert uucp.waiting() == 0
    (run,) = rmail.runs()
    assert (run.arguments[-2:], run.stdin) == ((b"one@a.test", b"two@a.test"), b"\ntext\n")
    assert isinstance(run, Run)


def test_smtp_log_keeps_lines_and_unstuffed_content(smtp_log: SmtpLog) -> None:
    send(smtp_log.port)
    (transaction,) = smtp_log.transactions
    assert transaction == Transaction(
        1,
        transaction.mail,
        (b"rcpt TO:<one@a.test> NOTIFY=FAILURE,DELAY", b'rcpt TO:<"a b"@a.test> NOTIFY=FAILURE,DELAY'),
        MESSAGE,
    )
    assert smtp_log.lines[0] == b"ehlo client.test"


@pytest.mark.parametrize("pieces", [1, 10**6], ids=["octets", "whole"])
@pytest.mark.parametrize("content", [b"", b".\r\n", b"a\r\n", b".a\r\n\r\n..\r\n"])
def test_smtp_log_finds_the_end_of_content(content: bytes, pieces: int, smtp_log: SmtpLog) -> None:
    stuffed = b"".join(b"." + line if line.startswith(b".") else line for line in content.splitlines(keepends=True))
    dialogue = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n" + stuffed + b".\r\nNOOP\r\nQUIT\r\n"
    with socket.create_connection((LOOPBACK, smtp_log.port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(dialogue), pieces):
            client.sendall(dialogue[start : start + pieces])
        client.makefile("rb").read()
    assert [transaction.content for transaction in smtp_log.transactions] == [content]
    assert smtp_log.lines[-2:] == [b"NOOP", b"QUIT"]


def test_smtp_log_takes_no_bare_line_ends(smtp_log: SmtpLog) -> None:
    with pytest.raises(smtplib.SMTPDataError), smtplib.SMTP(LOOPBACK, smtp_log.port) as client:
        client.ehlo("x")
        client.mail("a@b")
        client.rcpt("c@d")
        client.docmd("DATA")
        client.send(b"a\nb\r\n.\r\n")
        raise smtplib.SMTPDataError(*client.getreply())
    assert smtp_log.transactions == []
    assert smtp_log.violations == [b"a\nb\r\n"]


def test_smtp_log_obeys_rules_per_recipient_in_lmtp(smtp_log_factory: Factory[SmtpLog], open_path: str) -> None:
    path = os.path.join(open_path, "socket")
    rules = [Rule("RCPT", b"550 5.1.1 no", match=b"nobody@"), Rule("DOT", b"451 4.2.0 no", match=b"later@", times=1)]
    log = smtp_log_factory(lmtp=True, socket_path=path, rules=rules)
    expected = [[b"250", b"550", b"250", b"354", b"250", b"451"], [b"250", b"354", b"250"]]
    for recipients in (["one@a.test", "nobody@a.test", "later@a.test"], ["later@a.test"]):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        assert lmtp(client, *recipients) == expected.pop(0)
    taken = [rcpt for transaction in log.transactions for rcpt in transaction.rcpts]
    assert taken == [b"RCPT TO:<one@a.test>", b"RCPT TO:<later@a.test>"]


def test_smtp_log_waits_and_hangs_up(smtp_log_factory: Factory[SmtpLog]) -> None:
    until = threading.Event()
    log = smtp_log_factory(rules=[Rule("DOT", b"", close=True, until=until)])
    with socket.create_connection((LOOPBACK, log.port)) as client:
        client.sendall(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n")
        replies = client.makefile("rb")
        while not replies.readline().startswith(b"354"):
            pass
        until.set()
        assert replies.read() == b""
    assert log.transactions == []


def test_smtp_log_offers_tls_and_login(smtp_log_factory: Factory[SmtpLog], open_path: str) -> None:
    certificate = os.path.join(open_path, "certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", certificate, "-out", f"{certificate}.pem"], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(f"{certificate}.pem", certificate)
    log = smtp_log_factory(tls=server, login=(b"user", b"secret"))
    trusting = ssl.create_default_context(cafile=f"{certificate}.pem")
    with smtplib.SMTP("localhost", log.port) as client:
        client.starttls(context=trusting)
        assert client.login("user", "secret")[0] == 235
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("user", "wrong")
    assert log.secrets[0] == (b"user", b"secret")


class Echo:
    """Sends back what it gets."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        try:
            while octets := connection.recv(65536):
                connection.sendall(octets)
        except OSError:
            pass
        connection.close()


def receive(client: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count and (more := client.recv(count - len(octets))):
        octets += more
    return octets


def test_link_passes_everything_and_counts(link_factory: Factory[Link]) -> None:
    link = link_factory(Echo().port, rtt_ms=2, rate=50_000_000)
    octets = bytes(range(256)) * 400
    with socket.create_connection((LOOPBACK, link.port)) as client:
        client.sendall(octets)
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 10**9) == octets
    assert (link.connections, link.octets) == (1, {"up": len(octets), "down": len(octets)})


@pytest.mark.parametrize("direction", ["up", "down"])
def test_link_cuts_at_an_octet(direction: Direction, link_factory: Factory[Link]) -> None:
    link = link_factory(Echo().port)
    link.cut_after(5, direction)
    with socket.create_connection((LOOPBACK, link.port)) as client:
        client.sendall(b"123456789")
        with pytest.raises(ConnectionResetError):
            receive(client, 9)
            receive(client, 1)
            raise ConnectionResetError  # an end is as good
    assert link.octets[direction] == 5
    with socket.create_connection((LOOPBACK, link.port)) as client:
        client.sendall(b"again")
        assert receive(client, 5) == b"again"


def test_link_goes_silent_without_a_word_and_takes_new_connections(link_factory: Factory[Link]) -> None:
    link = link_factory(Echo().port)
    link.silence_after(5, "down")
    with socket.create_connection((LOOPBACK, link.port)) as client:
        client.sendall(b"123456789")
        assert receive(client, 5) == b"12345"
        client.setblocking(False)
        with socket.create_connection((LOOPBACK, link.port)) as second:
            second.sendall(b"again")
            assert receive(second, 5) == b"again"
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_a_keeper_ends_orphans_that_left_the_session(open_path: str) -> None:
    class Sleeper(Daemon):
        def argv(self) -> Sequence[str]:
            return ["sh", "-c", f"(setsid sleep 600 & echo >{self.path('up')}) & wait; exec sleep 600"]

        def ready(self) -> bool:
            return os.path.exists(self.path("up"))

    sleeper = Sleeper(open_path).start()
    wait_until(lambda: len(sleeper.processes()) == 2, "both sleepers")
    stops_whole(sleeper)


def test_a_daemon_that_ends_at_once_says_why(open_path: str) -> None:
    class Broken(Daemon):
        def argv(self) -> Sequence[str]:
            return ["sh", "-c", "echo bad configuration >&2; exit 1"]

        def ready(self) -> bool:
            return False

    with pytest.raises(RuntimeError, match="bad configuration"):
        Broken(open_path).start()


def test_answers_only_where_somebody_listens() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        assert answers(port)
    assert not answers(port)


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libidn.so.12", "libidn12"),
        ("libdb-5.3.so", "libdb5.3"),
        ("libpcre2-8.so.0", "libpcre2-8-0"),
        ("libcrypto.so.3", "libcrypto3"),
    ],
)
def test_the_package_of_a_library(library: str, package: str) -> None:
    assert package in _package_names(library)


def test_installed_programs_are_for_every_account(installed: Installed) -> None:
    for name in ("batchmail-pipe", "bsmtp", "uux", "rmail"):
        program = installed.program(name)
        assert readable_by_all(program)
        with open(program) as file:
            interpreter, flags = file.readline().removeprefix("#!").split()
        assert readable_by_all(interpreter)
        assert flags == "-IS"
