"""What all sessions of a door together may have, however many a client opens, and in however many processes."""

import mmap


class Budget:
    """So many octets, and who takes some gives them back."""

    def __init__(self, octets: int):
        self._left_octets = octets

    def take(self, octets: int) -> bool:
        """Whether there are as many left; then they are the caller's."""
        if octets > self._left_octets:
            return False
        self._left_octets -= octets
        return True

    def give(self, octets: int) -> None:
        self._left_octets += octets


class Tally:
    """A number of each process, in memory that all share: each writes its own, and all read the sum."""

    def __init__(self, processes: int):
        """Made before they fork."""
        self._numbers = memoryview(mmap.mmap(-1, 8 * processes)).cast("Q")

    def set(self, process: int, number: int) -> None:
        self._numbers[process] = number

    def total(self) -> int:
        return sum(self._numbers)
