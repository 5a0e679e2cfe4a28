"""Reading a numbered file for people: what it is, what it holds, whether it is what it says.

The file may lie anywhere, and be damaged or a lie: the readers of `store.batchfile`
bound what is read, and what is wrong is PeerError.
"""

from collections.abc import Iterator
from typing import NamedTuple

from batchmail.core.envelope import Envelope
from batchmail.core.errors import BatchmailError
from batchmail.core.manifest import Head, Item
from batchmail.flow.transaction import read_envelope
from batchmail.store import batchfile


class Inspected(NamedTuple):
    """A batch as far as it can be read."""

    head: Head
    items: list[Item]
    identity: str  # empty when it is damaged
    problem: str


def is_batch(path: str) -> bool:
    """Whether the file begins like a batch; else it is a report, a request, a void, or something foreign."""
    with open(path, "rb") as file:
        return batchfile.manifest_octets(file.read(8)) is not None


def read_file(path: str) -> Iterator[bytes]:
    """What a numbered file says, in pieces: RFC 2442 text, or lines of JSON."""
    if is_batch(path):
        yield from batchfile.read_text(path)
    else:
        yield from batchfile.unpack(path)[0]


def read_lines(path: str) -> tuple[list[bytes], str]:
    """The lines of a report, request or void, and its identity."""
    lines, identity = batchfile.unpack(path)
    return list(lines), identity


def inspect_batch(path: str) -> Inspected:
    """Read all of a batch and check it.  Raises PeerError when not even its manifest can be read."""
    head, items = batchfile.read_manifest(path)
    try:
        return Inspected(head, items, batchfile.check_batch(path)[2], "")
    except BatchmailError as error:
        return Inspected(head, items, "", str(error))


def envelopes(path: str) -> Iterator[tuple[Item, Envelope]]:
    """The transactions of a batch with their envelopes, as far as they can be read."""
    for item, text in batchfile.read_transactions(path):
        yield item, read_envelope(text)
