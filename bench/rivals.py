"""Batchmail beside its rivals in one run: the same messages over the same lines, in turn.

An idle call, 100 small messages, a cut at 60 % of a large one, and the octets of a corpus (directories that
$BATCHMAIL_CORPUS names, separated by colons, else generated mail).  Mail "is there" when all of it is whole at the
leaf: for batchmail, in the far mailbox.
Seconds count from the start of the calling program, so a login is in them.  A rival that is not here and cannot be
fetched, or fails, has one line that says why.
"""

import glob
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import NamedTuple

from bench.calls import LINES, message, stock_sshd
from bench.systems import RIVALS, BareSsh, Batchmail, System
from bench.tables import median, show
from tests.servers.host import Installed, Unavailable, need_root, open_directory
from tests.servers.link import Direction, Link

COUNT = 100
SAMPLE = 300  # messages of a corpus
LARGE_OCTETS = 10 << 20
CUT_LINE = (100.0, 1.25e6)
SLOW_MS = 600  # one round is enough: noise is small beside the line's own time


class Run(NamedTuple):
    """One call."""

    there_s: float  # when all mail had arrived
    end_s: float
    octets: int
    turns: int
    whole: bool


class Rig:
    """All systems, each behind a line of its own."""

    def __init__(self, stack: ExitStack, installed: Installed, rtt_ms: float, rate: float, level: str = "auto"):
        self._path = stack.enter_context(open_directory())
        os.mkdir(f"{self._path}/sshd", 0o755)
        sshd = stack.enter_context(stock_sshd(f"{self._path}/sshd"))
        self.lines: dict[System, Link] = {}
        self.absent: dict[str, str] = {}
        kinds: list[Callable[[str], System]] = [lambda path: Batchmail(path, installed, sshd, level)]
        kinds += [lambda path, kind=kind: kind(path, installed, sshd) for kind in RIVALS]  # type: ignore[misc]
        for number, (name, make) in enumerate(
            zip([Batchmail.name, *(kind.name for kind in RIVALS)], kinds, strict=True)
        ):
            try:
                system = make(f"{self._path}/{number}")
                link = stack.enter_context(Link(system.port))
                system.connect(link.port)
            except (Unavailable, OSError, RuntimeError) as reason:
                self.absent[name] = str(reason)
                continue
            stack.callback(system.stop)
            link.rtt_ms, link.rate = rtt_ms, rate
            self.lines[system] = link

    def drop(self, system: System, reason: object) -> None:
        """Measure it no more."""
        self.absent[system.name] = str(reason)
        del self.lines[system]

    def tell_absent(self) -> None:
        for name, reason in self.absent.items():
            print(f"{name}: not measured: {reason.splitlines()[0] if reason else 'it failed'}")


def run(installed: Installed, rounds: int = 1, sample: int = SAMPLE) -> None:
    try:
        need_root("the rivals' accounts")
    except Unavailable as reason:
        print(f"\nRivals are not measured: {reason}")
        return
    print(
        f"\nRivals, {time.strftime('%Y-%m-%d %H:%M')}, {platform.platform()}, {os.cpu_count()} processors, {_load()}\n"
    )
    kinds: tuple[type[System], ...] = (Batchmail, *RIVALS)
    for kind in kinds:
        print(f"{kind.name}: {kind.does}")
    for name, rtt_ms, rate in LINES:
        _calls(installed, name, rtt_ms, rate, 1 if rtt_ms >= SLOW_MS else rounds)
    _cut(installed)
    for name, messages in _corpora(sample):
        _corpus(installed, name, messages)
    print(f"\nRivals done; {_load()}")


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def _calls(installed: Installed, name: str, rtt_ms: float, rate: float, rounds: int) -> None:
    idle: dict[System, list[Run]] = {}
    drained: dict[System, list[Run]] = {}
    with ExitStack() as stack:
        rig = Rig(stack, installed, rtt_ms, rate)
        for number in range(rounds):  # in turn, so that a busy moment hits all
            messages = [message(number * COUNT + n) for n in range(COUNT)]
            for system in list(rig.lines):
                try:
                    if system.idles:
                        idle.setdefault(system, []).append(_whole(_run(system, rig.lines[system], 0)))
                    wanted = system.arrived() + system.queue(messages)
                    drained.setdefault(system, []).append(_whole(_run(system, rig.lines[system], wanted)))
                except (OSError, RuntimeError) as reason:
                    rig.drop(system, reason)
        idle_floor, floor = (
            [run for system, runs in found.items() if isinstance(system, BareSsh) for run in runs]
            for found in (idle, drained)
        )
        rows = [
            (system.name, *_figures(idle.get(system, []), idle_floor), *_figures(drained[system], floor))
            for system in rig.lines
        ]
    head = ("", "idle s", "of ssh", "kB", "turns", f"{COUNT} there s", "of ssh", "kB", "turns")
    show(f"Idle call, and {COUNT} x 5 KiB: {name}; medians of {rounds}; {_load()}", head, rows)
    rig.tell_absent()


def _figures(runs: Sequence[Run], floor: Sequence[Run]) -> tuple[str, ...]:
    if not runs:
        return ("-",) * 4
    seconds = median([run.there_s for run in runs])
    ratio = f"{seconds / median([run.there_s for run in floor]):.2f}" if floor else "-"
    octets, turns = (median([getattr(run, name) for run in runs]) for name in ("octets", "turns"))
    return f"{seconds:.2f}", ratio, f"{octets / 1e3:.1f}", f"{turns:.0f}"


def _run(system: System, link: Link, wanted: int) -> Run:
    octets, turns = sum(link.octets.values()), link.turns
    with ThreadPoolExecutor(1) as pool:
        began_s = time.monotonic()
        calling = pool.submit(_timed, system)
        there_s = 0.0
        while wanted and not there_s and not calling.done():
            if system.arrived() >= wanted:
                there_s = time.monotonic() - began_s
            time.sleep(0.01)
        whole, end_s = calling.result()
    whole = whole and system.arrived() >= wanted
    return Run(there_s or end_s, end_s, sum(link.octets.values()) - octets, link.turns - turns, whole)


def _timed(system: System) -> tuple[bool, float]:
    began_s = time.monotonic()
    return system.call(), time.monotonic() - began_s


def _whole(run: Run) -> Run:
    if not run.whole:
        raise RuntimeError(f"the call failed or left mail behind after {run.end_s:.1f} s")
    return run


def _cut(installed: Installed) -> None:
    """Octets only, so all of them at once."""
    with ExitStack() as stack:
        rig = Rig(stack, installed, *CUT_LINE)
        with ThreadPoolExecutor(len(rig.lines)) as pool:
            cuts = {system: pool.submit(_cut_one, system, link) for system, link in rig.lines.items()}
        rows = []
        for system, cut in cuts.items():
            try:
                rows.append((system.name, *cut.result()))
            except (OSError, RuntimeError) as reason:
                rig.drop(system, reason)
    head = ("", "uncut kB", "sent again kB", "%", "calls after it")
    show("A cut at 60 % of a message of 10 MiB; 100 ms, 10 Mbit/s", head, rows)
    rig.tell_absent()


def _cut_one(system: System, link: Link) -> tuple[str, ...]:
    before = dict(link.octets)
    _whole(_run(system, link, system.arrived() + system.queue([_large(1)])))
    uncut = {way: link.octets[way] - before[way] for way in before}
    wanted = system.arrived() + system.queue([_large(2)])
    direction: Direction = "up" if uncut["up"] > uncut["down"] else "down"
    before = dict(link.octets)
    link.cut_after(uncut[direction] * 6 // 10, direction)
    with suppress(OSError):
        system.call()
    calls = 0
    while system.arrived() < wanted:
        if calls == 3:
            raise RuntimeError("not there after three more calls")
        time.sleep(1)  # whoever answered has seen the cut
        system.call()
        calls += 1
    again = sum(link.octets.values()) - sum(before.values()) - sum(uncut.values())
    total = sum(uncut.values())
    return f"{total / 1e3:.0f}", f"{again / 1e3:.0f}", f"{100 * again / total:.1f}", str(calls)


def _large(seed: int) -> bytes:
    """A message that hardly shrinks: an attachment in lines of hexadecimal would, so it is of 64 random letters."""
    letters = bytes.maketrans(bytes(range(256)), bytes(48 + n % 64 for n in range(256)))
    octets = random.Random(seed).randbytes(LARGE_OCTETS).translate(letters)
    lines = (octets[at : at + 76] for at in range(0, LARGE_OCTETS, 76))
    return b"Subject: large\n\n" + b"\n".join(lines) + b"\n"


def _corpora(sample: int) -> list[tuple[str, list[bytes]]]:
    found = []
    for directory in filter(None, os.environ.get("BATCHMAIL_CORPUS", "").split(":")):
        paths = sorted(glob.glob(f"{directory}/**/*.eml", recursive=True))
        step = -(-len(paths) // sample) or 1
        found.append((os.path.basename(directory.rstrip("/")), [_read(path) for path in paths[::step]]))
    return found or [("generated mail", [message(n) for n in range(300)])]


def _read(path: str) -> bytes:
    """Lines as all of the systems take them."""
    with open(path, "rb") as file:
        content = file.read().replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\0", b"")
    return content if content.endswith(b"\n") else content + b"\n"


def _corpus(installed: Installed, name: str, messages: list[bytes]) -> None:
    raw = sum(map(len, messages))
    rows = []
    with ExitStack() as stack:
        rig = Rig(stack, installed, 0, 0, "19")
        for system, link in list(rig.lines.items()):
            try:
                run = _whole(_run(system, link, system.arrived() + system.queue(messages)))
            except (OSError, RuntimeError) as reason:
                rig.drop(system, reason)
                continue
            rows.append((system.name, f"{run.octets / 1e3:.1f}", f"{run.octets / raw:.3f}", f"{run.there_s:.1f}"))
    title = (
        f"{name}: {len(messages)} messages, {raw / 1e6:.1f} MB; both ways, logins included; level 19 where there is one"
    )
    show(f"{title}; {_load()}", ("", "kB", "of raw", "s, no delay"), rows)
    rig.tell_absent()
