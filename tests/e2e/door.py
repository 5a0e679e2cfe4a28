"""The door as a daemon of the tests, an MTA in front of it, and both sites behind it."""

import os
import shutil
import socket
from collections.abc import Sequence

import pytest

from tests.e2e.door_traffic import Fate, fate
from tests.e2e.pair import Pair, below_received
from tests.e2e.sites import Site
from tests.e2e.upstreams import Mta, Way
from tests.servers.daemon import Daemon
from tests.servers.host import LOOPBACK, PATIENCE_S, Factory, answers, free_port, need_private_mounts, wait_until
from tests.servers.smtp_log import EXTENSIONS, SmtpLog

XFORWARD = "XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT"
# What stands in the reply to LHLO or EHLO decides what an MTA sends.
OFFERED = (*EXTENSIONS, XFORWARD)


class Door(Daemon):
    """Ready when it takes a connection at `place`, a port or the path of a socket.

    With `disk_octets` the site's spool is a disk of that size, which only the door sees; `inside` leads there.
    """

    def __init__(self, site: Site, place: int | str, disk_octets: int = 0):
        directory = os.path.join(site.directory, "door")
        os.makedirs(directory, exist_ok=True)
        super().__init__(directory)
        self._site, self._place, self._disk_octets = site, place, disk_octets

    def argv(self) -> Sequence[str]:
        command = self._site.command("batchmail-lmtpd")
        if not self._disk_octets:
            return command
        need_private_mounts()
        mount = f"mount -t tmpfs -o size={self._disk_octets} tmpfs {self._site.spool}"
        return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]

    def ready(self) -> bool:
        if isinstance(self._place, int):
            return answers(self._place)
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(self._place) == 0

    def kill(self) -> None:
        """As the kernel does when memory is short; returns when it is gone."""
        for pid in self.processes():
            os.kill(pid, 9)
        self.stop()

    def inside(self, path: str) -> str:
        """A path as the door sees it."""
        return f"/proc/{self.processes()[0]}/root{path}"


def sockets_directory(mta: Mta, way: Way, site: Site | None = None) -> str:
    """Made as docs/recipes.md says: it belongs to the spool's owner, and Postfix may enter."""
    path = os.path.dirname(mta.path(way.socket))
    os.makedirs(path)
    shutil.chown(path, site.owner if site else "root", "postfix")
    os.chmod(path, 0o750)
    return mta.path(way.socket)


def beside(way: Way, request: pytest.FixtureRequest, log_factory: Factory[SmtpLog]) -> tuple[Mta, SmtpLog]:
    """The MTA with a logging server in the place of the door."""
    if not way.socket:
        log = log_factory(lmtp=way.lmtp, extensions=OFFERED)
        return way.start(request, log.port), log
    mta = way.start(request, 0)
    return mta, log_factory(lmtp=way.lmtp, extensions=OFFERED, socket_path=sockets_directory(mta, way))


class Whole:
    """An MTA, the door it delivers to, both sites, and the target."""

    def __init__(
        self,
        way: Way,
        request: pytest.FixtureRequest,
        path: str,
        port: int = 0,
        mta_port: int = 0,
        disk_octets: int = 0,
    ):
        """`port` is the door's, and `mta_port` what the MTA takes for it."""
        factory = request.getfixturevalue("smtp_log_factory")
        self.target: SmtpLog = factory(extensions=OFFERED)
        self.port = 0 if way.socket else port or free_port()
        self.mta = way.start(request, mta_port or self.port)
        place = self.mta.path(way.socket) if way.socket else self.port
        self.sites = Pair(
            path,
            request.getfixturevalue("installed"),
            request.getfixturevalue("sshd"),
            away_target=f"smtp://{LOOPBACK}:{self.target.port}?xforward=yes",
            door={"listen": [f"unix:{place}"], "group": "postfix"}
            if way.socket
            else {"listen": [f"{LOOPBACK}:{place}"]},
        )
        if way.socket:
            sockets_directory(self.mta, way, self.sites.holding)
        self.door = Door(self.sites.holding, place, disk_octets)

    def wait_until_delivered(self, timeout_s: float = PATIENCE_S) -> None:
        wait_until(self.mta.queue_is_empty, "the MTA to have delivered all", timeout_s)

    def fate(self) -> Fate:
        return fate([(one, below_received(one.content)) for one in self.target.transactions])
