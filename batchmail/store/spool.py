"""The spool's layout, its owner and version, and the small files that the doors read.

    SPOOL/VERSION            an older program than the spool stops
    SPOOL/SETUP              for which configuration it was set up
    SPOOL/tmp/               drafts
    SPOOL/doors/NAME         for each name that a door may be given: the peer and its limits
    SPOOL/lock/              locks and bells, a pair for each peer and step
    SPOOL/out/PEER/...       store.waiting, store.boxes
    SPOOL/in/PEER/...        store.boxes, store.notices
    SPOOL/ledger/PEER        store.ledger

One user owns everything.  Not here: what the configuration says (`cli.config`).
"""

import contextlib
import os
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from batchmail.core.digest import sha256
from batchmail.core.errors import SpoolError, UsageError
from batchmail.core.names import is_peer
from batchmail.store.durable import make_dir, replace, retire, retire_tree

VERSION = 1
NORMAL_DIR = "09"  # of priority 0
_DRAFT_LIFE_S = 36 * 3600  # longer than any door or call keeps a draft open
_STAMP = "SETUP"
_NAME = re.compile(r"[a-z0-9_][a-z0-9._-]{0,246}\Z")  # a file name once `domain.` stands before it


class Door(NamedTuple):
    """What a door must know about a peer to accept mail for it."""

    peer: str
    site: str  # our own name
    max_message_octets: int
    reserve_octets: int  # free space below which nothing is accepted
    odd_octets: str  # "normalize" or "refuse": what to do with bare CR and LF


class Spool:
    """A spool that exists, is ours, and is of a version that we know."""

    def __init__(self, root: str):
        self.root = root
        self.tmp = f"{root}/tmp"
        check_owner(root)
        self._check_version()

    def _check_version(self) -> None:
        path = f"{self.root}/VERSION"
        try:
            with open(path, "rb") as file:
                text = file.read(20)
        except OSError as error:
            raise SpoolError(f"{path}: {error.strerror}: run batchmail setup") from None
        if not re.match(rb"[0-9]{1,9}\n\Z", text):
            raise SpoolError(f"{path} is damaged: it should hold the number {VERSION}")
        if int(text) > VERSION:
            raise SpoolError(
                f"the spool {self.root} is of version {int(text)}, this program knows {VERSION}:"
                " install a newer batchmail"
            )

    def peers(self) -> list[str]:
        """The peers that have a place in the spool."""
        return sorted(name for name in os.listdir(f"{self.root}/out") if is_peer(name))

    def sweep(self, now_s: float) -> None:
        """Remove what a crash has left: drafts, and bundles of them."""
        for entry in os.scandir(self.tmp):
            with contextlib.suppress(FileNotFoundError):  # a door has just finished with it
                if entry.stat(follow_symlinks=False).st_mtime < now_s - _DRAFT_LIFE_S:
                    retire_tree(entry.path)


def become_owner(root: str) -> None:
    """A program started as root becomes the spool's owner for good (and leaves no file of root's behind)."""
    if os.geteuid() != 0:
        return
    try:
        status = os.stat(root)
    except FileNotFoundError:
        return
    if status.st_uid:
        become(status.st_uid, status.st_gid)


def check_owner(root: str) -> None:
    """Raises SpoolError unless the spool is there and ours."""
    try:
        owner = os.stat(root).st_uid
    except FileNotFoundError:
        raise SpoolError(f"no spool at {root}: run batchmail setup") from None
    except OSError as error:
        me = user_name(os.geteuid())
        raise SpoolError(f"the spool {root} cannot be reached as {me}: {error.strerror}") from None
    if owner != os.geteuid():
        raise SpoolError(
            f"the spool {root} belongs to {user_name(owner)}, this program runs as {user_name(os.geteuid())}:"
            f" run it as {user_name(owner)} or as root"
        )


def become(uid: int, gid: int) -> None:
    """Be another user from now on, with that user's groups; only root can."""
    name = user_name(uid)
    if name.isdigit():
        os.setgroups([])
    else:
        os.initgroups(name, gid)
    os.setgid(gid)
    os.setuid(uid)


def user_name(uid: int) -> str:
    """A user's name, or its number where it has none."""
    import pwd  # only errors and root's programs need it: the pipe door starts once per message

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def set_up(root: str, peers: Iterable[tuple[Door, Iterable[str]]]) -> None:
    """Make what is missing of the spool and bring the doors' files up to date; idempotent.

    `peers` gives each peer's door and domains: exact, `.domain` for all below it, `*` for all.
    """
    make_dir(root)
    for name in ("tmp", "doors", "lock", "out", "in", "ledger"):
        make_dir(f"{root}/{name}")
    if not os.path.exists(f"{root}/VERSION"):
        replace(f"{root}/tmp", f"{root}/VERSION", b"%d\n" % VERSION)
    spool = Spool(root)
    chosen = list(peers)
    for door, _ in chosen:
        set_up_peer(spool, door.peer)
    files = _door_files(chosen)
    for name, text in files.items():
        _write_if_changed(spool, f"{root}/doors/{name}", text)
    for name in set(os.listdir(f"{root}/doors")) - set(files):
        retire(f"{root}/doors/{name}")
    spool.sweep(time.time())
    _write_if_changed(spool, f"{root}/{_STAMP}", _fingerprint(chosen))


def is_set_up(root: str, peers: Iterable[tuple[Door, Iterable[str]]]) -> bool:
    """Whether `set_up` was last done for just these; cheap, for the programs that do it in passing."""
    try:
        with open(f"{root}/{_STAMP}", "rb") as file:
            return file.read(100) == _fingerprint(list(peers))
    except FileNotFoundError:
        return False


def _fingerprint(peers: list[tuple[Door, Iterable[str]]]) -> bytes:
    text = repr([(door, tuple(domains)) for door, domains in peers])
    return f"{sha256(text.encode()).hexdigest()}\n".encode()


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
    for name, text in files.items():
        try:
            with open(f"{root}/doors/{name}", "rb") as file:
                if file.read() == text:
                    continue
        except FileNotFoundError:
            pass
        stale.add(name)
    return sorted(stale)


def set_up_peer(spool: Spool, peer: str) -> None:
    """Make the directories of a peer."""
    for path in (f"waiting/{NORMAL_DIR}", "held", "outbox", "offered"):
        make_dir(f"{spool.root}/out/{peer}/{path}")
    for path in ("partial", "inbox", "notices"):
        make_dir(f"{spool.root}/in/{peer}/{path}")


def find_door(root: str, name: str) -> Door:
    """The door for a peer's name or a domain.  Raises SpoolError naming the known peers."""
    for candidate in _candidates(name.lower().rstrip(".")):
        try:
            with open(f"{root}/doors/{candidate}", "rb") as file:
                return _parse_door(file.read(2000).decode("ascii", "replace"), candidate)
        except FileNotFoundError:
            continue
    known = sorted(name[5:] for name in os.listdir(f"{root}/doors") if name.startswith("peer."))
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    shown = name if name.isprintable() else ascii(name)
    raise SpoolError(f"no peer {shown}; known: {listed or 'none'}; after editing the configuration run batchmail setup")


def _candidates(wanted: str) -> list[str]:
    if not wanted:
        return []
    if not _NAME.match(wanted):
        return ["any"]  # such as an address literal
    labels = wanted.split(".")
    above = [".".join(labels[n:]) for n in range(1, len(labels))]
    return [f"peer.{wanted}", f"domain.{wanted}", *(f"below.{domain}" for domain in above), "any"]


def _domain_file(domain: str) -> str:
    if domain == "*":
        return "any"
    if not _NAME.match(domain.lstrip(".").lower()):
        raise UsageError(f"not a domain: {domain}")
    return f"below.{domain[1:].lower()}" if domain.startswith(".") else f"domain.{domain.lower()}"


def _parse_door(text: str, name: str) -> Door:
    fields = dict(line.partition("=")[::2] for line in text.splitlines())
    try:
        return Door(
            fields["peer"],
            fields["site"],
            int(fields["max_message_octets"]),
            int(fields["reserve_octets"]),
            fields["odd_octets"],
        )
    except (KeyError, ValueError):
        raise SpoolError(f"the door file {name} is damaged: run batchmail setup") from None


def _write_if_changed(spool: Spool, path: str, text: bytes) -> None:
    try:
        with open(path, "rb") as file:
            if file.read() == text:
                return
    except FileNotFoundError:
        pass
    replace(spool.tmp, path, text)
