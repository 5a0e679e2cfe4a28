"""Stop at every step that lasts: each operation on the disk, and each commit of a ledger, before it and behind it.

    for stop, machine in every_stop():
        site = a site made in a directory of its own
        with machine:                  # raises Stop, a BaseException, at its stop-th step; the block swallows it
            work(site)
        work(site)                     # what the next call or run does
        assert site is as if nothing had happened

For code of one thread: what other threads do meanwhile is neither counted nor stopped.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from batchmail.store.ledger import Ledger
from tests.disks import OPERATIONS, Stop


class Machine:
    """Counts the lasting steps of the thread that enters it, and stops instead of taking the `at`-th."""

    def __init__(self, at: int):
        self._at = at
        self.steps = 0
        self.stopped = False

    def step(self) -> None:
        if self.stopped or self.steps == self._at:
            self.stopped = True
            raise Stop
        self.steps += 1

    def __enter__(self) -> "Machine":
        self._thread = threading.get_ident()
        self._real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in OPERATIONS}
        self._transaction = Ledger.transaction
        for name, real in self._real.items():
            setattr(os, name, self._wrapped(real))
        transaction, machine = self._transaction, self

        @contextlib.contextmanager
        def counted(ledger: Ledger) -> Iterator[None]:
            ours = threading.get_ident() == machine._thread and not ledger.database.in_transaction  # not a part
            if ours:
                machine.step()
            with transaction(ledger):
                yield
            if ours:
                machine.step()

        Ledger.transaction = counted  # type: ignore[method-assign]
        return self

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == self._thread:
                self.step()
            return real(*arguments, **options)

        return counted

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> bool:
        for name, real in self._real.items():
            setattr(os, name, real)
        Ledger.transaction = self._transaction  # type: ignore[method-assign]
        return kind is Stop


def every_stop(at_least: int) -> Iterator[tuple[int, Machine]]:
    """A machine for each step of what is done in it, and a last one that does not stop.  Fails where few were found."""
    stop = 0
    while True:
        machine = Machine(stop)
        yield stop, machine
        if not machine.stopped:
            break
        stop += 1
    assert stop >= at_least, f"only {stop} steps were found"
