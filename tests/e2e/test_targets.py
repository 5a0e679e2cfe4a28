"""Every kind of target behind a real call: what it is given, what its answers become, and what if it is down."""

import os
import pwd
import re
import ssl
import subprocess

import pytest

from tests.e2e.pair import HOLDING, Pair, below_received, letters, unsettled
from tests.e2e.sites import Site
from tests.servers.dovecot import Dovecot
from tests.servers.exim import Exim
from tests.servers.host import LOOPBACK, Factory, Installed, is_root
from tests.servers.postfix import Postfix
from tests.servers.rmail import Rmail, Uucp
from tests.servers.smtp_log import Rule, SmtpLog
from tests.servers.sshd import quote

HEADER = b"Date: Fri, 20 Nov 2026 23:42:41 +0000\r\nFrom: s@src.test\r\nMessage-ID: <1@src.test>\r\n"
CONTENT = HEADER + b"Subject: one\r\n\r\n.dot\r\n..\r\nFrom here\r\n8-bit \xe9\r\n"
# As an owner's own process, so that no file of SQLite's becomes root's.
MAKE_DUE = """\
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as ledger:
    ledger.execute("UPDATE in_tx SET next_ms = 0")
"""


def accept(sites: Pair, *recipients: str, sender: str = "s@src.test", parameters: str = "") -> None:
    rcpts = "".join(f"RCPT TO:<{word}>{parameters}\r\n" for word in recipients).encode()
    text = f"MAIL FROM:<{sender}>\r\n".encode() + rcpts + b"DATA\r\n" + CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    sites.holding.accept(text, "-t", "home")


def pause_is_over(site: Site) -> None:
    """As if the time had come to try again what a target put off."""
    command = ["/usr/bin/python3", "-IS", "-c", MAKE_DUE, os.path.join(site.spool, "ledger", "mx")]
    subprocess.run(command, check=True, **({"user": site.owner} if is_root() else {}))  # type: ignore[call-overload]


def run(site: Site) -> subprocess.CompletedProcess[str]:
    return site.batchmail("run", "-v")


def notices(site: Site) -> list[str]:
    return [text.decode("latin-1") for text in letters(site) if b"multipart/report" in text]


def test_outcomes_are_reported_while_another_recipient_is_put_off(
    open_path: str, installed: Installed, smtp_log_factory: Factory[SmtpLog]
) -> None:
    rules = [Rule("RCPT", b"451 4.2.0 later", match=b"<later@", times=1), Rule("RCPT", b"550 5.1.1 no", match=b"<no@")]
    server = smtp_log_factory(rules=rules)
    sites = Pair(open_path, installed, None, away_target=f"smtp://{LOOPBACK}:{server.port}")
    accept(sites, "yes@home.test", "later@home.test", "no@home.test", parameters=" NOTIFY=FAILURE")
    accept(sites, "other@home.test")
    sites.call()
    (notice,) = notices(sites.holding)
    assert (
        "Final-Recipient: rfc822; no@home.test\r\n" in notice
        and "later@" not in notice.partition("Message-ID: <1@src.test>")[0]
    )
    assert [name.rpartition(".")[2] for name in unsettled(sites.holding)] == ["batch"]
    taken = sorted(rcpt.split()[1] for one in server.transactions for rcpt in one.rcpts)
    assert taken == [b"TO:<other@home.test>", b"TO:<yes@home.test>"]

    assert run(sites.away).returncode == 0
    assert len(server.transactions) == 2, "the pause is not over"
    pause_is_over(sites.away)
    assert run(sites.away).returncode == 0
    assert [one.rcpts for one in server.transactions[2:]] == [(b"RCPT TO:<later@home.test> NOTIFY=FAILURE",)]
    assert unsettled(sites.holding) != []
    sites.call()
    assert unsettled(sites.holding) == unsettled(sites.away) == []
    assert (len(notices(sites.holding)), len(server.transactions)) == (1, 3)


@pytest.mark.real
@pytest.mark.parametrize(
    ("address", "name", "helo", "logged"),
    [
        ("192.0.2.7", "a.far.test", "a.far.test", "orig_client=a.far.test[192.0.2.7]"),
        ("2001:db8::7", "unknown", "a b=+<>;\u00e9", "orig_client=unknown[2001:db8::7]"),
        ("no address", "-no..name", "a.far.test", "orig_queue_id="),  # refused, and the rest is not
    ],
)
def test_postfix_is_told_of_the_first_client(
    open_path: str,
    installed: Installed,
    postfix_factory: Factory[Postfix],
    address: str,
    name: str,
    helo: str,
    logged: str,
) -> None:
    postfix = postfix_factory(main={"smtpd_authorized_xforward_hosts": "127.0.0.0/8", "inet_protocols": "all"})
    sites = Pair(open_path, installed, None, away_target=f"smtp://{LOOPBACK}:{postfix.port}?xforward=yes")
    client = [f"--client-address={address}", f"--client-name={name}", f"--client-helo={helo}"]
    for user in ("one", "two"):
        command = ["-t", "home", "-f", "s@src.test", *client, "--client-protocol=ESMTP", "--", f"{user}@home.test"]
        sites.holding.accept(CONTENT, *command)
    sites.call()
    assert len(postfix.wait_for(2)) == 2
    log = postfix.log()
    assert log.count(logged) == 2
    identifiers = re.findall(r"orig_queue_id=([0-9A-Z]{26}),", log)
    accepted = [path for path in sites.holding.files("out") if path.endswith(".bsmtp")]
    assert len(set(identifiers)) == 2 and accepted == []


def test_a_target_that_is_down_delays_and_loses_nothing(
    open_path: str, installed: Installed, smtp_log_factory: Factory[SmtpLog]
) -> None:
    socket_path = os.path.join(open_path, "lmtp")
    sites = Pair(open_path, installed, None, away_target=f"lmtp://{socket_path}")
    accept(sites, "u@home.test")
    sites.call()
    done = run(sites.away)
    assert (done.returncode, done.stderr.count("\n")) == (75, 1)
    assert f"lmtp://{socket_path}" in done.stderr
    with SmtpLog(lmtp=True, socket_path=socket_path, rules=[Rule("CONNECT", b"421 4.3.2 busy", close=True)]):
        assert "421 4.3.2 busy" in run(sites.away).stderr
    assert [name.rpartition(".")[2] for name in unsettled(sites.away)] == ["batch"]
    server = smtp_log_factory(lmtp=True, socket_path=socket_path)
    assert run(sites.away).returncode == 0
    sites.call()
    assert len(server.transactions) == 1
    assert unsettled(sites.holding) == unsettled(sites.away) == []


def test_lmtp_answers_for_each_recipient(open_path: str, installed: Installed) -> None:
    socket_path = os.path.join(open_path, "lmtp")
    rules = [Rule("DOT", b"452 4.2.2 full", match=b"<full@", times=1), Rule("DOT", b"554 5.6.0 no", match=b"<no@")]
    with SmtpLog(lmtp=True, socket_path=socket_path, rules=rules) as server:
        sites = Pair(open_path, installed, None, away_target=f"lmtp://{socket_path}")
        accept(sites, "yes@home.test", "full@home.test", "no@home.test", parameters=" NOTIFY=SUCCESS,FAILURE")
        sites.call()
        pause_is_over(sites.away)
        run(sites.away)
        sites.call()
    words = b" NOTIFY=SUCCESS,FAILURE"
    given = [one.rcpts for one in server.transactions]
    assert given == [(b"RCPT TO:<yes@home.test>" + words,), (b"RCPT TO:<full@home.test>" + words,)]
    assert {below_received(one.content) for one in server.transactions} == {CONTENT}
    (notice,) = notices(sites.holding)  # success is for the server to tell, which offers DSN
    assert "Final-Recipient: rfc822; no@home.test\r\nAction: failed\r\nStatus: 5.6.0\r\n" in notice
    assert unsettled(sites.holding) == unsettled(sites.away) == []


@pytest.mark.real
def test_dovecot_at_its_socket(open_path: str, installed: Installed, dovecot: Dovecot) -> None:
    """It offers no DSN: what its success is called is for the configuration to say; LMTP delivers."""
    sites = Pair(open_path, installed, None, away_target=f"lmtp://{dovecot.socket}")
    accept(sites, "one@home.test", '"a b"@home.test', parameters=" NOTIFY=SUCCESS")
    sites.call()
    (delivered,) = dovecot.messages()
    assert delivered.sender == b"s@src.test" and below_received(delivered.content) == CONTENT
    assert len(delivered.recipients) == 2
    (notice,) = notices(sites.holding)
    assert notice.count("\r\nAction: delivered\r\n") == 2


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    path = str(tmp_path_factory.mktemp("tls") / "pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", f"{path}.key", "-out", path], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, f"{path}.key")
    return context


def test_smtp_with_starttls_and_auth(
    open_path: str, installed: Installed, smtp_log_factory: Factory[SmtpLog], tls: ssl.SSLContext
) -> None:
    server = smtp_log_factory(tls=tls, login=(b"home", b"se cret"))
    secret = os.path.join(open_path, "secret")
    options = f"starttls=must&tls_verify=no&user=home&password_file={secret}"
    sites = Pair(open_path, installed, None, away_target=f"smtp://{LOOPBACK}:{server.port}?{options}")
    accept(sites, "u@home.test")
    for word, taken in ((b"wrong\n", 0), (b"se cret\n", 1)):
        with open(secret, "wb") as file:
            file.write(word)
        os.chmod(secret, 0o600)
        if is_root():
            owner = pwd.getpwnam(sites.away.owner)
            os.chown(secret, owner.pw_uid, owner.pw_gid)
        sites.call()
        if not taken:
            assert "535 5.7.8" in run(sites.away).stderr
        assert len(server.transactions) == taken
    assert server.secrets[-1] == (b"home", b"se cret")
    assert b"se cret" not in b"".join(path.encode() for path in sites.away.files())
    assert unsettled(sites.away) == unsettled(sites.holding) == []


@pytest.mark.real
def test_exim_by_its_bs_dialogue(open_path: str, installed: Installed, exim: Exim) -> None:
    """Exim trusts root with the sender, so the away site is root's here."""
    program = os.path.join(open_path, "exim")
    with open(program, "w", encoding="ascii") as file:
        file.write(f'#!/bin/sh\nexec {quote(exim.command())} "$@"\n')
    os.chmod(program, 0o755)
    places = {name: os.path.join(open_path, name) for name in ("holding", "away")}
    entry = {"domains": ["home.test"], "target": f"maildir:{places['holding']}/mail"}
    holding = Site(places["holding"], installed, HOLDING, {"home": entry})
    holding.make_owned_directory("mail")
    receive = quote(installed.command("batchmail-receive", "-c", holding.config, "--peer", "home"))
    entry = {"domains": ["*"], "target": f"sendmail:{program} -bs", "call": f"command: {receive}"}
    away = Site(places["away"], installed, "home.example.test", {"mx": entry}, user="root")
    text = b"MAIL FROM:<s@src.test> RET=HDRS ENVID=id+2Bone\r\nRCPT TO:<one@home.test> NOTIFY=FAILURE\r\n"
    text += b"RCPT TO:<nobody@home.test>\r\nDATA\r\n" + CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    holding.accept(text, "-t", "home")
    away.call("mx")
    (delivered,) = exim.wait_for(1)
    assert (delivered.sender, delivered.recipients) == (b"s@src.test", (b"one@home.test",))
    assert below_received(delivered.content) == CONTENT
    (commands,) = exim.commands()
    assert {b"RET=HDRS", b"ENVID=id+2Bone"} <= set(commands.mail.split())
    (notice,) = notices(holding)
    assert "Final-Recipient: rfc822; nobody@home.test\r\nAction: failed\r\nStatus: 5.1.1\r\n" in notice
    assert unsettled(holding) == unsettled(away) == []


@pytest.mark.real
def test_rmail(open_path: str, installed: Installed, rmail: Rmail) -> None:
    """One exit status for all: 75 is later, 67 is no."""
    sites = Pair(open_path, installed, None, away_target=f"rmail:{rmail.program}")
    accept(sites, "one@home.test", "two@home.test", parameters=" NOTIFY=SUCCESS,FAILURE")
    rmail.exit_with(75)
    sites.call()
    assert notices(sites.holding) == [] and len(rmail.runs()) == 1
    rmail.exit_with(0)
    pause_is_over(sites.away)
    assert run(sites.away).returncode == 0
    tried, taken = rmail.runs()
    assert tried.arguments == taken.arguments and b"-fs@src.test" in taken.arguments
    assert taken.arguments[-2:] == (b"one@home.test", b"two@home.test")
    assert below_received(taken.stdin.replace(b"\n", b"\r\n")) == CONTENT
    rmail.exit_with(67)
    accept(sites, "three@home.test", "-option@home.test")
    accept(sites, "four@home.test", sender="")
    sites.call()
    told = {match: text for text in notices(sites.holding) for match in re.findall(r"\nAction: (\S+)\r", text)}
    assert told.keys() == {"relayed", "failed"} and len(notices(sites.holding)) == 2
    assert "rfc822; three@home.test" in told["failed"] and "rfc822; -option@home.test" in told["failed"]
    assert unsettled(sites.holding) == unsettled(sites.away) == []


def test_what_a_bsmtp_target_wrote_is_bsmtp_for_a_door(
    open_path: str, installed: Installed, smtp_log_factory: Factory[SmtpLog]
) -> None:
    server = smtp_log_factory()
    first = Pair(os.path.join(open_path, "1"), installed, None, away_target=f"bsmtp:{open_path}/1/away/mail")
    second = Pair(os.path.join(open_path, "2"), installed, None, away_target=f"smtp://{LOOPBACK}:{server.port}")
    accept(first, "u@home.test", '"a b"@home.test', parameters=" NOTIFY=FAILURE ORCPT=rfc822;o+2Bne@x.test")
    first.call()
    place = os.path.join(first.away.directory, "mail")
    (name,) = (name for name in os.listdir(place) if name.endswith(".bsmtp"))
    with open(os.path.join(place, name), "rb") as file:
        second.holding.accept(file.read(), "-t", "home")
    second.call()
    (taken,) = server.transactions
    assert [rcpt.split(b" NOTIFY=FAILURE ")[1:] for rcpt in taken.rcpts] == [[b"ORCPT=rfc822;o+2Bne@x.test"]] * 2
    assert below_received(below_received(taken.content)) == CONTENT


@pytest.mark.real
def test_uucp_upstream(open_path: str, installed: Installed, uucp_factory: Factory[Uucp], smtp_log: SmtpLog) -> None:
    """uuxqt starts rmail with the recipients alone; a script adds the peer."""
    sites = Pair(open_path, installed, None, away_target=f"smtp://{LOOPBACK}:{smtp_log.port}")
    script = os.path.join(open_path, "rmail")
    with open(script, "w", encoding="ascii") as file:
        file.write(f'#!/bin/sh\nexec {installed.program("rmail")} --spool {sites.holding.spool} -t home -- "$@"\n')
    os.chmod(script, 0o755)
    uucp = uucp_factory(script, user=sites.holding.owner)
    body = CONTENT.replace(b"\r\n", b"\n")
    uucp.send(b"From s@src.test Fri Nov 20 23:42:41 2026\n" + body, "one@home.test", "two@home.test")
    uucp.send(b"From MAILER-DAEMON Fri Nov 20 23:42:41 2026 remote from far\n" + body, "null@home.test")
    log = uucp.execute()
    assert uucp.waiting() == 0, log
    sites.call()
    given = {one.mail.split()[1]: one for one in smtp_log.transactions}
    assert given[b"FROM:<s@src.test>"].rcpts == (b"RCPT TO:<one@home.test>", b"RCPT TO:<two@home.test>")
    assert below_received(given[b"FROM:<s@src.test>"].content) == CONTENT
    assert given[b"FROM:<>"].rcpts == (b"RCPT TO:<null@home.test>",)
    assert len(smtp_log.transactions) == 2
