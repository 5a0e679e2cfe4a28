"""The lines of a spool file that hold a transaction's entry, as a door writes them; `core.entry` reads them.

A spool file is plain BSMTP, CRLF, one transaction.  The entry stands in two
NOOP lines, which every reader of BSMTP passes over: one before MAIL with what
is known at the start, one after the final dot with length and digest, whose
fixed length lets it be read from the end of the file.

    NOOP batchmail arrival=1795222800000 priority=0 queue-id=4A1 helo=mx.example
    MAIL FROM:<...> ... "."
    NOOP batchmail-end octets=000000000004711 text=000000000004802 bits=7 recipients=00001 sha256=...
"""

from batchmail.core import xtext
from batchmail.core.envelope import Client

TAIL_OCTETS = len(b"NOOP batchmail-end octets= text= bits=7 recipients= sha256=\r\n") + 15 + 15 + 5 + 64
HEAD_MAX_OCTETS = 4096


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
        b"port": client.port[:8],  # these two are short, so that the line keeps within its bound
        b"source": client.source[:8],
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
