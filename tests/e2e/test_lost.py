"""An away host that loses its disk between two calls through a real sshd, and the operator at the holding one."""

import os
import shutil

import pytest

from tests.e2e.sites import Site
from tests.e2e.test_call import AWAY, mail, pair
from tests.servers.host import Installed
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.real

COUNT = 5


def turn_target(site: Site, old: str, new: str) -> None:
    with open(site.config, encoding="utf-8") as file:
        text = file.read()
    assert old in text
    with open(site.config, "w", encoding="utf-8") as file:
        file.write(text.replace(old, new))


def test_the_away_host_comes_back_empty(open_path: str, installed: Installed, sshd: Sshd) -> None:
    holding, away = pair(open_path, installed, sshd)
    target, down = f"bsmtp:{away.directory}/mail", "smtp://127.0.0.1:1"
    turn_target(away, target, down)
    for n in range(COUNT):
        holding.accept(b"Subject: %d\n\nx\n" % n, "-t", "home", "-f", "s@far.test", "--", f"u@{AWAY}")
    away.call("mx")
    assert [name for name in away.files("in") if name.endswith(".batch")], "in its custody, and not delivered"

    shutil.rmtree(away.spool)
    turn_target(away, down, target)
    assert away.batchmail("setup").returncode == 0
    told = away.batchmail("call", "mx")
    assert "the other side says: " in told.stderr and "no longer has files that it took" in told.stderr
    assert mail(away) == []
    status = holding.batchmail("status", "home")
    assert status.returncode == 2 and "batchmail resend home" in status.stdout
    assert "the other side says: " in away.batchmail("status").stdout

    dry = holding.batchmail("resend", "home", "--dry-run")
    assert f"{COUNT} transactions to be sent again; home had taken" in dry.stdout
    assert away.batchmail("call", "mx").returncode == 0 and mail(away) == []
    assert holding.batchmail("resend", "home").returncode == 0
    away.call("mx")
    assert len(mail(away)) == COUNT
    assert holding.batchmail("run").returncode == 0
    assert holding.batchmail("status", "home").returncode == 0
    balance = away.batchmail("audit", "mx")
    assert balance.returncode == 0 and balance.stdout.endswith("Everything balances.\n"), balance
    assert len(mail(away)) == COUNT and not os.listdir(f"{holding.spool}/out/home/outbox")
