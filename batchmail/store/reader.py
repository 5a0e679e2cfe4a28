"""Reading one transaction's spool file, as `store.writer` wrote it; torn or otherwise damaged ones are seen."""

import os
from collections.abc import Callable, Iterator
from hashlib import sha256

from batchmail.core import entry as entries
from batchmail.core import entry_lines
from batchmail.core.entry import Entry
from batchmail.core.errors import SpoolError


class Damaged(SpoolError):
    """A spool file that is not as it was written; `what` says it without the path."""

    def __init__(self, path: str, what: str):
        super().__init__(f"{path} is damaged: {what}; batchmail check --files says more")
        self.what = what


def read_file(identifier: str, path: str) -> tuple[Entry, Callable[[], Iterator[bytes]]]:
    """A spool file's entry, and its text from MAIL to the final dot in pieces.

    The text is checked against the entry's digest while it is read: SpoolError at its end when they differ.
    """
    with open(path, "rb") as file:
        first = file.read(entry_lines.HEAD_MAX_OCTETS)
        size_octets = os.fstat(file.fileno()).st_size
        file.seek(max(0, size_octets - entry_lines.TAIL_OCTETS))
        entry, offset = entries.parse(identifier, first, file.read())
    if size_octets != offset + entry.text_octets + entry_lines.TAIL_OCTETS:
        raise Damaged(path, "its length is not what was accepted")
    return entry, lambda: _read_text(path, offset, entry)


def is_whole(path: str) -> bool:
    """Whether a spool file is as it was written."""
    try:
        _, text = read_file("", path)
        for _ in text():
            pass
    except SpoolError:
        return False
    return True


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
        raise Damaged(path, "its text is not what was accepted")
