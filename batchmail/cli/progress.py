"""Progress for people: one line that is written over, on a terminal only."""

import sys
import threading
import time
from collections import deque

from batchmail.flow.totals import Totals

_EVERY_S = 0.2
_RATE_OVER_S = 5.0


def octets_text(octets: float) -> str:
    """Octets for people: 999, 1.2k, 34M."""
    for unit in ("", "k", "M", "G"):
        if octets < 1000 or unit == "G":
            return f"{octets:.0f}{unit}" if octets >= 10 or not unit else f"{octets:.1f}{unit}"
        octets /= 1000
    return ""


def duration_text(seconds: float) -> str:
    """Seconds for people: 4s, 3min 20s, 2h 5min."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}min {whole % 60}s"
    return f"{whole // 3600}h {whole % 3600 // 60}min"


class ProgressLine:
    """Shows a call, then its replay; silent when standard error is no terminal.  Two threads may tell it things."""

    def __init__(self, peer: str):
        self._shown = sys.stderr is not None and sys.stderr.isatty()
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._call = f"{peer}: "
        self._replay = ""
        self._width = 0
        self._peer = peer
        self._past: deque[tuple[float, int]] = deque()  # seconds of the call, octets that had crossed by then

    def call(self, totals: Totals) -> None:
        """Of the exchange."""
        if not self._shown:
            return
        text = f"{self._peer}: sent {octets_text(totals.sent_octets)}, received {octets_text(totals.received_octets)}"
        rate = self._measure(totals)
        if rate:
            text += f", {octets_text(rate)}/s"
            if totals.left_octets:
                text += f", {duration_text(totals.left_octets / rate)} left"
        self._call = text + "; "
        self._show()

    def _measure(self, totals: Totals) -> float:
        """Octets per second in both directions together, over the last seconds."""
        crossed = totals.sent_octets + totals.received_octets
        self._past.append((totals.seconds, crossed))
        while totals.seconds - self._past[0][0] > _RATE_OVER_S:
            self._past.popleft()
        span_s = totals.seconds - self._past[0][0]
        return (crossed - self._past[0][1]) / span_s if span_s > _EVERY_S else 0.0

    def checked(self, files: int) -> None:
        """Of `batchmail check --files`."""
        if self._shown:
            self._call = f"{self._peer}: {files} files read"
            self._show()

    def replay(self, transactions: int, octets: int) -> None:
        """Of the replay."""
        self._replay = f"replayed {transactions} ({octets_text(octets)})"
        self._show()

    def _show(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            if not self._shown or now_s < self._next_s:
                return
            self._next_s = now_s + _EVERY_S
            line = (self._call + self._replay)[:79]
            self._write("\r" + line.ljust(self._width))
            self._width = len(line)

    def end(self) -> None:
        """Clear the line."""
        with self._lock:
            if self._width:
                self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        try:
            print(text, end="", file=sys.stderr, flush=True)
        except (OSError, ValueError):  # the terminal is gone: what is shown must not stop what is done
            self._shown = False
