"""What is installed beside the programs: units for systemd, hooks that do the right thing, examples that load."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from batchmail.cli import config
from batchmail.cli.config import DEFAULT_SPOOL, DEFAULT_USER

CONTRIB = Path(__file__).parent.parent / "contrib"
UNITS = [path for kind in ("service", "socket", "timer") for path in sorted((CONTRIB / "systemd").glob(f"*.{kind}"))]
SCRIPTS = [CONTRIB / "call-now", *(path for path in CONTRIB.rglob("*batchmail") if path.stat().st_mode & 0o100)]

# name of the hook, what its caller sets, its arguments, whether a call is to be made
EVENTS = [
    ("if-up.d/batchmail", {"IFACE": "eth0", "METHOD": "dhcp", "MODE": "start", "ADDRFAM": "inet"}, [], True),
    ("if-up.d/batchmail", {"IFACE": "wlan0", "METHOD": "static", "MODE": "start", "ADDRFAM": "inet6"}, [], True),
    ("if-up.d/batchmail", {"IFACE": "lo", "METHOD": "loopback", "MODE": "start"}, [], False),
    ("if-up.d/batchmail", {"IFACE": "lo0", "METHOD": "loopback", "MODE": "start"}, [], False),
    ("if-up.d/batchmail", {"IFACE": "--all", "METHOD": "none", "MODE": "start", "ADDRFAM": "meta"}, [], False),
    ("if-up.d/batchmail", {"IFACE": "eth0", "METHOD": "dhcp", "MODE": "stop"}, [], False),
    ("if-up.d/batchmail", {}, [], False),
    ("NetworkManager/dispatcher.d/90-batchmail", {}, ["wlan0", "up"], True),
    ("NetworkManager/dispatcher.d/90-batchmail", {}, ["tun0", "vpn-up"], True),
    ("NetworkManager/dispatcher.d/90-batchmail", {}, ["lo", "up"], False),
    ("NetworkManager/dispatcher.d/90-batchmail", {}, ["wlan0", "down"], False),
    ("NetworkManager/dispatcher.d/90-batchmail", {}, ["wlan0", "dhcp4-change"], False),
    ("NetworkManager/dispatcher.d/90-batchmail", {}, ["none", "hostname"], False),
    (
        "NetworkManager/dispatcher.d/90-batchmail",
        {"CONNECTIVITY_STATE": "FULL"},
        ["none", "connectivity-change"],
        True,
    ),
    (
        "NetworkManager/dispatcher.d/90-batchmail",
        {"CONNECTIVITY_STATE": "PORTAL"},
        ["none", "connectivity-change"],
        False,
    ),
    ("networkd-dispatcher/routable.d/90-batchmail", {"IFACE": "eth0", "STATE": "routable"}, [], True),
    ("networkd-dispatcher/routable.d/90-batchmail", {"IFACE": "lo", "STATE": "routable"}, [], False),
    ("networkd-dispatcher/routable.d/90-batchmail", {"IFACE": "eth0", "STATE": "off"}, [], False),
    ("ppp/ip-up.d/batchmail", {"PPP_IFACE": "ppp0"}, ["ppp0", "/dev/ttyS0", "115200", "192.0.2.1", "192.0.2.2"], True),
    ("ppp/ip-up.d/batchmail", {"PPP_IFACE": "lo"}, [], False),
]


class Machine:
    """Hooks with call-now where it is installed, and programs that write down how they were called."""

    def __init__(self, root: Path):
        self._bin, self._root = root / "bin", root
        self._calls = root / "calls"
        os.mkfifo(self._calls)  # a reader sees the end when the last program that could write has gone
        self._bin.mkdir()
        for name in ("sh", "sed", "sort", "setsid", "cat", "sleep"):
            (self._bin / name).symlink_to(str(shutil.which(name)))
        self.program("batchmail", "")
        self.now = root / "call-now"
        shutil.copy(CONTRIB / "call-now", self.now)

    def program(self, name: str, script: str) -> None:
        path = self._bin / name
        path.write_text(f'#!/bin/sh\necho {name} "$@" >>"$CALLS"\n{script}\n')
        path.chmod(0o755)

    def run(self, hook: str, environment: dict[str, str], arguments: list[str]) -> list[str]:
        """What was called, in order."""
        script = self._root / "hook"
        script.write_text((CONTRIB / hook).read_text().replace("/usr/lib/batchmail/call-now", str(self.now)))
        script.chmod(0o755)
        reader = os.open(self._calls, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(
            self._calls, os.O_WRONLY
        )  # inherited by all that the hook starts, and open as long as they live
        os.set_inheritable(writer, True)
        os.set_blocking(reader, True)
        done = subprocess.run(
            [str(script), *arguments],
            env={"PATH": str(self._bin), "CALLS": str(self._calls), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            close_fds=False,
            timeout=20,
        )
        os.close(writer)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        with open(reader) as calls:
            return calls.read().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(("hook", "environment", "arguments", "calls"), EVENTS)
def test_hook_without_systemd(
    machine: Machine, hook: str, environment: dict[str, str], arguments: list[str], calls: bool
) -> None:
    assert machine.run(hook, environment, arguments) == (["batchmail call --all"] if calls else [])


@pytest.mark.parametrize("hook", sorted({event[0] for event in EVENTS}))
def test_hook_with_systemd(machine: Machine, hook: str) -> None:
    listed = (
        "batchmail-call@mx.timer   loaded active   waiting Call mx every now and then\n"
        "batchmail-stay@a-b.mx.service loaded activating auto-restart A standing call\n"
        "batchmail-stay@mx.service loaded active running A standing call"
    )
    machine.program("systemctl", f'[ "$1" != list-units ] || cat <<END\n{listed}\nEND')
    _, environment, arguments, _ = next(event for event in EVENTS if event[0] == hook and event[3])
    _, *starts = machine.run(hook, environment, arguments)
    assert starts == [f"systemctl start --no-block batchmail-call@{peer}.service" for peer in ("a-b.mx", "mx")]


def test_hook_where_systemd_is_not_running(machine: Machine) -> None:
    machine.program("systemctl", "echo 'System has not been booted with systemd' >&2; exit 1")
    *_, last = machine.run("ppp/ip-up.d/batchmail", {}, [])
    assert last == "batchmail call --all"


def test_hook_returns_while_the_call_goes_on(machine: Machine) -> None:
    """A caller waits until nobody holds the hook's output any more."""
    machine.program("batchmail", 'read -r _ <"$GATE"')
    gate = machine.now.parent / "gate"
    os.mkfifo(gate)
    done = subprocess.run(
        [machine.now],
        env={"PATH": str(machine.now.parent / "bin"), "CALLS": "/dev/null", "GATE": str(gate)},
        capture_output=True,
        timeout=20,
    )
    assert done.returncode == 0
    with open(gate, "w") as opened:  # somebody waits there: the call outlived the hook
        opened.write("\n")


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_scripts_are_plain_shell(path: Path) -> None:
    assert path.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", path], check=True)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", path.name), "run-parts passes over a name with a dot"


def test_every_hook_is_tried() -> None:
    assert {str(path.relative_to(CONTRIB)) for path in SCRIPTS} == {event[0] for event in EVENTS} | {"call-now"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
@pytest.mark.parametrize("tight", [False, True], ids=["as installed", "with tight.conf"])
def test_systemd_takes_the_units(tmp_path: Path, tight: bool) -> None:
    names = []
    for unit in UNITS:
        text = re.sub("/usr/bin/batchmail(-lmtpd)?(?= |$)", "/bin/true", unit.read_text(), flags=re.M)
        (tmp_path / unit.name).write_text(text)
        names.append(unit.name.replace("@.", "@home."))
    if tight:
        drop_in = tmp_path / "batchmail-.service.d"
        drop_in.mkdir()
        shutil.copy(CONTRIB / "systemd" / "tight.conf", drop_in)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:", "SYSTEMD_LOG_LEVEL": "notice"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    ours = [line for line in done.stderr.splitlines() if "batchmail" in line or str(tmp_path) in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


def test_units_and_accounts_agree() -> None:
    assert len(UNITS) == 7
    for unit in UNITS:
        if unit.suffix == ".service":
            assert f"User={DEFAULT_USER}\nGroup={DEFAULT_USER}\nUMask=0077\n" in unit.read_text()
    assert f"u {DEFAULT_USER} - " in (CONTRIB / "sysusers.d" / "batchmail.conf").read_text()
    places = [line.split()[1:5] for line in (CONTRIB / "tmpfiles.d" / "batchmail.conf").read_text().splitlines()]
    assert [DEFAULT_SPOOL, "0700", DEFAULT_USER, DEFAULT_USER] in places
    assert [os.path.dirname(config.DEFAULT_PATH), "0750", "root", DEFAULT_USER] in places


def test_cron_lines_run_known_commands() -> None:
    lines = [line for line in (CONTRIB / "cron.d" / "batchmail").read_text().splitlines() if line[:1] in "*"]
    assert [line.split()[5:9] for line in lines] == [
        [DEFAULT_USER, "batchmail", "call", "--all"],
        [DEFAULT_USER, "batchmail", "run", ">/dev/null"],
    ]


def test_example_configurations_load() -> None:
    holding = config.load(str(CONTRIB / "batchmail-holding.toml"))
    away = config.load(str(CONTRIB / "batchmail-away.toml"))
    assert holding.name == "mx.example.net" and holding.peers["home"].domains == (away.name,)
    assert not holding.peers["home"].call
    assert away.peers["mx"].call == ("ssh://batchmail@mx.example.net",) and away.peers["mx"].domains == ("*",)
    assert holding.peers["home"].target == away.peers["mx"].target == "smtp://127.0.0.1:10026"


@pytest.mark.parametrize(
    "path",
    sorted(path for name in ("exim", "postfix", "sendmail", "opensmtpd") for path in (CONTRIB / name).iterdir()),
    ids=str,
)
def test_recipes_say_what_they_are(path: Path) -> None:
    first = path.read_text().splitlines()[0].removeprefix("dnl ")
    whose = ("Exim's ", "Postfix's ", "Sendmail's ", "OpenSMTPD's ", "Debian's own lines ", "As master.cf ")
    assert first.startswith(tuple(f"# {words}" for words in whose))


def test_stock_lines_are_debians() -> None:
    """Nothing but user= and the path may differ from what Debian ships in master.cf."""
    text = (CONTRIB / "postfix" / "master.cf-stock").read_text()
    debian = {
        "flags=Fqhu user=uucp argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient)",
        "flags=Fq. user=bsmtp argv=/usr/lib/bsmtp/bsmtp -t$nexthop -f$sender $recipient",
    }
    ours = {
        line.strip().replace("user=batchmail argv=/usr/lib/batchmail/uux", "user=uucp argv=uux")
        for line in text.splitlines()
        if "flags=" in line
    }
    ours = {
        line.replace("user=batchmail argv=/usr/lib/batchmail/bsmtp", "user=bsmtp argv=/usr/lib/bsmtp/bsmtp")
        for line in ours
    }
    assert ours == debian
