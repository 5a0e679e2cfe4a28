"""OpenSSH's client configuration, as far as it says how to reach a host.

Our own configuration wins over it; its identity and known_hosts files are
looked at after ours.  What is not read (Include, Match exec) is refused rather
than passed over: it might have named another host.
"""

import os
import pwd
import shlex
from typing import Any, NamedTuple

import paramiko

from batchmail.core.errors import ConfigError
from batchmail.wire.ssh_address import DEFAULT_PORT, SshAddress, openssh_file


class Route(NamedTuple):
    """How to reach a host: `known_as` is its name in known_hosts files, `proxy` a program that connects us to it."""

    user: str
    host: str
    port: int
    known_as: str
    identities: tuple[str, ...]
    known_hosts: tuple[str, ...]
    proxy: tuple[str, ...]


def find_route(address: SshAddress, config_file: str | None) -> Route:
    """Complete `address` from `config_file`, or from the ~/.ssh/config of the user we are if that can be read."""
    file = openssh_file(config_file)
    found = _lookup(file, address) if file else {}
    try:
        port = int(found.get("port", address.port or DEFAULT_PORT))
    except ValueError:
        raise ConfigError(f"{file}: {found['port']!r} is not a port") from None
    user = found.get("user", address.user or pwd.getpwuid(os.geteuid()).pw_name)
    host = found.get("hostname", address.host)
    return Route(
        user=user,
        host=host,
        port=port,
        known_as=found.get("hostkeyalias", host),
        identities=tuple(map(os.path.expanduser, found.get("identityfile", ()))),
        known_hosts=_file_list(found.get("userknownhostsfile", "")),
        proxy=_proxy(found, SshAddress(user, host, port), config_file),
    )


def _lookup(file: str, address: SshAddress) -> dict[str, Any]:
    # The first value found is the one that counts, also within %p and %r: so ours stand in front.
    ours = (
        "Host *\n"
        + (f"User {address.user}\n" if address.user else "")
        + (f"Port {address.port}\n" if address.port else "")
    )
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as text:
            found: dict[str, Any] = paramiko.SSHConfig.from_text(ours + text.read()).lookup(address.host)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except ImportError:
        raise ConfigError(f"{file}: Match exec is not supported: no shell is run here") from None
    except (paramiko.SSHException, ValueError, KeyError) as error:
        raise ConfigError(f"{file} has a setting that is not understood for {address.host}: {error}") from None
    if "include" in found:
        raise ConfigError(
            f"{file}: Include is not supported; write the settings for {address.host} into the file itself"
        )
    return found


def _file_list(files: str) -> tuple[str, ...]:
    return tuple(os.path.expanduser(file) for file in files.split() if file.lower() not in {"none", "/dev/null"})


def _proxy(found: dict[str, Any], to: SshAddress, config_file: str | None) -> tuple[str, ...]:
    """The arguments of the program to speak through; a ProxyCommand is run without a shell."""
    command, jumps = found.get("proxycommand"), found.get("proxyjump")
    if command and command.lower() != "none":
        try:
            arguments = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"ProxyCommand {command!r} cannot be taken apart: {error}") from None
        return tuple(arguments[1:] if arguments[:1] == ["exec"] else arguments)
    if jumps and jumps.lower() != "none":
        return _jump(jumps.replace(" ", "").split(","), to, config_file)
    return ()


def _jump(hops: list[str], to: SshAddress, config_file: str | None) -> tuple[str, ...]:
    """OpenSSH brings us to the last hop, and its -W on to the host; nothing may stop to ask a person."""
    last = hops[-1] if hops[-1].startswith("ssh://") else "ssh://" + hops[-1]
    config = ("-F", config_file) if config_file else ()
    via = ("-J", ",".join(hops[:-1])) if hops[:-1] else ()
    destination = f"[{to.host}]:{to.port}"
    return ("ssh", *config, "-o", "BatchMode=yes", *via, "-W", destination, last)
