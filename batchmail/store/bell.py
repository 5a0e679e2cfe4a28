"""The bell of a peer: a named pipe by which a word reaches the process that holds the call, and nobody else.

A newer call says YIELD to the older, a second `batchmail call` says WAKE, and
the doors say MAIL, so that in a call that is kept open new mail goes at once.
"""

import os
import stat

YIELD, WAKE, MAIL = "yield", "wake", "mail"


def bell_path(root: str, peer: str) -> str:
    return f"{root}/lock/{peer}.bell"


def ring(root: str, peer: str, word: str) -> bool:
    """Say a word to the running call; whether anybody could hear it."""
    try:
        fd = os.open(bell_path(root, peer), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return False
        os.write(fd, word.encode() + b"\n")
    except OSError:  # nobody reads, or the pipe is full of words already
        return False
    finally:
        os.close(fd)
    return True
