"""Numbered files as bytes on disk: the only user of zstandard.

A batch is a zstd skippable frame that holds the compressed manifest, then
zstd frames of RFC 2442 text, so `zstd -dc` prints the text.  Reports,
requests and voids are one zstd frame of JSON lines.  Everything is read with
bounds set before: window, frame size, and the length that was declared.
python-zstandard takes a frame that is cut short for whole, so frames are
walked first (RFC 8878 §3.1.1): they end where the file ends, or it is damaged.
"""

import io
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import IO, NamedTuple

import zstandard

from batchmail.core import bsmtp, manifest
from batchmail.core.errors import MalformedInput, PeerError
from batchmail.core.manifest import Head, Item
from batchmail.core.report import MAX_TEXT_OCTETS
from batchmail.store.durable import Draft

_SKIPPABLE = struct.Struct("<II")
_MAGIC = 0x184D2A50
_MAX_FRAME_OCTETS = 8 << 20  # the manifest, compressed
_MAX_WINDOW_OCTETS = 8 << 20
_SMALLEST_WINDOW_LOG, _WINDOW_LOG = 14, 22
# Of the two highest that `auto` chooses, by the least level: what lies 1 MiB back is found still.
_TABLES = ((19, {"chain_log": 21, "hash_log": 17, "target_length": 999}), (17, {"chain_log": 21, "hash_log": 17}))
_TABLES_BELOW = {"chain_log": 20, "hash_log": 20}
_LINES_LEVEL = 9
_MAX_ENCODED_TEXT_OCTETS = 1 << 20  # of a file that is compressed against remembered text, in memory as a whole
_RESTORED_LEVEL = 3
_LENGTH = struct.Struct("<I")  # of the manifest, in front of an encoded batch's text
_CHUNK_OCTETS = 1 << 17
_PIECE_OCTETS = 1 << 14
CLOSING = b"QUIT\r\n"

_FRAME_MAGIC = b"\x28\xb5\x2f\xfd"
_CHECKSUM, _SINGLE_SEGMENT, _RESERVED = 0x04, 0x20, 0x08  # of a frame's descriptor
_RAW, _RLE, _COMPRESSED = 0, 1, 2  # types of blocks

Text = Callable[[], Iterator[bytes]]  # a transaction from MAIL to the final dot, in pieces; may be read again


def preface(origin: str) -> bytes:
    """What stands before the first transaction of a batch's text."""
    return f"EHLO {origin}\r\n".encode()


def _compressor(level: int, octets: int) -> zstandard.ZstdCompressor:
    """For a text of so many octets.  Window and tables take 14 MiB at most: a batch is one of several things here."""
    bits = max(_SMALLEST_WINDOW_LOG, min(_WINDOW_LOG, octets.bit_length()))
    tables = next((found for least, found in _TABLES if level >= least), _TABLES_BELOW)
    logs = {key: min(bits, value) if key.endswith("_log") else value for key, value in tables.items()}
    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=bits, write_checksum=1, **logs)
    return zstandard.ZstdCompressor(compression_params=parameters)


def _decompressor(dictionary: zstandard.ZstdCompressionDict | None = None) -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=_MAX_WINDOW_OCTETS)


def pack(lines: Iterable[bytes]) -> tuple[bytes, str]:
    """A report's, request's or void's lines as file content, and their identity."""
    text = b"".join(lines)
    return _compressor(_LINES_LEVEL, len(text)).compress(text), sha256(text).hexdigest()


def unpack(path: str) -> tuple[Iterable[bytes], str]:
    """The lines of such a file, to be read once, and their identity.  Raises PeerError."""
    with open(path, "rb") as file:
        text = b"".join(_decompress(file, MAX_TEXT_OCTETS, path))
    return io.BytesIO(text), sha256(text).hexdigest()


def size_octets(path: str) -> int:
    return os.stat(path).st_size


def write_batch(draft: Draft, head: Head, items: list[Item], texts: Iterable[Iterable[bytes]], level: int) -> str:
    """Write a batch, in constant memory; returns its identity."""
    digest = sha256()
    described = b"".join(manifest.write(head, items))
    digest.update(described)
    packed = _compressor(level, len(described)).compress(described)
    draft.write(_SKIPPABLE.pack(_MAGIC, len(packed)) + packed)
    stream = _compressor(level, head.text_octets).compressobj()
    for octets in _text(head, texts):
        digest.update(octets)
        draft.write(stream.compress(octets))
    draft.write(stream.flush())
    return digest.hexdigest()


def _text(head: Head, texts: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    yield preface(head.origin)
    for text in texts:
        yield from text
    yield CLOSING


def read_manifest(path: str) -> tuple[Head, list[Item]]:
    """The manifest of a batch file, or of a partial one that holds that much.  Raises PeerError."""
    with open(path, "rb") as file:
        return _read_manifest(file, path)[:2]


def manifest_octets(first_octets: bytes) -> int | None:
    """How long the file's part that holds the manifest is, from its first eight octets; None: no manifest."""
    if len(first_octets) < _SKIPPABLE.size:
        return None
    magic, length = _SKIPPABLE.unpack(first_octets[: _SKIPPABLE.size])
    return _SKIPPABLE.size + length if magic == _MAGIC and length <= _MAX_FRAME_OCTETS else None


def _read_manifest(file: IO[bytes], path: str) -> tuple[Head, list[Item], bytes]:
    length = manifest_octets(file.read(_SKIPPABLE.size))
    if length is None:
        raise PeerError(f"{path} is not a batch: it does not begin with a manifest")
    packed = file.read(length - _SKIPPABLE.size)
    described = b"".join(_decompress(io.BytesIO(packed), manifest.MAX_MANIFEST_OCTETS, path))
    head, items = manifest.read(io.BytesIO(described))
    return head, items, described


def _decompress(
    file: IO[bytes], most_octets: int, path: str, dictionary: zstandard.ZstdCompressionDict | None = None
) -> Iterator[bytes]:
    """What the rest of a file holds, at most `most_octets` of it."""
    if not _ends_with_frame(file):
        raise PeerError(f"{path} is damaged: it is cut short, or more than zstd frames")
    seen = 0
    try:
        with _decompressor(dictionary).stream_reader(file, read_across_frames=True, closefd=False) as reader:
            while octets := reader.read(min(_CHUNK_OCTETS, most_octets - seen + 1)):
                seen += len(octets)
                if seen > most_octets:
                    raise PeerError(f"{path} holds more than the {most_octets} octets that it may")
                yield octets
    except zstandard.ZstdError as error:
        raise PeerError(f"{path} is damaged: {error}") from None


def _ends_with_frame(file: IO[bytes]) -> bool:
    """Whether the rest of a file is whole frames and nothing else; it is read no further by that."""
    start = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    blocks = 1024 + (end - start) // 512  # more of them would be made to keep us busy
    while (position := file.tell()) < end:
        head = file.read(5)
        if len(head) < 5 or head[:4] != _FRAME_MAGIC or head[4] & _RESERVED:
            return False
        single = bool(head[4] & _SINGLE_SEGMENT)
        size_octets = (int(single), 2, 4, 8)[head[4] >> 6]
        file.seek(position + 5 + (not single) + (0, 1, 2, 4)[head[4] & 3] + size_octets)
        last = False
        while not last:
            block = int.from_bytes(header := file.read(3), "little")
            last, kind, blocks = bool(block & 1), block >> 1 & 3, blocks - 1
            if len(header) < 3 or kind not in (_RAW, _RLE, _COMPRESSED) or not blocks:
                return False
            file.seek(1 if kind == _RLE else block >> 3, os.SEEK_CUR)
        file.seek(4 if head[4] & _CHECKSUM else 0, os.SEEK_CUR)
    file.seek(start)
    return position == end


def tail(path: str, is_batch: bool, most_octets: int) -> bytes:
    """The end of what the identity of a file is over: manifest and text of a batch, the lines of others."""
    kept = b""
    for octets in _plain(path, is_batch):
        kept = (kept + octets)[-most_octets:]
    return kept


def _plain(path: str, is_batch: bool) -> Iterator[bytes]:
    with open(path, "rb") as file:
        if not is_batch:
            yield from _decompress(file, MAX_TEXT_OCTETS, path)
            return
        head, _, described = _read_manifest(file, path)
        yield described
        yield from _decompress(file, head.text_octets, path)


def encode(path: str, is_batch: bool, remembered: bytes, level: int, is_bare: bool) -> bytes | None:
    """A file for the wire: its text compressed against what both sides remember; None: it is large, and stays as it is.

    `is_bare`: a batch without the digests of its transactions, which the other side knows to make.

    The same file, text and level give the same octets, so that it can be resumed; where another version of zstd does
    not, the digest in HELLO tells.
    """
    with open(path, "rb") as file:
        described = _read_manifest(file, path)[2] if is_batch else b""
    text = b""
    for octets in _plain(path, is_batch):
        text += octets
        if len(text) > _MAX_ENCODED_TEXT_OCTETS:
            return None
    head = manifest.bare(described) if is_bare else described
    plain = _LENGTH.pack(len(head)) + head + text[len(described) :]
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=len(remembered) + len(plain), window_log=21, chain_log=20, hash_log=19
    )
    dictionary = zstandard.ZstdCompressionDict(remembered, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress(plain)


def restore(draft: Draft, encoded: bytes, is_batch: bool, remembered: bytes, where: str) -> None:
    """Write the file that was encoded, as it is to lie in the spool: the same text.  Raises PeerError."""
    dictionary = zstandard.ZstdCompressionDict(remembered, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    plain = b"".join(_decompress(io.BytesIO(encoded), _MAX_ENCODED_TEXT_OCTETS, where, dictionary))
    length = _LENGTH.unpack(plain[: _LENGTH.size])[0] if len(plain) >= _LENGTH.size else len(plain)
    described, text = plain[_LENGTH.size :][:length], plain[_LENGTH.size + length :]
    if len(described) != length or bool(described) != is_batch:
        raise PeerError(f"{where} is damaged: it does not hold what it says")
    if is_batch:
        described = manifest.fill(described, text)
        packed = _compressor(_RESTORED_LEVEL, len(described)).compress(described)
        draft.write(_SKIPPABLE.pack(_MAGIC, len(packed)) + packed)
    draft.write(_compressor(_RESTORED_LEVEL, len(text)).compress(text))


def read_text(path: str) -> Iterator[bytes]:
    """The RFC 2442 text of a batch file, in pieces, at most what its manifest declares.  Raises PeerError."""
    with open(path, "rb") as file:
        head, _, _ = _read_manifest(file, path)
        yield from _decompress(file, head.text_octets, path)


class Transaction(NamedTuple):
    """A transaction as it is read from a batch."""

    item: Item
    text: Iterator[bytes]  # from MAIL to the final dot; what is not read is passed over


def read_transactions(path: str) -> Iterator[Transaction]:
    """The transactions of a batch that was checked before, one after the other.

    Raises PeerError, and at the end of a transaction's text when that is no longer what it was.
    """
    with open(path, "rb") as file:
        head, items, _ = _read_manifest(file, path)
        source = _Source(_decompress(file, head.text_octets, path))
        for item in items:
            source.skip_to(item.offset)
            yield Transaction(item, _checked(item, source.take(item.entry.text_octets)))


def _checked(item: Item, pieces: Iterator[bytes]) -> Iterator[bytes]:
    digest = sha256()
    for octets in pieces:
        digest.update(octets)
        yield octets
    if digest.hexdigest() != item.entry.sha256:
        raise PeerError(f"transaction {item.entry.id} is not what the manifest says: its digest differs")


def excerpt(path: str, items: list[Item], origin: str) -> tuple[list[Item], Iterator[Iterator[bytes]]]:
    """Some transactions of a batch, in its order, with their offsets in a batch of their own; and their texts."""
    chosen = {item.entry.id for item in items}
    return place(items, origin), (t.text for t in read_transactions(path) if t.item.entry.id in chosen)


def place(items: Iterable[Item], origin: str) -> list[Item]:
    """The transactions with their offsets, one behind the other, in a batch from `origin`."""
    placed: list[Item] = []
    offset = len(preface(origin))
    for item in items:
        placed.append(item._replace(offset=offset))
        offset += item.entry.text_octets
    return placed


class _Source:
    """Octets from pieces, by offset, forwards only."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces = pieces
        self._piece = b""
        self._offset = 0

    def take(self, octets: int) -> Iterator[bytes]:
        while octets:
            if not self._piece:
                self._piece = next(self._pieces, b"")
                if not self._piece:
                    raise PeerError("the batch's text is shorter than its manifest says")
            piece, self._piece = self._piece[:octets], self._piece[octets:]
            octets -= len(piece)
            self._offset += len(piece)
            yield piece

    def skip_to(self, offset: int) -> None:
        for _ in self.take(offset - self._offset):
            pass


def check_batch(path: str) -> tuple[Head, list[Item], str]:
    """Read all of a batch: manifest, digests, framing by manifest and by reader; returns its identity too.

    Raises PeerError: the batch is refused whole.
    """
    with open(path, "rb") as file:
        head, items, described = _read_manifest(file, path)
        digest = sha256(described)
        frames = _Frames(head, items)
        for octets in _decompress(file, head.text_octets, path):
            digest.update(octets)
            frames.feed(octets)
        frames.end()
    return head, items, digest.hexdigest()


class _Frames:
    """Checks a batch's text against its manifest: the digests by offset, and a BSMTP reader that must agree."""

    def __init__(self, head: Head, items: list[Item]):
        self._head, self._items = head, items
        self._reader = bsmtp.Reader(b"\r\n")
        self._offset = 0
        self._hashed = 0  # items whose digest has been checked
        self._digest = sha256()
        self._started = self._ended = 0
        self._held = b""  # a CR whose LF may come with the next piece
        self._content_octets = 0

    def feed(self, octets: bytes) -> None:
        self._hash(octets)
        self._offset += len(octets)
        for start in range(0, len(octets), _PIECE_OCTETS):  # the reader moves what it has not read yet
            self._reader.receive(octets[start : start + _PIECE_OCTETS])
            self._read()

    def end(self) -> None:
        self._reader.receive(b"")
        self._read()
        if self._offset != self._head.text_octets or not self._hashed == self._ended == len(self._items):
            raise PeerError("the batch's text is not what its manifest says")

    def _hash(self, octets: bytes) -> None:
        position, stop = self._offset, self._offset + len(octets)
        while self._hashed < len(self._items):
            item = self._items[self._hashed]
            begin, end = item.offset, item.offset + item.entry.text_octets
            if begin >= stop:
                return
            position = max(position, begin)
            self._digest.update(octets[position - self._offset : min(end, stop) - self._offset])
            if end > stop:
                return
            if self._digest.hexdigest() != item.entry.sha256:
                raise PeerError(f"transaction {item.entry.id} is not what the manifest says: its digest differs")
            self._digest = sha256()
            self._hashed += 1

    def _read(self) -> None:
        try:
            while (event := self._reader.next_event()) is not None:
                self._compare(event)
        except MalformedInput as error:
            raise PeerError(f"the batch's text is malformed: {error}") from None

    def _compare(self, event: bsmtp.Event) -> None:
        if isinstance(event, bsmtp.Start):
            if self._started >= len(self._items):
                raise PeerError("the batch's text holds more transactions than its manifest")
            item = self._items[self._started]
            if event.offset != item.offset or len(event.envelope.recipients) != item.entry.recipients:
                raise PeerError(f"manifest and text disagree about transaction {item.entry.id}")
            self._started += 1
            self._content_octets = 0
        elif isinstance(event, bsmtp.Content):
            self._check_octets(event.octets)
            self._content_octets += len(event.octets)
        elif isinstance(event, bsmtp.End):
            entry = self._items[self._started - 1].entry
            end = self._items[self._started - 1].offset + entry.text_octets
            if event.offset != end or self._content_octets != entry.size_octets:
                raise PeerError(f"manifest and text disagree about the length of transaction {entry.id}")
            self._ended += 1

    def _check_octets(self, octets: bytes) -> None:
        """No door lets these in; a target that is less strict would see a second transaction (SMTP smuggling)."""
        data = self._held + octets
        self._held = data[-1:] if data.endswith(b"\r") else b""
        pairs = data.count(b"\r\n")
        if data.count(b"\r") - len(self._held) != pairs or data.count(b"\n") != pairs or b"\0" in data:
            identifier = self._items[self._started - 1].entry.id
            raise PeerError(f"transaction {identifier} holds a NUL, or a CR or LF that stands alone")
