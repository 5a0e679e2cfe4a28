"""The manifest of a batch (design: the batch file, version 1): one JSON line for the batch, one per transaction.

The manifest frames the text: offset and length of each transaction stand
here, with the digest of its octets, and no search for a dot decides where one
ends.  The identity of a batch is the SHA-256 over manifest and text.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from batchmail.core import jsontext
from batchmail.core.digest import sha256
from batchmail.core.entry import PRIORITIES, Entry
from batchmail.core.envelope import MAX_RECIPIENTS, Client
from batchmail.core.errors import PeerError
from batchmail.core.names import SEQ_MAX, is_id, is_site, is_stream

VERSION = 1
MAX_TRANSACTIONS = 10_000
MAX_RECIPIENTS_IN_ALL = 100_000  # each costs its reader a row; a few octets of text can name many
MAX_TEXT_OCTETS = 16 << 20  # of a batch with more than one transaction
MAX_MANIFEST_OCTETS = 16 << 20
MAX_BETWEEN_OCTETS = 64 << 10  # of the text that is in no transaction: EHLO, QUIT, what a later writer may add
_LINE_OCTETS = 8192
_KEYS = (
    "id",
    "arrival",
    "lifetime",
    "priority",
    "offset",
    "text",
    "octets",
    "bits",
    "recipients",
    "sha256",
    "queue_id",
)
_DIGEST = re.compile(rb'"sha256":"[0-9a-f]{64}"')
_NO_DIGEST = b'"sha256":""'
_KNOWN = frozenset((*_KEYS, *Client._fields, "must"))


class Head(NamedTuple):
    """The batch as a whole."""

    stream: str
    seq: int
    origin: str  # site
    destination: str  # site
    reads: tuple[int, ...]  # the batch versions that the origin reads
    sealed_ms: int
    transactions: int
    text_octets: int


class Item(NamedTuple):
    """A transaction of the batch."""

    entry: Entry
    offset: int  # of its MAIL in the text; 0 before it has its place in a batch
    lifetime_ms: int  # from arrival, until it is given up
    must: tuple[str, ...] = ()  # keys that a reader has to know to do right by it


def write(head: Head, items: Iterable[Item]) -> Iterator[bytes]:
    """The manifest's lines."""
    yield jsontext.write(
        {
            "batchmail": VERSION,
            "stream": head.stream,
            "seq": head.seq,
            "origin": head.origin,
            "destination": head.destination,
            "reads": list(head.reads),
            "sealed": head.sealed_ms,
            "count": head.transactions,
            "text": head.text_octets,
        }
    )
    for item in items:
        entry = item.entry
        line: dict[str, object] = {
            "id": entry.id,
            "arrival": entry.arrival_ms,
            "lifetime": item.lifetime_ms,
            "offset": item.offset,
            "text": entry.text_octets,
            "octets": entry.size_octets,
            "bits": entry.bits,
            "recipients": entry.recipients,
            "sha256": entry.sha256,
        }
        if entry.priority:
            line["priority"] = entry.priority + 9  # JSON integers are never negative here
        if entry.queue_id:
            line["queue_id"] = jsontext.octets(entry.queue_id.encode())
        line |= {key: jsontext.octets(value) for key, value in entry.client._asdict().items() if value}
        yield jsontext.write(line)


def read_head(line: bytes) -> Head:
    """The first line.  Raises PeerError, also for a version that is not read here."""
    fields = jsontext.read(line, "manifest", _LINE_OCTETS)
    version = fields.integer("batchmail")
    if version != VERSION:
        raise PeerError(
            f"the batch is of version {version}, this program reads {VERSION}: install a newer batchmail here"
        )
    head = Head(
        fields.text("stream"),
        fields.integer("seq", 1, SEQ_MAX),
        fields.text("origin"),
        fields.text("destination"),
        tuple(n for n in fields.items("reads", 20) if type(n) is int),
        fields.integer("sealed"),
        fields.integer("count", 1, MAX_TRANSACTIONS),
        fields.integer("text"),
    )
    if not is_stream(head.stream) or not is_site(head.origin) or not is_site(head.destination):
        raise PeerError("manifest: malformed stream or site name")
    if head.transactions > 1 and head.text_octets > MAX_TEXT_OCTETS:
        raise PeerError(f"manifest: {head.text_octets} octets of text, at most {MAX_TEXT_OCTETS} are read")
    return head


def read_item(line: bytes) -> Item:
    """A transaction's line.  Raises PeerError."""
    fields = jsontext.read(line, "manifest", _LINE_OCTETS)
    must = fields.items("must", 20)
    if not all(map(jsontext.is_text, must)):
        raise PeerError("manifest: 'must' is to name keys")
    entry = Entry(
        fields.text("id"),
        fields.integer("arrival"),
        fields.integer("priority", 0, len(PRIORITIES) - 1, default=9) - 9,
        fields.integer("octets"),
        fields.integer("text", 1),
        fields.digest("sha256"),
        fields.integer("bits", 7, 8),
        fields.integer("recipients", 1, MAX_RECIPIENTS),
        fields.octets("queue_id", default=b"").decode("ascii", "replace"),
        Client(*(fields.octets(key, default=b"") for key in Client._fields)),
    )
    if not is_id(entry.id):
        raise PeerError("manifest: malformed transaction ID")
    return Item(
        entry,
        fields.integer("offset"),
        fields.integer("lifetime"),
        tuple(key[:40] for key in must if key not in _KNOWN),
    )


def read(lines: Iterable[bytes]) -> tuple[Head, list[Item]]:
    """A whole manifest, checked to frame its text without gap, overlap or excess.  Raises PeerError."""
    rows = iter(lines)
    head = read_head(next(rows, b""))
    items: list[Item] = []
    end = 0
    for line in rows:
        item = read_item(line)
        if len(items) == head.transactions or item.offset < end:
            raise PeerError("manifest: transactions overlap, or more of them than counted")
        end = item.offset + item.entry.text_octets
        items.append(item)
    if len(items) != head.transactions or end > head.text_octets:
        raise PeerError("manifest: fewer transactions than counted, or they exceed the text")
    if head.text_octets - sum(item.entry.text_octets for item in items) > MAX_BETWEEN_OCTETS:
        raise PeerError("manifest: it declares more text than its transactions have")
    if sum(item.entry.recipients for item in items) > MAX_RECIPIENTS_IN_ALL:
        raise PeerError(f"manifest: more than {MAX_RECIPIENTS_IN_ALL} recipients in one batch")
    if len({item.entry.id for item in items}) != len(items):
        raise PeerError("manifest: an ID stands twice")
    return head, items


def bare(described: bytes) -> bytes:
    """The lines without the digests, which whoever has the text can make."""
    return _DIGEST.sub(_NO_DIGEST, described)


def fill(described: bytes, text: bytes) -> bytes:
    """The lines with the digests that were left out of them.  Raises PeerError."""
    lines, end = described.splitlines(keepends=True), 0
    for place, line in enumerate(lines):
        if _NO_DIGEST not in line:
            continue
        fields = jsontext.read(line, "manifest", _LINE_OCTETS)
        start = fields.integer("offset", end)  # none overlaps another: each octet is read once
        end = start + fields.integer("text", 1)
        if end > len(text):
            raise PeerError("manifest: its transactions exceed the text")
        digest = sha256(text[start:end]).hexdigest()
        lines[place] = line.replace(_NO_DIGEST, b'"sha256":"%s"' % digest.encode(), 1)
    return b"".join(lines)
