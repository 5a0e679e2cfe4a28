"""Who owns what: one account owns the spool, whoever starts the programs, and nobody else gets in."""

import os
import pwd
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.pair import DOMAIN, Pair, letters, unsettled
from tests.e2e.sites import Site
from tests.servers.host import LOOPBACK, PATIENCE_S, Installed, wait_until
from tests.servers.packages import CHECKOUT
from tests.servers.smtp_log import Rule, SmtpLog
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.usefixtures("account")  # root's tests: each program is started as root
REFUSAL = "belongs to batchmail, this program runs as nobody: run it as batchmail or as root\n"


def strange_rights(site: Site) -> Iterator[str]:
    """What in the spool is not the owner's alone."""
    owner = pwd.getpwnam(site.owner)
    for place, directories, files in os.walk(site.spool):
        for path in (place, *(os.path.join(place, name) for name in directories + files)):
            status = os.lstat(path)
            wanted = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
            if (status.st_uid, status.st_gid) != (owner.pw_uid, owner.pw_gid):
                yield f"{path} belongs to {status.st_uid}:{status.st_gid}"
            if stat.S_IMODE(status.st_mode) != wanted and not stat.S_ISSOCK(status.st_mode):
                yield f"{path} has mode {stat.S_IMODE(status.st_mode):o}"


def accept(sites: Pair) -> None:
    sites.holding.accept(b"Subject: down\n\nx\n", "-t", "home", "-f", "s@far.test", "--", f"u@{DOMAIN}")
    sites.away.accept(b"Subject: up\n\nx\n", "-t", "mx", "-f", f"u@{DOMAIN}", "--", "s@far.test")


def check_rights(sites: Pair, after: object) -> None:
    assert [*strange_rights(sites.holding), *strange_rights(sites.away)] == [], after


@pytest.mark.real
def test_programs_started_by_root_leave_nothing_of_roots(open_path: str, installed: Installed, sshd: Sshd) -> None:
    sites = Pair(open_path, installed, sshd)
    check_rights(sites, "setup")
    accept(sites)
    check_rights(sites, "the pipe")
    for words in (["queue"], ["status"], ["check"], ["call", "--dry-run", "--all"], ["key", "mx"]):
        done = sites.away.batchmail(*words)
        assert done.returncode in (0, 1), done  # check has a word about what is unusual here
        check_rights(sites, words)
    sites.away.call("mx")
    check_rights(sites, "call")
    assert (len(letters(sites.away)), len(letters(sites.holding))) == (1, 1)
    owners = {os.stat(os.path.join(sites.away.directory, "mail", "new")).st_uid}
    assert owners == {pwd.getpwnam(sites.away.owner).pw_uid}, "the target is written by the owner"
    accept(sites)
    sites.away.batchmail("call", "--max-bytes", "1", "mx")
    check_rights(sites, "a call that was ended")
    for site in (sites.away, sites.holding):
        for words in (["queue"], ["status"], ["run"], ["setup"]):
            assert site.batchmail(*words).returncode in (0, 1)
            check_rights(sites, words)


@pytest.mark.real
def test_a_network_that_comes_up(open_path: str, installed: Installed, sshd: Sshd) -> None:
    """ifupdown runs its hooks as root."""
    sites = Pair(open_path, installed, sshd)
    accept(sites)
    hook = os.path.join(open_path, "hook")
    with open(os.path.join(CHECKOUT, "contrib/if-up.d/batchmail"), encoding="ascii") as file:
        text = file.read().replace("/usr/lib/batchmail/", f"{installed.lib}/")
    with open(hook, "w", encoding="ascii") as file:
        file.write(text)
    os.chmod(hook, 0o755)
    environment = {
        "PATH": f"{installed.bin}:/usr/bin:/bin",
        "BATCHMAIL_CONFIG": sites.away.config,
        "IFACE": "eth0",
        "METHOD": "dhcp",
        "MODE": "start",
        "ADDRFAM": "inet",
    }
    subprocess.run([hook], env=environment, check=True, timeout=PATIENCE_S)
    wait_until(lambda: letters(sites.away) and letters(sites.holding), "the call that the hook started")
    wait_until(lambda: not unsettled(sites.away) and not unsettled(sites.holding), "its end")
    check_rights(sites, "if-up.d")


def test_another_user_is_refused_with_both_names(open_path: str, installed: Installed) -> None:
    sites = Pair(open_path, installed, None)
    before = sites.away.files()
    commands = [
        ["batchmail", "-c", sites.away.config, *words] for words in (["queue"], ["call", "mx"], ["run"], ["setup"])
    ]
    commands.append(["batchmail-receive", "-c", sites.away.config, "--peer", "mx"])
    commands.append(["batchmail-pipe", "--spool", sites.away.spool, "-t", "mx", "-f", "", "u@far.test"])
    for command in commands:
        done = _as_nobody(installed, *command)
        assert (done.returncode, done.stderr.count("\n"), done.stdout) == (75, 1, ""), done
        assert done.stderr.endswith(f"{sites.away.spool} {REFUSAL}"), done
    done = _as_nobody(installed, "batchmail", "-c", sites.away.config, "status")
    assert (done.returncode, done.stderr) == (2, ""), "as monitoring has it"
    assert done.stdout.startswith("CRITICAL") and done.stdout.endswith(REFUSAL)
    assert sites.away.files() == before


def _as_nobody(installed: Installed, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [installed.program(program), *words]
    return subprocess.run(
        command,
        user="nobody",
        group="nogroup",
        extra_groups=[],
        input="x\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.real
def test_targets_are_reached_as_the_owner(open_path: str, installed: Installed, sshd: Sshd) -> None:
    """Over TCP from what sshd started as the account, and at a socket from a call that root started."""
    go_on = threading.Event()
    rules = [Rule("CONNECT", b"220 log.test ready", until=go_on)]
    socket_path = os.path.join(open_path, "lmtp")
    with SmtpLog(rules=rules) as tcp, SmtpLog(lmtp=True, socket_path=socket_path, rules=rules) as local:
        targets = {"holding_target": f"smtp://{LOOPBACK}:{tcp.port}", "away_target": f"lmtp://{socket_path}"}
        sites = Pair(open_path, installed, sshd, **targets)
        accept(sites)
        call = subprocess.Popen(sites.away.command("batchmail", "call", "mx"), stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: tcp.sessions and local.sessions, "both targets to be reached")
            (connection,) = local._open
            _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            assert pwd.getpwuid(uid).pw_name == sites.away.owner
            assert _tcp_client(tcp.port) == sites.holding.owner
            go_on.set()
            assert call.wait(60) == 0
        finally:
            go_on.set()
            call.kill()
            call.wait()
    assert (len(tcp.transactions), len(local.transactions)) == (1, 1)
    check_rights(sites, "call and receive")


def _tcp_client(port: int) -> str:
    """Whose connection to this port is open."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    (uid,) = {int(row[7]) for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"}
    return pwd.getpwuid(uid).pw_name
