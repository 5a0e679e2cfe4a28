"""Two sites by their configuration files, and the programs started as people and MTAs start them."""

import json
import os
import pwd
import subprocess
import sys
from typing import Any

from tests.servers.packages import CHECKOUT

BIN = os.path.join(CHECKOUT, "bin")


def run(*arguments, stdin=b"", environment=None):
    """`batchmail ARGUMENTS`, ended."""
    command = [sys.executable, os.path.join(BIN, "batchmail"), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=120)


DOWN = "smtp://127.0.0.1:1"  # a target where nobody listens


class CliSite:
    """A site named NAME with a peer; `entry` is the text of the peer's table, `top` of what stands above it."""

    def __init__(self, directory, name, peer, entry="", top=""):
        self.directory, self.name, self.peer = str(directory), name, peer
        os.makedirs(self.directory, exist_ok=True)
        self.config = f"{self.directory}/batchmail.toml"
        self.spool = f"{self.directory}/spool"
        self.entry, self.top, self.domains = entry, top, "*"
        self.drop = f"bsmtp:{self.directory}/drop"
        self.target = self.drop
        self.configure()
        assert self.run("setup").returncode == 0

    def configure(self, **changes):
        """Write the configuration, with some of it changed; setup is not run."""
        self.__dict__.update(changes)
        user = pwd.getpwuid(os.geteuid()).pw_name
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(
                f'site = "{self.name}"\nspool = "{self.spool}"\nuser = "{user}"\n{self.top}\n'
                f'[peers.{self.peer}]\ndomains = ["{self.domains}"]\ntarget = "{self.target}"\n{self.entry}\n'
            )

    def run(self, *arguments):
        return run("-c", self.config, *arguments)

    def lines(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, done
        return done.stdout.decode().splitlines()

    def json(self, *arguments) -> list[Any]:
        return [json.loads(line) for line in self.run(*arguments, "--json").stdout.splitlines()]

    def pipe(self, text, *options):
        command = [sys.executable, "-IS", os.path.join(BIN, "batchmail-pipe"), "--spool", self.spool, "-t", self.peer]
        done = subprocess.run([*command, *options], input=text, capture_output=True)
        assert done.returncode == 0, done

    def outbox(self):
        return os.listdir(f"{self.spool}/out/{self.peer}/outbox")

    def waiting_files(self):
        top = f"{self.spool}/out/{self.peer}/waiting"
        return [os.path.join(where, name) for where, _, names in os.walk(top) for name in names]


def receive(site):
    """The caller's way to `site`, without SSH."""
    return f"command: {sys.executable} {BIN}/batchmail-receive -c {site.config} --peer {site.peer}"


def a_pair(directory, entry="", home_entry=""):
    """`mx`, whose peer is home, and `home`, which calls it by a command."""
    mx = CliSite(f"{directory}/mx", "mx.example", "home", entry)
    home = CliSite(f"{directory}/home", "home.example", "mx", f'call = "{receive(mx)}"\n{home_entry}')
    return mx, home


TWO = (
    b"EHLO there\n"
    b"MAIL FROM:<alice@example.com> RET=HDRS ENVID=QQ1\n"
    b"RCPT TO:<carol@home.example> NOTIFY=FAILURE ORCPT=rfc822;c@home.example\n"
    b"RCPT TO:<dave@home.example>\nDATA\nSubject: one\n\nhello\n.\n"
    b"MAIL FROM:<>\nRCPT TO:<bob@home.example>\nDATA\nSubject: two\n\n..dot\n.\n"
)


def a_pair_in_custody(directory):
    """A pair of which home has TWO, and its target is down; `home.drop` is one that is up."""
    mx, home = a_pair(directory, home_entry='report_wait = "1s"')
    home.configure(target=DOWN)
    mx.pipe(TWO)
    assert home.run("call", "mx").returncode in (0, 75)
    return mx, home
