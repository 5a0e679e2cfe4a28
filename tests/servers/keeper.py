"""Keep a daemon and everything it starts, and end it all when standard input ends.

usage: keeper.py COMMAND [ARGUMENT…]

Daemons fork, change sessions and clear the environment; whatever they do, their orphans become children of this process
(PR_SET_CHILD_SUBREAPER), so "only its own, and all of its own" is simply: our descendants.  The pipe on standard input
ends when the tests let go, or die.  Started as a script, so nothing but the standard library is imported.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 5
LOOK_S = 0.1


def descendants(ancestor: int) -> list[int]:
    """Every living process below `ancestor`."""
    below: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state != b"Z":
                below.setdefault(int(parent), []).append(int(name))
    found = [ancestor]
    for pid in found:
        found += below.get(pid, [])
    return found[1:]


def reap() -> list[int]:
    reaped = []
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            reaped.append(pid)
    return reaped


def tell(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end(daemon: int) -> None:
    """Ask the daemon first, then whatever it left behind, then insist."""
    deadline = time.monotonic() + GRACE_S
    tell([daemon], signal.SIGTERM)
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        if daemon not in left:
            tell(left, signal.SIGTERM)
        time.sleep(0.01)
        reap()
    while left := descendants(os.getpid()):
        tell(left, signal.SIGKILL)
        time.sleep(0.01)
        reap()
    reap()


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN, not inherited by the daemon
    daemon = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # kept: a Popen that is dropped reaps by itself
    while daemon.pid not in reap():
        ready, _, _ = select.select([0], [], [], LOOK_S)
        if ready and not os.read(0, 4096):
            break
    end(daemon.pid)


if __name__ == "__main__":
    main()
