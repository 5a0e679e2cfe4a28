"""The pipe door: one process for each message, durable, against the bare interpreter."""

import os
import tempfile

from bench.tables import Cost, median, show, timed
from tests.e2e.sites import Site
from tests.servers.host import Installed

RUNS = 60
MESSAGE = b"Subject: bench\n\n" + b"the quick brown fox jumps over the lazy dog\n" * 115


def run(installed: Installed) -> None:
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        site = Site(path, installed, "mx.example.test", {"home": {"domains": ["home.example.test"]}})
        door = [
            installed.program("batchmail-pipe"),
            "--spool",
            site.spool,
            "-t",
            "home",
            "-f",
            "s@x.test",
            "--",
            "u@y.test",
        ]
        bare = ["/usr/bin/python3", "-IS", "-c", "pass"]
        costs: dict[str, list[Cost]] = {"bare interpreter": [], "pipe door, 5 KiB": []}
        for _ in range(RUNS):  # in turn, so that a busy moment hits both
            costs["bare interpreter"].append(timed(bare))
            costs["pipe door, 5 KiB"].append(timed(door, MESSAGE))
    rows = [
        (name, f"{1000 * median([c.cpu_seconds for c in found]):.1f}", f"{1 / median([c.seconds for c in found]):.0f}")
        for name, found in costs.items()
    ]
    show("Accept by pipe (medians)", ("", "CPU ms", "per second"), rows)
