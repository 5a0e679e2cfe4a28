"""A real file system that is full, to the last byte: during accept, exchange and replay, and how it comes back."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from batchmail.core.errors import SpoolError, Temporary
from batchmail.store import ballast
from batchmail.store.room import free_octets
from tests.conftest import unavailable
from tests.crash.world import Mail, Offer, World, new_world
from tests.servers.smtp_log import Rule

SIZE = 24 << 20
UP = Offer("home", "U1", (Mail("h1", ("r@mx.example",)),))


@pytest.fixture
def world(tmp_path: object) -> Iterator[World]:
    """`home` lies on a file system of its own."""
    place = f"{tmp_path}/home"
    os.mkdir(place)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place]
    done = subprocess.run(mount, capture_output=True, text=True) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        unavailable(f"no file system of its own: {done.stderr.strip() if done else 'that needs root'}")
    try:
        world = World(str(tmp_path), offers=())
        yield world
        world.close()
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(world: World, leave: int = 0) -> str:
    """Something else takes all the room but so many octets."""
    path = f"{world.roots['home']}/other"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    octets = free_octets(world.roots["home"]) - leave
    os.posix_fallocate(fd, 0, octets)
    if not leave:
        with contextlib.suppress(OSError):
            while os.pwrite(fd, bytes(4096), octets):
                octets += 4096
        assert not free_octets(world.roots["home"])
    os.close(fd)
    return path


def down(number: int, octets: int) -> Offer:
    return Offer("mx", f"D{number}", (Mail(f"m{number}", octets=octets),))


def settled(world: World) -> None:
    for _ in range(4):
        error = world.call()
        world.pair.home.run()
        world.clock.now_ms += 120_000
    assert not error
    assert not world.left()
    world.check_given(world.offers)


def test_a_door_says_later_and_takes_it_when_there_is_room(world: World) -> None:
    other = fill(world)
    with pytest.raises((SpoolError, OSError)):
        world.offer(UP)
    assert not world.told
    assert not world.pair.home.waiting()
    os.unlink(other)
    world.offer(UP)
    world.offers = (UP,)
    settled(world)


def test_one_direction_stops_and_the_other_goes_on(world: World) -> None:
    world.offers = (UP, down(1, 6 << 20), down(2, 100))
    for offer in world.offers:
        world.offer(offer)
    world.pair.home.context.open_ledger().close()
    other = fill(world, leave=1 << 20)  # less than the large one, though it compresses
    world.call()
    assert ("mx", "mail", "h1") in [given.key for given in world.given]
    os.unlink(other)
    settled(world)


def test_from_no_room_at_all_it_recovers_by_itself(world: World) -> None:
    """Mail lies in the inbox, its outcomes are not known yet, and nothing can be written."""
    world.offers = tuple(down(number, octets) for number, octets in enumerate((100, 3 << 20, 100), 1))
    for offer in world.offers:
        world.offer(offer)
    take_only(world)
    ballast.keep(world.roots["home"])
    assert os.path.exists(f"{world.roots['home']}/ballast")
    other = fill(world)
    world.call()
    world.pair.home.run()
    settled(world)
    assert os.path.exists(other)
    assert not os.path.exists(f"{world.roots['home']}/ballast")


def test_the_disk_is_full_between_the_dot_and_its_outcome(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that is kept is for just this: what the server took is known to be delivered, and comes once."""
    world.offers = tuple(down(number, 100) for number in range(1, 4))
    for offer in world.offers:
        world.offer(offer)
    world.pair.home.context.open_ledger().close()
    ballast.keep(world.roots["home"])
    filled: list[str] = []
    mark = world.mark

    def mark_and_fill(root: str, kind: str, value: object = None) -> None:
        mark(root, kind, value)
        if kind == "given" and not filled:
            filled.append(fill(world))

    monkeypatch.setattr(world, "mark", mark_and_fill)
    world.call()
    world.pair.home.run()
    assert filled
    assert not os.path.exists(f"{world.roots['home']}/ballast")
    settled(world)


def take_only(world: World) -> None:
    """A call after which nothing was replayed: the server was down."""
    server = world.servers[1]
    server.rules.insert(0, Rule("MAIL", b"451 4.3.0 not now"))
    world.call()
    assert world.pair.home.inbox()
    assert not world.given
    server.rules.pop(0)
    world.clock.now_ms += 120_000


def test_a_ledger_that_cannot_be_written_says_so(world: World) -> None:
    ledger = world.pair.home.context.open_ledger()
    fill(world)
    with pytest.raises(Temporary):
        for _ in range(1000):
            ledger.set_fact("call_text", os.urandom(50_000).hex())
    ledger.close()


def test_below_the_reserve_only_settling_goes_on() -> None:
    with new_world(offers=(down(1, 100), down(2, 100))) as world:
        world.offer(world.offers[0])
        take_only(world)
        set_reserve(world, 1 << 50)
        world.offer(world.offers[1])
        world.call()
        world.pair.home.run()
        world.call()
        assert [given.key for given in world.given] == [("home", "mail", "m1")]
        assert world.pair.home.inbox() == []  # its outcome was reported and acknowledged
        assert len(world.pair.mx.waiting() + world.pair.mx.outbox()) == 1
        set_reserve(world, 0)
        settled(world)


def set_reserve(world: World, octets: int) -> None:
    home = world.pair.home
    context = home.context._replace(site=home.context.site._replace(reserve_octets=octets))
    world.pair = world.pair._replace(home=home._replace(context=context))
