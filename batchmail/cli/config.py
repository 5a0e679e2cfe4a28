"""The configuration file, read here and nowhere else.

TOML; an unknown key is an error that names the nearest known one.  Sizes are
octets, or "64M"; durations "30d", "10s"; both are told in the manual page.
"""

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Callable
from typing import Any, NamedTuple

from batchmail.core.errors import ConfigError
from batchmail.core.names import is_peer, is_site
from batchmail.core.settings import Peer, Site
from batchmail.flow.target import parse_target
from batchmail.store.spool import user_name
from batchmail.wire.ssh_address import parse_address

DEFAULT_PATH = "/etc/batchmail/batchmail.toml"
_EXAMPLES = "/usr/share/doc/batchmail/contrib"
DEFAULT_SPOOL = "/var/spool/batchmail"
DEFAULT_USER = "batchmail"
_MAX_OCTETS = 16 << 20
_MAX_SIZE_OCTETS = 1 << 50  # what crosses the link as an integer of JSON stays far below 2^53
_MAX_TIME_S = 100 * 365 * 86400
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = re.compile(r"([0-9]{1,15})\s*([KMGT]?)(?:i?B)?\Z")
_DURATION = re.compile(r"([0-9]{1,9})\s*(ms|s|min|h|d|w)\Z")


class _Key(NamedTuple):
    """A key of the file: where its value goes, how it is read, and what it is to look like."""

    field: str
    read: Callable[[Any], Any]
    form: str


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _directory(value: Any) -> str:
    if not _text(value).startswith("/"):
        raise ValueError
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) and one for one in values):
        raise ValueError
    return tuple(values)


def _octets(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    else:
        match = _SIZE.match(_text(value))
        if not match:
            raise ValueError
        found = int(match[1]) * _UNITS[match[2]]
    if not 0 <= found <= _MAX_SIZE_OCTETS:
        raise ValueError
    return found


def _seconds(value: Any) -> float:
    match = _DURATION.match(_text(value))
    if not match:
        raise ValueError
    found = int(match[1]) * _SECONDS[match[2]]
    if found > _MAX_TIME_S:
        raise ValueError
    return found


def _milliseconds(value: Any) -> int:
    return round(_seconds(value) * 1000)


def _domains(value: Any) -> tuple[str, ...]:
    found = tuple(domain.lower() for domain in _texts(value))
    if not all(domain == "*" or is_site(domain.removeprefix(".")) for domain in found):
        raise ValueError
    return found


def _site_name(value: Any) -> str:
    if not is_site(_text(value)):
        raise ValueError
    return str(value)


def _target(value: Any) -> str:
    parse_target(_text(value))
    return str(value)


def _calls(value: Any) -> tuple[str, ...]:
    found = _texts(value)
    for one in found:
        if not one.startswith("command:"):
            parse_address(one)
    return found


def _odd(value: Any) -> str:
    if value not in ("normalize", "refuse"):
        raise ValueError
    return str(value)


def _level(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 19:
        raise ValueError
    return value


_A_SIZE = 'a number of octets, or "64M"'
_A_TIME = 'a duration such as "10s", "2h", "30d"'
_DOMAINS = 'domains: "a.example", ".a.example" for all below it, or "*"'
_SITE_KEYS = {
    "site": _Key("name", _site_name, "a host name"),
    "spool": _Key("spool", _directory, "the absolute path of a directory"),
    "user": _Key("user", _text, "an account name"),
    "reserve": _Key("reserve_octets", _octets, _A_SIZE),
    "odd_octets": _Key("odd_octets", _odd, '"normalize" or "refuse"'),
}
_PEER_KEYS = {
    "domains": _Key("domains", _domains, _DOMAINS),
    "site": _Key("site", _site_name, "a host name"),
    "call": _Key("call", _calls, '"ssh://user@host:port", "command: program arguments", or a list of them'),
    "identity": _Key("identity", _texts, "a private key file, or a list of them"),
    "known_hosts": _Key("known_hosts", _texts, "a known_hosts file, or a list of them"),
    "ssh_config": _Key("ssh_config", _text, "a file in the form of ssh_config(5)"),
    "agent": _Key("use_agent", _flag, "true or false"),
    "target": _Key("target", _target, '"smtp://host:port", "lmtp:///socket" or another of the manual'),
    "senders": _Key("senders", _domains, _DOMAINS),
    "recipients": _Key("recipients", _domains, _DOMAINS),
    "lifetime": _Key("lifetime_ms", _milliseconds, _A_TIME),
    "max_message": _Key("max_message_octets", _octets, _A_SIZE),
    "quota": _Key("quota_octets", _octets, _A_SIZE),
    "report_wait": _Key("report_wait_s", _seconds, _A_TIME),
    "batch_size": _Key("batch_octets", _octets, _A_SIZE),
    "remember": _Key("remember_ms", _milliseconds, _A_TIME),
    "level": _Key("level", _level, "a compression level, 1 to 19"),
}
KEYS = {"": tuple(_SITE_KEYS), "peers.NAME": tuple(_PEER_KEYS)}  # for the test of the manual page


def config_path(option: str | None) -> str:
    """The file to be read: the option, else the environment, else the usual place."""
    return option or os.environ.get("BATCHMAIL_CONFIG") or DEFAULT_PATH


def load(path: str) -> Site:
    """Read a configuration file.  Raises ConfigError, which names file and key."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_OCTETS + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: {error.strerror}: name the configuration with -c, or write it as batchmail.toml(5) says;"
            f" examples are batchmail-*.toml in {_EXAMPLES}"
        ) from None
    except OSError as error:
        me = user_name(os.geteuid())
        mend = f": run this as root, or let {me} read it" if isinstance(error, PermissionError) else ""
        raise ConfigError(f"{path} cannot be read as {me}: {error.strerror}{mend}") from None
    if len(data) > _MAX_OCTETS:
        raise ConfigError(f"{path}: larger than {_MAX_OCTETS} octets")
    try:
        table = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return _site(path, table)


def _site(path: str, table: dict[str, Any]) -> Site:
    peers = table.pop("peers", {})
    if not isinstance(peers, dict) or not all(isinstance(entry, dict) for entry in peers.values()):
        raise ConfigError(f"{path}: peers is to be tables, such as [peers.home]")
    defaults: dict[str, Any] = {
        "spool": DEFAULT_SPOOL,
        "user": DEFAULT_USER,
        "reserve_octets": 64 << 20,
        "odd_octets": "normalize",
    }
    values = defaults | _read(path, "", table, _SITE_KEYS, ("peers",))
    if "name" not in values:
        values["name"] = socket.getfqdn()  # asks the name service, which may take its time
    if not is_site(values["name"]):
        raise ConfigError(f'{path}: this host has no usable name: set site = "host.example"')
    here = os.path.dirname(os.path.abspath(path))
    made = {}
    for name, entry in peers.items():
        lowered = name.lower()
        if not is_peer(lowered) or lowered in made:
            raise ConfigError(f"{path}: [peers.{name}]: a peer's name is of a-z 0-9 . _ - and stands once; quote dots")
        made[lowered] = _peer(path, lowered, entry, here)
    _check_domains(path, made)
    return Site(peers=made, **values)


def _check_domains(path: str, peers: dict[str, Peer]) -> None:
    """No domain is two peers': a door would not know which is meant."""
    owners: dict[str, str] = {}
    for peer in peers.values():
        for domain in peer.domains:
            other = owners.setdefault(domain, peer.name)
            if other != peer.name:
                raise ConfigError(f'{path}: "{domain}" stands in domains of both peers.{other} and peers.{peer.name}')


def _peer(path: str, name: str, entry: dict[str, Any], here: str) -> Peer:
    values = _read(path, f"peers.{name}", entry, _PEER_KEYS, ())
    values.setdefault("identity", (f"{here}/id_ed25519",))
    values.setdefault("known_hosts", (f"{here}/known_hosts",))
    return Peer(name=name, **values)


def _read(
    path: str, where: str, table: dict[str, Any], keys: dict[str, _Key], others: tuple[str, ...]
) -> dict[str, Any]:
    """The values of a table, by field.  An unknown key is an error that names the nearest known one."""
    values: dict[str, Any] = {}
    for name, value in table.items():
        shown = f"{where}.{name}" if where else name
        key = keys.get(name)
        if key is None and where and isinstance(value, dict):
            raise ConfigError(f'{path}: [{shown}]: a name with dots is quoted, as in [peers."mx.example.net"]')
        if key is None and where and name in _SITE_KEYS:
            raise ConfigError(f"{path}: {shown}: {name} belongs above the first [table], not into one")
        if key is None:
            near = difflib.get_close_matches(name, [*keys, *others], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted([*keys, *others]))}"
            raise ConfigError(f"{path}: unknown key {shown}; {hint}")
        try:
            values[key.field] = key.read(value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {shown}: {error}") from None
        except ValueError:
            raise ConfigError(f"{path}: {shown} = {value!r} is not {key.form}") from None
    return values


def find_peer(site: Site, name: str, path: str) -> Peer:
    """A peer by name.  Raises ConfigError naming the known ones."""
    peer = site.peers.get(name.lower())
    if peer is None:
        known = ", ".join(sorted(site.peers)[:8]) or "none"
        raise ConfigError(f"{path}: no peer {name}; known: {known}")
    return peer
