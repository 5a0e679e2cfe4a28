"""The spool's layout, its owner and version, and the small files that the doors read.

    SPOOL/VERSION            an older program than the spool stops
    SPOOL/SETUP              for which configuration it was set up
    SPOOL/ballast            room that is given up when the disk is full: store.ballast
    SPOOL/looks              what the ledgers said last: store.looks
    SPOOL/tmp/               drafts
    SPOOL/doors/NAME         for each name that a door may be given: the peer and its limits
    SPOOL/lock/              locks and bells, a pair for each peer and step; the socket door's, for what it is offered
    SPOOL/out/PEER/...       store.waiting, store.boxes
    SPOOL/in/PEER/...        store.boxes, store.notices
    SPOOL/ledger/PEER        store.ledger

One user owns everything.  Not here: what the configuration says (`cli.config`).
"""

import os

from batchmail.core.envelope import as_a_labels
from batchmail.core.errors import SpoolError, UnknownPeer
from batchmail.core.names import is_peer
from batchmail.core.value import NamedTuple

VERSION = 1
NORMAL_DIR = "09"  # of priority 0
_OF_NAME = "abcdefghijklmnopqrstuvwxyz0123456789._-"
_NAME_MAX = 247  # a file name once `domain.` stands before it


class Door(NamedTuple):
    """What a door must know about a peer to accept mail for it."""

    peer: str
    site: str  # our own name
    max_message_octets: int
    reserve_octets: int  # free space below which nothing is accepted
    odd_octets: str  # "normalize" or "refuse": what to do with bare CR and LF
    is_retired: bool = False  # what comes for it is for later: its domains are nobody else's


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
            text = _read(path, 20)
        except OSError as error:
            raise SpoolError(f"{path}: {error.strerror}: run batchmail setup") from None
        if not text[:-1].isdigit() or len(text) > 10 or not text.endswith(b"\n"):
            raise SpoolError(f"{path} is damaged: it should hold the number {VERSION}")
        if int(text) > VERSION:
            raise SpoolError(
                f"the spool {self.root} is of version {int(text)}, this program knows {VERSION}:"
                " install a newer batchmail"
            )

    def peers(self) -> list[str]:
        """The peers that have a place in the spool."""
        with os.scandir(f"{self.root}/out") as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and is_peer(entry.name))


def become_owner(root: str, with_groups: bool = True) -> None:
    """A program started as root becomes the spool's owner for good (and leaves no file of root's behind).

    A door that touches nothing but the spool does without the owner's other groups: to look them up takes long.
    """
    if os.geteuid() != 0:
        return
    try:
        status = os.stat(root)
    except FileNotFoundError:
        return
    if status.st_uid:
        become(status.st_uid, status.st_gid, with_groups)


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
            f" run it as {f'{user_name(owner)} or as root' if owner else 'root'}"
        )


def become(uid: int, gid: int, with_groups: bool = True) -> None:
    """Be another user from now on, with that user's groups or none but `gid`; only root can."""
    name = user_name(uid) if with_groups else ""
    if not name or name.isdigit():
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


def find_door(root: str, name: str) -> Door:
    """The door for a peer's name or a domain.  Raises UnknownPeer naming the known ones, or one that is retired."""
    wanted = as_a_labels(os.fsencode(name)).decode("ascii", "replace").rstrip(".")
    door = find_peer_door(root, wanted) or find_domain_door(root, wanted)
    if door is None:
        raise UnknownPeer(_unknown(root, name))
    if door.is_retired:
        raise UnknownPeer(
            f"peer {door.peer} is retired: no mail is taken for it until batchmail retire --undo {door.peer}"
        )
    return door


def find_domain_door(root: str, domain: str) -> Door | None:
    """The door for a domain alone, a retired one too: a peer's name does not count as one.  None: nobody's."""
    return _find_door(root, _candidates(domain.lower().rstrip(".")))


def find_peer_door(root: str, peer: str) -> Door | None:
    """The door of a peer, a retired one too."""
    return _find_door(root, [f"peer.{peer}"] if is_domain(peer) else [])


def _find_door(root: str, candidates: list[str]) -> Door | None:
    for candidate in candidates:
        try:
            return _parse_door(_read(f"{root}/doors/{candidate}", 2000).decode("ascii", "replace"), candidate)
        except FileNotFoundError:
            continue
    return None


def _unknown(root: str, name: str) -> str:
    known = sorted(name[5:] for name in os.listdir(f"{root}/doors") if name.startswith("peer."))
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    shown = name if name.isprintable() else ascii(name)
    return f"no peer {shown}; known: {listed or 'none'}; after editing the configuration run batchmail setup"


def _read(path: str, octets: int) -> bytes:
    """The start of a small file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, octets)
    finally:
        os.close(fd)


def is_domain(name: str) -> bool:
    """Whether a name, in lower case, can stand in that of a door's file."""
    first = name[:1] or "."
    return len(name) <= _NAME_MAX and first not in ".-" and not name.strip(_OF_NAME)


def _candidates(wanted: str) -> list[str]:
    if not wanted:
        return []
    if not is_domain(wanted):
        return ["any"]  # such as an address literal
    labels = wanted.split(".")
    above = [".".join(labels[n:]) for n in range(1, len(labels))]
    return [f"domain.{wanted}", *(f"below.{domain}" for domain in above), "any"]


def _parse_door(text: str, name: str) -> Door:
    fields = dict(line.partition("=")[::2] for line in text.splitlines())
    try:
        return Door(
            fields["peer"],
            fields["site"],
            int(fields["max_message_octets"]),
            int(fields["reserve_octets"]),
            fields["odd_octets"],
            fields.get("is_retired") == "True",
        )
    except (KeyError, ValueError):
        raise SpoolError(f"the door file {name} is damaged: run batchmail setup") from None


def names_in(path: str) -> list[str]:
    """What is in a directory, in order; nothing where it is not there."""
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
