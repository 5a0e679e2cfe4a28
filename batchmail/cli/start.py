"""What every program does first: configuration, owner, spool, clock, randomness; and last: the exit code."""

import os
import pwd
import signal
import sys
import time
from collections.abc import Iterable
from types import FrameType

from batchmail.cli import config
from batchmail.core.errors import BatchmailError, ConfigError, SpoolError
from batchmail.core.settings import Peer, Site
from batchmail.flow.context import Context
from batchmail.store import setup
from batchmail.store import spool as spools
from batchmail.store.spool import Door, Spool
from batchmail.wire import maillog

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def now_ms() -> int:
    """The time of day, milliseconds UTC."""
    return time.time_ns() // 1_000_000


def set_up(site: Site, again: bool = False, served: Iterable[Peer] | None = None) -> Spool:
    """Make what is missing of the spool, as its owner; returns it open.  `again`: also when nothing seems to be.

    Where only some peers are `served`, what may lack for others is not looked for.
    Started as root, the program is the owner from here on: of an existing
    spool its owner, of a new one, or of an empty directory of root's, the configured user.
    """
    os.umask(0o077)
    try:
        if os.geteuid() == 0 and not os.path.exists(f"{site.spool}/VERSION"):
            _make_spool_dir(site)
    except OSError as error:
        raise SpoolError(f"the spool {site.spool} cannot be made: {error}") from None
    spools.become_owner(site.spool)
    _check_way(site.spool)
    if os.path.exists(site.spool):
        spools.check_owner(site.spool)  # before any of its files is found to be closed to us
    try:
        is_served = served is not None and all(
            setup.is_served(site.spool, _door(site, peer), peer.domains) for peer in served
        )
        if is_served:
            is_ready = setup.is_current(site.spool, site.digest)
        else:
            is_ready = setup.is_set_up(site.spool, doors(site), site.digest)
        if again or not is_ready:
            _set_up_all(site, is_served)
        return Spool(site.spool)
    except OSError as error:
        raise SpoolError(f"the spool {site.spool} cannot be set up: {error}") from None


def _set_up_all(site: Site, is_served: bool) -> None:
    """For all peers; a mistake in one's entry does not stop a call with another, for which all `is_served`."""
    try:
        chosen = doors(site)
    except ConfigError as error:
        if not is_served:
            raise
        maillog.trouble("", f"{error}; until it is mended, what else was changed there is not heard of")
        return
    setup.set_up(site.spool, chosen, site.digest)


def open_spool(site: Site) -> Spool:
    """The spool as it is, for programs that only look; as its owner."""
    os.umask(0o077)
    spools.become_owner(site.spool)
    _check_way(site.spool)
    return Spool(site.spool)


def peers_of(site: Site, spool: Spool, name: str | None, path: str) -> list[Peer]:
    """The peer of that name, or all: those of the configuration and those that have left it and are in the spool."""
    known = {peer: site.peers.get(peer) or _left(site, peer) for peer in (*site.peers, *spool.peers())}
    if name is None:
        return [known[peer] for peer in sorted(known)]
    return [known.get(name.lower()) or config.find_peer(site, name, path)]


def _left(site: Site, name: str) -> Peer:
    """A peer that has left the configuration: its notices go where those of the others do."""
    targets = {peer.target for peer in site.peers.values()}
    return Peer(name, target=targets.pop()) if len(targets) == 1 else Peer(name)


def _make_spool_dir(site: Site) -> None:
    """What crashes in between leaves an empty directory of root's: the next one gives it to its owner."""
    if not os.path.exists(site.spool):
        _account(site)  # before anything is made
        os.umask(0o022)  # what is above it is root's, and to be passed by the owner
        try:
            os.makedirs(os.path.dirname(site.spool.rstrip("/")), mode=0o755, exist_ok=True)
        finally:
            os.umask(0o077)
        os.mkdir(site.spool, mode=0o700)
    setup.check_new(site.spool)
    if os.stat(site.spool).st_uid == 0:
        uid, gid = _account(site)
        if uid and set(os.listdir(site.spool)) - {"lost+found"}:
            raise SpoolError(
                f"{site.spool} is to be the spool of {site.user} and is root's: chown {site.user} it first"
            )
        os.chown(site.spool, uid, gid)
        os.chmod(site.spool, 0o700)


def _check_way(root: str) -> None:
    """Raises SpoolError, with the directory that is closed to us, unless the spool can be reached."""
    path = "/"
    for name in root.split("/")[1:-1]:
        path = os.path.join(path, name)
        if os.path.isdir(path) and not os.access(path, os.X_OK):
            me = spools.user_name(os.geteuid())
            raise SpoolError(f"{me} cannot reach the spool {root}: if {me} is its owner, chmod o+x {path}")


def owner_of(site: Site) -> tuple[int, int]:
    """User and group that own the spool, or are to."""
    try:
        status = os.stat(site.spool)
    except FileNotFoundError:
        return _account(site) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    except OSError as error:
        me = spools.user_name(os.geteuid())
        raise SpoolError(f"the spool {site.spool} cannot be reached as {me}: {error.strerror}") from None
    return status.st_uid, status.st_gid


def _account(site: Site) -> tuple[int, int]:
    try:
        account = pwd.getpwnam(site.user)
    except KeyError:
        raise ConfigError(
            f"there is no account {site.user} to own {site.spool}: make install and systemd-sysusers make it,"
            f" or: useradd --system --user-group --home-dir {site.spool} --shell /bin/sh {site.user}"
        ) from None
    return account.pw_uid, account.pw_gid


def doors(site: Site) -> list[tuple[Door, tuple[str, ...]]]:
    """What the doors are to know, with the domains that each is for."""
    return [(_door(site, peer), peer.domains) for peer in site.peers.values()]


def _door(site: Site, peer: Peer) -> Door:
    retired = setup.is_retired(site.spool, peer.name)
    return Door(peer.name, site.name, peer.max_message_octets, site.reserve_octets, site.odd_octets, retired)


def context(site: Site, spool: Spool, peer: Peer) -> Context:
    """What the steps are given."""
    return Context(spool, site, peer, now_ms, os.urandom)


def load(option: str | None) -> tuple[Site, str]:
    """The configuration and where it was read."""
    path = config.config_path(option)
    return config.load(path), path


def stop_on_signals() -> None:
    """Let a call that is told to stop say goodbye and leave its partial files synced."""
    for number in _SIGNALS:
        signal.signal(number, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    for other in _SIGNALS:  # once is enough: the goodbye is not to be cut short
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(75)


def fail(program: str, error: BatchmailError) -> int:
    """Say an error on standard error; returns the exit code."""
    print(f"{program}: {error}", file=sys.stderr)
    return error.exit_code
