"""The disk fails at every operation of every step: the answer is "later", nothing is lost, and service goes on.

`make test` takes each kind of error at every few operations; BATCHMAIL_CRASH_FULL=1 at each.
"""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from batchmail.core.errors import BatchmailError, Permanent
from tests.crash.faults import Faults
from tests.crash.test_power import FULL
from tests.crash.world import World, new_world, power_off, record

ERRORS = {"ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EIO": errno.EIO, "EROFS": errno.EROFS, "short": 0}


@contextmanager
def forbearing(world: World) -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Run a step as programs are started: temporary errors are their end, any other is a fault."""
    strange: list[BaseException | None] = []

    def heard(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, BatchmailError | OSError) or isinstance(arguments.exc_value, Permanent):
            strange.append(arguments.exc_value)

    def attempt(step: Callable[[], Any]) -> None:
        try:
            step()
        except Permanent as error:
            strange.append(error)
        except KeyError as error:  # `tests.sites.call`: an end came to no result, for a reason that `heard` has judged
            assert str(error) in ("'a'", "'c'"), error
        except (BatchmailError, OSError):
            pass

    before, threading.excepthook = threading.excepthook, heard
    try:
        yield attempt
    finally:
        threading.excepthook = before
    assert not strange, f"{strange}"


def suffer(world: World) -> None:
    """As `World.live`, on a disk that fails."""
    with forbearing(world) as attempt:
        for offer in world.offers:
            attempt(lambda offer=offer: world.offer(offer))  # type: ignore[misc]
        for _ in range(2):
            attempt(world.call)
            attempt(world.pair.home.run)


def count(site: str, error: int) -> int:
    with new_world() as world, Faults(world.roots[site], -1, error, lasting=False) as faults:
        suffer(world)
    return faults.count


@pytest.mark.parametrize("site", ["mx", "home"])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_operation_fails(kind: str, site: str) -> None:
    stride = 1 if FULL else {"short": 6}.get(kind, 11)
    operations = count(site, ERRORS[kind])
    assert operations > 5
    for at in range(len(kind) % stride, operations, stride):
        for lasting in (False, True) if FULL else (at // stride % 2 == 1,):
            with new_world() as world:
                with Faults(world.roots[site], at, ERRORS[kind], lasting) as faults:
                    suffer(world)
                try:
                    world.clock.now_ms += 120_000
                    world.recover()
                    world.doubts.update(given.key for given in world.given)  # an outcome may have been unwritable
                    world.check()
                except Exception as error:
                    raise AssertionError(f"{kind} at {at} of {operations}, {lasting=}: {faults.failed[:5]}") from error


@pytest.mark.parametrize("site", ["mx", "home"])
def test_what_a_failed_sync_has_lost_is_not_taken_for_synced(site: str) -> None:
    """After a failed fsync the kernel forgets what it could not write, and the next fsync says that all is well."""
    operations = sum(step[0] == "sync" and step[1] is not None for step in _syncs(site))
    assert operations > 15
    for at in range(0, operations, 1 if FULL else 4):
        with new_world() as world:
            roots = tuple(world.roots.values())
            journal = record(world, lambda at=at, world=world: fail_sync(world, site, at), 0)  # type: ignore[misc]
            cut = next(journal.cuts(*roots, at=[len(journal.operations)]))
            choice = cut.choices()[-1] if len(cut.choices()) < 2 else cut.choices()[1]
            power_off(world, cut, choice)
            world.clock.now_ms += 120_000
            try:
                world.recover()
                world.doubts.update(given.key for given in world.given)
                world.check()
            except Exception as error:
                raise AssertionError(f"fsync {at} of {operations} failed: {cut}\n{choice}") from error


def fail_sync(world: World, site: str, at: int) -> None:
    assert world.journal
    with Faults(world.roots[site], at, errno.EIO, lasting=False, only="fsync", synced=world.journal.spoil):
        suffer(world)


def _syncs(site: str) -> list[tuple[Any, ...]]:
    with new_world() as world:
        journal = record(world, lambda: suffer(world), 0)
        return [step for root, step in journal.operations if root == world.roots[site] and step[0] == "sync"]
