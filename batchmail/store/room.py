"""Room on the disk: how much is left, and whether it is enough to take mail."""

import os

from batchmail.core.errors import SpoolError


def free_octets(path: str) -> int:
    """What may still be written on the file system of `path`."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def check_room(path: str, reserve_octets: int) -> None:
    """Raise SpoolError when less than `reserve_octets` are free on the file system of `path`."""
    free = free_octets(path)
    if free < reserve_octets:
        raise SpoolError(
            f"only {free >> 20} MiB free below {path}, less than the reserve of {reserve_octets >> 20} MiB:"
            " mail is not accepted until there is room"
        )
