"""The only calls that change the disk: draft, publish, replace, retire, lock.

A file gets its final name only when it is whole and on stable storage, and
when `publish` returns the name is there too.  An fsync that failed is never
tried again: the draft is thrown away and the error goes up as it is.
Names are never reused, so `publish` refuses to overwrite.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from batchmail.core.errors import SpoolError

_counter = iter(range(1, 1 << 62))


class Draft:
    """A file being written below a `tmp` directory; it counts for nothing until it is published."""

    def __init__(self, tmp_dir: str, mode: int = 0o600):
        self.path = f"{tmp_dir}/{os.getpid()}.{next(_counter)}.{os.urandom(6).hex()}"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        self.size_octets = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self.size_octets += written
            view = view[written:]

    def read_back(self) -> Iterator[bytes]:
        """What has been written, from the start, in pieces."""
        position = 0
        while data := os.pread(self._fd, 1 << 18, position):
            position += len(data)
            yield data

    def sync(self) -> None:
        """Put the content on stable storage and close the file."""
        fd, self._fd = self._fd, -1
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def publish(self, final: str) -> None:
        """Give the draft its final name; raises FileExistsError rather than overwrite.

        When this returns a power cut cannot undo it.  A crash before the link
        leaves a draft, one after it a spare link: the sweep of `tmp` removes both.
        Where the name cannot be synced it is taken back, for the answer will be no.
        """
        if self._fd >= 0:
            self.sync()
        os.link(self.path, final)
        try:
            sync_dir(os.path.dirname(final))
        except OSError:
            retire(final)
            raise
        with contextlib.suppress(OSError):  # the answer is yes from here on
            self.discard()

    def discard(self) -> None:
        """Throw the draft away; also fine after `publish`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def sync_fd(fd: int) -> None:
    """Put a file that is being written on stable storage as far as it is."""
    os.fsync(fd)


def sync_dir(path: str) -> None:
    """Put a directory's names on stable storage."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dir(path: str, mode: int = 0o700) -> None:
    """Make a directory, and its parents, if missing; each name made here is durable when this returns."""
    with contextlib.suppress(FileExistsError):
        try:
            os.mkdir(path, mode)
        except FileNotFoundError:
            make_dir(os.path.dirname(path), mode)
            os.mkdir(path, mode)
        sync_dir(os.path.dirname(path))


def publish_all(members: list[tuple[Draft, str]], final: str) -> None:
    """Give synced drafts their names in a new directory, all at once: it is filled beside them and renamed.

    Raises FileExistsError when `final` holds something already.  A crash before
    the rename leaves a bundle beside the drafts, one after it spare links: the sweep removes them.
    """
    if not members:
        return
    bundle = f"{members[0][0].path}.d"
    os.mkdir(bundle, 0o700)
    try:
        for draft, name in members:
            os.link(draft.path, f"{bundle}/{name}")
        sync_dir(bundle)
        try:
            os.rename(bundle, final)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), final) from None
            raise
    except OSError:
        retire_tree(bundle)
        raise
    try:
        sync_dir(os.path.dirname(final))
    except OSError:
        retire_tree(final)
        raise
    for draft, _ in members:
        with contextlib.suppress(OSError):  # the answer is yes from here on
            draft.discard()


def replace(tmp_dir: str, path: str, data: bytes) -> None:
    """Write a small file that may exist already: readers see the old one or the new one."""
    with Draft(tmp_dir) as draft:
        draft.write(data)
        draft.sync()
        os.rename(draft.path, path)
        sync_dir(os.path.dirname(path))


def adopt(path: str, final: str) -> None:
    """Give a file that another program may have written to its final place, synced; as `Draft.publish`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    _link(path, final)
    sync_dir(os.path.dirname(final))
    retire(path)


def move(path: str, final: str) -> None:
    """Move a durable file to another directory; a crash in between leaves both names, never none.  Then do it again."""
    _link(path, final)
    sync_dir(os.path.dirname(final))
    retire(path)


def _link(path: str, final: str) -> None:
    try:
        os.link(path, final)
    except FileExistsError:
        if not os.path.samefile(path, final):  # else linked before a crash
            raise


def mark(target: str, path: str) -> None:
    """Note `target` under the name `path`, durably, as a symbolic link; raises FileExistsError."""
    os.symlink(target, path)
    sync_dir(os.path.dirname(path))


def retire(path: str) -> None:
    """Remove a name that is no longer needed; to find it gone is fine.

    Not synced: a name that comes back after a power cut is recognised as a
    leftover by its record in the ledger.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def retire_dir(path: str) -> None:
    """Remove a directory if nothing is in it."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise


def retire_tree(path: str) -> None:
    """Remove a directory of files, or a file."""
    try:
        names = os.listdir(path)
    except NotADirectoryError:
        retire(path)
        return
    for name in names:
        retire(f"{path}/{name}")
    retire_dir(path)


class Lock:
    """An flock on a file that stays; released when closed or when the process ends, however it ends."""

    def __init__(self, path: str):
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self, wait: bool = False) -> bool:
        """Whether the lock is ours now."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def note(self, text: str) -> None:
        """Say who holds the lock, for others to read; of no weight after the holder is gone."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)

    def read_note(self) -> str:
        return os.pread(self._fd, 200, 0).decode("ascii", "replace")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


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
