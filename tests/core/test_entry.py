"""The entry in a spool file: written, read, and refused when it is torn."""

import pytest

from batchmail.core import entry as entries
from batchmail.core import entry_lines
from batchmail.core.entry import Entry
from batchmail.core.envelope import Client
from batchmail.core.errors import SpoolError

ID = "0" * 26
DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("queue_id", "client"),
    [
        ("", Client()),
        ("4A1", Client(b"192.0.2.1", b"mx.example", b"he lo=\xff\r\n", b"ESMTP")),
        ("q=+ 1", Client(b"2001:db8::1", port=b"2525", source=b"REMOTE")),
        ("\x7f" * 255, Client(*[b"\xff" * 255] * 4, *[b"\xff" * 8] * 2)),
    ],
)
def test_comes_back(queue_id, client):
    first = entry_lines.head(1795222800000, -3, queue_id, client)
    last = entry_lines.tail(4711, 4802, 8, 2, DIGEST)
    assert len(last) == entry_lines.TAIL_OCTETS
    assert len(first) <= entry_lines.HEAD_MAX_OCTETS
    assert first.endswith(b"\r\n") and first.isascii() and first.count(b"\r\n") == 1
    entry, offset = entries.parse(ID, first + b"MAIL FROM:<>\r\n", last)
    assert entry == Entry(ID, 1795222800000, -3, 4711, 4802, DIGEST, 8, 2, queue_id, client)
    assert offset == len(first)


def test_long_values_are_cut():
    entry, _ = entries.parse(
        ID, entry_lines.head(1, 0, "q" * 999, Client(helo=b"h" * 999)), entry_lines.tail(1, 1, 7, 1, DIGEST)
    )
    assert (len(entry.queue_id), len(entry.client.helo)) == (255, 255)


def test_words_that_are_not_known_here_are_passed_over():
    """A file of an older program lacks some, one of a newer program has more."""
    last = entry_lines.tail(1, 1, 7, 1, DIGEST)
    entry, _ = entries.parse(ID, b"NOOP batchmail arrival=1 protocol=ESMTP weather=fine\r\n", last)
    assert entry.client == Client(protocol=b"ESMTP")


def test_damage():
    first, last = entry_lines.head(1, 0, "", Client()), entry_lines.tail(1, 1, 7, 1, DIGEST)
    for torn in (
        first[:-1],
        b"",
        first[1:],
        first.replace(b"arrival=1", b""),
        first.replace(b"=1", b"=x"),
        first.replace(b"=1", b"=+1"),
    ):
        with pytest.raises(SpoolError, match="damaged"):
            entries.parse(ID, torn, last)
    for torn in (last[:-1], last[1:], b"", last.replace(b"bits=7", b"bits=6")):
        with pytest.raises(SpoolError, match="damaged"):
            entries.parse(ID, first, torn)
