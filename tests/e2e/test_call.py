"""Calls through a real sshd: what crosses, what a cut costs, who takes over."""

import os
import shlex
import subprocess
import time
from base64 import b64encode
from random import Random

import pytest

from tests.e2e.sites import Site, ssh_entry
from tests.servers.host import Factory, Installed, wait_until
from tests.servers.link import Direction, Link
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.real

AWAY, HOLDING = "home.example.test", "mx.example.test"


def pair(path: str, installed: Installed, sshd: Sshd, port: int = 0) -> tuple[Site, Site]:
    """A holding site and an away one that calls it, both with maildirs as targets."""
    places = {name: os.path.join(path, name) for name in ("holding", "away")}
    holding = Site(
        places["holding"],
        installed,
        HOLDING,
        {"home": {"domains": [AWAY], "target": f"bsmtp:{places['holding']}/mail"}},
    )
    holding.make_owned_directory("mail")
    entry = ssh_entry(sshd, places["away"], holding, "home", port)
    away = Site(
        places["away"],
        installed,
        AWAY,
        {"mx": {"domains": ["*"], "target": f"bsmtp:{places['away']}/mail", **entry}},
    )
    away.make_owned_directory("mail")
    return holding, away


def mail(site: Site) -> list[str]:
    return sorted(n for n in os.listdir(os.path.join(site.directory, "mail")) if n.endswith(".bsmtp"))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/no/such/batchmail-receive --peer home", "ended with 127"),
        ("{program} --peer hoem", "no peer hoem; known: home"),
    ],
)
def test_a_wrong_line_in_authorized_keys_is_for_a_person(
    open_path: str, installed: Installed, sshd: Sshd, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    def receive(site: Site, _peer: str) -> str:
        return command.format(program=shlex.join(site.command("batchmail-receive")))

    monkeypatch.setattr(Site, "receive", receive)
    _, away = pair(open_path, installed, sshd)
    done = away.batchmail("call", "mx")
    assert (done.returncode, said in done.stderr) == (78, True), done
    assert away.batchmail("status").returncode == 2


def opaque(octets: int, seed: int) -> bytes:
    """A message that does not compress below three quarters of its size."""
    text = b64encode(Random(seed).randbytes(octets * 3 // 4))
    return b"Subject: opaque\n\n" + b"\n".join(text[n : n + 76] for n in range(0, len(text), 76)) + b"\n"


def test_both_directions_cross_in_one_call(open_path: str, installed: Installed, sshd: Sshd) -> None:
    holding, away = pair(open_path, installed, sshd)
    holding.accept(b"Subject: down\n\nx\n", "-t", "home", "-f", "s@far.test", "--", f"u@{AWAY}")
    away.accept(b"Subject: up\n\nx\n", "-t", "mx", "-f", f"u@{AWAY}", "--", "s@far.test")
    away.call("mx")
    assert (len(mail(away)), len(mail(holding))) == (1, 1)
    away.call("mx")
    assert (len(mail(away)), len(mail(holding))) == (1, 1)
    for site in (away, holding):
        assert [f for f in site.files("out") + site.files("in") if f.endswith((".bsmtp", ".batch", ".report"))] == []


def crossed(path: str, installed: Installed, sshd: Sshd, link: Link, direction: Direction, cut_at: int) -> int:
    """Octets that it takes in a direction to carry a message, in two calls when the first is cut."""
    holding, away = pair(path, installed, sshd, link.port)
    sender, peer, recipient = (away, "mx", "s@far.test") if direction == "up" else (holding, "home", f"u@{AWAY}")
    sender.accept(opaque(10 << 20, 1), "-t", peer, "-f", f"u@{AWAY}", "--", recipient)
    before = link.octets[direction]
    if cut_at:
        link.cut_after(cut_at, direction)
        assert away.batchmail("call", "mx").returncode == 75
        assert [name for name in sender.files("out") if name.endswith(".batch")]
    away.call("mx")
    assert len(mail(holding if direction == "up" else away)) == 1
    assert not [name for name in sender.files("out") if name.endswith(".batch")]
    return link.octets[direction] - before


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_costs_at_most_64_kib(
    open_path: str, installed: Installed, sshd: Sshd, link_factory: Factory[Link], direction: Direction
) -> None:
    link = link_factory(sshd.port)
    whole, cut = (
        crossed(os.path.join(open_path, str(at)), installed, sshd, link, direction, at) for at in (0, 6 << 20)
    )
    print(f"whole {whole} octets, cut {cut}: {cut - whole} again, a login included")
    assert cut - whole <= 64 << 10


def test_a_newer_call_takes_over_when_the_line_went_silent(
    open_path: str, installed: Installed, sshd: Sshd, link_factory: Factory[Link]
) -> None:
    link = link_factory(sshd.port)
    holding, away = pair(open_path, installed, sshd, link.port)
    holding.accept(opaque(4 << 20, 2), "-t", "home", "-f", "s@far.test", "--", f"u@{AWAY}")
    link.silence_after(1 << 20, "down")
    first = subprocess.Popen(away.command("batchmail", "call", "mx"), stderr=subprocess.PIPE)
    try:
        wait_until(lambda: link.octets["down"] >= 1 << 20, "the line to go silent")
        began = time.monotonic()
        away.call("mx")
        print(f"taken over and done after {time.monotonic() - began:.1f} s")
        assert first.wait(30) == 75
    finally:
        first.kill()
    assert len(mail(away)) == 1


def test_a_call_that_is_kept_open_carries_new_mail_at_once_and_ends_when_told(
    open_path: str, installed: Installed, sshd: Sshd
) -> None:
    holding, away = pair(open_path, installed, sshd)
    standing = subprocess.Popen(away.command("batchmail", "call", "--stay", "mx"), stderr=subprocess.PIPE)
    try:
        wait_until(lambda: os.path.exists(f"{holding.spool}/lock/home.bell"), "the call")
        holding.accept(b"Subject: down\n\nx\n", "-t", "home", "-f", "s@far.test", "--", f"u@{AWAY}")
        wait_until(lambda: len(mail(away)) == 1, "mail from the holding site")
        away.accept(b"Subject: up\n\nx\n", "-t", "mx", "-f", f"u@{AWAY}", "--", "s@far.test")
        wait_until(lambda: len(mail(holding)) == 1, "mail from the away site")
        wait_until(lambda: not [f for f in holding.files("out") if f.endswith(".batch")], "the outcome")
        assert standing.poll() is None
        standing.terminate()
        assert standing.wait(20) == 75
    finally:
        standing.kill()
