"""The doors: the pipe against a bare interpreter and nncp-exec; the socket against Postfix's own, and against the pipe.

`smtp-source` of Postfix gives the same load to both servers in turn.  Postfix holds what it accepts (its queue
manager never sees it), so that only acceptance counts, on both sides with each message on stable storage.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from bench.tables import Cost, median, show, timed
from tests.e2e.sites import Site
from tests.servers.host import Installed, Unavailable, answers, free_port, open_directory, wait_until
from tests.servers.packages import unpacked
from tests.servers.postfix import Postfix

RUNS = 60
ROUNDS = 3
MESSAGES = 1000
SESSIONS = (1, 5, 50)
OCTETS = 5000
MESSAGE = b"Subject: bench\n\n" + b"the quick brown fox jumps over the lazy dog\n" * 115
HOLD = {"smtpd_data_restrictions": "check_client_access static:HOLD"}


def run(installed: Installed) -> None:
    with open_directory() as path:
        pipe_rate = _pipe(installed, path)
    try:
        _socket(installed, pipe_rate)
    except Unavailable as reason:
        print(f"\nThe socket door is not measured: {reason}")


def _pipe(installed: Installed, path: str) -> float:
    """Messages in a second."""
    site = Site(path, installed, "mx.example.test", {"home": {"domains": ["home.example.test"]}})
    program = installed.program("batchmail-pipe")
    door = ["/usr/bin/python3", "-IS", program, "--spool", site.spool, "-t", "home", "-f", "s@x.test", "--", "u@y.test"]
    bare = ["/usr/bin/python3", "-IS", "-c", "pass"]
    programs = {"bare interpreter": bare, "pipe door, 5 KiB": door}
    try:
        programs["nncp-exec, 5 KiB"] = _nncp(path)
    except Unavailable as reason:
        print(f"\nnncp-exec is not measured: {reason}")
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    for _ in range(RUNS):  # in turn, so that a busy moment hits all
        for name, command in programs.items():
            costs[name].append(timed(command, MESSAGE))
    rows = [
        (name, f"{1000 * median([c.cpu_seconds for c in found]):.1f}", f"{1 / median([c.seconds for c in found]):.0f}")
        for name, found in costs.items()
    ]
    show("Accept by pipe (medians)", ("", "CPU ms", "per second"), rows)
    return 1 / median([cost.seconds for cost in costs["pipe door, 5 KiB"]])


def _nncp(path: str) -> list[str]:
    """The command that queues a message for a neighbour, as a mail server's pipe would start it."""
    package = unpacked("nncp")
    keys = {}
    for name in ("hub", "leaf"):
        command = package.command([package.path("usr/bin/nncp-cfgnew"), "-nocomments"])
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        keys[name] = dict(re.findall(r"(\w+): ([A-Z2-7]{40,})", text.partition("neigh")[0]))
    public = {name: {key: text for key, text in found.items() if "prv" not in key} for name, found in keys.items()}
    settings = {
        "spool": f"{path}/nncp",
        "log": f"{path}/nncp.log",
        "self": keys["hub"],
        "neigh": {"self": public["hub"], "leaf": public["leaf"]},
    }
    os.mkdir(f"{path}/nncp")
    with open(f"{path}/nncp.hjson", "w") as file:
        json.dump(settings, file)
    options = ["-cfg", file.name, "-quiet", "-noprogress"]
    # Not by way of `package.command`, whose processor time would count as its own; it needs no library but libc.
    return [package.path("usr/bin/nncp-exec"), *options, "leaf", "rmail", "u@y.test"]


def _socket(installed: Installed, pipe_rate: float) -> None:
    package = unpacked("postfix")
    rows = []
    with open_directory() as path, _door(installed, f"{path}/d") as port, Postfix(f"{path}/p", main=HOLD) as postfix:
        for kept, option in (("a connection each", []), ("connections kept", ["-d"])):
            for sessions in SESSIONS:
                rates: dict[int, list[float]] = {port: [], postfix.port: []}
                for _ in range(ROUNDS):
                    for at, found in rates.items():
                        load = ["-s", sessions, "-m", MESSAGES, "-l", OCTETS, "-f", "s@x.test", "-t", "u@y.test"]
                        words = [package.path("usr/sbin/smtp-source"), *option, *map(str, load), f"127.0.0.1:{at}"]
                        found.append(MESSAGES / timed(package.command(words)).seconds)
                ours, theirs = (median(found) for found in rates.values())
                ratios = (f"{ours / theirs:.2f}", f"{ours / pipe_rate:.0f}")
                rows.append((f"{sessions} sessions, {kept}", f"{ours:.0f}", f"{theirs:.0f}", *ratios))
    head = ("5 kB messages per second", "batchmail-lmtpd", "Postfix", "ratio", "times the pipe")
    show("Accept by SMTP (medians)", head, rows)


@contextmanager
def _door(installed: Installed, path: str) -> Iterator[int]:
    port = free_port()
    entry = {"domains": ["y.test"], "listen": f"127.0.0.1:{port}"}
    site = Site(path, installed, "mx.example.test", {"home": entry})
    process = subprocess.Popen(site.command("batchmail-lmtpd"))
    try:
        wait_until(lambda: answers(port), "batchmail-lmtpd")
        yield port
    finally:
        process.terminate()
        process.wait(60)
