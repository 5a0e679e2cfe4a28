"""Room on the disk: how much is left, and whether it is enough to take mail."""

import os

from batchmail.core.errors import SpoolError


def free_octets(path: str) -> int:
    """What may still be written on the file system of `path`."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def check_room(path: str, reserve_octets: int, coming_octets: int = 0) -> None:
    """Raise SpoolError when less than `reserve_octets` would be free on the file system of `path` beside what comes."""
    free = free_octets(path)
    if free < reserve_octets + coming_octets:
        coming = f" once {coming_octets >> 10} KiB more are written" if free >= reserve_octets else ""
        raise SpoolError(
            f"only {free >> 20} MiB free below {path}, less than the reserve of {reserve_octets >> 20} MiB{coming}:"
            " mail is not accepted until there is room"
        )
