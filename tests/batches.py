"""Batches for tests: honest ones, and ones put together by hand so that they can lie."""

import hashlib
import json
import struct
from typing import Any, NamedTuple

import zstandard

from batchmail.core import manifest
from batchmail.core.entry import Entry
from batchmail.core.envelope import Client
from batchmail.core.manifest import Head, Item
from batchmail.store import batchfile
from batchmail.store.durable import Draft

STREAM = "0123456789ABCDEF"
SEALED_MS = 1795222800000
PLAIN = b"MAIL FROM:<s@mx.example>\r\nRCPT TO:<r@home.example>\r\nDATA\r\nSubject: one\r\n\r\none\r\n.\r\n"
PARAMETERS = (
    b"MAIL FROM:<> BODY=8BITMIME RET=HDRS ENVID=a+2Bb SMTPUTF8\r\n"
    b"RCPT TO:<a@home.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2B@home.example\r\n"
    b'RCPT TO:<"b >c"@home.example> NOTIFY=NEVER\r\n'
    b"DATA\r\nSubject: tw\xc3\xb6\r\n\r\n..\r\n..dots\r\n.. \r\nFrom here\r\n\r\n.\r\n"
)
EMPTY = b"MAIL FROM:<s@mx.example>\r\nRCPT TO:<r@home.example>\r\nDATA\r\n.\r\n"
TEXTS = [PLAIN, PARAMETERS, EMPTY]


class Made(NamedTuple):
    """A batch and what stands in it."""

    head: Head
    items: list[Item]
    texts: list[bytes]


def describe(text: bytes, number: int = 0, **changes: Any) -> Entry:
    """The entry that is true of a transaction's text."""
    commands, _, body = text.partition(b"DATA\r\n")
    content = (b"\r\n" + body).replace(b"\r\n.", b"\r\n")[2:].removesuffix(b"\r\n") if body else b""
    made = Entry(
        f"01KAHQ8M5P0123456789ABCD{number:02d}",
        SEALED_MS - 1000,
        0,
        len(content),
        len(text),
        hashlib.sha256(text).hexdigest(),
        7 if content.isascii() else 8,
        commands.count(b"RCPT TO:"),
        "",
        Client(),
    )
    return made._replace(**changes)


def make(texts: list[bytes] = TEXTS, seq: int = 1, origin: str = "mx.example") -> Made:
    entries = [describe(text, number) for number, text in enumerate(texts)]
    items = batchfile.place((Item(entry, 0, 86_400_000) for entry in entries), origin)
    length = len(batchfile.preface(origin)) + sum(map(len, texts)) + len(batchfile.CLOSING)
    return Made(Head(STREAM, seq, origin, "home.example", (1,), SEALED_MS, len(items), length), items, texts)


def write(path: str, tmp: str, made: Made | None = None, level: int = 9) -> str:
    """An honest batch; its identity."""
    head, items, texts = made or make()
    with Draft(tmp) as draft:
        identity = batchfile.write_batch(draft, head, items, ([text] for text in texts), level)
        draft.publish(path)
    return identity


def text_of(made: Made) -> bytes:
    return batchfile.preface(made.head.origin) + b"".join(made.texts) + batchfile.CLOSING


def forge(path: str, text: bytes, head: dict[str, Any], items: list[dict[str, Any]]) -> None:
    """A batch file that holds `text` under a manifest of these lines, whatever they say."""
    described = b"".join(json.dumps(row).encode() + b"\n" for row in (head, *items))
    assemble(path, described, zstandard.ZstdCompressor(write_checksum=True).compress(text))


def assemble(path: str, described: bytes, frames: bytes) -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(described)
    with open(path, "wb") as file:
        file.write(struct.pack("<II", 0x184D2A50, len(packed)) + packed + frames)


def rows_of(made: Made) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest's lines as values, to be changed."""
    head, *items = (json.loads(line) for line in manifest.write(made.head, made.items))
    return head, items
