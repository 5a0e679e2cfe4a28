"""batchmail-lmtpd: the door that the local MTA delivers to by SMTP or LMTP, and that loses nothing of it.

Listens where the configuration says, or at the sockets that systemd hands over.
Started as root it binds first and then becomes the spool's owner for good.
Needs neither click nor paramiko.
"""

import contextlib
import functools
import gc
import grp
import hashlib  # noqa: F401  before `core.digest`, which then takes the quicker one
import os
import resource
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from types import FrameType

from batchmail import __version__
from batchmail.cli import start
from batchmail.core.errors import BatchmailError, ConfigError, SpoolError, UsageError
from batchmail.core.listen import Address
from batchmail.core.settings import DoorSettings, Site
from batchmail.flow.budget import Tally
from batchmail.flow.serving import Entrance, Reception, Share
from batchmail.store.durable import put_in_place, retire
from batchmail.store.lock import Numbered
from batchmail.store.spool import Spool, check_owner
from batchmail.wire import listen, maillog
from batchmail.wire.workers import ENDING, Workers

USAGE = "usage: batchmail-lmtpd [-c FILE]"
FOR_ALL = ("", "table", "batchmail-lmtpd.socket")  # names of systemd's sockets that are nobody's in particular
_WORKERS = 2  # where there are as many processors
_ORPHANS_S = 3.0  # for workers whose parent was killed to close their sockets
_FILES_BESIDE = 100  # descriptors that are no connections


def main(arguments: list[str]) -> int:
    """Serve until told to stop; returns the exit code."""
    try:
        text, config_file = _parse(arguments)
        if text:
            print(text)
            return 0
        return _serve(config_file)
    except BatchmailError as error:
        return start.fail("batchmail-lmtpd", error)


def _parse(arguments: list[str]) -> tuple[str, str | None]:
    """What is only to be said, and the configuration's path where it is given."""
    config_file = None
    words = iter(arguments)
    for word in words:
        if word in ("-h", "--help"):
            return USAGE, None
        if word == "--version":
            return f"batchmail-lmtpd {__version__}", None
        name, equals, value = word.partition("=")
        if name not in ("-c", "--config"):
            raise UsageError(f"unknown argument {word}; {USAGE}")
        config_file = value if equals else next(words, "")
        if not config_file:
            raise UsageError(f"{name} needs a value; {USAGE}")
    return "", config_file


def _serve(config_file: str | None) -> int:
    passed = listen.passed_sockets(os.environ)
    site, path = start.load(config_file)
    entrances = [Entrance(sock, _peer_of(site, name, path)) for sock, name in passed]
    made: dict[str, os.stat_result] = {}
    if not entrances:
        entrances = list(_listen(site, made))
    if not entrances:
        raise ConfigError(
            f'{path}: nowhere to listen: set listen = "127.0.0.1:2626" in a peer\'s entry, or in [door] for all peers'
            " by their domains; or start batchmail-lmtpd.socket"
        )
    spool = start.set_up(site)
    try:
        offers = Numbered(f"{spool.root}/lock/offers")
    except OSError as error:
        raise SpoolError(f"{error.filename} cannot be opened: {error.strerror}") from None
    _allow_files(len(entrances) + 2 * site.door.connections + _FILES_BESIDE)
    maillog.open_log("accept")
    workers = site.door.workers or min(_WORKERS, len(os.sched_getaffinity(0)))
    work = functools.partial(_work, site, spool, entrances, Share(0, workers, Tally(workers), offers))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what setup changes is seen by itself
    if workers == 1:
        work(0, None, lambda: listen.tell_systemd("READY=1", os.environ))
        listen.tell_systemd("STOPPING=1", os.environ)
    else:
        _supervise(Workers(workers, work, functools.partial(maillog.trouble, "")), entrances)
    for socket_path, status in made.items():
        with contextlib.suppress(OSError):
            if os.path.samestat(status, os.lstat(socket_path)):  # not that of another who has begun meanwhile
                retire(socket_path)
    return 0


def _supervise(workers: Workers, entrances: list[Entrance]) -> None:
    gc.freeze()  # what is here now stays in the memory that they share
    try:
        workers.start()
    except OSError as error:
        workers.end()
        raise SpoolError(f"no worker can be started: {error.strerror}") from None
    listen.tell_systemd("READY=1", os.environ)
    workers.watch()
    listen.tell_systemd("STOPPING=1", os.environ)
    for entrance in entrances:
        entrance.sock.close()
    workers.end()


def _work(
    site: Site,
    spool: Spool,
    entrances: list[Entrance],
    share: Share,
    number: int,
    lifeline: int | None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until told to stop, in a process of its own or the only one."""
    reception = Reception(site, spool, entrances, share._replace(number=number))

    def stop(_number: int, _frame: FrameType | None) -> None:
        reception.server.stop()

    signal.set_wakeup_fd(reception.server.wake_fd, warn_on_full_buffer=False)
    for ending in ENDING:
        signal.signal(ending, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    if lifeline is not None:
        reception.server.stop_with(lifeline)
    ready()
    reception.run()


def _peer_of(site: Site, name: str, path: str) -> str:
    """Whose mail comes at a socket of systemd's: the peer after whom it is called, or anybody's."""
    if name in site.peers:
        return name
    if name in FOR_ALL:
        return ""
    raise ConfigError(
        f"{path}: systemd hands over a socket called {name}: FileDescriptorName= is to be a peer's name, or table"
    )


def _listen(site: Site, made: dict[str, os.stat_result]) -> Iterator[Entrance]:
    """The entrances of the configuration; `made` gets the unix sockets, by their paths."""
    for peer, addresses in (("", site.door.listen), *((peer.name, peer.listen) for peer in site.peers.values())):
        for address in addresses:
            if address.path:
                yield Entrance(_when_free(functools.partial(_listen_unix, site, address)), peer)
                made[address.path] = os.lstat(address.path)
            else:
                yield Entrance(_when_free(functools.partial(listen.listen_tcp, address)), peer)


def _when_free(bind: Callable[[], socket.socket]) -> socket.socket:
    """The workers of a door that was killed need a moment to see that it is gone."""
    deadline_s = time.monotonic() + _ORPHANS_S
    while True:
        try:
            return bind()
        except listen.AddressTaken:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(0.05)


def _listen_unix(site: Site, address: Address) -> socket.socket:
    """A unix socket in the place of one that nobody serves any more; made as the spool's owner, with its mode."""
    path, temporary = address.path, f"{address.path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"cannot listen at {address.text}: there is something that is no socket")
    if listen.somebody_listens(path):
        raise listen.AddressTaken(
            f"cannot listen at {address.text}: another program serves it; is batchmail-lmtpd running?"
        )
    try:
        with _as_owner(site, site.door):
            retire(temporary)  # left by one that was killed here and had our number
            sock = listen.listen_unix(temporary)
            try:
                put_in_place(temporary, path)
            except OSError:
                retire(temporary)
                raise
    except OSError as error:
        raise ConfigError(f"cannot listen at {address.text}: {error.strerror}") from None
    return sock


@contextlib.contextmanager
def _as_owner(site: Site, door: DoorSettings) -> Iterator[None]:
    """What is made meanwhile belongs to the spool's owner and the door's group and has the door's mode."""
    uid, gid = start.owner_of(site)
    if os.geteuid() not in (0, uid):
        check_owner(site.spool)
    if door.group:
        try:
            gid = grp.getgrnam(door.group).gr_gid
        except KeyError:
            raise ConfigError(f"there is no group {door.group}, which is to reach the door's sockets") from None
    before = os.geteuid(), os.getegid()
    try:
        if before[1] != gid:
            os.setegid(gid)
        if before[0] != uid:
            os.seteuid(uid)
    except PermissionError:
        raise ConfigError(
            f"sockets of the group {door.group} can be made by root: start batchmail-lmtpd as root, let systemd listen,"
            " or leave [door] group out and make the socket's directory set-group-id"
        ) from None
    mask = os.umask(0o777 & ~door.mode)
    try:
        yield
    finally:
        os.umask(mask)
        if os.geteuid() != before[0]:
            os.seteuid(before[0])
        if os.getegid() != before[1]:
            os.setegid(before[1])


def _allow_files(wanted: int) -> None:
    """As many descriptors as the connections may need, where the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
