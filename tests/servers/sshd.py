"""OpenSSH's sshd with forced commands: the answering end of a call as the world has it.

As root it serves any account, as another user only that user.  Keys are made by ssh-keygen below the directory.
"""

import os
import pwd
import shlex
import subprocess
from collections.abc import Sequence

from tests.servers.daemon import Daemon
from tests.servers.host import LOOPBACK, Unavailable, answers, free_port, is_root, need_user
from tests.servers.packages import unpacked

CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys.%u
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv SHLVL=2
LogLevel VERBOSE
{more}
"""
NO_PENALTIES = (
    "PerSourcePenalties no\n"  # OpenSSH 9.8 and later make those wait who failed; older ones don't know the word
)
EMPTY_DIRECTORY = "/run/sshd"  # compiled in: where sshd's unprivileged child is shut up


class Sshd(Daemon):
    """`more` are further lines of sshd_config; they come last, and with sshd the first setting counts.

    An account's own ~/.bashrc, which bash reads for sshd in a first shell, is left out: it is not what is tested.
    """

    def __init__(self, directory: str, *, more: str = "", host_key_type: str = "ed25519"):
        super().__init__(directory)
        installed = "/usr/sbin/sshd"
        self._command = [installed] if os.path.exists(installed) else _unpacked()
        if is_root():
            need_user("sshd", home=EMPTY_DIRECTORY)
            os.makedirs(EMPTY_DIRECTORY, mode=0o755, exist_ok=True)
        self.port = free_port()
        self.host_key = self.make_key("host_key", host_key_type)
        text = CONFIGURATION.format(port=self.port, directory=directory, more=more)
        self._configuration = self.write("sshd_config", text + NO_PENALTIES)
        if subprocess.run([*self._command, "-t", "-f", self._configuration], capture_output=True).returncode:
            self.write("sshd_config", text)

    def argv(self) -> Sequence[str]:
        return [*self._command, "-D", "-e", "-f", self._configuration]

    def ready(self) -> bool:
        return answers(self.port)

    def make_key(self, name: str, key_type: str = "ed25519") -> str:
        """Make a key pair; the path of the private half.  The public half is beside it, with `.pub`."""
        path = self.path(name)
        subprocess.run(["ssh-keygen", "-q", "-t", key_type, "-N", "", "-C", name, "-f", path], check=True)
        return path

    def authorize(self, public_key_file: str, forced_command: str | None, user: str = "root") -> None:
        """Let the key in as `user`, for nothing but the command; None allows everything."""
        with open(public_key_file, encoding="utf-8") as file:
            key = file.read().strip()
        escaped = forced_command.replace('"', '\\"') if forced_command else ""
        self.authorize_line(f'restrict,command="{escaped}" {key}' if forced_command else key, user)

    def authorize_line(self, line: str, user: str = "root") -> None:
        """Add a line of authorized_keys as it stands."""
        path = self.path(f"authorized_keys.{user}")
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        os.chmod(path, 0o644)  # read as the user who logs in

    def known_hosts(self, host: str = LOOPBACK) -> str:
        """The line of known_hosts for this server."""
        with open(f"{self.host_key}.pub", encoding="utf-8") as file:
            key_type, key = file.read().split()[:2]
        return f"[{host}]:{self.port} {key_type} {key}"

    def client(self, identity: str, user: str = "root") -> list[str]:
        """OpenSSH's ssh to this server, asking nobody and reading none of the user's own configuration."""
        known_hosts = self.write("known_hosts", f"{self.known_hosts()}\n")
        options = {
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
        }
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "/dev/null", *settings, "-i", identity, "-p", str(self.port), f"{user}@{LOOPBACK}"]


def login_account(name: str = "batchmail") -> pwd.struct_passwd:
    """The account that owns a site's spool and that calls log in to: an ordinary shell, no password."""
    account = need_user(name, shell="/bin/sh", home="/")
    if not account.pw_shell.endswith("sh"):
        raise Unavailable(f"the account {name} is here and has no shell to log in with: {account.pw_shell}")
    if is_root():
        subprocess.run(
            ["usermod", "--password", "*", name], check=True
        )  # locked, when sysusers or an older useradd made it
    return account


def quote(argv: Sequence[str]) -> str:
    """A command line for authorized_keys."""
    return shlex.join(argv)


def _unpacked() -> list[str]:
    package = unpacked("openssh")
    helpers = package.path("usr/lib/openssh")  # since OpenSSH 9.8 sshd starts the rest of itself from there
    return package.command(
        [package.path("usr/sbin/sshd")], {"/usr/lib/openssh": helpers} if os.path.isdir(helpers) else {}
    )
