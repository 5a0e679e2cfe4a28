"""Where a peer is called: ssh://user@host:port.

Read apart from the SSH client so that checking a configuration costs no
import of it.  What the address leaves open is None: OpenSSH's configuration,
then the usual defaults, fill it in.
"""

import os
import pwd
import re
from typing import NamedTuple

from batchmail.core.errors import ConfigError

DEFAULT_PORT = 22

# No part may begin with a dash: it may come to stand in the arguments of a ProxyJump's ssh.
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)


class SshAddress(NamedTuple):
    """Whom to call; an IPv6 host stands without its brackets."""

    user: str | None
    host: str
    port: int | None


def parse_address(text: str) -> SshAddress:
    """Read `ssh://user@host:port`; user and port may be left out."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not an address of the form ssh://user@host:port")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ConfigError(f"{text!r}: a port is a number from 1 to 65535")
    return SshAddress(match["user"], match["host"].strip("[]").lower(), port)


def openssh_file(config_file: str | None) -> str | None:
    """The client configuration of OpenSSH that completes an address: `config_file`, else that of the user we are."""
    own_file = os.path.join(pwd.getpwuid(os.geteuid()).pw_dir, ".ssh", "config")
    return config_file or (own_file if os.access(own_file, os.R_OK) else None)


def plain_destination(address: SshAddress, config_file: str | None) -> tuple[str, int] | None:
    """Host and port where the address alone tells them; None where OpenSSH's configuration has a say."""
    return None if openssh_file(config_file) else (address.host, address.port or DEFAULT_PORT)
