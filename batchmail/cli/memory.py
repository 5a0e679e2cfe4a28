"""Memory that is not used any more goes back to the system.

A call opens and closes compressors of several MiB in several threads.  glibc
moves its limit for what it takes from the system directly up with each of
them, and then keeps what was freed, in a heap for each thread.  A limit that
is set stays where it is.
"""

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3  # of malloc.h
_LARGE_OCTETS = 256 << 10


def give_back_large() -> None:
    """From now on; where the C library is another, nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_OCTETS)
