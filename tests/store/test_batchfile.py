"""Batch files: the golden ones are read for ever, what anybody changed is refused, and reading is bounded."""

import json
import os
import resource
import shutil
import struct
import subprocess
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import zstandard

from batchmail.core import manifest, report
from batchmail.core.errors import PeerError
from batchmail.core.numbered import REPORT, REQUEST, VOID, Number
from batchmail.core.request import read_requests
from batchmail.store import batchfile
from tests import batches
from tests.batches import EMPTY, PLAIN, STREAM, TEXTS, Made

GOLDEN = os.path.join(os.path.dirname(__file__), "..", "data", "v1")
with open(f"{GOLDEN}/identities.json") as known:
    IDENTITIES: dict[str, str] = json.load(known)
BATCHES = [name for name in IDENTITIES if name.endswith(".batch")]


@pytest.fixture
def path(tmp_path: object) -> str:
    return f"{tmp_path}/x.batch"


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def put(path: str, data: bytes) -> str:
    with open(path, "wb") as file:
        file.write(data)
    return path


def whole(path: str) -> tuple[Any, ...]:
    """All that is taken from a batch: manifest, identity, transactions."""
    head, items, identity = batchfile.check_batch(path)
    return head, items, identity, [b"".join(text) for _, text in batchfile.read_transactions(path)]


# Golden files of version 1: made once; to be read for ever


@pytest.mark.parametrize("name", BATCHES)
def test_golden_batches(name: str) -> None:
    head, items, identity, texts = whole(f"{GOLDEN}/{name}")
    assert identity == IDENTITIES[name]
    assert (head.stream, head.origin, head.destination, len(items)) == (
        STREAM,
        "mx.example",
        "home.example",
        len(texts),
    )
    if name != "large.batch":
        assert texts == TEXTS
    else:
        assert len(texts[0]) == items[0].entry.text_octets > 2 << 17


def test_golden_entries() -> None:
    _, items = batchfile.read_manifest(f"{GOLDEN}/three.batch")
    entry = items[1].entry
    assert (entry.id, entry.priority, entry.queue_id, entry.bits) == ("01KAHQ8M5P0123456789ABCD01", 4, "4A1+x", 8)
    assert entry.client[:4] == (b"2001:db8::1", b"client.example", b"he lo", b"esmtp")
    assert (items[0].lifetime_ms, items[0].entry.arrival_ms) == (86_400_000, batches.SEALED_MS - 1000)


def test_golden_reports_requests_and_voids() -> None:
    lines, identity = batchfile.unpack(f"{GOLDEN}/report.report")
    rows = report.read_report(Number(STREAM, 4, REPORT), lines)
    assert identity == IDENTITIES["report.report"]
    assert [(row.id[-2:], row.outcome.action, row.outcome.text, row.doubtful) for row in rows] == [
        ("00", "failed", b"no such user\nsorry \xff", True),
        ("01", "delayed", b"", False),
    ]
    lines, identity = batchfile.unpack(f"{GOLDEN}/request.request")
    wishes = read_requests(Number(STREAM, 5, REQUEST), lines)
    assert (identity, wishes[0].kind) == (IDENTITIES["request.request"], "withdraw")
    lines, identity = batchfile.unpack(f"{GOLDEN}/void.void")
    report.read_void(Number(STREAM, 6, VOID), lines)
    assert identity == IDENTITIES["void.void"]


@pytest.mark.skipif(not shutil.which("zstd"), reason="no zstd program")
@pytest.mark.parametrize("name", ["three.batch", "fast.batch"])
def test_plain_tools_print_the_text(name: str) -> None:
    shown = subprocess.run(["zstd", "-dc", f"{GOLDEN}/{name}"], capture_output=True, check=True).stdout
    assert shown == batches.text_of(batches.make()) == b"".join(batchfile.read_text(f"{GOLDEN}/{name}"))
    assert shown.startswith(b"EHLO mx.example\r\nMAIL FROM:")
    assert shown.endswith(b"\r\n.\r\nQUIT\r\n")


# Writing and reading


@pytest.mark.parametrize("level", [1, 3, 9, 15, 19])
@pytest.mark.parametrize("texts", [[PLAIN], [EMPTY], TEXTS, TEXTS * 20], ids=len)
def test_what_is_written_is_read(path: str, tmp_path: object, texts: list[bytes], level: int) -> None:
    made = batches.make(texts)
    identity = batches.write(path, str(tmp_path), made, level)
    assert whole(path) == (made.head, made.items, identity, texts)
    assert batchfile.read_manifest(path) == (made.head, made.items)
    assert batchfile.manifest_octets(read(path)[:8]) == 8 + struct.unpack("<I", read(path)[4:8])[0]


def test_the_compressed_form_is_no_part_of_the_identity(tmp_path: object) -> None:
    identities = {batches.write(f"{tmp_path}/{level}", str(tmp_path), level=level) for level in (1, 9, 19)}
    assert len(identities) == 1
    other = batches.make(seq=2)
    assert batches.write(f"{tmp_path}/other", str(tmp_path), other) not in identities


def test_transactions_that_are_not_read_are_passed_over(path: str, tmp_path: object) -> None:
    batches.write(path, str(tmp_path))
    found = [
        item.entry.id if n % 2 else b"".join(text) for n, (item, text) in enumerate(batchfile.read_transactions(path))
    ]
    assert found == [TEXTS[0], "01KAHQ8M5P0123456789ABCD01", TEXTS[2]]


@pytest.mark.parametrize("chosen", [[0], [1], [2], [0, 2], [1, 2], [0, 1, 2]])
def test_an_excerpt_is_a_batch(path: str, tmp_path: object, chosen: list[int]) -> None:
    made = batches.make(origin="a.example")
    batches.write(path, str(tmp_path), made)
    items, texts = batchfile.excerpt(path, [made.items[n] for n in chosen], "a.longer.example")
    expected = batches.make([TEXTS[n] for n in chosen], origin="a.longer.example")
    assert [b"".join(text) for text in texts] == expected.texts
    assert [item.offset for item in items] == [item.offset for item in expected.items]
    assert [item.entry for item in items] == [made.items[n].entry for n in chosen]


def test_several_frames_of_text_are_one_text(path: str) -> None:
    made = batches.make()
    text = batches.text_of(made)
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    described = b"".join(manifest.write(made.head, made.items))
    batches.assemble(path, described, compress(text[:50]) + compress(b"") + compress(text[50:]))
    assert whole(path)[3] == TEXTS


# Damage


def taken(path: str) -> tuple[Any, ...] | None:
    """What is taken from a file, None when it is refused.  Nothing but PeerError may come out of it."""
    try:
        return whole(path)
    except PeerError:
        return None


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, tuple[Any, ...]]:
    root = str(tmp_path_factory.mktemp("honest"))
    batches.write(f"{root}/x", root)
    return read(f"{root}/x"), whole(f"{root}/x")


def test_a_flipped_bit_anywhere_is_refused_or_of_no_weight(path: str, honest: tuple[bytes, tuple[Any, ...]]) -> None:
    data, truth = honest
    accepted = []
    for place in range(len(data)):
        for bit in range(8):
            put(path, data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            found = taken(path)
            assert found in (None, truth)
            if found:
                accepted.append((place, bit))
    # Some bits say nothing of the content: a frame's unused bit, how large a window the reader is to have.
    assert len(accepted) < len(data) * 8 // 100, accepted


def test_cut_short_anywhere_it_is_refused(path: str, honest: tuple[bytes, tuple[Any, ...]]) -> None:
    data, _ = honest
    assert [end for end in range(len(data)) if taken(put(path, data[:end]))] == []


GARBAGE = [
    b"\0",
    b"x",
    b"garbage",
    b"\x28",
    b"\x28\xb5\x2f",
    b"\x28\xb5\x2f\xfd",
    struct.pack("<II", 0x184D2A50, 0),
    struct.pack("<II", 0x184D2A50, 4) + b"abcd",
    struct.pack("<II", 0x184D2A5F, 0xFFFFFFFF),
    zstandard.ZstdCompressor().compress(b"NOOP\r\n"),
    zstandard.ZstdCompressor().compress(PLAIN),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=bytes.hex)
def test_what_stands_behind_it_is_refused(path: str, honest: tuple[bytes, tuple[Any, ...]], garbage: bytes) -> None:
    with pytest.raises(PeerError):
        whole(put(path, honest[0] + garbage))


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_refused(path: str, honest: tuple[bytes, tuple[Any, ...]], seed: int) -> None:
    random = Random(seed)
    data = bytearray(honest[0])
    for _ in range(30):
        damaged = bytearray(data)
        for _ in range(random.randint(1, 20)):
            place = random.randrange(len(damaged))
            damaged[place : place + random.randint(0, 3)] = random.randbytes(random.randint(0, 3))
        assert taken(put(path, bytes(damaged))) in (None, honest[1])


def test_reports_cut_short_or_changed_are_refused(path: str) -> None:
    data = read(f"{GOLDEN}/report.report")
    for end in range(len(data)):
        with pytest.raises(PeerError):
            lines, _ = batchfile.unpack(put(path, data[:end]))
            report.read_report(Number(STREAM, 4, REPORT), lines)
    for place in range(len(data)):
        try:
            _, identity = batchfile.unpack(put(path, data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]))
        except PeerError:
            continue
        assert identity == IDENTITIES["report.report"]


def test_damage_after_custody_is_found_before_replay(path: str, tmp_path: object) -> None:
    made = batches.make()
    head, items = batches.rows_of(made)
    text = batches.text_of(made).replace(b"Subject: one", b"Subject: two")
    batches.forge(path, text, head, items)
    first, *_ = batchfile.read_transactions(path)
    with pytest.raises(PeerError, match="digest differs"):
        b"".join(next(batchfile.read_transactions(path)).text)
    assert first.item == made.items[0]


# Manifests that lie


Rows = tuple[dict[str, Any], list[dict[str, Any]]]


def change_item(number: int, **fields: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[1][number].update(fields)


def change_head(**fields: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[0].update(fields)


def drop_last(rows: Rows) -> None:
    rows[1].pop()
    rows[0]["count"] -= 1


def swap(rows: Rows) -> None:
    for key in ("id", "sha256", "octets", "text", "recipients"):
        rows[1][0][key], rows[1][1][key] = rows[1][1][key], rows[1][0][key]


LYING: dict[str, Callable[[Rows], None]] = {
    "offset too small": change_item(1, offset=len(b"EHLO mx.example\r\n" + PLAIN) - 1),
    "offset too large": change_item(0, offset=18),
    "length too small": change_item(2, text=len(EMPTY) - 1),
    "length too large": change_item(2, text=len(EMPTY) + 1),
    "length into QUIT": change_item(2, text=len(EMPTY) + 6),
    "digest": change_item(1, sha256="0" * 64),
    "content octets": change_item(0, octets=1),
    "too few recipients": change_item(1, recipients=1),
    "too many recipients": change_item(1, recipients=3),
    "count too small": change_head(count=2),
    "count too large": change_head(count=4),
    "text too short": change_head(text=len(batches.text_of(batches.make())) - 1),
    "text too long": change_head(text=len(batches.text_of(batches.make())) + 1),
    "text much too long": change_head(text=1 << 50),
    "a transaction more than told": drop_last,
    "swapped": swap,
}


@pytest.mark.parametrize("name", LYING)
def test_a_manifest_that_lies(path: str, name: str) -> None:
    made = batches.make()
    head, items = batches.rows_of(made)
    batches.forge(path, batches.text_of(made), head, items)
    assert whole(path)[3] == TEXTS
    LYING[name]((head, items))
    batches.forge(path, batches.text_of(made), head, items)
    with pytest.raises(PeerError):
        batchfile.check_batch(path)


# One transaction never becomes two


ENVELOPE = b"MAIL FROM:<s@mx.example>\r\nRCPT TO:<r@home.example>\r\nDATA\r\n"
SMUGGLED = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<r@home.example>\r\nDATA\r\nevil\r\n"
SMUGGLING = {
    "a dot line": b"a\r\n.\r\n" + SMUGGLED,
    "a dot line at once": b".\r\n" + SMUGGLED,
    "LF dot LF": b"a\n.\n" + SMUGGLED,
    "LF dot CRLF": b"a\n.\r\n" + SMUGGLED,
    "CRLF dot LF": b"a\r\n..\n" + SMUGGLED,
    "CRLF dot LF bare": b"a\r\n.\n" + SMUGGLED,
    "CR dot CR": b"a\r.\r" + SMUGGLED,
    "CRLF dot CR": b"a\r\n.\r" + SMUGGLED,
    "CR CRLF dot": b"a\r\r\n..\r\r\n" + SMUGGLED,
    "NUL": b"a\r\n\0.\r\n" + SMUGGLED,
    "bare CR at the end": b"a\r",
    "bare LF at the start": b"\na\r\n",
}


@pytest.mark.parametrize("name", SMUGGLING)
@pytest.mark.parametrize("padding", [0, (1 << 17) - len(ENVELOPE) - 25])
def test_a_transaction_that_holds_another(path: str, name: str, padding: int) -> None:
    """Refused whole, also when the manifest tells the truth about its octets."""
    text = ENVELOPE + b"x" * padding + b"\r\n" + SMUGGLING[name] + b"\r\n.\r\n"
    made = batches.make([text])
    for octets in {made.items[0].entry.size_octets, len(text) - len(ENVELOPE) - 3}:
        head, items = batches.rows_of(made)
        items[0]["octets"] = octets
        batches.forge(path, batches.text_of(made), head, items)
        with pytest.raises(PeerError):
            batchfile.check_batch(path)


BROKEN_TEXTS = {
    "no recipient": b"MAIL FROM:<s@x.example>\r\nDATA\r\n.\r\n",
    "no MAIL": b"RCPT TO:<r@x.example>\r\nDATA\r\n.\r\n",
    "no dot": ENVELOPE + b"x\r\n",
    "a second MAIL": b"MAIL FROM:<a@x.example>\r\n" + ENVELOPE + b".\r\n",
    "a command": ENVELOPE.replace(b"DATA", b"VRFY x\r\nDATA") + b".\r\n",
    "a bad parameter": ENVELOPE.replace(b"mx.example>", b"mx.example> FOO=1") + b".\r\n",
    "a bare LF in a command": ENVELOPE.replace(b"home.example>\r\n", b"home.example>\nRSET\r\n") + b".\r\n",
    "LF line ends": ENVELOPE.replace(b"\r\n", b"\n") + b".\n",
    "BDAT": b"MAIL FROM:<s@x.example>\r\nRCPT TO:<r@x.example>\r\nBDAT 3 LAST\r\nx\r\n",
}


@pytest.mark.parametrize("name", BROKEN_TEXTS)
def test_a_text_that_is_no_transaction(path: str, name: str) -> None:
    text = BROKEN_TEXTS[name]
    made = batches.make([text])
    head, items = batches.rows_of(made)
    items[0]["recipients"] = max(1, items[0]["recipients"])
    batches.forge(path, batches.text_of(made), head, items)
    with pytest.raises(PeerError):
        batchfile.check_batch(path)


@pytest.mark.parametrize("between", [b"MAIL FROM:<x@x.example>\r\n", b"x" * 5000 + b"\r\n", b"QUIT\r\n", b"NOOP\n"])
def test_what_stands_between_transactions(path: str, between: bytes) -> None:
    made = batches.make()
    head, items = batches.rows_of(made)
    text = batches.text_of(made).replace(PLAIN, PLAIN + between)
    for item in items[1:]:
        item["offset"] += len(between)
    head["text"] += len(between)
    batches.forge(path, text, head, items)
    with pytest.raises(PeerError):
        batchfile.check_batch(path)


def test_what_readers_of_bsmtp_pass_over_may_stand_between(path: str) -> None:
    made = batches.make()
    head, items = batches.rows_of(made)
    between = b"NOOP a later writer's note\r\nRSET\r\n"
    for item in items[1:]:
        item["offset"] += len(between)
    head["text"] += len(between)
    batches.forge(path, batches.text_of(made).replace(PLAIN, PLAIN + between), head, items)
    assert whole(path)[3] == TEXTS


# Bombs


class Counted:
    """How much memory this process has had at most, in octets, since it began."""

    def __init__(self) -> None:
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

    def more(self) -> int:
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - self.before


def bomb(octets: int, unit: bytes = b"\n", **parameters: Any) -> bytes:
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(1, **parameters)
    ).compressobj()
    piece = unit * ((1 << 20) // len(unit))
    return b"".join(compressor.compress(piece) for _ in range(octets >> 20)) + compressor.flush()


@pytest.mark.parametrize("unit", [b"\n", b"{\n", b"NOOP\r\n"])
def test_a_bomb_for_a_text_is_read_no_further_than_declared(path: str, unit: bytes) -> None:
    made = batches.make()
    described = b"".join(manifest.write(made.head, made.items))
    batches.assemble(path, described, bomb(256 << 20, unit))
    memory = Counted()
    with pytest.raises(PeerError):
        batchfile.check_batch(path)
    with pytest.raises(PeerError):
        b"".join(batchfile.read_text(path))
    assert memory.more() < 32 << 20


@pytest.mark.parametrize("unit", [b"\n", b"{\n", b"x"])
def test_a_bomb_for_a_manifest(path: str, unit: bytes) -> None:
    packed = bomb(64 << 20, unit)
    put(path, struct.pack("<II", 0x184D2A50, len(packed)) + packed)
    memory = Counted()
    with pytest.raises(PeerError, match="more than"):
        batchfile.read_manifest(path)
    assert memory.more() < 80 << 20


@pytest.mark.parametrize("unit", [b"\n", b"{\n", b"{}\n", b"x"])
def test_a_bomb_for_a_report(path: str, unit: bytes) -> None:
    memory = Counted()
    with pytest.raises(PeerError, match="more than"):
        batchfile.unpack(put(path, bomb(64 << 20, unit)))
    lines, _ = batchfile.unpack(put(path, bomb(16 << 20, unit)))
    with pytest.raises(PeerError):
        report.read_report(Number(STREAM, 1, REPORT), lines)
    assert memory.more() < 80 << 20


def test_more_text_than_transactions_have_is_not_read_at_all(path: str) -> None:
    made = batches.make([PLAIN])
    head, items = batches.rows_of(made)
    head["text"] += 1 << 40
    batches.forge(path, batches.text_of(made), head, items)
    with pytest.raises(PeerError, match="more text than"):
        batchfile.read_manifest(path)


@pytest.mark.parametrize("log", [24, 27])
def test_a_window_that_is_too_large_is_refused(path: str, log: int) -> None:
    made = batches.make()
    described = b"".join(manifest.write(made.head, made.items))
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=log)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    text = batches.text_of(made)
    batches.assemble(path, described, stream.compress(text) + stream.flush())
    with pytest.raises(PeerError, match="damaged"):
        batchfile.check_batch(path)


def test_a_manifest_frame_is_bounded_before_it_is_read(path: str) -> None:
    put(path, struct.pack("<II", 0x184D2A50, (8 << 20) + 1))
    with pytest.raises(PeerError, match="not a batch"):
        batchfile.read_manifest(path)
    assert batchfile.manifest_octets(struct.pack("<II", 0x184D2A50, 0xFFFFFFFF)) is None


def test_frames_made_of_nothing_are_not_counted_for_ever(path: str) -> None:
    empty_block = b"\0\0\0"
    put(path, zstandard.FRAME_HEADER + b"\0\x58" + empty_block * 100_000 + b"\x01\0\0")
    with pytest.raises(PeerError, match="damaged"):
        batchfile.unpack(path)


def test_one_large_transaction_in_constant_memory(path: str, tmp_path: object) -> None:
    content = b"x" * 998 + b"\r\n"
    text = ENVELOPE + content * 60_000 + b".\r\n"
    made: Made = batches.make([text])
    batches.write(path, str(tmp_path), made, 1)
    memory = Counted()
    assert batchfile.check_batch(path)[1] == made.items
    assert sum(map(len, next(batchfile.read_transactions(path)).text)) == len(text)
    assert memory.more() < 16 << 20
