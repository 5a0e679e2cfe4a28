"""A daemon of a test: started below a keeper, waited for, and ended with everything it started."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import ClassVar, Self

from tests.servers import keeper
from tests.servers.host import PATIENCE_S, wait_until


class Daemon:
    """What every server class is built on: `argv()` and `ready()` are theirs, start and stop are here."""

    started: ClassVar[list["Daemon"]] = []  # by this test: when it fails it shows what they said

    def __init__(self, directory: str):
        self.directory = directory
        self._keeper: subprocess.Popen[bytes] | None = None

    def path(self, *names: str) -> str:
        return os.path.join(self.directory, *names)

    def write(self, name: str, text: str) -> str:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def make_directory(self, name: str, uid: int = -1, gid: int = -1) -> str:
        path = self.path(name)
        os.makedirs(path, exist_ok=True)
        os.chown(path, uid, gid)
        return path

    def argv(self) -> Sequence[str]:
        """The command that stays in the foreground."""
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> Self:
        command = [sys.executable, "-IS", keeper.__file__, *self.argv()]
        with open(self.path("daemon.out"), "ab") as output:
            self._keeper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd="/", start_new_session=True
            )
        self.started.append(self)
        name = type(self).__name__
        try:
            wait_until(lambda: self._ended() or self.ready(), f"{name} to answer")
            if self._ended():
                raise RuntimeError(f"{name} ended at once: {self.log()[-2000:]}")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it and whatever it started; returns when nothing of it is left."""
        if self._keeper:
            self._keeper.communicate()
            self._keeper = None

    def processes(self) -> list[int]:
        return keeper.descendants(self._keeper.pid) if self._keeper else []

    def log(self) -> str:
        """All it has said, in its log and on its standard output."""
        return "".join(_text(path) for path in (self.path("daemon.out"), *self.log_files()))

    def log_files(self) -> Sequence[str]:
        return ()

    def wait_for_log(self, text: str, timeout_s: float = PATIENCE_S) -> str:
        wait_until(lambda: text in self.log(), f"{text!r} in the log of {type(self).__name__}", timeout_s)
        return self.log()

    def _ended(self) -> bool:
        return self._keeper is None or self._keeper.poll() is not None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
