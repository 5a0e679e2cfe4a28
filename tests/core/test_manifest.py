"""The manifest: what is written is read; what lies is refused, and only ever with PeerError."""

import contextlib
import json
from hashlib import sha256
from random import Random
from typing import Any

import pytest

from batchmail.core import manifest
from batchmail.core.entry import Entry
from batchmail.core.envelope import Client
from batchmail.core.errors import PeerError
from batchmail.core.manifest import Head, Item
from tests.lies import lies

STREAM = "0123456789ABCDEF"
IDS = ["01KAHQ8M5P0123456789ABCDE" + c for c in "ABC"]


def entry(identifier: str, text_octets: int = 100, **changes: Any) -> Entry:
    made = Entry(identifier, 1795222800000, 0, 60, text_octets, "ab" * 32, 7, 1, "", Client())
    return made._replace(**changes)


ITEMS = [
    Item(entry(IDS[0]), 17, 86_400_000),
    Item(entry(IDS[1], priority=-9, bits=8, recipients=100, queue_id="4A1b+c=d e"), 117, 0),
    Item(entry(IDS[2], priority=9, client=Client(b"2001:db8::1", b"", b"h\xffe lo", b"esmtp")), 217, 1),
]
HEAD = Head(STREAM, 7, "mx.example", "home.example", (1, 2), 1795222800001, 3, 323)


def lines(head: Head = HEAD, items: list[Item] = ITEMS) -> list[bytes]:
    return list(manifest.write(head, items))


def changed(line: bytes, **fields: Any) -> bytes:
    value = json.loads(line) | fields
    return json.dumps({k: v for k, v in value.items() if v is not ...}).encode() + b"\n"


def test_what_is_written_is_read() -> None:
    assert manifest.read(lines()) == (HEAD, ITEMS)


def test_unknown_keys_are_passed_over_unless_they_must_be_known() -> None:
    rows = lines()
    rows[0] = changed(rows[0], later={"x": 1})
    rows[1] = changed(rows[1], sieve="x", must=["sieve", "queue_id", "arrival"])
    head, items = manifest.read(rows)
    assert head == HEAD
    assert items[0] == ITEMS[0]._replace(must=("sieve",))


HEAD_LIES: dict[str, list[Any]] = {
    "batchmail": lies(0, 2),
    "stream": lies("", STREAM.lower(), STREAM + "0", "../../../../etc/x", "0123456789ABCDE/"),
    "seq": lies(0, 2**53),
    "origin": lies("", "..", "a/b", "a..b", "-a", "a b", "x" * 256, "mx.example\n"),
    "destination": lies("", "..", "a/b"),
    "sealed": lies(),
    "count": lies(0, 1, 2, 4, 10_001),
    "text": lies(316, 16, (1 << 53) - 1, 323 + (64 << 10)),
    "reads": [1, "1", {}, [1] * 21],
}
ITEM_LIES: dict[str, list[Any]] = {
    "id": lies("", IDS[1], IDS[0].lower(), "../" + IDS[0], IDS[0] + "\n", "Z" + IDS[0][1:]),
    "arrival": lies(),
    "lifetime": lies(),
    "priority": [-1, 19, "9", None, True],
    "offset": lies(18, 2**53 - 1),
    "text": lies(0, 101, 2**53 - 1),
    "octets": lies(),
    "bits": lies(6, 9),
    "recipients": lies(0, 10_001),
    "sha256": lies("", "AB" * 32, "ab" * 31),
    "queue_id": [1, "a b", "+", "x" * 256, "+FF" * 256],
    "helo": [1, "a b", "+0", "x" * 256],
    "address": [{}, "\x00"],
    "must": ["x", {}, [1], [{}], [[]], [None], ["\ud800"], ["a\nb"], ["k"] * 21],
}


@pytest.mark.parametrize(("key", "lie"), [(k, v) for k, vs in HEAD_LIES.items() for v in vs], ids=repr)
def test_a_head_that_lies(key: str, lie: Any) -> None:
    rows = lines()
    rows[0] = changed(rows[0], **{key: lie})
    with pytest.raises(PeerError):
        manifest.read(rows)


@pytest.mark.parametrize(("key", "lie"), [(k, v) for k, vs in ITEM_LIES.items() for v in vs], ids=repr)
def test_a_transaction_that_lies(key: str, lie: Any) -> None:
    rows = lines()
    rows[1] = changed(rows[1], **{key: lie})
    with pytest.raises(PeerError):
        manifest.read(rows)


@pytest.mark.parametrize("rows", [[], lines()[:1], lines()[:3], [*lines(), lines()[3]], lines()[1:]])
def test_too_few_and_too_many_lines(rows: list[bytes]) -> None:
    with pytest.raises(PeerError):
        manifest.read(rows)


def test_order_is_that_of_the_text() -> None:
    rows = lines()
    with pytest.raises(PeerError, match="overlap"):
        manifest.read([rows[0], rows[2], rows[1], rows[3]])


def test_one_large_transaction_may_exceed_what_several_may_not() -> None:
    size = manifest.MAX_TEXT_OCTETS + 1
    one = [Item(entry(IDS[0], size), 17, 0)]
    head = HEAD._replace(transactions=1, text_octets=size + 23)
    assert manifest.read(lines(head, one))[1] == one
    two = [*one, Item(entry(IDS[1]), size + 17, 0)]
    with pytest.raises(PeerError, match="at most"):
        manifest.read(lines(head._replace(transactions=2, text_octets=size + 123), two))


def test_recipients_in_all_are_bounded() -> None:
    items = [Item(entry(IDS[0][:-2] + f"{n:02}", recipients=10_000), n * 100, 1) for n in range(11)]
    assert len(manifest.read(lines(HEAD._replace(transactions=10, text_octets=1000), items[:10]))[1]) == 10
    with pytest.raises(PeerError, match="more than 100000 recipients"):
        manifest.read(lines(HEAD._replace(transactions=11, text_octets=1100), items))


def test_a_later_version_says_what_to_do() -> None:
    rows = lines()
    with pytest.raises(PeerError, match="install a newer batchmail here"):
        manifest.read([changed(rows[0], batchmail=2), *rows[1:]])


def test_the_longest_line_that_is_written_is_read() -> None:
    worst = Client(*[b"\xff" * 255] * 4)
    items = [Item(entry(IDS[0], client=worst, queue_id="+" * 255), 17, 2**53 - 1)]
    head = HEAD._replace(transactions=1)
    assert manifest.read(lines(head, items))[1] == items


@pytest.mark.parametrize("seed", range(20))
def test_nothing_but_peer_errors_escapes(seed: int) -> None:
    random = Random(seed)
    for _ in range(100):
        rows = [bytearray(row) for row in lines()]
        for _ in range(random.randint(1, 5)):
            row = random.choice(rows)
            row[random.randrange(len(row))] = random.choice(b'{}[]",:\\u0d8+-.e019aZ\xff\0 ')
        with contextlib.suppress(PeerError):
            manifest.read(bytes(row) for row in rows)


# Without digests

TEXT = b"EHLO mx.example\r\n" + b"".join(bytes([65 + n]) * 100 for n in range(3)) + b"QUIT\r\n"


def described() -> bytes:
    digests = [sha256(TEXT[item.offset :][:100]).hexdigest() for item in ITEMS]
    made = [i._replace(entry=i.entry._replace(sha256=digest)) for i, digest in zip(ITEMS, digests, strict=True)]
    return b"".join(lines(items=made))


def test_digests_that_were_left_out_are_made_from_the_text() -> None:
    bare = manifest.bare(described())
    assert len(bare) == len(described()) - 3 * 64
    assert manifest.fill(bare, TEXT) == described()
    assert manifest.fill(described(), TEXT) == described()
    assert manifest.fill(bare, TEXT[:50] + b"x" + TEXT[51:]) != described()


@pytest.mark.parametrize(
    "changes", [{"offset": 116}, {"offset": 218}, {"text": 0}, {"text": 101}, {"offset": -1}, {"text": ...}]
)
def test_a_manifest_without_digests_that_lies(changes: dict[str, Any]) -> None:
    """No octet is read twice: a short manifest could else keep us busy for long."""
    rows = manifest.bare(described()).splitlines(keepends=True)
    rows[2] = changed(rows[2], **changes).replace(b'"sha256": ""', b'"sha256":""')
    with pytest.raises(PeerError):
        manifest.fill(b"".join(rows), TEXT)
