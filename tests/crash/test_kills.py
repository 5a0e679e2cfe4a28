"""Real programs killed at random moments, on both sides and between: what was accepted is delivered or told of, by id.

A few rounds in `make test`; BATCHMAIL_KILLS=N does N.  In every round new mail is offered at both doors, which may be
killed as well, and a call is made in which a program is killed.  At the end calls are made until all is settled.
The mail is made up, or that of the directories of `.eml` files that BATCHMAIL_CORPUS names, separated by colons.
"""

import contextlib
import glob
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from random import Random

import pytest

from tests.e2e.pair import AWAY, HOLDING, Pair, unsettled
from tests.e2e.sites import Site
from tests.servers.host import Installed
from tests.servers.smtp_log import Rule, SmtpLog, Transaction
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.real

ROUNDS = int(os.environ.get("BATCHMAIL_KILLS", "4"))
CORPUS = 1000
_IN_ONE = 50  # transactions in one input
_MARK = "X-Number"  # the field that tells which one it is, whatever subject it has
_KILLED = ("caller", "receive", "receive", "sshd", "run")
_LAST_CALLS = 12


def corpus() -> list[bytes]:
    """Collected messages, as doors leave them: line ends are CRLF; a message with NUL is refused and left out."""
    found = []
    for directory in filter(None, os.environ.get("BATCHMAIL_CORPUS", "").split(":")):
        for path in sorted(glob.glob(f"{directory}/**/*.eml", recursive=True)):
            with open(path, "rb") as file:
                octets = re.sub(rb"\r\n|\r|\n", b"\r\n", file.read())
            if b"\0" not in octets:
                found.append(octets if octets.endswith(b"\r\n") else octets + b"\r\n")
    return found


class Killing:
    """Offers and what became of them."""

    def __init__(self, pair: Pair, random: Random):
        self._pair, self._random, self._corpus = pair, random, corpus()
        self.contents: dict[str, bytes] = {}
        self.accepted: dict[str, tuple[str, bool]] = {}  # by subject: where it was accepted, whether it will fail
        self._again: list[tuple[Site, str, bytes, dict[str, tuple[str, bool]]]] = []
        self._number = 0
        self.kills: Counter[str] = Counter()

    def offer_some(self, inputs: int) -> None:
        """New inputs, and those that a killed door has not answered: under the same queue ids."""
        for _ in range(inputs):
            self._again.append(self._new_input())
        for _ in range(len(self._again)):
            self._offer(*self._again.pop(0))

    def _new_input(self) -> tuple[Site, str, bytes, dict[str, tuple[str, bool]]]:
        at_holding = self._random.random() < 0.7
        site = self._pair.holding if at_holding else self._pair.away
        subjects: dict[str, tuple[str, bool]] = {}
        text = []
        for _ in range(_IN_ONE):
            self._number += 1
            subject, fails = f"t{self._number}", at_holding and self._random.random() < 0.1
            rcpt = "bad@home.test" if fails else "u@home.test" if at_holding else "r@far.test"
            sender = "s@far.test" if at_holding else "u@home.test"
            subjects[subject] = (site.name, fails)
            self.contents[subject] = content = f"{_MARK}: {subject}\r\n".encode() + self._message(subject)
            stuffed = re.sub(rb"(?m)^\.", b"..", content)
            text.append(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{rcpt}>\r\nDATA\r\n".encode() + stuffed + b".\r\n")
        return site, f"Q{self._number}", b"".join(text), subjects

    def _message(self, subject: str) -> bytes:
        if self._corpus:
            return self._corpus[self._number % len(self._corpus)]
        lines = (f"{subject} ".ljust(60, "x") + "\r\n") * self._random.choice([1, 1, 20, 300])
        return f"Subject: {subject}\r\n\r\n{lines}".encode()

    def _offer(self, site: Site, queue_id: str, text: bytes, subjects: dict[str, tuple[str, bool]]) -> None:
        peer = "home" if site is self._pair.holding else "mx"
        command = site.command("batchmail-pipe")  # for its interpreter and path
        door = [*command[:3], "--spool", site.spool, "-t", peer, "--queue-id", queue_id]
        as_owner = {"user": site.owner, "group": site.owner, "extra_groups": []} if os.geteuid() == 0 else {}
        process = subprocess.Popen(door, stdin=subprocess.PIPE, stderr=subprocess.PIPE, **as_owner)  # type: ignore[call-overload]
        if self._random.random() < 0.2:
            timer = threading.Timer(self._random.uniform(0.0, 0.15), process.kill)
            timer.start()
        _, complaint = process.communicate(text)
        if process.returncode == 0:
            self.accepted |= subjects
        else:
            assert process.returncode == -signal.SIGKILL, complaint
            self.kills["pipe"] += 1
            self._again.append((site, queue_id, text, subjects))

    def call(self) -> None:
        """A call in which somebody is killed."""
        call = subprocess.Popen(
            self._pair.away.command("batchmail", "call", "mx"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        whom = self._random.choice(_KILLED)
        while call.poll() is None and whom != "caller" and not self._find(whom):
            time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            call.wait(self._random.uniform(0, 1.0 if whom == "caller" else 0.4))
        self._kill(whom, call)
        _, complaint = call.communicate(timeout=60)
        assert call.returncode in (0, 75, -signal.SIGKILL), complaint

    def _find(self, whom: str) -> list[int]:
        """Programs of this test; with `sshd`, what carries the answering program's octets."""
        mark = {"run": "\0run"}.get(whom, "batchmail-receive")
        configs = (self._pair.holding.config, self._pair.away.config)
        found = [number for number, line in processes() if mark in line and any(config in line for config in configs)]
        return [above for number in found if (above := parent(number))] if whom == "sshd" else found

    def _kill(self, whom: str, call: subprocess.Popen[bytes]) -> None:
        if call.poll() is None and whom == "caller":
            call.kill()
            self.kills[whom] += 1
        for number in self._find(whom) if whom != "caller" else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
                self.kills[whom] += 1

    def settle(self) -> None:
        while self._again:
            self.offer_some(0)
        for _ in range(_LAST_CALLS):
            done = self._pair.away.batchmail("call", "mx")
            for site in (self._pair.holding, self._pair.away):
                ran = site.batchmail("run")
                assert ran.returncode in (0, 75), ran.stderr
            if not done.returncode and not unsettled(self._pair.holding) and not unsettled(self._pair.away):
                return
        raise AssertionError(f"{unsettled(self._pair.holding)}, {unsettled(self._pair.away)}: {done.stderr}")


def processes() -> list[tuple[int, str]]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as file:
                found.append((int(name), file.read()))
        except OSError:
            continue
    return found


def parent(process: int) -> int:
    """Of a program that this test has started, or 0 where that is not an sshd."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            above = int(file.read().rpartition(")")[2].split()[1])
        with open(f"/proc/{above}/comm", encoding="utf-8") as file:
            return above if file.read().startswith("sshd") else 0
    except OSError:
        return 0


def of(transactions: list[Transaction], contents: dict[str, bytes]) -> list[tuple[str, bool, str]]:
    """Which it is, whether it is a notice, and the ID in our Received: line; what is delivered is what was accepted."""
    found = []
    for transaction in transactions:
        text = transaction.content.decode("latin-1")
        subject = re.findall(rf"^{_MARK}: (t\d+)\r$", text, re.MULTILINE)
        assert len(subject) == 1, text
        notice = transaction.mail.upper().startswith(b"MAIL FROM:<>")
        assert (
            notice or transaction.content.partition(f"{_MARK}: ".encode())[2] == contents[subject[0]][len(_MARK) + 2 :]
        )
        identifier = re.search(r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b", text)
        assert identifier, text
        found.append((subject[0], notice, identifier[0]))
    return found


def doubtful(site: Site, peer: str) -> set[str]:
    with sqlite3.connect(f"{site.spool}/ledger/{peer}") as ledger:
        found = {row[0] for row in ledger.execute("SELECT id FROM in_tx WHERE doubtful > 0")}
        found |= {row[0] for row in ledger.execute("SELECT id FROM notice")}  # in doubt it is handed over once more
    return found


def test_programs_are_killed_at_random(open_path: str, installed: Installed, sshd: Sshd) -> None:
    random = Random(ROUNDS)
    with SmtpLog(rules=[Rule("RCPT", b"550 5.1.1 no", match=b"bad@")]) as home, SmtpLog() as far:
        targets = {"away_target": f"smtp://127.0.0.1:{home.port}", "holding_target": f"smtp://127.0.0.1:{far.port}"}
        pair = Pair(open_path, installed, sshd, **targets)  # type: ignore[arg-type]
        killing = Killing(pair, random)
        inputs = max(1, -(-CORPUS // _IN_ONE // ROUNDS))
        for _ in range(ROUNDS):
            killing.offer_some(inputs)
            killing.call()
        killing.settle()
        sites = {HOLDING: (far, pair.holding, "home"), AWAY: (home, pair.away, "mx")}
        doubled = 0
        for name, (server, site, peer) in sites.items():
            given = of(server.transactions, killing.contents)
            mails = {s for s, (at, fails) in killing.accepted.items() if at != name and not fails}
            notices = {s for s, (at, fails) in killing.accepted.items() if at == name and fails}
            assert {s for s, notice, _ in given if not notice} == mails
            assert {s for s, notice, _ in given if notice} == notices
            again = [key for key, count in Counter(given).items() for _ in range(count - 1)]
            assert len(given) == len(mails) + len(notices) + len(again), "a second notice about the same"
            assert {identifier for _, _, identifier in again} <= doubtful(site, peer)
            doubled += len(again)
    count = len(killing.accepted)
    print(f"{count} transactions, killed {dict(killing.kills)}, {doubled} given twice in the window of RFC 1047")
    assert count >= CORPUS
    assert doubled <= 4 * sum(killing.kills.values())  # sessions that were between dot and outcome
