"""Octets that are read more than once: in memory while they are few, in a draft when they are many."""

from collections.abc import Iterator

from batchmail.store.durable import Draft

MEMORY_OCTETS = 256 << 10


class Spill:
    """Written once from start to end, then read as often as wanted, in constant memory."""

    def __init__(self, tmp_dir: str):
        self._tmp_dir = tmp_dir
        self._pieces: list[bytes] = []
        self._draft: Draft | None = None
        self.size_octets = 0

    def write(self, octets: bytes) -> None:
        self.size_octets += len(octets)
        if self._draft is None and self.size_octets > MEMORY_OCTETS:
            self._draft = Draft(self._tmp_dir)
            self._draft.write(b"".join(self._pieces))
            self._pieces.clear()
        if self._draft is not None:
            self._draft.write(octets)
        else:
            self._pieces.append(octets)

    def read(self) -> Iterator[bytes]:
        return iter(self._pieces) if self._draft is None else self._draft.read_back()

    def discard(self) -> None:
        self._pieces.clear()
        if self._draft is not None:
            self._draft.discard()
            self._draft = None
