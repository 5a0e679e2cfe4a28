"""Tables and timing for people."""

import resource
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple


class Cost(NamedTuple):
    """What one run took."""

    seconds: float
    cpu_seconds: float


def timed(argv: Sequence[str], data: bytes = b"", cwd: str | None = None, codes: Sequence[int] = (0,)) -> Cost:
    """Run a program to its end; wall clock and the processor time of it and its children.  A failure is an error."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run(argv, input=data, capture_output=True, cwd=cwd, timeout=600)
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in codes:
        raise RuntimeError(f"{argv}: exit {done.returncode}: {done.stderr[-500:].decode(errors='replace')}")
    return Cost(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, figures to the right."""
    print(f"\n{title}\n")
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    for row in (head, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip(), flush=True)
