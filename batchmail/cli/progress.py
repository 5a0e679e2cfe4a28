"""Progress for people: one line that is written over, on a terminal only."""

import sys
import time

from batchmail.flow.exchange import Totals

_EVERY_S = 0.2


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
    """Shows a call, then its replay; silent when standard error is no terminal."""

    def __init__(self, peer: str):
        self._peer = peer
        self._shown = sys.stderr.isatty()
        self._next_s = 0.0
        self._replayed = ""
        self._line = ""

    def call(self, totals: Totals) -> None:
        """Of the exchange."""
        text = f"{self._peer}: sent {octets_text(totals.sent_octets)}, received {octets_text(totals.received_octets)}"
        if totals.rate:
            text += f", {octets_text(totals.rate)}/s"
            if totals.left_octets:
                text += f", {duration_text(totals.left_octets / totals.rate)} left"
        self._show(text)

    def replay(self, transactions: int, octets: int) -> None:
        """Of the replay."""
        self._replayed = f", replayed {transactions} ({octets_text(octets)})"
        self._show(f"{self._peer}: ")

    def _show(self, text: str) -> None:
        now_s = time.monotonic()
        if not self._shown or now_s < self._next_s:
            return
        self._next_s = now_s + _EVERY_S
        line = (text + self._replayed)[:79]
        print("\r" + line.ljust(len(self._line)), end="", file=sys.stderr, flush=True)
        self._line = line

    def end(self) -> None:
        """Clear the line."""
        if self._line:
            print("\r" + " " * len(self._line) + "\r", end="", file=sys.stderr, flush=True)
            self._line = ""
