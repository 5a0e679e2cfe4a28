"""The power fails at every operation of every step, and at every frame: nothing is lost, nothing comes twice.

`make test` takes each state of a site once: as when its programs are killed, as when all that was not synced is lost,
and at the first chance each single thing lost, torn or alone kept.  BATCHMAIL_CRASH_FULL=1 takes them at every
operation; BATCHMAIL_CRASH_SEEDS=N does N larger lives at random, each cut twice.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from tests.crash.journal import Choice, Cut, Item, Journal
from tests.crash.world import BAD, GOOD, Mail, Offer, World, new_world, power_off, record, survive

FULL = bool(os.environ.get("BATCHMAIL_CRASH_FULL"))
SEEDS = int(os.environ.get("BATCHMAIL_CRASH_SEEDS", "6"))


def states(journal: Journal, *sites: str) -> Iterator[tuple[Cut, Choice]]:
    """The states that these sites can be in after a cut; a single thing is lost at the first cut that can lose it."""
    seen = set()
    known: set[tuple[Item, int]] = set()
    for cut in journal.cuts(*sites):
        new = cut.items().items() - known
        known |= new
        for choice in cut.choices() if FULL or new else cut.choices()[:2]:
            signature = cut.signature(choice)
            if FULL or signature not in seen:
                seen.add(signature)
                yield cut, choice


@pytest.mark.parametrize("site", ["mx", "home"])
def test_the_power_fails_at_one_site(site: str) -> None:
    with new_world() as world:
        journal = record(world, world.live)
        count = 0
        for cut, choice in states(journal, world.roots[site]):
            count += 1
            try:
                survive(world, cut, choice)
            except Exception as error:
                raise AssertionError(f"{cut}\n{choice}") from error
        print(f"{len(journal.points(world.roots[site]))} stop points, {count} states, {world.doubled} given twice")
        assert count > 150
        assert world.doubled < count / 10  # in doubt is only what was being delivered


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_power_fails_at_random_and_again_while_all_recovers(seed: int) -> None:
    random = Random(seed)
    with new_world(random_offers(random), batch_octets=random.choice([700, 4 << 20])) as world:
        sites = random.choice([("mx",), ("home",), ("mx", "home")])
        roots = [world.roots[name] for name in sites]
        journal = record(world, world.live)
        cut = next(journal.cuts(*roots, at=[random.choice(journal.points(*roots))]))
        choice = cut.random_choice(random)
        power_off(world, cut, choice)
        world.doubt()
        lived, doubts = (world.given[:], set(world.told)), world.doubts.copy()
        again = record(world, world.recover)
        second = next(again.cuts(*roots, at=[random.choice(again.points(*roots))]))
        choice_again = second.random_choice(random)
        power_off(world, second, choice_again, lived)
        world.doubt()
        world.doubts += doubts
        try:
            world.recover()
            world.check()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {cut}\n{choice}\nthen {second}\n{choice_again}") from error


def random_offers(random: Random) -> tuple[Offer, ...]:
    offers = []
    subjects = iter(range(100, 1000))
    for n in range(random.randrange(4, 9)):
        site = random.choice(["mx", "mx", "home"])
        mails = []
        for _ in range(random.choice([1, 1, 2, 5])):
            rcpts = random.choice([(GOOD,), (GOOD, "v@home.example"), (GOOD, BAD), (BAD,)])
            octets = random.choice([100, 3000, 300_000])
            if site == "mx":
                mails.append(Mail(f"m{next(subjects)}", rcpts, octets))
            else:
                mails.append(Mail(f"h{next(subjects)}", ("r@mx.example",), octets))
        offers.append(Offer(site, f"R{n}", tuple(mails)))
    return tuple(offers)


_PATHS = {"os.link": 1, "os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.symlink": 1, "open": 0}
_heard: list[tuple[str, str]] = []
_roots: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """What the interpreter itself says is done below `_roots`."""
    if _roots and event in _PATHS and isinstance(arguments[_PATHS[event]], str):
        path = arguments[_PATHS[event]]
        reads = event == "open" and not arguments[2] & (os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR)
        if not reads and any(path.startswith(f"{root}/") for root in _roots) and "/lock/" not in path:
            _heard.append((event.removeprefix("os."), path))


def test_no_operation_is_overlooked() -> None:
    """The interpreter's audit hears of no change of a name that the journal does not know; each is a stop point."""
    with new_world() as world:
        sys.addaudithook(_audit)
        _roots.extend(world.roots.values())
        try:
            journal = record(world, world.live)
        finally:
            _roots.clear()
        assert Counter(_heard) == Counter(journal.attempts)
        points = {n for root in world.roots.values() for n in journal.points(root)}
        assert points == set(range(len(journal.operations) + 1))
        syncs = sum(step[0] == "sync" for _, step in journal.operations)
        print(f"{len(_heard)} changes of names, {syncs} syncs, {len(points)} points to stop at")
        assert len(points) > len(_heard) + syncs > 150


def boundaries() -> Iterator[tuple[str, int]]:
    """Where each frame of the first call ends, by direction; and its middle."""
    with new_world() as world:
        journal = record(world, world.live)
        for site in world.roots:
            total = 0
            for root, step in journal.operations:
                if step[0] == "mark" and step[1] == "sent" and root == world.roots[site]:
                    if FULL:
                        yield site, total + step[2] // 2
                    total += step[2]
                    yield site, total


def test_the_line_breaks_at_every_frame() -> None:
    places = list(boundaries())
    assert len(places) > 15
    for site, octets in places:
        with new_world() as world:
            cut_frames(world, site, octets)


def cut_frames(world: World, site: str, octets: int) -> None:
    for offer in world.offers:
        world.offer(offer)
    world.call(**{"cut_down" if site == "mx" else "cut_up": octets})
    try:
        world.recover()
        world.check()  # nobody died: nothing may come twice
    except Exception as error:
        raise AssertionError(f"the line broke after {octets} octets from {site}") from error
