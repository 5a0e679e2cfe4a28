"""What is shown must not stop what is done."""

import errno
import io
import sys

import pytest

from batchmail.cli.progress import ProgressLine
from batchmail.flow.totals import Mail, Totals

TOTALS = Totals(1, 2, 3, 0, 0, 1.0, None, None, Mail(0, 0, 0), Mail(0, 0, 0))


class Terminal(io.StringIO):
    """One that goes away."""

    is_gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.is_gone:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


def test_a_terminal_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    line = ProgressLine("home")
    line.replay(1, 1000)
    assert "home" in terminal.getvalue()
    terminal.is_gone = True
    line._next_s = 0.0
    line.replay(2, 2000)
    line.call(TOTALS)
    line.end()


def test_no_standard_error_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    line = ProgressLine("home")
    line.replay(1, 1000)
    line.end()
