"""Replay into real mail servers, against Postfix's own `smtp-source` with as many sessions, in turn."""

import os
import shutil
import tempfile
import time

from batchmail.flow.seal import Sealer
from batchmail.flow.target import close_all, open_targets, parse_target
from batchmail.flow.work import work_once
from batchmail.store import batchfile
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from bench.tables import median, show, timed
from tests.servers.exim import Exim
from tests.servers.host import Unavailable
from tests.servers.packages import unpacked
from tests.servers.postfix import Postfix
from tests.sites import Mailbox, make_pair

COUNT, RUNS = 1000, 3
CONTENT = b"Subject: bench\r\n\r\n" + b"the quick brown fox jumps over the lazy dog\r\n" * 115


def run() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        for name, server in (
            ("Postfix", lambda place: Postfix(place, main={"defer_transports": "virtual"})),
            ("Exim", lambda place: Exim(place, main={"queue_only": "true"})),
        ):
            try:
                with server(f"{path}/{name}") as daemon:
                    rows += [_row(path, name, daemon.port, sessions) for sessions in (1, 5)]
            except Unavailable as reason:
                print(f"\n{name} is not measured: {reason}")
    show(
        f"Replay of {COUNT} messages of 5 KiB, messages per second (medians of {RUNS})",
        ("", "batchmail", "smtp-source", "ratio"),
        rows,
    )


def _row(path: str, name: str, port: int, sessions: int) -> tuple[str, str, str, str]:
    ours, theirs = [], []
    for _ in range(RUNS):
        theirs.append(_smtp_source(port, sessions))
        ours.append(_replay(f"{path}/spools", port, sessions))
    rates = median(ours), median(theirs)
    return f"{name}, sessions: {sessions}", f"{rates[0]:.0f}", f"{rates[1]:.0f}", f"{rates[0] / rates[1]:.2f}"


def _smtp_source(port: int, sessions: int) -> float:
    package = unpacked("postfix")
    program = [package.path("usr/sbin/smtp-source"), "-d", "-m", str(COUNT), "-s", str(sessions), "-l", "5120"]
    argv = package.command([*program, "-f", "s@mx.test", "-t", "u@home.test", f"127.0.0.1:{port}"])
    return COUNT / timed(argv).seconds


def _replay(path: str, port: int, sessions: int) -> float:
    pair = make_pair(path, target=f"smtp://127.0.0.1:{port}?sessions={sessions}")
    pair.mx.accept(*[CONTENT] * COUNT, sender="<s@mx.test>", rcpts=("<u@home.test>",))
    _hand_over(pair.mx, pair.home)
    context = pair.home.context
    ledger = context.open_ledger()
    targets = open_targets(parse_target(context.peer.target), context.site.name, context.now_ms, context.spool.tmp)
    began = time.monotonic()
    work_once(context, ledger, targets, lambda *_: None, lambda: False)
    close_all(targets)
    seconds = time.monotonic() - began
    assert ledger.rows("SELECT count(*) FROM in_tx WHERE state = 'done'") == [(COUNT,)]
    ledger.close()
    shutil.rmtree(path)
    return COUNT / seconds


def _hand_over(origin: Mailbox, far: Mailbox) -> None:
    """What a call does, without one."""
    there, here = origin.context.open_ledger(), far.context.open_ledger()
    sealer = Sealer(origin.context, there)
    while sealer.seal_batch("home.example", 1 << 30, 1 << 40):
        pass
    for file in Sent(there).files("sealed"):
        place = f"in/mx/inbox/{file.number.file_name}"
        shutil.copy(f"{origin.root}/out/home/outbox/{file.number.file_name}", f"{far.root}/{place}")
        _, items, identity = batchfile.check_batch(f"{far.root}/{place}")
        Received(here).custody(file.number, identity, items, far.context.now_ms(), 0)
    there.close()
    here.close()


if __name__ == "__main__":
    run()
