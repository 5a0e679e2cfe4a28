"""Requests and their answers: numbered files of JSON lines, in either direction.

A request names a kind of wish and carries what that kind needs; its ID makes
it one and the same however often it is sent.  Kinds are told by name, and one
that is not known is answered so.  What a kind does is `flow.requests`.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from batchmail.core import jsontext
from batchmail.core.errors import PeerError
from batchmail.core.numbered import Number
from batchmail.core.report import identifier, rows

WITHDRAW = "withdraw"  # {"tx": ID}: do not deliver it any more
RECIPIENTS = "recipients"  # {"list", ...}: the addresses that exist here, see `flow.recipients`
AUDIT = "audit"  # {"audit", "way", "from", "prefix"}: what is known of these transactions

# Verdicts.  A kind may have others.
DONE = "done"
LATE = "late"  # it is done otherwise, or may be
MISSING = "missing"  # what it is about is not here
UNKNOWN = "unknown"  # no such kind is known here
REFUSED = "refused"  # the request is malformed, or not to be granted

MAX_PAYLOAD_OCTETS = 60_000  # as JSON: one line of the file
_KIND_LENGTH = 20
_TEXT_LENGTH = 1000


class Request(NamedTuple):
    """A wish."""

    kind: str
    id: str  # its own
    payload: dict[str, Any]  # JSON as `core.jsontext` has it, at most three levels deep

    def line(self) -> dict[str, object]:
        line: dict[str, object] = {"do": self.kind, "id": self.id}
        if self.payload:
            line["with"] = self.payload
        return line


class Answer(NamedTuple):
    """What became of a request."""

    id: str  # the request's
    verdict: str
    text: str = ""  # for people
    payload: dict[str, Any] = {}  # never changed

    def line(self) -> dict[str, object]:
        line: dict[str, object] = {"id": self.id, "verdict": self.verdict}
        if self.text:
            line["text"] = self.text[:_TEXT_LENGTH]
        if self.payload:
            line["with"] = self.payload
        return line


def read_requests(number: Number, lines: Iterable[bytes]) -> list[Request]:
    """Raises PeerError."""
    return [
        Request(fields.text("do", _KIND_LENGTH), identifier(number, fields), _payload(number, fields))
        for fields in rows(number, lines)
    ]


def read_answers(number: Number, lines: Iterable[bytes]) -> list[Answer]:
    """Raises PeerError."""
    return [
        Answer(
            identifier(number, fields),
            fields.text("verdict", _KIND_LENGTH),
            fields.text("text", _TEXT_LENGTH, default=""),
            _payload(number, fields),
        )
        for fields in rows(number, lines)
    ]


def _payload(number: Number, fields: jsontext.Fields) -> dict[str, Any]:
    payload = fields.object("with").value
    try:
        pack(payload)
    except ValueError as error:  # it has to fit into our ledger, and from there into lines of ours
        raise PeerError(f"{number.file_name}: {error}") from None
    return payload


def pack(payload: dict[str, Any]) -> str:
    """A payload as the ledger keeps it.  Raises ValueError when it is too large for a line."""
    text = jsontext.write(payload).decode("ascii").rstrip("\n")
    if len(text) > MAX_PAYLOAD_OCTETS:
        raise ValueError(f"a payload of {len(text)} octets, at most {MAX_PAYLOAD_OCTETS} fit")
    return text


def unpack(text: str) -> dict[str, Any]:
    """A payload out of the ledger."""
    return jsontext.read(text.encode("ascii"), "the ledger").value
