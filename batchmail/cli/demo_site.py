"""A site of the demonstration: a directory with configuration and spool, a mail server, and the real programs."""

import os
import subprocess
import sys

from batchmail.cli import config
from batchmail.cli.start import context
from batchmail.core.errors import ConfigError, Temporary
from batchmail.flow.context import Context
from batchmail.store.spool import Spool, user_name
from batchmail.wire.smtp_sink import SmtpSink

_TIME_LIMIT_S = 60


class DemoSite:
    """One of the two."""

    def __init__(self, root: str, site: str, peer: str):
        self.site, self.peer = site, peer
        self.directory = os.path.join(root, site.partition(".")[0])
        os.mkdir(self.directory, 0o700)
        self.config = f"{self.directory}/batchmail.toml"
        self.spool = f"{self.directory}/spool"
        self.sink = SmtpSink(f"mail.{site}")

    def configure(self, entry: dict[str, str]) -> None:
        """Write the configuration; `entry` is the peer's, besides its target."""
        top = {"site": self.site, "spool": self.spool, "user": user_name(os.geteuid()), "reserve": "1M"}
        entry |= {"target": f"smtp://127.0.0.1:{self.sink.port}"}
        lines = [f"{key} = {_toml(value)}" for key, value in top.items()]
        lines += [f"[peers.{self.peer}]", *(f"{key} = {_toml(value)}" for key, value in entry.items())]
        with open(self.config, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        self.run("setup")

    def context(self) -> Context:
        """What the commands are given, for a look into the spool."""
        site = config.load(self.config)
        return context(site, Spool(self.spool), site.peers[self.peer])

    def pipe(self, arguments: list[str], text: bytes) -> None:
        """Hand mail over as an MTA does."""
        command = [sys.executable, "-IS", program("batchmail-pipe"), "--spool", self.spool, "-t", self.peer, *arguments]
        self._start(command, text)

    def run(self, *arguments: str) -> str:
        """Run batchmail; what it printed."""
        return self._start([sys.executable, program("batchmail"), "-c", self.config, *arguments], b"")

    def _start(self, command: list[str], text: bytes) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BATCHMAIL_")}
        done = subprocess.run(command, input=text, capture_output=True, env=environment, timeout=_TIME_LIMIT_S)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip() or "it said nothing"
            raise Temporary(f"{' '.join(command[1:])} failed with {done.returncode}: {said}")
        return done.stdout.decode(errors="replace")


def _toml(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def program(name: str) -> str:
    """One of our programs, beside the one that was started."""
    path = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), name)
    if not os.path.exists(path):
        raise ConfigError(f"there is no {path}: the demonstration needs the programs together, as in bin/")
    return path
