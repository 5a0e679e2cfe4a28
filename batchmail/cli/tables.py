"""What the commands for people print: tables that fit the terminal, ages and sizes, JSON lines.

In a pipe nothing is shortened.  Values of the mail side are made printable
for the terminal; in JSON they stand as they are, octets above 127 as \\xNN.
"""

import io
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import click

from batchmail.core import jsontext
from batchmail.core.outcome import Outcome
from batchmail.wire.peer_text import printable


class Column(NamedTuple):
    """A column of a table; the last one takes what is left of the line."""

    title: str
    width: int
    to_the_right: bool = False


class Table:
    """Rows as they come; the head stands before the first."""

    def __init__(self, *columns: Column):
        self._columns = columns
        self._begun = False

    def row(self, *values: object) -> None:
        if not self._begun:
            self._begun = True
            self._line([column.title for column in self._columns])
        self._line([str(value) for value in values])

    def _line(self, values: Sequence[str]) -> None:
        shown = [_fit(value, column) for value, column in zip(values, self._columns, strict=True)]
        click.echo(" ".join([*shown[:-1], shorten(values[-1], self._columns[-1].width)]).rstrip())


def _fit(value: str, column: Column) -> str:
    text = shorten(value, column.width)
    return text.rjust(column.width) if column.to_the_right else text.ljust(column.width)


def shorten(text: str, width: int) -> str:
    """At most `width` characters on a terminal."""
    return text if len(text) <= width or not sys.stdout.isatty() else text[: max(0, width - 1)] + _ellipsis()


def _ellipsis() -> str:
    return "…" if "utf" in (sys.stdout.encoding or "").lower() else "~"


def line_width() -> int:
    """How long a line may be; in a pipe as on a terminal of the usual width."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80


def address_text(address: bytes) -> str:
    """An address for people; the null sender is <>."""
    return printable(address) or "<>"


def reply_text(outcome: Outcome) -> str:
    """What was said of a recipient, on one line."""
    code = f"{outcome.code} " if outcome.code else ""
    return f"{code}{outcome.status} " + " / ".join(printable(outcome.text).split("\n"))


def age_text(milliseconds: int) -> str:
    """A span of time in a few characters, to the nearest unit: 40s, 12min, 30h, 4d."""
    seconds = (max(0, milliseconds) + 500) // 1000
    for limit, unit, length in ((90, "s", 1), (90 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{(seconds + length // 2) // length}{unit}"
    return f"{(seconds + 43200) // 86400}d"


def count_text(number: int, noun: str) -> str:
    """1 peer, 2 peers."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_json(value: dict[str, Any]) -> None:
    """One object, on one line."""
    click.echo(jsontext.write(value).decode(), nl=False)


def json_text(value: bytes) -> str:
    """Octets of the mail side as JSON's text, which escapes its control characters itself."""
    return value.decode("ascii", "backslashreplace")


def field_lines(fields: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Names and values below each other; an empty value is left out."""
    return (f"{name:<13} {value}" for name, value in fields if value)


def end_with_reader() -> None:
    """End without a word when nobody reads on, as in `batchmail queue | head`; for commands without connections."""
    print_anything()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def print_anything() -> None:
    """Show what the terminal's character set lacks by escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
