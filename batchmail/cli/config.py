"""The configuration file, read here and nowhere else.

TOML; an unknown key is an error that names the nearest known one.  How values
are read is in `cli.forms`; all is told in the manual page.
"""

import difflib
import os
import socket
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from batchmail.cli import forms
from batchmail.cli.sections import apart
from batchmail.core.digest import sha256
from batchmail.core.errors import ConfigError
from batchmail.core.names import is_peer, is_site
from batchmail.core.schedule import Calendar
from batchmail.core.settings import DoorSettings, Peer, Site
from batchmail.core.valid import parse_delimiters
from batchmail.store.spool import user_name

DEFAULT_PATH = "/etc/batchmail/batchmail.toml"
_EXAMPLES = ("contrib", "share/doc/batchmail/contrib")  # below the directory above that of the programs: a checkout's
DEFAULT_SPOOL = "/var/spool/batchmail"
DEFAULT_USER = "batchmail"
_MAX_OCTETS = 16 << 20


class _Key(NamedTuple):
    """A key of the file: where its value goes, how it is read, and what it is to look like."""

    field: str
    read: Callable[[Any], Any]
    form: str


_A_SIZE = 'a number of octets, or "64M"'
_A_TIME = 'a duration such as "10s", "2h", "30d"'
_A_SPAN = 'a duration such as "3d", or a table of them by priority: { normal = "3d", 5 = "4h" }'
_DOMAINS = 'domains: "a.example", ".a.example" for all below it, or "*"'
_SITE_KEYS = {
    "site": _Key("name", forms.site_name, "a host name"),
    "spool": _Key("spool", forms.directory, "the absolute path of a directory"),
    "user": _Key("user", forms.text, "an account name"),
    "reserve": _Key("reserve_octets", forms.octets, _A_SIZE),
    "odd_octets": _Key("odd_octets", forms.odd, '"normalize" or "refuse"'),
    "postmaster": _Key("postmaster", forms.mailbox, "a mail address"),
    "return_limit": _Key("return_octets", forms.octets, _A_SIZE),
}
_LISTEN = _Key("listen", forms.listen, '"127.0.0.1:2626", "unix:/run/batchmail/door", or a list of them')
_DOOR_KEYS = {
    "listen": _LISTEN,
    "mode": _Key("mode", forms.mode, 'the mode of unix sockets, such as "0660"'),
    "group": _Key("group", forms.group, "a group's name"),
    "clients": _Key("clients", forms.networks, 'networks such as "192.0.2.0/24", without host bits'),
    "xforward": _Key("xforward", forms.flag, "true or false"),
    "connections": _Key("connections", forms.count(100_000), "a number, 1 to 100000"),
    "workers": _Key("workers", forms.count(64), "a number, 1 to 64"),
}
_PEER_KEYS = {
    "domains": _Key("domains", forms.domains, _DOMAINS),
    "listen": _LISTEN,
    "site": _Key("site", forms.site_name, "a host name"),
    "call": _Key("call", forms.calls, '"ssh://user@host:port", "command: program arguments", or a list of them'),
    "identity": _Key("identity", forms.texts, "a private key file, or a list of them"),
    "known_hosts": _Key("known_hosts", forms.texts, "a known_hosts file, or a list of them"),
    "ssh_config": _Key("ssh_config", forms.text, "a file in the form of ssh_config(5)"),
    "agent": _Key("use_agent", forms.flag, "true or false"),
    "target": _Key("target", forms.target, '"smtp://host:port", "lmtp:///socket" or another of the manual'),
    "senders": _Key("senders", forms.domains, _DOMAINS),
    "recipients": _Key("recipients", forms.domains, _DOMAINS),
    "valid_recipients": _Key("valid_recipients", forms.valid, "the absolute path of a file, or a list of addresses"),
    "recipient_delimiter": _Key("recipient_delimiter", parse_delimiters, 'characters such as "+", or "" for none'),
    "hide_recipients": _Key("hide_recipients", forms.flag, "true or false"),
    "lifetime": _Key("lifetime", forms.span, _A_SPAN),
    "delay_notice": _Key("delay_notice", forms.span, _A_SPAN),
    "give_up": _Key("give_up_ms", forms.milliseconds, _A_TIME),
    "calls": _Key("calls", forms.rules, '"every 10min", "daily 06:00", "mon 18:30 Europe/Berlin", or a list of them'),
    "away_until": _Key("away_until", forms.moment, "a date, such as 2027-05-03, or date and time, without quotes"),
    "max_message": _Key("max_message_octets", forms.octets, _A_SIZE),
    "quota": _Key("quota_octets", forms.octets, _A_SIZE),
    "report_wait": _Key("report_wait_s", forms.seconds, _A_TIME),
    "batch_size": _Key("batch_octets", forms.octets, _A_SIZE),
    "remember": _Key("remember_ms", forms.milliseconds, _A_TIME),
    "level": _Key("level", forms.level, '"auto", or a compression level, 1 to 19'),
}
KEYS = {
    "": tuple(_SITE_KEYS),
    "door": tuple(_DOOR_KEYS),
    "peers.NAME": tuple(_PEER_KEYS),
}  # for the test of the manual page


def config_path(option: str | None) -> str:
    """The file to be read: the option, else the environment, else the usual place."""
    return option or os.environ.get("BATCHMAIL_CONFIG") or DEFAULT_PATH


def program_directory() -> str:
    """Where the program that runs lies, and the others beside it."""
    return os.path.dirname(os.path.abspath(sys.argv[0]))


def load(path: str) -> Site:
    """Read a configuration file.  Raises ConfigError, which names file and key."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_OCTETS + 1)
    except FileNotFoundError as error:
        prefix = os.path.dirname(program_directory())
        examples = next((there for there in _EXAMPLES if os.path.isdir(f"{prefix}/{there}")), _EXAMPLES[-1])
        raise ConfigError(
            f"{path}: {error.strerror}: name the configuration with -c, or write it as batchmail.toml(5) says;"
            f" examples are batchmail-*.toml in {prefix}/{examples}"
        ) from None
    except OSError as error:
        me = user_name(os.geteuid())
        mend = f": run this as root, or let {me} read it" if isinstance(error, PermissionError) else ""
        raise ConfigError(f"{path} cannot be read as {me}: {error.strerror}{mend}") from None
    if len(data) > _MAX_OCTETS:
        raise ConfigError(f"{path}: larger than {_MAX_OCTETS} octets")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    common, parts = apart(text)
    table = _parse(path, common, text)
    if parts and "peers" in table:  # some stand there as `apart` does not know them
        parts, table = {}, _parse(path, text, text)
    door = table.pop("door", {})
    if not isinstance(door, dict):
        raise ConfigError(f"{path}: door is to be a table: [door]")
    settings = DoorSettings(**_read(path, "door", door, _DOOR_KEYS, ()))
    peers = _Peers(path, text, parts, settings)
    if not parts:
        peers.read(table.pop("peers", {}))
    return _site(path, table, settings, peers)._replace(digest=sha256(data).hexdigest())


def _parse(path: str, part: str, whole: str) -> dict[str, Any]:
    """The tables of a part of the file; an error is told as the whole file has it."""
    try:
        return tomllib.loads(part)
    except tomllib.TOMLDecodeError as error:
        if part is whole:
            raise ConfigError(f"{path}: {error}") from None
    return _parse(path, whole, whole)


class _Peers(Mapping[str, Peer]):
    """The peers by name: one is read when it is asked for, all of them, and checked against each other, when more is.

    Both raise ConfigError.  A mistake in one peer's tables keeps no call with another from being answered.
    """

    def __init__(self, path: str, text: str, parts: dict[str, str], door: DoorSettings):
        self._path, self._text, self._parts, self._door = path, text, parts, door
        self._one: dict[str, Peer] = {}
        self._all: dict[str, Peer] | None = None

    def __getitem__(self, name: str) -> Peer:
        if self._all is not None:
            return self._all[name]
        if name not in self._one:
            tables = _parse(self._path, self._parts[name], self._text)["peers"]
            self._one[name] = _read_peers(self._path, tables)[name]
        return self._one[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read_all())

    def __len__(self) -> int:
        return len(self._read_all())

    def read(self, tables: Any) -> dict[str, Peer]:
        """All of them, from the tables of the file."""
        peers = _read_peers(self._path, tables)
        _check_domains(self._path, peers)
        _check_listen(self._path, self._door, peers)
        self._all = peers
        return peers

    def _read_all(self) -> dict[str, Peer]:
        return self.read(_parse(self._path, self._text, self._text)["peers"]) if self._all is None else self._all


def _site(path: str, table: dict[str, Any], door: DoorSettings, peers: Mapping[str, Peer]) -> Site:
    defaults: dict[str, Any] = {
        "spool": DEFAULT_SPOOL,
        "user": DEFAULT_USER,
        "reserve_octets": 64 << 20,
        "odd_octets": "normalize",
    }
    values = defaults | _read(path, "", table, _SITE_KEYS, ("peers", "door"))
    if "name" not in values:
        values["name"] = socket.getfqdn()  # asks the name service, which may take its time
    if not is_site(values["name"]):
        raise ConfigError(f'{path}: this host has no usable name: set site = "host.example"')
    return Site(peers=peers, door=door, **values)


def _read_peers(path: str, tables: Any) -> dict[str, Peer]:
    if not isinstance(tables, dict) or not all(isinstance(entry, dict) for entry in tables.values()):
        raise ConfigError(f"{path}: peers is to be tables, such as [peers.home]")
    here = os.path.dirname(os.path.abspath(path))
    made: dict[str, Peer] = {}
    for name, entry in tables.items():
        lowered = name.lower()
        if not is_peer(lowered) or lowered in made:
            raise ConfigError(f"{path}: [peers.{name}]: a peer's name is of a-z 0-9 . _ - and stands once; quote dots")
        made[lowered] = _peer(path, lowered, entry, here)
    return made


def _check_domains(path: str, peers: dict[str, Peer]) -> None:
    """No domain is two peers': a door would not know which is meant."""
    owners: dict[str, str] = {}
    for peer in peers.values():
        for domain in peer.domains:
            other = owners.setdefault(domain, peer.name)
            if other != peer.name:
                raise ConfigError(f'{path}: "{domain}" stands in domains of both peers.{other} and peers.{peer.name}')


def _check_listen(path: str, door: DoorSettings, peers: dict[str, Peer]) -> None:
    """Each address once; and who can reach it from elsewhere is said."""
    owners: dict[str, str] = {}
    for owner, addresses in (("door", door.listen), *((f"peers.{peer.name}", peer.listen) for peer in peers.values())):
        for address in addresses:
            other = owners.setdefault(address.text, owner)
            if other != owner:
                raise ConfigError(f'{path}: "{address.text}" stands in listen of both {other} and {owner}')
            if not address.is_local and not door.clients:
                raise ConfigError(
                    f'{path}: {owner}.listen: "{address.text}" can be reached from other hosts: listen at 127.0.0.1,'
                    ' [::1] or unix:/PATH, or name the networks that may send by clients = ["NETWORK/BITS"] in [door]'
                )


def _peer(path: str, name: str, entry: dict[str, Any], here: str) -> Peer:
    values = _read(path, f"peers.{name}", entry, _PEER_KEYS, ())
    values.setdefault("identity", (f"{here}/id_ed25519",))
    values.setdefault("known_hosts", (f"{here}/known_hosts",))
    listed, path_of_list = values.pop("valid_recipients", ((), ""))
    values |= {"valid_recipients": listed, "valid_recipients_file": path_of_list}
    calendar = Calendar(values.pop("calls", ()), values.pop("away_until", 0))
    return Peer(name=name, calendar=calendar, **values)


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
