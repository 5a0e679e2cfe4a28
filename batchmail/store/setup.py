"""Setting up a spool: its directories, its version, and the small files that the doors read.

What these say comes from the configuration, which no door of the pipe reads.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping

from batchmail.core.digest import sha256
from batchmail.core.errors import SpoolError, UsageError
from batchmail.store.durable import make_dir, make_dirs, replace, replace_all, retire, retire_tree
from batchmail.store.spool import NORMAL_DIR, VERSION, Door, Spool, is_domain

_DRAFT_LIFE_S = 36 * 3600  # longer than any door or call keeps a draft open
_STAMP = "SETUP"
_FILES = ("VERSION", _STAMP, "ballast", "looks", "quarantine")  # what else is there, each made when it is needed
_DIRECTORIES = ("tmp", "doors", "lock", "out", "in", "ledger")


def set_up(root: str, peers: Iterable[tuple[Door, Iterable[str]]], digest: str = "") -> None:
    """Make what is missing of the spool and bring the doors' files up to date; idempotent.

    `peers` gives each peer's door and domains: exact, `.domain` for all below it, `*` for all; `digest` is that of the
    configuration in which they stand.
    """
    check_new(root)
    make_dir(root)
    for name in _DIRECTORIES:
        make_dir(f"{root}/{name}")
    if not os.path.exists(f"{root}/VERSION"):
        replace(f"{root}/tmp", f"{root}/VERSION", b"%d\n" % VERSION)
    spool = Spool(root)
    chosen = list(peers)
    make_dirs(path for door, _ in chosen for path in _places(spool, door.peer))
    files = _door_files(chosen)
    replace_all(spool.tmp, {path: text for path, text in _below(f"{root}/doors", files) if not _holds(path, text)})
    for name in set(os.listdir(f"{root}/doors")) - set(files):
        retire(f"{root}/doors/{name}")
    sweep(spool, time.time())
    stamp = _fingerprint(chosen) + _line(digest)
    if not _holds(f"{root}/{_STAMP}", stamp):
        replace(spool.tmp, f"{root}/{_STAMP}", stamp)


def check_new(root: str) -> None:
    """Raises SpoolError where a directory holds what is not ours and is no spool yet: a wrong path, most likely.

    It may be the home of the spool's user, and a file system of its own; and what a crash left of an earlier set-up.
    """
    if os.path.exists(f"{root}/VERSION") or not os.path.exists(root):
        return
    strange = _names_beside(root, *_DIRECTORIES)
    if strange:
        raise SpoolError(
            f"{root} is no spool and is not empty ({', '.join(strange[:3])}{', ...' if strange[3:] else ''}):"
            " give `spool` in the configuration a directory of its own"
        )


def strays(root: str) -> list[str]:
    """What lies in the spool's own directory and is none of it."""
    return _names_beside(root, *_DIRECTORIES, *_FILES)


def _names_beside(root: str, *known: str) -> list[str]:
    return sorted({name for name in os.listdir(root) if name[0] != "."} - {*known, "lost+found"})


def is_set_up(root: str, peers: Iterable[tuple[Door, Iterable[str]]], digest: str = "") -> bool:
    """Whether `set_up` was last done for just these; cheap, for the programs that do it in passing."""
    return _read_stamp(root) == _fingerprint(list(peers)) + _line(digest)


def is_current(root: str, digest: str) -> bool:
    """Whether `set_up` was last done for this very configuration; cheaper still, however many peers there are."""
    return _read_stamp(root).endswith(b"\n" + _line(digest))


def _read_stamp(root: str) -> bytes:
    try:
        with open(f"{root}/{_STAMP}", "rb") as file:
            return file.read(200)
    except FileNotFoundError:
        return b""


def is_served(root: str, door: Door, domains: Iterable[str]) -> bool:
    """Whether `set_up` has made what this one peer needs, as it is now."""
    files = _door_files([(door, domains)])
    return os.path.exists(f"{root}/VERSION") and all(
        _holds(path, text) for path, text in _below(f"{root}/doors", files)
    )


def sweep(spool: Spool, now_s: float) -> None:
    """Remove what a crash has left: drafts, and bundles of them."""
    for entry in os.scandir(spool.tmp):
        with contextlib.suppress(FileNotFoundError):  # a door has just finished with it
            if entry.stat(follow_symlinks=False).st_mtime < now_s - _DRAFT_LIFE_S:
                retire_tree(entry.path)


def _fingerprint(peers: list[tuple[Door, Iterable[str]]]) -> bytes:
    text = repr([(door, tuple(domains)) for door, domains in peers])
    return _line(sha256(text.encode()).hexdigest())


def _line(digest: str) -> bytes:
    return f"{digest}\n".encode()


def _door_files(peers: Iterable[tuple[Door, Iterable[str]]]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for door, domains in peers:
        text = "".join(f"{key}={value}\n" for key, value in door._asdict().items()).encode()
        for name in (f"peer.{door.peer}", *map(_domain_file, domains)):
            files.setdefault(name, text)
    return files


def stale_doors(root: str, peers: Iterable[tuple[Door, Iterable[str]]]) -> list[str]:
    """The doors' files that are not as `set_up` would make them."""
    files = _door_files(peers)
    stale = set(os.listdir(f"{root}/doors")) - set(files)
    stale.update(os.path.basename(path) for path, text in _below(f"{root}/doors", files) if not _holds(path, text))
    return sorted(stale)


def _below(directory: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    return ((f"{directory}/{name}", text) for name, text in files.items())


def _holds(path: str, text: bytes) -> bool:
    """Whether a small file is there and holds just this."""
    try:
        with open(path, "rb") as file:
            return file.read() == text
    except FileNotFoundError:
        return False


def _places(spool: Spool, peer: str) -> Iterator[str]:
    """The directories of a peer."""
    for name in (f"waiting/{NORMAL_DIR}", "held", "outbox", "offered", "deadlines"):
        yield f"{spool.root}/out/{peer}/{name}"
    for name in ("partial", "inbox", "notices"):
        yield f"{spool.root}/in/{peer}/{name}"


def retire_peer(spool: Spool, peer: str, *, retired: bool) -> None:
    """Whether the doors are to refuse mail for a peer, from the next `set_up` on."""
    path = f"{spool.root}/out/{peer}/retired"
    if retired:
        replace(spool.tmp, path, b"")
    else:
        retire(path)


def is_retired(root: str, peer: str) -> bool:
    """Whether the doors are to refuse mail for a peer."""
    return os.path.exists(f"{root}/out/{peer}/retired")


def _domain_file(domain: str) -> str:
    if domain == "*":
        return "any"
    if not is_domain(domain.lstrip(".").lower()):
        raise UsageError(f"not a domain: {domain}")
    return f"below.{domain[1:].lower()}" if domain.startswith(".") else f"domain.{domain.lower()}"
