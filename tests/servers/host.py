"""What the servers need of this machine: ports, accounts, private mounts, directories others may read, waiting."""

import contextlib
import grp
import os
import pwd
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple, Protocol, TypeVar

LOOPBACK = "127.0.0.1"
PATIENCE_S = 180.0  # how long a test waits for what must come: a disk may stand still, and nothing passes by waiting
PIPE_NAMES = ("batchmail-pipe", "bsmtp", "uux", "rmail")
Made = TypeVar("Made", covariant=True)
_WORKERS = 4  # of pytest-xdist, which draw from different ports
_given_ports: set[int] = set()


class Unavailable(Exception):
    """This server cannot be had here; the text is the one-line reason."""


class Factory(Protocol[Made]):
    """A fixture that makes and starts a server: takes what its class takes, without the directory."""

    def __call__(self, *arguments: object, **options: object) -> Made: ...


class Delivered(NamedTuple):
    """A transaction as a server delivered it; the content has CRLF line ends and not the server's own header lines."""

    sender: bytes
    recipients: tuple[bytes, ...]
    content: bytes


class Installed(NamedTuple):
    """The programs as `make install` puts them, below a directory that every account can enter.

    Started by its own first line a program runs for any account, with a Python that all can read.
    `command` runs it with the interpreter and the libraries of the tests, for their own user.
    """

    bin: str
    lib: str

    def program(self, name: str) -> str:
        """The path of a program, or of a link that gives the pipe another grammar."""
        return os.path.join(self.bin if name.startswith("batchmail") else self.lib, name)

    def command(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, "-IS" if name in PIPE_NAMES else "-I", self.program(name), *arguments]


def free_port() -> int:
    """A port for a server that is started later: none that the system gives to clients, nor any test's of this run."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _WORKERS
    while True:
        port = random.randrange(10_000 + worker, 30_000, _WORKERS)
        if port in _given_ports:
            continue
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind((LOOPBACK, port))
            _given_ports.add(port)
            return port


def wait_until(true: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Poll until `true()`; the time limit is only there so that a broken test ends."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.005
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)


def answers(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), 1).close()
    except OSError:
        return False
    return True


def is_root() -> bool:
    return os.geteuid() == 0


def need_root(what: str) -> None:
    if not is_root():
        raise Unavailable(f"{what} needs root")


@cache
def need_private_mounts() -> None:
    need_root("a private mount namespace")
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"no private mount namespace: {done.stderr.strip()}")


def in_private_mounts(mounts: Mapping[str, str], argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` where each path in `mounts` shows what is named beside it; nobody else sees that."""
    binds = "".join(f"mount --bind {shlex.quote(shown)} {shlex.quote(path)} && " for path, shown in mounts.items())
    return ["unshare", "--mount", "sh", "-c", binds + 'exec "$@"', "sh", *argv]


def need_user(name: str, *, shell: str = "/usr/sbin/nologin", home: str = "/nonexistent") -> pwd.struct_passwd:
    """The system account `name`, made when it is missing."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    need_root(f"making the account {name}")
    group = ["--gid", name] if need_group(name, make=False) else ["--user-group"]
    # "*" is no password; useradd's own "!" would lock the account for sshd without PAM.
    command = [
        "useradd",
        "--system",
        *group,
        "--no-create-home",
        "--home-dir",
        home,
        "--shell",
        shell,
        "--password",
        "*",
        name,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    with contextlib.suppress(KeyError):  # also when another test run was quicker
        return pwd.getpwnam(name)
    raise Unavailable(f"cannot make the account {name}: {done.stderr.strip()}")


def need_group(name: str, *, make: bool = True) -> bool:
    with contextlib.suppress(KeyError):
        grp.getgrnam(name)
        return True
    if make:
        subprocess.run(["groupadd", "--system", name], check=True, capture_output=True)
    return make


@contextlib.contextmanager
def open_directory() -> Iterator[str]:
    """A directory other users can enter, with a path short enough for sockets; pytest's own is neither."""
    path = tempfile.mkdtemp(prefix="bm", dir="/tmp")
    os.chmod(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def readable_by_all(path: str) -> bool:
    """May every account read (or enter) `path` and all that is above it?"""
    path = os.path.realpath(path)
    wanted = 0o005 if os.path.isdir(path) else 0o004
    while True:
        if os.stat(path).st_mode & wanted != wanted:
            return False
        if path == "/":
            return True
        path, wanted = os.path.dirname(path), 0o001
