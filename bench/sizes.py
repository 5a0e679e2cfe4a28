"""Size: what one accept, a page of the queue, status and sealing cost beside few files and beside many; and many peers.

The many are hard links: quick to make, and to every program a file each.
"""

import contextlib
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Client, Envelope
from batchmail.core.names import make_id
from batchmail.core.settings import Peer
from batchmail.flow.context import Context
from batchmail.flow.seal import Sealer
from batchmail.store.ledger import Ledger
from batchmail.store.setup import set_up
from batchmail.store.spool import Door, Spool
from batchmail.store.waiting import WaitingRoom
from bench.install import install
from bench.tables import median, show, timed
from tests.servers.host import Installed, open_directory

FEW, MANY = 1000, 50_000
_PEERS = 200
_RUNS = 7
_LINKS = 50_000  # of one file; ext4 allows 65,000
_CONTENT = b"Subject: one of many\r\n\r\n" + b"the quick brown fox jumps over the lazy dog\r\n" * 20
_GiB = 1 << 30


def run(installed: Installed, many: int = MANY, per_second: int = 30, peers: int = _PEERS) -> None:
    """`many` transactions that came at so many per second, against FEW; and a spool of so many peers."""
    with tempfile.TemporaryDirectory() as path:
        columns = [
            _measure(installed, f"{path}/{place}", number, per_second) for place, number in enumerate((FEW, many))
        ]
        rows = [
            (name, f"{1000 * few:.1f}", f"{1000 * lot:.1f}", f"{lot / few:.2f}")
            for (name, few), (_, lot) in zip(*columns, strict=True)
        ]
        show(
            f"Waiting for one peer (medians), {per_second} a second",
            ("", f"{FEW:,} ms", f"{many:,} ms", "ratio"),
            rows,
        )
        show(f"{peers:,} peers", ("", "seconds"), _of_peers(installed, f"{path}/peers", peers))


def _measure(installed: Installed, path: str, number: int, per_second: int) -> list[tuple[str, float]]:
    os.makedirs(path)
    config, spool = _site(path, ["home"])
    _fill(spool, number, per_second)
    batchmail = [installed.program("batchmail"), "-c", config]
    door = [
        installed.program("batchmail-pipe"),
        "--spool",
        spool.root,
        "-t",
        "home",
        "-f",
        "s@x.test",
        "--",
        "u@y.test",
    ]
    cold = timed([*batchmail, "status"], codes=(0, 1)).seconds
    timed([*batchmail, "run"])
    measured = [
        ("accept by pipe", _median(lambda: timed(door, b"Subject: one more\n\nbody\n").seconds)),
        ("queue home", _median(lambda: timed([*batchmail, "queue", "home"]).seconds)),
        ("queue --limit 20", _median(lambda: timed([*batchmail, "queue", "--limit", "20"]).seconds)),
        ("status, the first", cold),
        ("status", _median(lambda: timed([*batchmail, "status"], codes=(0, 1)).seconds)),
        ("run", _median(lambda: timed([*batchmail, "run"]).seconds)),
    ]
    context = Context(spool, None, Peer("home"), lambda: time.time_ns() // 1_000_000, os.urandom)  # type: ignore[arg-type]
    context = context._replace(site=_Named())  # type: ignore[arg-type]
    sealer = Sealer(context, context.open_ledger())
    return [*measured, ("seal the first batch", _once(lambda: sealer.seal_batch("home.example", _GiB, _GiB)))]


class _Named:
    """All that sealing asks of a site."""

    name = "mx.example"


def _site(path: str, peers: list[str]) -> tuple[str, Spool]:
    config = f"{path}/batchmail.toml"
    with open(config, "w", encoding="utf-8") as file:
        file.write(f'site = "mx.example"\nspool = "{path}/spool"\nreserve = 0\n')
        file.writelines(f'[peers.{peer}]\ntarget = "bsmtp:{path}/drop"\n' for peer in peers)
    os.mkdir(f"{path}/spool", 0o700)  # so that it belongs to whoever measures, also where that is root
    if len(peers) == 1:
        set_up(f"{path}/spool", [(Door(peers[0], "mx.example", _GiB, 0, "normalize"), [])])
        return config, Spool(f"{path}/spool")
    return config, None  # type: ignore[return-value]


def _fill(spool: Spool, number: int, per_second: int) -> None:
    source = random.Random(1)
    room = WaitingRoom(spool, "home")
    now_ms = time.time_ns() // 1_000_000 - 1000 * number // per_second
    mail, rcpt = parse_mail(b"MAIL FROM:<s@x.test>"), parse_rcpt(b"RCPT TO:<u@y.test>")
    bucket = template = ""
    for n in range(number):
        identifier = make_id(now_ms + 1000 * n // per_second, source.randbytes(10))
        place = f"{spool.root}/out/home/waiting/09/{identifier[:7]}"
        if n % _LINKS == 0:
            draft, writer = room.write(identifier, now_ms, 0, "", Client(), Envelope(*mail, (rcpt,)))
            writer.content(_CONTENT)
            name = writer.end()[0]
            room.put(draft, name, 0, "", now_ms)
            template, end = f"{place}/{name}", name[26:]
            continue
        if place != bucket:
            bucket = place
            os.makedirs(place, 0o700, exist_ok=True)
        os.link(template, f"{place}/{identifier}{end}")


def _of_peers(installed: Installed, path: str, number: int) -> list[tuple[str, str]]:
    os.makedirs(path)
    config, _ = _site(path, [f"p{n}" for n in range(number)])
    batchmail = [installed.program("batchmail"), "-c", config]

    def measure(*steps: tuple[str, str]) -> list[tuple[str, str]]:
        return [(name, f"{timed([*batchmail, *step.split()]).seconds:.2f}") for name, step in steps]

    rows = measure(("setup, new", "setup"), ("setup", "setup"), ("run, nothing exchanged", "run"))
    rows += measure(("status, nothing exchanged", "status"))
    _give_ledgers(Spool(f"{path}/spool"), [f"p{n}" for n in range(number)])
    rows += measure(("run for one of them", "run --peer p7"))
    return rows + measure(("run, with ledgers", "run"), ("status, all changed", "status"), ("status", "status"))


def _give_ledgers(spool: Spool, peers: list[str]) -> None:
    """A ledger each, as after a call; made as copies, which is quicker."""
    first = f"{spool.root}/ledger/{peers[0]}"
    Ledger(spool, peers[0]).close()
    for peer in peers[1:]:
        shutil.copy(first, f"{spool.root}/ledger/{peer}")
        with contextlib.closing(sqlite3.connect(f"{spool.root}/ledger/{peer}", isolation_level=None)) as ledger:
            ledger.execute("PRAGMA synchronous=OFF")
            ledger.execute("UPDATE fact SET value = ? WHERE name = 'peer'", (peer,))


def _median(measure: Callable[[], float]) -> float:
    return median([measure() for _ in range(_RUNS)])


def _once(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


if __name__ == "__main__":  # python -m bench.sizes [MANY [PER_SECOND [PEERS]]]
    with open_directory() as here:
        run(install(here), *map(int, sys.argv[1:]))
