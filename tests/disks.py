"""A disk that notes what is done to it, and fails or stops at a chosen operation."""

import builtins
import errno
import os
from types import ModuleType, TracebackType
from typing import Any

import pytest

OPERATIONS = ("link", "rename", "unlink", "mkdir", "rmdir", "symlink", "fsync", "write")


class Stop(BaseException):
    """The machine stops here."""


class Disk:
    """While it is entered, `os`'s operations are noted in `done` as (name, path) once they were carried out.

    `fail=(name, nth)`: that operation, counted from 0, raises EIO once.  `stop=nth`: the nth of all raises Stop instead
    of being done, and so do all after it; leaving the `with` block swallows it.
    """

    def __init__(self, fail: tuple[str, int] | None = None, stop: int | None = None):
        self._fail, self._stop = fail, stop
        self.done: list[tuple[str, str]] = []
        self.failed = self.stopped = False
        self._counts = dict.fromkeys(OPERATIONS, 0)
        self._real = {name: getattr(os, name) for name in OPERATIONS}

    def _run(self, name: str, *arguments: Any, **options: Any) -> Any:
        if self.stopped or (self._stop is not None and sum(self._counts.values()) == self._stop):
            self.stopped = True
            raise Stop
        nth = self._counts[name]
        self._counts[name] += 1
        if self._fail == (name, nth):
            self.failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        target = arguments[1] if name in ("link", "rename", "symlink") else arguments[0]
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        result = self._real[name](*arguments, **options)
        self.done.append((name, path))
        return result

    def __enter__(self) -> "Disk":
        for name in OPERATIONS:
            setattr(os, name, lambda *a, _name=name, **k: self._run(_name, *a, **k))
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> bool:
        for name, real in self._real.items():
            setattr(os, name, real)
        return kind is Stop


def unreadable(monkeypatch: pytest.MonkeyPatch, module: ModuleType, path: str) -> None:
    """The disk does not read what a module opens by this path, or below it."""

    def read(opened: str, *arguments: object, **options: object) -> object:
        if opened.startswith(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), opened)
        return builtins.open(opened, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(module, "open", read, raising=False)
