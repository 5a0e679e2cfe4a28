"""Transactions waiting for a peer: a file each, found by priority and time of arrival without an index.

    tmp  waiting  outbox manifest   the transaction is          after a crash
     +      -            -          being written by a door     the sweep removes the draft
     ?      +            -          accepted                    (nothing to do)
     -      +            +          sealed                      the next sealing finds the leftover, removes it
     -      -            +          sealed                      (nothing to do)

PRIORITY is two digits, 00 the most urgent; BUCKET the first characters of the
ID, about 33 seconds of arrivals.  Several transactions of one input are a
bucket of their own, renamed into place at once.  `offered` remembers for a
day or two what an MTA handed over under its queue id.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from batchmail.core import entry as entries
from batchmail.core.digest import sha256
from batchmail.core.entry import Entry
from batchmail.core.envelope import Client, Envelope, format_mail, format_rcpt
from batchmail.core.errors import SpoolError
from batchmail.core.lines import Stuffer
from batchmail.core.names import next_id
from batchmail.store.durable import Draft, make_dir, mark, move, publish_all, retire, retire_dir, sync_dir
from batchmail.store.spool import NORMAL_DIR, Spool

_BUCKET_LENGTH = 7
_FILE = re.compile(r"([0-7][0-9A-HJKMNP-TV-Z]{25})\.([0-9]{1,15})\.bsmtp\Z")
_SPARE_BUCKETS = 2  # the youngest buckets are left for the doors that are writing into them
_DAY_MS = 86_400_000


class Waiting(NamedTuple):
    """A waiting transaction, as its name tells."""

    id: str
    text_octets: int
    path: str
    urgency: str  # the priority's directory: sorts with the most urgent first


class Writer:
    """Writes one transaction as a draft: envelope, then content, then its end."""

    def __init__(self, draft: Draft, identifier: str, head: bytes, envelope: Envelope):
        self._id, self._draft = identifier, draft
        self._stuffer = Stuffer()
        self._digest = sha256()
        self._size_octets = self._text_octets = 0
        self._bits = 7
        self._recipients = len(envelope.recipients)
        draft.write(head)
        lines = [
            format_mail(envelope.sender, envelope.parameters),
            *map(format_rcpt, envelope.recipients),
            b"DATA",
            b"",
        ]
        self._write(b"\r\n".join(lines))

    def _write(self, text: bytes) -> None:
        self._digest.update(text)
        self._text_octets += len(text)
        self._draft.write(text)

    def content(self, octets: bytes) -> None:
        """A piece of CRLF content, not stuffed."""
        self._size_octets += len(octets)
        if not octets.isascii():
            self._bits = 8
        self._write(self._stuffer.feed(octets))

    def end(self) -> tuple[str, str]:
        """Finish and sync the draft: its file name, and the digest of its text."""
        closing = self._stuffer.end()
        self._size_octets += len(closing) - len(b".\r\n")  # the line end that the content lacked
        self._write(closing)
        digest = self._digest.hexdigest()
        self._draft.write(entries.tail(self._size_octets, self._text_octets, self._bits, self._recipients, digest))
        self._draft.sync()
        return f"{self._id}.{self._text_octets}.bsmtp", digest


def priority_dir(priority: int) -> str:
    """00 for priority 9 to 18 for -9, so that names sort with the most urgent first."""
    return f"{9 - priority:02d}"


class WaitingRoom:
    """What waits for one peer."""

    def __init__(self, spool: Spool, peer: str):
        self._spool = spool
        self._out = f"{spool.root}/out/{peer}"
        self._root = f"{self._out}/waiting"

    def write(
        self, identifier: str, now_ms: int, priority: int, queue_id: str, client: Client, envelope: Envelope
    ) -> tuple[Draft, Writer]:
        """Begin a draft."""
        head = entries.head(now_ms, priority, queue_id, client)
        draft = Draft(self._spool.tmp)
        try:
            return draft, Writer(draft, identifier, head, envelope)
        except BaseException:
            draft.discard()
            raise

    def put(self, draft: Draft, name: str, priority: int, offered: str, now_ms: int) -> str:
        """Accept a finished draft: when this returns it is on stable storage.  Returns its ID.

        `offered` (hex digits, or empty) names what the MTA offered: the same once
        more gets the first one's name, so a crash or a lost exit status costs no
        duplicate; its draft is left to the caller.  A crash before the link: nothing was accepted.
        """
        target = f"{priority_dir(priority)}/{name[:_BUCKET_LENGTH]}/{name}"
        if offered:
            target = self._remember(offered, target, now_ms)
        path = f"{self._root}/{target}"
        bucket = os.path.dirname(path)
        if offered and self._is_held(os.path.basename(path)):
            return os.path.basename(path)[:26]
        try:
            try:
                self._ensure_bucket(bucket)
                draft.publish(path)
            except FileNotFoundError:  # the bucket was emptied and removed meanwhile
                self._ensure_bucket(bucket)
                draft.publish(path)
        except FileExistsError:  # the same offer again, and the first one still waits
            sync_dir(bucket)
        return os.path.basename(path)[:26]

    def put_all(self, drafts: list[tuple[Draft, str]], priority: int, offered: str, now_ms: int) -> list[str]:
        """Accept several finished drafts at once or not at all, as `put`.  Returns their IDs, which follow each other.

        The first one's ID decides the others', so that the same offer once more gets the same IDs.
        """
        first = drafts[0][1]
        target = f"{priority_dir(priority)}/{first[:_BUCKET_LENGTH]}.{first[:26]}"
        if offered:
            target = self._remember(offered, target, now_ms)
        identifiers = [next_id(target[-26:], step) for step in range(len(drafts))]
        members = [
            (draft, identifier + name[26:])
            for (draft, name), identifier in zip(drafts, identifiers, strict=True)
            if not (offered and self._is_held(identifier + name[26:]))
        ]
        bucket = f"{self._root}/{target}"
        above = os.path.dirname(bucket)
        make_dir(above)
        self._sync_priority(above)
        try:
            publish_all(members, bucket)
        except FileExistsError:  # the same offer again, and the first one still waits
            sync_dir(above)
        return identifiers

    def _is_held(self, name: str) -> bool:
        """Whether an operator has set aside what is offered once more."""
        return os.path.exists(f"{self._out}/held/{name}")

    def _remember(self, offered: str, target: str, now_ms: int) -> str:
        today = f"{self._out}/offered/{now_ms // _DAY_MS}"
        for place in (f"{self._out}/offered/{now_ms // _DAY_MS - 1}/{offered}", f"{today}/{offered}"):
            with contextlib.suppress(FileNotFoundError):
                return os.readlink(place)
        make_dir(today)
        try:
            mark(target, f"{today}/{offered}")
        except FileExistsError:
            return os.readlink(f"{today}/{offered}")
        return target

    def _ensure_bucket(self, bucket: str) -> None:
        above = os.path.dirname(bucket)
        make_dir(above)
        with contextlib.suppress(FileExistsError):
            os.mkdir(bucket, 0o700)
        # Whoever made a directory may not have synced it yet, and our yes depends on it.
        sync_dir(above)
        self._sync_priority(above)

    def _sync_priority(self, above: str) -> None:
        if not above.endswith(f"/{NORMAL_DIR}"):  # that one was made by setup
            sync_dir(self._root)

    def scan(self) -> Iterator[Waiting]:
        """What waits, most urgent and oldest first; reads no more directories than are asked for."""
        for priority in _names(self._root):
            for bucket in _names(f"{self._root}/{priority}"):
                path = f"{self._root}/{priority}/{bucket}"
                for name in _names(path):
                    match = _FILE.match(name)
                    if match:
                        yield Waiting(match[1], int(match[2]), f"{path}/{name}", priority)

    def scan_held(self) -> Iterator[Waiting]:
        """What an operator, or a refusal, has set aside."""
        path = f"{self._out}/held"
        for name in _names(path):
            match = _FILE.match(name)
            if match:
                yield Waiting(match[1], int(match[2]), f"{path}/{name}", "")

    def find(self, identifier: str) -> Waiting | None:
        """A waiting or held transaction; a held one has no urgency.  Reads only the buckets of its time."""
        for priority in _names(self._root):
            for bucket in _names(f"{self._root}/{priority}"):
                if bucket[:_BUCKET_LENGTH] == identifier[:_BUCKET_LENGTH]:
                    path = f"{self._root}/{priority}/{bucket}"
                    for name in _names(path):
                        match = _FILE.match(name)
                        if match and match[1] == identifier:
                            return Waiting(identifier, int(match[2]), f"{path}/{name}", priority)
        return next((held for held in self.scan_held() if held.id == identifier), None)

    def is_empty(self) -> bool:
        return next(self.scan(), None) is None

    def remove(self, paths: list[str]) -> None:
        """Let go of files whose transactions are in a sealed batch, as the ledger says; then of empty buckets."""
        for path in paths:
            retire(path)
        for bucket in {os.path.dirname(path) for path in paths}:
            if bucket not in self._youngest(os.path.dirname(bucket)):
                retire_dir(bucket)

    def tidy(self, now_ms: int) -> None:
        """What nobody waits for: forget old offers, remove buckets that were emptied while they were young."""
        self.forget_offers(now_ms)
        for priority in _names(self._root):
            path = f"{self._root}/{priority}"
            youngest = self._youngest(path)
            for bucket in _names(path):
                if f"{path}/{bucket}" not in youngest:
                    retire_dir(f"{path}/{bucket}")

    def hold(self, waiting: Waiting) -> None:
        """Set a transaction aside for an operator."""
        move(waiting.path, f"{self._out}/held/{os.path.basename(waiting.path)}")

    def hold_text(self, entry: Entry, text: Iterator[bytes]) -> None:
        """Set aside a transaction that was in a batch."""
        path = f"{self._out}/held/{entry.id}.{entry.text_octets}.bsmtp"
        with Draft(self._spool.tmp) as draft:
            draft.write(entries.head(entry.arrival_ms, entry.priority, entry.queue_id, entry.client))
            for octets in text:
                draft.write(octets)
            draft.write(entries.tail(entry.size_octets, entry.text_octets, entry.bits, entry.recipients, entry.sha256))
            with contextlib.suppress(FileExistsError):  # done before a crash
                draft.publish(path)

    def _youngest(self, priority_path: str) -> list[str]:
        return [f"{priority_path}/{name}" for name in _names(priority_path)[-_SPARE_BUCKETS:]]

    def forget_offers(self, now_ms: int) -> None:
        """Forget what was offered before yesterday."""
        for day in _names(f"{self._out}/offered"):
            if day.isdigit() and int(day) < now_ms // _DAY_MS - 1:
                for name in _names(f"{self._out}/offered/{day}"):
                    retire(f"{self._out}/offered/{day}/{name}")
                retire_dir(f"{self._out}/offered/{day}")


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_entry(waiting: Waiting) -> tuple[Entry, Callable[[], Iterator[bytes]]]:
    """A spool file's entry, and its text from MAIL to the final dot in pieces.

    The text is checked against the entry's digest while it is read: SpoolError at its end when they differ.
    """
    with open(waiting.path, "rb") as file:
        first = file.read(entries.HEAD_MAX_OCTETS)
        size_octets = os.fstat(file.fileno()).st_size
        file.seek(max(0, size_octets - entries.TAIL_OCTETS))
        entry, offset = entries.parse(waiting.id, first, file.read())
    if size_octets != offset + entry.text_octets + entries.TAIL_OCTETS:
        raise SpoolError(f"{waiting.path} is damaged: its length is not what was accepted; batchmail check says more")
    return entry, lambda: _read_text(waiting.path, offset, entry)


def _read_text(path: str, offset: int, entry: Entry) -> Iterator[bytes]:
    digest = sha256()
    with open(path, "rb") as file:
        file.seek(offset)
        left = entry.text_octets
        while left and (data := file.read(min(left, 1 << 18))):
            digest.update(data)
            left -= len(data)
            yield data
    if left or digest.hexdigest() != entry.sha256:
        raise SpoolError(f"{path} is damaged: its text is not what was accepted; batchmail check says more")
