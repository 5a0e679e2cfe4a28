"""The one Received: line of the replaying site, and loops (RFC 5321 §4.4, §6.3)."""

import re
from email.utils import formatdate

from batchmail.core.envelope import Client

MAX_OWN_RECEIVED = 5
_RECEIVED = re.compile(rb"^received:[^\r]*(?:\r\n[ \t][^\r]*)*", re.IGNORECASE | re.MULTILINE)
_SAFE = re.compile(rb"[^A-Za-z0-9.:_\[\]-]")


def received(origin: str, me: str, identifier: str, client: Client, now_ms: int) -> bytes:
    """The line, with its end.  No WITH clause: none is registered for batches; no FOR: it would reveal blind copies."""
    seen = [
        b"%b=%b" % (k, _SAFE.sub(b"?", v[:100])) for k, v in ((b"helo", client.helo), (b"client", client.address)) if v
    ]
    comment = b" (" + b" ".join(seen) + b")" if seen else b""
    date = formatdate(now_ms / 1000).replace("-0000", "+0000")
    return b"Received: from %b%b\r\n by %b (batchmail) id %b;\r\n %b\r\n" % (
        origin.encode(),
        comment,
        me.encode(),
        identifier.encode(),
        date.encode(),
    )


def is_looping(header: bytes, me: str) -> bool:
    """Whether this site's own name stands in too many Received: lines."""
    own = re.compile(rb"\sby\s+" + re.escape(me.encode()) + rb"[\s(;]", re.IGNORECASE)
    count = 0
    for match in _RECEIVED.finditer(header):
        count += own.search(match[0]) is not None
    return count >= MAX_OWN_RECEIVED
