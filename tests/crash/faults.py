"""A disk below one root that fails: at its n-th operation, once or from there on until it is mended."""

import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Any

# What needs room; the rest still works where a disk is only full.
_ROOM = ("open", "write", "pwrite", "link", "rename", "mkdir", "symlink", "commit")
_OTHERS = ("ftruncate", "fsync", "unlink", "rmdir")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PATHS = {"link": 1, "rename": 1, "symlink": 1}


class Faults:
    """While it is entered, operations below `root` are counted, and fail with `error` from the `at`-th on.

    `lasting`: until the block is left, else once.  `error` 0: the write is a short one.  `synced` is told of each fsync
    that is to fail.  A ledger's commit is one operation.
    """

    def __init__(
        self, root: str, at: int, error: int, lasting: bool, only: str = "", synced: Callable[[int], None] | None = None
    ):
        self._root, self._at, self._error, self._lasting = root, at, error, lasting
        self._only, self._synced = only, synced
        self.count = 0
        self.failed: list[str] = []

    def __enter__(self) -> "Faults":
        self._real: dict[str, Callable[..., Any]] = {}
        for name in (*_ROOM, *_OTHERS):
            if name != "commit":
                self._real[name] = getattr(os, name)
                setattr(os, name, self._wrapped(name, self._real[name]))
        self._connect = sqlite3.connect
        sqlite3.connect = self._open_ledger  # type: ignore[assignment]
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        sqlite3.connect = self._connect
        self._lasting, self._at = False, -1  # connections that are still open

    def fails(self, name: str) -> bool:
        """Count an operation; whether it is to fail."""
        if self._only and name != self._only:
            return False
        if self._error in _FULL and name not in _ROOM:
            return False
        if not self._error and name not in ("write", "pwrite"):
            return False
        self.count += 1
        if self.count - 1 == self._at or (self._lasting and self.count > self._at):
            self.failed.append(name)
            return True
        return False

    def error(self, path: str) -> OSError:
        return OSError(self._error, os.strerror(self._error), path)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(first: Any, *rest: Any, **options: Any) -> Any:
            path = self._path(name, first, rest)
            if path and self.fails(name):
                if not self._error:
                    return real(first, bytes(rest[0][: max(1, len(rest[0]) // 2)]), *rest[1:])
                if name == "fsync" and self._synced:
                    self._synced(first)
                raise self.error(path)
            return real(first, *rest, **options)

        return wrapped

    def _path(self, name: str, first: Any, rest: tuple[Any, ...]) -> str:
        """The path of an operation that counts, or nothing."""
        target = rest[_PATHS[name] - 1] if name in _PATHS else first
        if name == "open" and not rest[0] & os.O_CREAT:
            return ""
        if isinstance(target, int):
            kind = os.fstat(target).st_mode
            target = os.readlink(f"/proc/self/fd/{target}") if stat.S_ISREG(kind) or stat.S_ISDIR(kind) else ""
        below = str(target).startswith(f"{self._root}/") and not str(target).startswith(f"{self._root}/lock/")
        return str(target) if below or target == self._root else ""

    def _open_ledger(self, path: str, *arguments: Any, **options: Any) -> sqlite3.Connection:
        if not str(path).startswith(f"{self._root}/"):
            return self._connect(path, *arguments, **options)  # type: ignore[no-any-return]
        above: type[sqlite3.Connection] = options.pop("factory", sqlite3.Connection)
        faults = self

        class Failing(above):  # type: ignore[misc, valid-type]
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and faults.fails("commit"):
                    full = faults._error in _FULL
                    raise sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
                done: sqlite3.Cursor = super().execute(sql, *values)
                return done

        return self._connect(path, *arguments, **options, factory=Failing)
