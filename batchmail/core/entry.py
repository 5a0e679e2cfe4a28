"""A transaction's entry: what BSMTP cannot say about it, in the spool file and in the manifest.

Where it stands in a spool file, and how that is written: `core.entry_lines`.
"""

from batchmail.core import xtext
from batchmail.core.entry_lines import HEAD_MAX_OCTETS, TAIL_OCTETS, tail
from batchmail.core.envelope import Client
from batchmail.core.errors import SpoolError
from batchmail.core.value import NamedTuple


class Entry(NamedTuple):
    """One transaction as it waits, travels and is replayed."""

    id: str
    arrival_ms: int  # at the door, milliseconds UTC
    priority: int  # MT-PRIORITY, RFC 6710: -9 to 9, 0 is normal, 9 the most urgent
    size_octets: int  # of the content, CRLF line ends, not stuffed
    text_octets: int  # from MAIL to the final dot, as it stands in the text
    sha256: str  # of that text
    bits: int  # 8 when the content holds octets above 127, else 7
    recipients: int
    queue_id: str  # the MTA's that handed it over; empty when it said none
    client: Client


_KEY = b"abcdefghijklmnopqrstuvwxyz0123456789-"
PRIORITIES = range(-9, 10)


def parse(identifier: str, first_octets: bytes, last_octets: bytes) -> tuple[Entry, int]:
    """The entry of a spool file from its first line and its last TAIL_OCTETS, and where MAIL stands.

    Raises SpoolError when the file is torn or is not one of ours.
    """
    line, end, _ = first_octets[:HEAD_MAX_OCTETS].partition(b"\r\n")
    try:
        if not end or not line.startswith(b"NOOP batchmail "):
            raise ValueError(line)
        fields = _parse_fields(line)
        arrival_ms, priority = int(fields[b"arrival"]), int(fields.get(b"priority", b"0"))
        size_octets, text_octets, bits, recipients, sha256 = _parse_tail(last_octets)
    except (KeyError, ValueError):
        raise SpoolError(
            f"the spool file of {identifier} is damaged: its first or last line is not as it was written"
        ) from None
    client = Client(*(fields.get(key.encode(), b"") for key in Client._fields))  # older files have fewer
    entry = Entry(
        identifier,
        arrival_ms,
        priority,
        size_octets,
        text_octets,
        sha256,
        bits,
        recipients,
        fields.get(b"queue-id", b"").decode("ascii", "replace"),
        client,
    )
    return entry, len(line) + 2


def _parse_fields(line: bytes) -> dict[bytes, bytes]:
    fields = {}
    for word in line.split(b" ")[2:]:
        key, equals, value = word.partition(b"=")
        if not 1 <= len(key) <= 20 or key.translate(None, _KEY) or not equals or len(value) > 1000:
            raise ValueError(word)
        fields[key] = xtext.decode(value)
    return fields


def _parse_tail(line: bytes) -> tuple[int, int, int, int, str]:
    """The arguments of `tail`.  Raises ValueError unless that writes just this line of them."""
    *numbers, digest = [word.partition(b"=")[2] for word in line.removesuffix(b"\r\n").split(b" ")[2:]]
    size_octets, text_octets, bits, recipients = map(int, numbers)
    sha256 = digest.decode("ascii")
    is_well_formed = len(line) == TAIL_OCTETS and len(digest) == 64 and not digest.translate(None, b"0123456789abcdef")
    if not is_well_formed or bits not in (7, 8) or not all(map(bytes.isdigit, numbers)):
        raise ValueError(line)
    if tail(size_octets, text_octets, bits, recipients, sha256) != line:
        raise ValueError(line)
    return size_octets, text_octets, bits, recipients, sha256
