"""Bad lines and damaged files: twenty cuts in a row, and a bit that flipped on the disk of the origin."""

import os
import re
from collections import Counter
from random import Random

import pytest

from tests.e2e.pair import DOMAIN, HOLDING, Pair, letters, unsettled
from tests.e2e.sites import Site
from tests.e2e.test_call import opaque
from tests.servers.host import Factory, Installed, wait_until
from tests.servers.link import Direction, Link
from tests.servers.sshd import Sshd

CALLS = 20
CUTS_BEFORE = (2_000, 4_000, 40_000)  # octets; an idle call takes some 1,500 up and 2,700 down
MAX_IDLE_TURNS = 7  # three round trips and what the servers take; step by step it would be 15
MAX_IDLE_OCTETS = 5_000
BOTH: tuple[Direction, Direction] = ("up", "down")


def subjects(site: Site) -> Counter[bytes]:
    """How often each message came."""
    found = (re.search(rb"\r\nSubject: (\S+)\r\n", text) for text in letters(site))
    return Counter(match[1] for match in found if match)


@pytest.mark.real
def test_an_idle_call_waits_for_three_round_trips(
    open_path: str, installed: Installed, sshd: Sshd, link_factory: Factory[Link]
) -> None:
    link = link_factory(sshd.port, rtt_ms=300)
    sites = Pair(open_path, installed, sshd, port=link.port)
    sites.call()
    turns, octets = link.turns, sum(link.octets.values())
    sites.call()
    assert link.turns - turns <= MAX_IDLE_TURNS
    assert sum(link.octets.values()) - octets <= MAX_IDLE_OCTETS
    assert link.connections == 2


@pytest.mark.real
def test_twenty_cuts_in_a_row(open_path: str, installed: Installed, sshd: Sshd, link_factory: Factory[Link]) -> None:
    random = Random(20)
    link = link_factory(sshd.port)
    sites = Pair(open_path, installed, sshd, port=link.port)
    directions = ((sites.holding, "home", f"u@{DOMAIN}"), (sites.away, "mx", "s@far.test"))
    sent: dict[str, Counter[bytes]] = {HOLDING: Counter(), sites.away.name: Counter()}
    cuts = 0
    for number in range(CALLS):
        site, peer, recipient = directions[number % 2]  # with what earlier calls have left, both ways
        subject = b"%d-%d" % (number, random.randrange(1 << 40))
        body = opaque(random.choice((100, 20_000, 80_000)), number)
        sender = "s@far.test" if site is sites.holding else f"u@{DOMAIN}"
        site.accept(b"Subject: %b\n\n" % subject + body, "-t", peer, "-f", sender, "--", recipient)
        sent[site.name][subject] += 1
        direction = random.choice(BOTH)
        link.cut_after(random.randrange(1, random.choice(CUTS_BEFORE)), direction)
        done = sites.away.batchmail("call", "mx")
        assert done.returncode in (0, 75), done.stderr
        cuts += done.returncode == 75
        assert done.stderr == "", "a line that is cut is no news without a terminal"
    cuts += link.connections - CALLS  # cut while keys were agreed on: the call was made again, in the ordinary way
    assert cuts > CALLS / 2
    for direction in BOTH:
        link.cut_after(1 << 40, direction)
    sites.call()
    assert subjects(sites.away) == sent[HOLDING]
    assert subjects(sites.holding) == sent[sites.away.name]
    wait_until(lambda: not unsettled(sites.holding), "what the answering site leaves to a run")
    assert unsettled(sites.away) == []
    print(f"{cuts} cuts in {CALLS} calls; octets: {link.octets}")


def test_a_bit_that_flipped_in_the_outbox(open_path: str, installed: Installed) -> None:
    """The batch is refused and said; nothing of it is delivered, nothing removed, and other mail goes on."""
    sites = Pair(open_path, installed, None)

    def accept(subject: bytes) -> None:
        text = b"Subject: %b\n\n" % subject + opaque(1 << 20, 3)
        sites.holding.accept(text, "-t", "home", "-f", "s@far.test", "--", f"u@{DOMAIN}")

    accept(b"damaged")
    assert sites.away.batchmail("call", "--max-bytes", "10000", "mx").returncode in (0, 75)
    (batch,) = (path for path in sites.holding.files("out") if path.endswith(".batch"))
    with open(batch, "r+b") as file:
        file.seek(os.path.getsize(batch) // 2)
        octet = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([octet ^ 16]))
    accept(b"other")
    for _ in range(3):
        sites.call()
    assert subjects(sites.away) == Counter([b"other"])
    assert f"{batch} is damaged" in sites.holding.batchmail("status", "home").stdout
    accept(b"third")
    sites.call()
    assert subjects(sites.away) == Counter([b"other", b"third"])
    assert [path for path in sites.holding.files("out") if path.endswith(".batch")] == [batch]
    with open(batch, "r+b") as file:  # mended, from a copy say
        file.seek(os.path.getsize(batch) // 2)
        file.write(bytes([octet]))
    sites.call()
    assert len([path for path in sites.holding.files("out") if "/held/" in path]) == 1, "as what is refused alone"
    assert unsettled(sites.away) == []
