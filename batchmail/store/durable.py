"""The only calls that change the disk: draft, publish, replace, retire.

A file gets its final name only when it is whole, and when `publish` returns
both are on stable storage.  An fsync that failed is never tried again: the
draft is thrown away and the error goes up as it is.  Names are never reused,
so `publish` refuses to overwrite.
"""

import errno
import os

from batchmail.core.value import Callable, Iterable, Iterator, Mapping

_MANY = 64  # files or directories to be synced one after the other, or files that are open for it
_MAX_DRAFTS = 500  # open at once
_counter = iter(range(1, 1 << 62))
_MAX_DIRECTORIES = 200  # held open at once


class Draft:
    """A file being written below a `tmp` directory; it counts for nothing until it is published.

    Up to `held_octets` are kept in memory until it is synced: to make a file waits
    for the journal, which is the business of a thread that has nothing else to do.
    """

    def __init__(self, tmp_dir: str, mode: int = 0o600, held_octets: int = 0):
        self.path = f"{tmp_dir}/{os.getpid()}.{next(_counter)}.{os.urandom(6).hex()}"
        self._mode, self._held_octets = mode, held_octets
        self._held: list[bytes] = []
        self._fd: int | None = None  # not made yet; below 0: closed
        self._is_synced = False
        self.size_octets = 0
        if not held_octets:
            self._make()

    def write(self, data: bytes) -> None:
        self._held.append(data)
        self.size_octets += len(data)
        if self.size_octets > self._held_octets:
            self._flush()

    def _make(self) -> int:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode)
        return self._fd

    def _flush(self) -> int:
        """Write what is held; the descriptor."""
        if self._fd is not None and self._fd < 0:
            raise OSError(errno.EIO, "the draft could not be written or synced before", self.path)
        fd = self._make() if self._fd is None else self._fd
        view = memoryview(b"".join(self._held))
        self._held.clear()
        while view:
            view = view[os.write(fd, view) :]
        return fd

    def read_back(self) -> Iterator[bytes]:
        """What has been written, from the start, in pieces."""
        fd, position = self._flush(), 0
        while data := os.pread(fd, 1 << 18, position):
            position += len(data)
            yield data

    def start(self) -> None:
        """Have the content on its way to stable storage; `sync` waits until it is there, and tells if it is not."""
        if self._is_synced:
            return
        try:
            fd = self._flush()
        except OSError:
            self._close()  # what is half written is not to be synced
            raise
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            pass  # it was a hint

    def sync(self) -> None:
        """Put the content on stable storage and close the file; once that has failed, it fails for ever."""
        if self._is_synced:
            return
        try:
            os.fsync(self._flush())
            self._is_synced = True
        finally:
            self._close()

    def publish(self, final: str) -> None:
        """Give the draft its final name; raises FileExistsError rather than overwrite.

        When this returns a power cut cannot undo it.  A crash before the link
        leaves a draft, one after it a spare link: the sweep of `tmp` removes both.
        Where the name cannot be synced it is taken back, for the answer will be no.
        """
        self.sync()
        self.link(final)
        try:
            sync_dir(os.path.dirname(final))
        except OSError:
            retire(final)
            raise
        self.leave()

    def publish_or_find(self, final: str) -> None:
        """As `publish`; what has that name already, by a crash or another process, stays, and is durable too."""
        try:
            self.publish(final)
        except FileExistsError:
            sync_dir(os.path.dirname(final))

    def leave(self) -> None:
        """Remove the draft once it has its final name: the answer is yes, whatever becomes of this name."""
        try:
            self.discard()
        except OSError:
            pass  # the sweep does it later

    def link(self, final: str) -> None:
        """Give the draft its final name; that counts when the draft, now or before, and the directory are synced."""
        self.start()
        os.link(self.path, final)

    def discard(self) -> None:
        """Throw the draft away; also fine after `publish`."""
        was_made = self._fd is not None
        self._close()
        if was_made:
            retire(self.path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        self._held.clear()
        if fd is not None and fd >= 0:
            os.close(fd)

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def sync_drafts(drafts: list[Draft]) -> list[OSError | None]:
    """Put drafts on stable storage: what each of them failed by.

    All are on their way before one is waited for, so that they share an entry of the file system's journal.
    """
    errors: list[OSError | None] = []
    for first in range(0, len(drafts), _MANY):
        share = drafts[first : first + _MANY]
        started = [_failure(draft.start) for draft in share] if len(share) > 1 else [None]
        errors += [error or _failure(draft.sync) for draft, error in zip(share, started, strict=True)]
    return errors


def _failure(step: Callable[[], None]) -> OSError | None:
    try:
        step()
    except OSError as error:
        return error
    return None


class Directories:
    """Directories that were synced with the names of themselves.

    Each is held open, so that one which was removed and made again, by whomever, is not taken for it.
    """

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def sync(self, path: str, levels: int) -> None:
        """Put the names in a directory on stable storage, and its own name and those of `levels` - 1 above it.

        Whoever made a directory may not have synced it yet.
        """
        fd = self._fds.get(path)
        if fd is None or not _is_same(fd, path):
            self._forget(path)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                above = path
                for _ in range(levels):
                    above = os.path.dirname(above)
                    sync_dir(above)
            except OSError:
                os.close(fd)
                raise
            while len(self._fds) >= _MAX_DIRECTORIES:
                self._forget(next(iter(self._fds)))
            self._fds[path] = fd
        os.fsync(fd)

    def close(self) -> None:
        for path in list(self._fds):
            self._forget(path)

    def _forget(self, path: str) -> None:
        fd = self._fds.pop(path, None)
        if fd is not None:
            os.close(fd)


def _is_same(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def sync_file(path: str) -> None:
    """Put a file that another may have written on stable storage."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
    make_dirs([path], mode)


def make_dirs(paths: Iterable[str], mode: int = 0o700) -> None:
    """Make many directories, as `make_dir`; where several lie in one, that is synced once."""
    changed: dict[str, None] = {}
    try:
        for path in paths:
            _make_dir(path, mode, changed)
    finally:  # also what was made before an error: who tries again finds it there
        _flush_many(len(changed))
        for parent in changed:
            sync_dir(parent)


def _make_dir(path: str, mode: int, changed: dict[str, None]) -> None:
    parent = os.path.dirname(path)
    try:
        try:
            os.mkdir(path, mode)
        except FileNotFoundError:
            _make_dir(parent, mode, changed)
            os.mkdir(path, mode)
    except FileExistsError:
        return
    changed[parent] = None


def _flush_many(count: int) -> None:
    """Before so many are synced one by one: let the disk take them together; that alone would not tell of errors."""
    if count > _MANY:
        os.sync()


def publish_all(members: list[tuple[Draft, str]], final: str) -> None:
    """Give drafts their names in a new directory, all at once: it is filled beside them and renamed.

    Raises FileExistsError when `final` holds something already.  A crash before
    the rename leaves a bundle beside the drafts, one after it spare links: the sweep removes them.
    """
    if not members:
        return
    bundle = f"{members[0][0].path}.d"
    os.mkdir(bundle, 0o700)
    try:
        for draft, name in members:
            draft.sync()
            draft.link(f"{bundle}/{name}")
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
        draft.leave()


def replace(tmp_dir: str, path: str, data: bytes) -> None:
    """Write a small file that may exist already: readers see the old one or the new one."""
    replace_all(tmp_dir, {path: data})


def replace_all(tmp_dir: str, files: Mapping[str, bytes]) -> None:
    """Write small files, as `replace`; each directory is synced once.  A crash in between: some are the new ones."""
    todo = list(files.items())
    for start in range(0, len(todo), _MAX_DRAFTS):
        share = todo[start : start + _MAX_DRAFTS]
        drafts: list[Draft] = []
        try:
            for _, data in share:
                drafts.append(Draft(tmp_dir))
                drafts[-1].write(data)
            _flush_many(len(drafts))
            for draft, (path, _) in zip(drafts, share, strict=True):
                draft.sync()
                os.rename(draft.path, path)
        finally:
            for draft in drafts:
                draft.discard()
    for directory in dict.fromkeys(map(os.path.dirname, files)):
        sync_dir(directory)


def put_in_place(path: str, final: str) -> None:
    """Rename what need not be durable, such as a socket, over what stands there."""
    os.rename(path, final)


def adopt(path: str, final: str) -> None:
    """Give a file that another program may have written to its final place, synced; as `Draft.publish`."""
    sync_file(path)
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
    """Note `target` under the name `path` as a symbolic link, which counts when its directory is synced.

    Raises FileExistsError.
    """
    os.symlink(target, path)


def retire(path: str) -> None:
    """Remove a name that is no longer needed; to find it gone is fine.

    Not synced: a name that comes back after a power cut is recognised as a
    leftover by its record in the ledger.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


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
