"""Reports and voids: numbered files of JSON lines; and what all files of lines have in common.

A report holds outcomes, each named by transaction and recipient, never by
batch.  A void stands in for a number whose file will never come.
Requests and answers are lines too: `core.request`.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from batchmail.core import jsontext
from batchmail.core.envelope import MAX_RECIPIENTS
from batchmail.core.errors import PeerError
from batchmail.core.names import SEQ_MAX, is_id
from batchmail.core.numbered import Number
from batchmail.core.outcome import ACTIONS, Outcome

VERSION = 1
MAX_OUTCOMES = 10_000
MAX_TEXT_OCTETS = 16 << 20
_REPLY_OCTETS = 8192
_MTA_OCTETS = 255


class Reported(NamedTuple):
    """An outcome and the transaction it belongs to."""

    id: str
    outcome: Outcome
    doubtful: bool  # it may have been delivered once more: a reply to the final dot was lost, or it was forgotten

    def line(self) -> dict[str, object]:
        outcome = self.outcome
        line: dict[str, object] = {
            "id": self.id,
            "n": outcome.recipient,
            "action": outcome.action,
            "code": outcome.code,
            "status": outcome.status,
            "text": jsontext.octets(outcome.text[:_REPLY_OCTETS]),
            "mta": jsontext.octets(outcome.mta[:_MTA_OCTETS]),
            "time": outcome.time_ms,
        }
        if self.doubtful:
            line["doubt"] = 1
        return line


class Row(Protocol):
    """What is a line of such a file."""

    def line(self) -> dict[str, object]: ...


def write(number: Number, origin: str, sealed_ms: int, rows: Iterable[Row]) -> Iterator[bytes]:
    """The lines of a report, request, answer or void."""
    yield jsontext.write(
        {
            "batchmail": VERSION,
            "kind": number.kind,
            "stream": number.stream,
            "seq": number.seq,
            "origin": origin,
            "sealed": sealed_ms,
        }
    )
    for row in rows:
        yield jsontext.write(row.line())


def read_report(number: Number, lines: Iterable[bytes]) -> list[Reported]:
    """The outcomes of a report.  Raises PeerError."""
    found = []
    for fields in rows(number, lines):
        action, status = fields.text("action", 20), fields.text("status", 12)
        parts = status.split(".")
        if (
            action not in ACTIONS
            or len(parts) != 3
            or not all(p.isascii() and p.isdigit() and len(p) <= 3 for p in parts)
        ):
            raise PeerError(f"{number.file_name}: no outcome of that form is known")
        outcome = Outcome(
            fields.integer("n", 0, MAX_RECIPIENTS - 1),
            action,
            fields.integer("code", 0, 999),
            status,
            fields.octets("text", _REPLY_OCTETS),
            fields.octets("mta", _MTA_OCTETS),
            fields.integer("time"),
        )
        found.append(Reported(identifier(number, fields), outcome, fields.integer("doubt", 0, 1, default=0) == 1))
    return found


def identifier(number: Number, fields: jsontext.Fields) -> str:
    """The ID that a line names.  Raises PeerError."""
    found = fields.text("id")
    if not is_id(found):
        raise PeerError(f"{number.file_name}: malformed ID")
    return found


def rows(number: Number, lines: Iterable[bytes]) -> Iterator[jsontext.Fields]:
    """The lines below the first, which must say that the file is the one of that number.  Raises PeerError."""
    left = iter(lines)
    head = jsontext.read(next(left, b""), number.file_name)
    if head.integer("batchmail") != VERSION:
        raise PeerError(f"{number.file_name} is of a version that is not read here: install a newer batchmail")
    same = Number(head.text("stream"), head.integer("seq", 1, SEQ_MAX), head.text("kind"))
    if same != number:
        raise PeerError(f"{number.file_name} says of itself that it is {same.file_name[:60]}")
    for count, line in enumerate(left):
        if count >= MAX_OUTCOMES:
            raise PeerError(f"{number.file_name} has more than {MAX_OUTCOMES} lines")
        yield jsontext.read(line, number.file_name)


def read_void(number: Number, lines: Iterable[bytes]) -> None:
    """Check that a void is one.  Raises PeerError."""
    for _ in rows(number, lines):
        raise PeerError(f"{number.file_name}: a void holds nothing")
