"""Calls with mail in both directions, against each direction alone; and the memory of the calling program."""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence

from bench.calls import message
from bench.tables import show
from tests.e2e.sites import Site, ssh_entry
from tests.servers.host import Installed
from tests.servers.link import Link
from tests.servers.sshd import Sshd

RTT_MS, RATE = 100.0, 1.25e6
COUNT, LARGE_OCTETS = 100, 4 << 20


def run(installed: Installed) -> None:
    small = [message(n) for n in range(COUNT)]
    large = subprocess.run(["openssl", "rand", "-base64", str(LARGE_OCTETS * 3 // 4)], capture_output=True, check=True)
    mail = [b"Subject: large\n\n" + large.stdout, *small]
    costs = {name: _call(installed, mail, *ways) for name, ways in _WAYS.items()}
    alone = max(costs["to the caller"][0], costs["from the caller"][0])
    rows = [(name, f"{taken:.2f}", f"{taken / alone:.2f}", str(peak)) for name, (taken, peak) in costs.items()]
    head = ("", "s", "to the longer alone", "MiB of memory")
    show("4 MiB and 100 x 5 KiB over 100 ms, 10 Mbit/s, a fresh login", head, rows)


# A small program starts it: what the one that starts another takes counts as the other's, too.
_MEASURE = """
import os, sys
nothing = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=nothing), 0)
print(usage.ru_maxrss)
sys.exit(status != 0)
"""
_WAYS = {"to the caller": (True, False), "from the caller": (False, True), "both": (True, True)}


def _call(installed: Installed, mail: list[bytes], there: bool, back: bool) -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        os.mkdir(f"{path}/sshd", 0o755)
        with Sshd(f"{path}/sshd") as sshd, Link(sshd.port, rtt_ms=RTT_MS, rate=RATE) as link:
            entry = {"domains": ["home.example.test"], "target": f"bsmtp:{path}/holding/mail"}
            holding = Site(f"{path}/holding", installed, "mx.example.test", {"home": entry})
            holding.make_owned_directory("mail")
            ssh = ssh_entry(sshd, f"{path}/away", holding, "home", link.port)
            theirs = {"domains": ["*"], "target": f"bsmtp:{path}/away/mail", **ssh}
            away = Site(f"{path}/away", installed, "home.example.test", {"mx": theirs})
            away.make_owned_directory("mail")
            for content in mail if there else ():
                holding.accept(content, "-t", "home", "-f", "s@x.test", "--", "u@home.example.test")
            for content in mail if back else ():
                away.accept(content, "-t", "mx", "-f", "s@home.example.test", "--", "u@x.test")
            return _timed(away.command("batchmail", "call", "mx"))


def _timed(argv: Sequence[str]) -> tuple[float, int]:
    """Seconds, and the largest memory in MiB, of one program."""
    began = time.monotonic()
    done = subprocess.run(["/usr/bin/python3", "-IS", "-c", _MEASURE, *argv], stdout=subprocess.PIPE, check=True)
    return time.monotonic() - began, int(done.stdout) >> 10
