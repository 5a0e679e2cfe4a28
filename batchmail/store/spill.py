"""Octets that are read more than once: in memory while they are few, in a draft when they are many.

Where no draft can be written, more stay in memory: a full disk must not keep mail from being delivered.
"""

from collections.abc import Iterator

from batchmail.store.durable import Draft

MEMORY_OCTETS = 256 << 10
FULL_DISK_OCTETS = 64 << 20


class Spill:
    """Written once from start to end, then read as often as wanted, in constant memory."""

    def __init__(self, tmp_dir: str):
        self._tmp_dir = tmp_dir
        self._pieces: list[bytes] = []
        self._draft: Draft | None = None
        self._memory_octets = MEMORY_OCTETS
        self.size_octets = 0

    def write(self, octets: bytes) -> None:
        before, self.size_octets = self.size_octets, self.size_octets + len(octets)
        try:
            self._write(octets)
        except OSError:
            if self.size_octets > FULL_DISK_OCTETS:
                raise
            self._bring_back(before)
            self._pieces.append(octets)

    def _write(self, octets: bytes) -> None:
        if self._draft is None and self.size_octets > self._memory_octets:
            self._draft = Draft(self._tmp_dir)
            self._draft.write(b"".join(self._pieces))
            self._pieces.clear()
        if self._draft is not None:
            self._draft.write(octets)
        else:
            self._pieces.append(octets)

    def _bring_back(self, size_octets: int) -> None:
        """Into memory, where the rest of it stays too."""
        self._memory_octets = FULL_DISK_OCTETS
        if not self._pieces and self._draft is not None:
            self._pieces.append(b"".join(self._draft.read_back())[:size_octets])
        if self._draft is not None:
            self._draft.discard()
            self._draft = None

    def read(self) -> Iterator[bytes]:
        return iter(self._pieces) if self._draft is None else self._draft.read_back()

    def discard(self) -> None:
        self._pieces.clear()
        if self._draft is not None:
            self._draft.discard()
            self._draft = None
