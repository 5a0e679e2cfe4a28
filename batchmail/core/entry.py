"""A transaction's entry: what BSMTP cannot say about it, in the spool file and in the manifest.

A spool file is plain BSMTP, CRLF, one transaction.  The entry stands in two
NOOP lines, which every reader of BSMTP passes over: one before MAIL with what
is known at the start, one after the final dot with length and digest, whose
fixed length lets it be read from the end of the file.

    NOOP batchmail arrival=1795222800000 priority=0 queue-id=4A1 helo=mx.example
    MAIL FROM:<...> ... "."
    NOOP batchmail-end octets=000000000004711 text=000000000004802 bits=7 recipients=00001 sha256=...
"""

import re
from typing import NamedTuple

from batchmail.core import xtext
from batchmail.core.envelope import Client
from batchmail.core.errors import SpoolError


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


# Compiled when first used: the doors only write.
_FIELD = rb"([a-z0-9-]{1,20})=([!-~]{0,1000})\Z"
_TAIL = (
    rb"NOOP batchmail-end octets=([0-9]{15}) text=([0-9]{15}) bits=([78]) recipients=([0-9]{5})"
    rb" sha256=([0-9a-f]{64})\r\n\Z"
)
TAIL_OCTETS = len(b"NOOP batchmail-end octets= text= bits=7 recipients= sha256=\r\n") + 15 + 15 + 5 + 64
HEAD_MAX_OCTETS = 4096
PRIORITIES = range(-9, 10)


def head(arrival_ms: int, priority: int, queue_id: str, client: Client) -> bytes:
    """The line before MAIL."""
    fields = {
        b"arrival": b"%d" % arrival_ms,
        b"priority": b"%d" % priority,
        b"queue-id": queue_id.encode(),
        b"address": client.address,
        b"name": client.name,
        b"helo": client.helo,
        b"protocol": client.protocol,
    }
    words = [b"%b=%b" % (key, xtext.encode(value[:255])) for key, value in fields.items() if value]
    return b"NOOP batchmail " + b" ".join(words) + b"\r\n"


def tail(size_octets: int, text_octets: int, bits: int, recipients: int, sha256: str) -> bytes:
    """The line after the final dot."""
    return b"NOOP batchmail-end octets=%015d text=%015d bits=%d recipients=%05d sha256=%b\r\n" % (
        size_octets,
        text_octets,
        bits,
        recipients,
        sha256.encode(),
    )


def parse(identifier: str, first_octets: bytes, last_octets: bytes) -> tuple[Entry, int]:
    """The entry of a spool file from its first line and its last TAIL_OCTETS, and where MAIL stands.

    Raises SpoolError when the file is torn or is not one of ours.
    """
    line, end, _ = first_octets[:HEAD_MAX_OCTETS].partition(b"\r\n")
    closing = re.match(_TAIL, last_octets)
    if not closing or not end or not line.startswith(b"NOOP batchmail "):
        raise SpoolError(f"the spool file of {identifier} is damaged: its first or last line is not as it was written")
    try:
        fields = _parse_fields(line)
        arrival_ms, priority = int(fields[b"arrival"]), int(fields.get(b"priority", b"0"))
    except (KeyError, ValueError):
        raise SpoolError(
            f"the spool file of {identifier} is damaged: its first line is not as it was written"
        ) from None
    client = Client(*(fields.get(key, b"") for key in (b"address", b"name", b"helo", b"protocol")))
    entry = Entry(
        identifier,
        arrival_ms,
        priority,
        int(closing[1]),
        int(closing[2]),
        closing[5].decode(),
        int(closing[3]),
        int(closing[4]),
        fields.get(b"queue-id", b"").decode("ascii", "replace"),
        client,
    )
    return entry, len(line) + 2


def _parse_fields(line: bytes) -> dict[bytes, bytes]:
    fields = {}
    for word in line.split(b" ")[2:]:
        match = re.match(_FIELD, word)
        if not match:
            raise ValueError(word)
        fields[match[1]] = xtext.decode(match[2])
    return fields
