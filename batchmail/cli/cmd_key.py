"""batchmail key: our key for a peer that we call, and the lines that both sides need.

The key is made where the configuration says, owned by the spool's owner, as
whom `call` reads it.  Root writes only where that owner cannot, and changes
nothing that was there before; a known_hosts file that an editor or ssh-keygen
left to root alone is handed back.
"""

import base64
import contextlib
import os
import re
import stat
from typing import IO

import click

from batchmail.cli import start
from batchmail.cli.config import find_peer, program_directory
from batchmail.cli.tables import count_text, print_json
from batchmail.core.errors import ConfigError, KeyRefused, LineError, UsageError
from batchmail.core.names import is_peer
from batchmail.core.settings import Peer, Site
from batchmail.store.spool import become, user_name
from batchmail.wire.keys import ensure_key
from batchmail.wire.known_hosts import KnownKey, contradiction, fingerprint, known_keys
from batchmail.wire.peer_text import name_peer
from batchmail.wire.ssh import HostKeyLine, host_key_lines
from batchmail.wire.ssh_address import SshAddress, parse_address
from batchmail.wire.ssh_config import find_route

_CONNECT_S = 15.0
_RECEIVE = "batchmail-receive"


@click.command("key", short_help="Make our key for a peer, and print the lines that both sides need.")
@click.argument("peer")
@click.option("--as", "our_name", metavar="NAME", help="What PEER calls us; default: the first part of our site name.")
@click.option("--add", is_flag=True, help="Add the lines shown for known_hosts to that file. Compare them first.")
@click.option(
    "--program",
    metavar="PATH",
    help="Where batchmail-receive is on PEER's host, by default where it is here; for its authorized_keys.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def command(
    config_file: str | None, peer: str, our_name: str | None, add: bool, program: str | None, as_json: bool
) -> int:
    """Make a missing key for PEER, which we call; print the lines for its authorized_keys and for our known_hosts.

    Nobody is believed by this: compare the fingerprints with those that PEER's operator sees, then add the lines.
    """
    site, path = start.load(config_file)
    found = find_peer(site, peer, path)
    name = (our_name or site.name.partition(".")[0]).lower()
    if not is_peer(name):
        raise UsageError(f"{name} is no peer's name: a-z 0-9 . _ - are allowed")
    program = program or os.path.join(program_directory(), _RECEIVE)
    if not re.fullmatch(r"/[\w./+@%,~-]+", program, re.ASCII):
        raise UsageError(f"{program} is not the absolute path of a program, without spaces and quotes")
    addresses = [parse_address(way) for way in found.call if not way.startswith("command:")]
    if not addresses:
        raise ConfigError(
            f"{path}: peers.{found.name} has no ssh:// call entry; the key is made on the side that calls"
        )
    owner = _Owner(site, found.identity[0])
    if add:
        owner.take_back(found.known_hosts[0])
    owner.become_in(os.path.dirname(found.identity[0]))
    known_hosts = _open_known_hosts(found.known_hosts[0], owner) if add else None
    key = _Key(site, found.identity[0], owner)
    line = f'restrict,command="{program} --peer {name}" {key.line}'
    scans = [_scan(found, address) for address in addresses]
    wrong = [name_peer(problem, found.name) for scan in scans for problem in scan.contradictions]
    if as_json:
        print_json(_json(found, key, line, scans))
    else:
        _print(found, key, line, scans)
    if known_hosts and wrong:
        raise KeyRefused(f"nothing was added: {'; '.join(wrong)}")
    if known_hosts:
        added = _add(known_hosts, [one.line for scan in scans for one in scan.lines])
        click.echo(f"Added to {found.known_hosts[0]}: {count_text(added, 'line')}.", err=as_json)
    return 0


class _Owner:
    """The spool's owner, as whom `call` runs; root becomes it as soon as root is not needed."""

    def __init__(self, site: Site, path: str):
        self.uid, self.gid = start.owner_of(site)
        self.name = user_name(self.uid)
        if os.geteuid() not in (0, self.uid):
            raise ConfigError(f"{path} is for {self.name}: run batchmail key as {self.name} or as root")
        os.umask(0o077)

    def become_in(self, directory: str) -> None:
        # In a directory of the owner's, root would have to trust names that the owner can change.
        with contextlib.suppress(OSError):
            if os.stat(directory).st_uid == self.uid:
                self.become()

    def take_back(self, path: str) -> None:
        """A file that was left to root alone, as ssh-keygen -R leaves it, is the owner's again."""
        if os.geteuid() != 0 or not self.uid:
            return
        with contextlib.suppress(OSError):  # whoever opens it says what is wrong
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb"):
                status = os.fstat(fd)
                closed = status.st_uid == 0 and not status.st_mode & 0o004
                if closed and stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                    os.fchown(fd, self.uid, self.gid)

    def become(self) -> None:
        if os.geteuid() == 0 and self.uid:
            become(self.uid, self.gid)

    def give(self, path: str) -> None:
        """Make a file that was just made the owner's."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


class _Key:
    """Our key, there for the spool's owner when this is made; and we are that owner from then on."""

    def __init__(self, site: Site, path: str, owner: _Owner):
        self.path = path
        self.line, self.made = ensure_key(path, f"batchmail@{site.name}")
        if self.made:
            owner.give(path)
            owner.give(f"{path}.pub")
        owner.become()
        self._check(owner.name)

    def _check(self, owner: str) -> None:
        try:
            with open(self.path, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        except OSError as error:
            raise ConfigError(
                f"{owner}, as whom batchmail calls, cannot read {self.path} ({error.strerror}):"
                f" chown {owner} {self.path}, and let {owner} enter {os.path.dirname(self.path)}"
            ) from None
        if mode & 0o077:
            raise ConfigError(f"{self.path} can be read by others (mode {mode:04o}): chmod 600 {self.path}")

    @property
    def fingerprint(self) -> str:
        return fingerprint(base64.b64decode(self.line.split()[1]))


class _Scan:
    """What the host at an address shows; or why it could not be asked."""

    def __init__(self, address: SshAddress, lines: tuple[HostKeyLine, ...], known: list[KnownKey], problem: str):
        self.address, self.lines, self.problem = address, lines, problem
        found = (_contradiction(known, one.line) for one in lines)
        self.contradictions = [one for one in found if one]

    @property
    def advice(self) -> str:
        port = f"-p {self.address.port} " if self.address.port else ""
        return f"ssh-keyscan {port}-t ed25519 {self.address.host}"


def _contradiction(known: list[KnownKey], line: str) -> str:
    name, key_type, text = line.split()
    return contradiction(known, name, key_type, base64.b64decode(text))


def _scan(peer: Peer, address: SshAddress) -> _Scan:
    try:
        lines = host_key_lines(address, config_file=peer.ssh_config or None, connect_timeout_s=_CONNECT_S)
    except LineError as error:
        return _Scan(address, (), [], str(error))
    files = peer.known_hosts + find_route(address, peer.ssh_config or None).known_hosts
    known = [key for name in {one.line.split()[0] for one in lines} for key in known_keys(files, name)]
    return _Scan(address, lines, known, "")


def _print(peer: Peer, key: _Key, line: str, scans: list[_Scan]) -> None:
    made = "made now" if key.made else "there already"
    click.echo(f"# Our key, {made}: {key.path}, {key.fingerprint}")
    click.echo(f"# On {peer.name}'s host, one line in the .ssh/authorized_keys of the account that is called:")
    click.echo(line)
    for scan in scans:
        host = scan.address.host
        click.echo()
        if scan.problem:
            click.echo(f"# {host} could not be asked for its host keys: {scan.problem}")
            click.echo(f"# When it can be reached, say this again, or: {scan.advice} >>{peer.known_hosts[0]}")
            continue
        click.echo(f"# {host} shows these host keys; its operator sees theirs by:")
        click.echo("#   for key in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $key; done")
        for one in scan.lines:
            click.echo(f"#   {one.fingerprint} {one.line.split()[1]}")
        for problem in scan.contradictions:
            click.echo(f"# {name_peer(problem, peer.name)}")
        click.echo(f"# If they agree, here in {peer.known_hosts[0]}:")
        for one in scan.lines:
            click.echo(one.line)


def _json(peer: Peer, key: _Key, line: str, scans: list[_Scan]) -> dict[str, object]:
    return {
        "key": key.path,
        "made": key.made,
        "fingerprint": key.fingerprint,
        "authorized_keys": line,
        "hosts": [
            {
                "host": scan.address.host,
                "known_hosts": [{"line": one.line, "fingerprint": one.fingerprint} for one in scan.lines],
                "problem": scan.problem or name_peer("; ".join(scan.contradictions), peer.name),
            }
            for scan in scans
        ],
    }


def _open_known_hosts(path: str, owner: _Owner) -> IO[str]:
    """To be added to, while we may still be root; a new one is the owner's."""
    try:
        is_new = not os.path.exists(path)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if is_new:
            owner.give(path)
        return open(fd, "r+", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        me = user_name(os.geteuid())
        raise ConfigError(
            f"cannot write {path} as {me}: {error.strerror}; add the lines yourself, or be root"
        ) from None


def _add(file: IO[str], lines: list[str]) -> int:
    """Append those of `lines` that are not there; returns how many."""
    if not lines:
        raise LineError("nothing was added: no host could be asked for its keys")
    with file:
        text = file.read()
        missing = [line for line in lines if line not in text.splitlines()]
        file.write(("\n" if text and not text.endswith("\n") else "") + "".join(f"{line}\n" for line in missing))
    return len(missing)
