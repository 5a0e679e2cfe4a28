"""Sites for tests of the whole: configuration, spool and account as two administrators would have them."""

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence

from tests.servers.host import LOOPBACK, Installed, is_root
from tests.servers.sshd import Sshd, login_account, quote

ACCOUNT = "batchmail"


def account() -> str:
    """Who owns the spools: the real account where the tests are root, else who runs them."""
    return login_account(ACCOUNT).pw_name if is_root() else pwd.getpwuid(os.geteuid()).pw_name


class Site:
    """One site: its files below `directory`, its programs run as an administrator (root) would start them."""

    def __init__(
        self, directory: str, installed: Installed, name: str, peers: Mapping[str, Mapping[str, object]], **top: object
    ):
        self.directory, self.name, self._installed = directory, name, installed
        self.owner = account()
        self.spool = os.path.join(directory, "spool")
        self.config = os.path.join(directory, "batchmail.toml")
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o755)
        top = {"site": name, "spool": self.spool, "user": self.owner, "reserve": 0, **top}
        tables = {f"peers.{_toml(peer)}": entry for peer, entry in peers.items()}
        tables |= {key: value for key, value in top.items() if isinstance(value, Mapping)}
        lines = [f"{key} = {_toml(value)}" for key, value in top.items() if key not in tables]
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
        with open(self.config, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        done = self.batchmail("setup")
        assert not done.returncode, done.stderr

    def make_owned_directory(self, name: str) -> str:
        """A directory of the site's account, such as a bsmtp: target needs."""
        path = os.path.join(self.directory, name)
        os.makedirs(path, exist_ok=True)
        if is_root():
            entry = pwd.getpwnam(self.owner)
            os.chown(path, entry.pw_uid, entry.pw_gid)
        return path

    def command(self, program: str, *arguments: str) -> list[str]:
        return self._installed.command(program, "-c", self.config, *arguments)

    def batchmail(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        command = self.command("batchmail", *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)

    def call(self, peer: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Call, and fail the test when that fails."""
        done = self.batchmail("call", "--verbose", *options, peer)
        assert not done.returncode, (done.returncode, done.stderr, done.stdout)
        return done

    def pipe(self, data: bytes, *arguments: str, name: str = "batchmail-pipe") -> subprocess.CompletedProcess[bytes]:
        """The pipe door as the site's account, as an MTA starts it."""
        command = [self._installed.program(name), "--spool", self.spool, *arguments]
        as_owner = {"user": self.owner, "group": self.owner, "extra_groups": []} if is_root() else {}
        return subprocess.run(command, input=data, capture_output=True, timeout=300, **as_owner)  # type: ignore[call-overload,no-any-return]

    def accept(self, data: bytes, *arguments: str) -> None:
        done = self.pipe(data, *arguments)
        assert (done.returncode, done.stderr) == (0, b"")

    def receive(self, peer: str) -> str:
        """The forced command for a peer."""
        return quote([*self._installed.command("batchmail-receive"), "-c", self.config, "--peer", peer])

    def files(self, *below: str) -> list[str]:
        """Regular files of the spool below a directory."""
        root = os.path.join(self.spool, *below)
        return sorted(os.path.join(place, name) for place, _, names in os.walk(root) for name in names)


def ssh_entry(sshd: Sshd, directory: str, answering: Site, as_peer: str, port: int = 0) -> dict[str, object]:
    """The entry by which a caller reaches `answering` through this sshd: key, authorized_keys line, known_hosts."""
    os.makedirs(directory, exist_ok=True)
    identity = sshd.make_key(f"key.{as_peer}.{len(os.listdir(sshd.directory))}")
    sshd.authorize(f"{identity}.pub", answering.receive(as_peer), answering.owner)
    port = port or sshd.port
    known_hosts = os.path.join(directory, f"known_hosts.{port}")
    with open(known_hosts, "w", encoding="utf-8") as file:
        file.write(sshd.known_hosts().replace(f":{sshd.port} ", f":{port} ") + "\n")
    for path, mode in ((identity, 0o600), (known_hosts, 0o644)):
        os.chmod(path, mode)
        if is_root():
            entry = pwd.getpwnam(answering.owner)
            os.chown(path, entry.pw_uid, entry.pw_gid)
    call = f"ssh://{answering.owner}@{LOOPBACK}:{port}"
    return {"call": call, "identity": identity, "known_hosts": known_hosts}


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else str(value)
