"""Calls over a real sshd and a bad line, against what the bare `ssh` client takes for the same octets.

The line costs a round trip to open, as TCP does.  The sshd is as a distribution sets it up: three host keys.  Seconds
are from the start of the program to its end; round trips are from the connection to the end, of which turns are what
was spent waiting.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.tables import show, timed
from tests.e2e.sites import Site, ssh_entry
from tests.servers.host import Installed
from tests.servers.link import Link
from tests.servers.sshd import Sshd

LINES = (("no delay", 0.0, 0.0), ("100 ms, 10 Mbit/s", 100.0, 1.25e6), ("600 ms, 512 kbit/s", 600.0, 64e3))
COUNT = 100


def message(n: int) -> bytes:
    """Five KiB that shrink about as mail does."""
    text = subprocess.run(["openssl", "rand", "-base64", "1500"], capture_output=True, check=True).stdout
    return b"Subject: message %d\n\n" % n + text + b"the same words at the end of each line of all of them\n" * 56


def run(installed: Installed) -> None:
    messages = [message(n) for n in range(COUNT)]
    rows = []
    for name, rtt_ms, rate in LINES:
        for what, measure in (("idle", _idle), (f"{COUNT} x 5 KiB", _drain)):
            ours, floor = measure(installed, messages, rtt_ms, rate)
            rows.append(
                (
                    f"{what}, {name}",
                    f"{ours.seconds:.2f}",
                    f"{floor.seconds:.2f}",
                    f"{ours.seconds / floor.seconds:.2f}",
                    *(f"{run.line_seconds * 1e3 / rtt_ms:.1f}" if rtt_ms else "" for run in (ours, floor)),
                    *(str(run.turns) if rtt_ms else "" for run in (ours, floor)),
                    *(f"{run.octets / 1e3:.1f}" for run in (ours, floor)),
                )
            )
    head = ("a fresh login", "batchmail s", "bare ssh s", "ratio", "RTTs", "ssh", "turns", "ssh", "kB", "ssh")
    show("Calls (idle: `ssh host true`; mail: `ssh host 'cat >file' <zstd -19`)", head, rows)


class Run(NamedTuple):
    """One program over the line."""

    seconds: float
    line_seconds: float  # from the connection to the program's end
    turns: int
    octets: int


Measured = tuple[Run, Run]


def _with_sites(
    installed: Installed, rtt_ms: float, rate: float, use: Callable[[Site, Site, Sshd, Link], Measured]
) -> Measured:
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        os.mkdir(f"{path}/sshd", 0o755)
        with stock_sshd(f"{path}/sshd") as sshd, Link(sshd.port, rtt_ms=rtt_ms, rate=rate) as link:
            entry = {"domains": ["home.example.test"], "target": f"bsmtp:{path}/holding/mail"}
            holding = Site(f"{path}/holding", installed, "mx.example.test", {"home": entry})
            holding.make_owned_directory("mail")
            ssh = ssh_entry(sshd, f"{path}/away", holding, "home", link.port)
            mail = f"bsmtp:{path}/away/mail"
            away = Site(
                f"{path}/away", installed, "home.example.test", {"mx": {"domains": ["*"], "target": mail, **ssh}}
            )
            away.make_owned_directory("mail")
            return use(holding, away, sshd, link)


def stock_sshd(directory: str) -> Sshd:
    sshd = Sshd(directory)
    keys = [sshd.make_key(kind, kind) for kind in ("rsa", "ecdsa")]
    with open(sshd.path("sshd_config"), "a", encoding="utf-8") as file:
        file.writelines(f"HostKey {key}\n" for key in keys)
    return sshd


def _run(link: Link, argv: Sequence[str], data: bytes = b"") -> Run:
    octets, turns, connections = sum(link.octets.values()), link.turns, link.connections
    began_s = time.monotonic()
    cost = timed(argv, data)
    assert link.connections == connections + 1, "not one connection"
    on_line_s = cost.seconds - (link.connected_s - began_s)
    return Run(cost.seconds, on_line_s, link.turns - turns, sum(link.octets.values()) - octets)


def _bare(sshd: Sshd, link: Link, command: str, data: bytes = b"") -> Run:
    identity = sshd.make_key("bare")
    sshd.authorize_line(open(f"{identity}.pub", encoding="utf-8").read().strip())
    client = sshd.client(identity)
    client[client.index("-p") + 1] = str(link.port)
    known = client[next(n for n, word in enumerate(client) if word.startswith("UserKnownHostsFile="))].partition("=")[2]
    with open(known, encoding="utf-8") as file:
        line = file.read()
    with open(known, "w", encoding="utf-8") as file:
        file.write(line.replace(f":{sshd.port} ", f":{link.port} "))
    return _run(link, [*client, command], data)


def _call_first(away: Site, link: Link) -> None:
    """It learns the names; what follows is for the next call, and the other side hears half a round trip later."""
    timed(away.command("batchmail", "call", "mx"))
    while not link.is_idle:
        time.sleep(0.02)


def _idle(installed: Installed, _messages: list[bytes], rtt_ms: float, rate: float) -> Measured:
    def use(_holding: Site, away: Site, sshd: Sshd, link: Link) -> Measured:
        _call_first(away, link)
        return _run(link, away.command("batchmail", "call", "mx")), _bare(sshd, link, "true")

    return _with_sites(installed, rtt_ms, rate, use)


def _drain(installed: Installed, messages: list[bytes], rtt_ms: float, rate: float) -> Measured:
    def use(holding: Site, away: Site, sshd: Sshd, link: Link) -> Measured:
        _call_first(away, link)
        for content in messages:
            holding.accept(content, "-t", "home", "-f", "s@x.test", "--", "u@home.example.test")
        packed = subprocess.run(["zstd", "-19", "-c"], input=b"".join(messages), capture_output=True, check=True).stdout
        ours = _run(link, away.command("batchmail", "call", "mx"))
        assert len([n for n in os.listdir(f"{away.directory}/mail") if n.endswith(".bsmtp")]) == len(messages)
        return ours, _bare(sshd, link, "cat >/dev/null", packed)

    return _with_sites(installed, rtt_ms, rate, use)
