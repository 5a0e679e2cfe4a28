"""Calls over a real sshd and a bad line, against what the bare `ssh` client takes for the same octets."""

import os
import subprocess
import tempfile
from collections.abc import Callable

from bench.tables import Cost, show, timed
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
            ours, floor, octets, floor_octets = measure(installed, messages, rtt_ms, rate)
            rows.append(
                (
                    f"{what}, {name}",
                    f"{ours.seconds:.2f}",
                    f"{floor.seconds:.2f}",
                    f"{ours.seconds / floor.seconds:.2f}",
                    f"{octets / 1e3:.1f}",
                    f"{floor_octets / 1e3:.1f}",
                )
            )
    head = ("a fresh login", "batchmail s", "bare ssh s", "ratio", "batchmail kB", "bare ssh kB")
    show("Calls (idle: `ssh host true`; mail: `ssh host 'cat >file' <batch`)", head, rows)


Measured = tuple[Cost, Cost, int, int]


def _with_sites(
    installed: Installed, rtt_ms: float, rate: float, use: Callable[[Site, Site, Sshd, Link], Measured]
) -> Measured:
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        os.mkdir(f"{path}/sshd", 0o755)
        with Sshd(f"{path}/sshd") as sshd, Link(sshd.port, rtt_ms=rtt_ms, rate=rate) as link:
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


def _octets(link: Link) -> int:
    return sum(link.octets.values())


def _bare(sshd: Sshd, link: Link, command: str, data: bytes = b"") -> tuple[Cost, int]:
    identity = sshd.make_key("bare")
    sshd.authorize_line(open(f"{identity}.pub", encoding="utf-8").read().strip())
    client = sshd.client(identity)
    client[client.index("-p") + 1] = str(link.port)
    known = client[next(n for n, word in enumerate(client) if word.startswith("UserKnownHostsFile="))].partition("=")[2]
    with open(known, encoding="utf-8") as file:
        line = file.read()
    with open(known, "w", encoding="utf-8") as file:
        file.write(line.replace(f":{sshd.port} ", f":{link.port} "))
    before = _octets(link)
    return timed([*client, command], data), _octets(link) - before


def _idle(installed: Installed, _messages: list[bytes], rtt_ms: float, rate: float) -> Measured:
    def use(_holding: Site, away: Site, sshd: Sshd, link: Link) -> Measured:
        timed(away.command("batchmail", "call", "mx"))  # the first call learns the names
        before = _octets(link)
        ours = timed(away.command("batchmail", "call", "mx"))
        octets = _octets(link) - before
        floor, floor_octets = _bare(sshd, link, "true")
        return ours, floor, octets, floor_octets

    return _with_sites(installed, rtt_ms, rate, use)


def _drain(installed: Installed, messages: list[bytes], rtt_ms: float, rate: float) -> Measured:
    def use(holding: Site, away: Site, sshd: Sshd, link: Link) -> Measured:
        for content in messages:
            holding.accept(content, "-t", "home", "-f", "s@x.test", "--", "u@home.example.test")
        packed = subprocess.run(["zstd", "-19", "-c"], input=b"".join(messages), capture_output=True, check=True).stdout
        before = _octets(link)
        ours = timed(away.command("batchmail", "call", "mx"))
        octets = _octets(link) - before
        assert len([n for n in os.listdir(f"{away.directory}/mail") if n.endswith(".bsmtp")]) == len(messages)
        floor, floor_octets = _bare(sshd, link, "cat >/dev/null", packed)
        return ours, floor, octets, floor_octets

    return _with_sites(installed, rtt_ms, rate, use)
