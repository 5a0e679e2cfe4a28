"""dropbear, the SSH server of routers and small systems, with one forced command; root only.

It looks for keys in the home directory alone, so it is shown one of its own in place of root's `.ssh`.
"""

import os
import subprocess
from collections.abc import Sequence

from tests.servers.daemon import Daemon
from tests.servers.host import LOOPBACK, answers, free_port, need_root
from tests.servers.packages import unpacked


class Dropbear(Daemon):
    """Lets root in with the keys given, for nothing but the command."""

    def __init__(self, directory: str, public_keys: Sequence[str], forced_command: str):
        super().__init__(directory)
        need_root("dropbear's authorized keys")
        package = unpacked("dropbear")
        self.port = free_port()
        host_key = self.path("dropbear_key")
        command = package.command([package.path("usr/bin/dropbearkey"), "-t", "ed25519", "-f", host_key])
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self._host_key = next(line for line in said.splitlines() if line.startswith("ssh-ed25519"))
        self.make_directory("dot_ssh")
        os.chmod(self.path("dot_ssh"), 0o700)
        os.chmod(self.write("dot_ssh/authorized_keys", "".join(f"{line}\n" for line in public_keys)), 0o600)
        options = ["-F", "-E", "-s", "-P", "", "-p", f"{LOOPBACK}:{self.port}", "-r", host_key, "-c", forced_command]
        mounts = {"/root/.ssh": self.path("dot_ssh")}
        self._command = package.command([package.path("usr/sbin/dropbear"), *options], mounts)

    def argv(self) -> Sequence[str]:
        return self._command

    def ready(self) -> bool:
        return answers(self.port)

    def known_hosts(self) -> str:
        """The line of known_hosts for this server."""
        key_type, key = self._host_key.split()[:2]
        return f"[{LOOPBACK}]:{self.port} {key_type} {key}"
