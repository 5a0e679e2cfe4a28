"""The configuration value `target`, parsed.

    smtp://[USER@]HOST[:PORT]   lmtp://HOST:PORT   lmtp:///PATH/OF/SOCKET
    sendmail:PROGRAM [ARGS]     rmail:PROGRAM      bsmtp:DIRECTORY        maildir:DIRECTORY

Options follow as ?NAME=VALUE&…, with %XX where a value needs it.
"""

import difflib
import ipaddress
import re
import shlex
import urllib.parse
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from batchmail.core.errors import ConfigError

NEVER, MAY, MUST = "never", "may", "must"


class TargetSpec(NamedTuple):
    scheme: str
    text: str  # as it was written, for people
    host: str = ""
    port: int = 0
    path: str = ""  # socket, program or directory
    args: tuple[str, ...] = ()  # of the program
    starttls: str = NEVER
    tls_verify: bool = True
    user: str = ""
    password_file: str = ""
    send_eightbit: bool = False  # 8-bit content also where 8BITMIME is not offered
    session: int = 0  # transactions in one session; 0: as the server's habits are
    sessions: int = 1  # at most so many at once
    final: bool = False  # a success is "delivered", not "relayed"
    xforward: bool = False  # the server is told whom the origin's MTA had the message from

    @property
    def is_private(self) -> bool:
        """The connection does not leave this machine."""
        return self.scheme == "sendmail" or not self.host or is_loopback(self.host)


_DIALOGUE = ("eightbit", "session", "final")
_SOCKET = ("sessions", "starttls", "tls_verify", "user", "password_file", "xforward", *_DIALOGUE)
_SESSIONS = 5  # that a server on a socket is given unless it is said otherwise; a directory as many files
_AT_ONCE = ("smtp", "lmtp", "bsmtp", "maildir")  # take several transactions at once
_MAX_SESSIONS = 20
_OPTIONS = {
    "smtp": _SOCKET,
    "lmtp": _SOCKET,
    "sendmail": _DIALOGUE,
    "rmail": ("final",),
    "bsmtp": ("final",),
    "maildir": ("final",),
}
_FINAL = ("lmtp", "maildir")  # their success is a delivery unless `final` says otherwise
_HOST = re.compile(r"//(?:(?P<user>[^/]*)@)?(?:\[(?P<ip6>[^\]/@]+)\]|(?P<host>[^:\[\]/@]+))(?::(?P<port>\d{1,5}))?/?")
_YES_NO = {"yes": True, "no": False}


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_target(text: str) -> TargetSpec:
    """The value of `target`.  Raises ConfigError."""
    try:
        return _parse(text)
    except _BadTarget as error:
        raise ConfigError(f'target = "{text}": {error}') from None


class _BadTarget(Exception):
    pass


T = TypeVar("T")


def _parse(text: str) -> TargetSpec:
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in _OPTIONS:
        raise _BadTarget(f"must begin with {', '.join(name + ':' for name in _OPTIONS)}{_nearest(scheme, _OPTIONS)}")
    place, _, query = rest.partition("?")
    sessions = _SESSIONS if scheme in _AT_ONCE else 1
    spec = _parse_place(TargetSpec(scheme, text, sessions=sessions, final=scheme in _FINAL), place)
    if spec.host and not is_loopback(spec.host):
        spec = spec._replace(starttls=MAY)
    for name, value in _parse_query(query):
        spec = _set_option(spec, name, value)
    if bool(spec.user) != bool(spec.password_file):
        raise _BadTarget("user and password_file go together")
    return spec


def _parse_place(spec: TargetSpec, place: str) -> TargetSpec:
    if spec.scheme == "smtp" or (spec.scheme == "lmtp" and not place.startswith("///")):
        return _parse_host(spec, place)
    if spec.scheme == "lmtp":
        return spec._replace(path=_absolute(place[2:]))
    if spec.scheme == "sendmail":
        try:
            program, *args = shlex.split(place)
        except ValueError:
            raise _BadTarget("needs a program and its arguments, as in sendmail:/usr/sbin/sendmail -bs") from None
        return spec._replace(path=_absolute(program), args=tuple(args) or ("-bs",))
    return spec._replace(path=_absolute(place))


def _parse_host(spec: TargetSpec, place: str) -> TargetSpec:
    match = _HOST.fullmatch(place)
    if not match:
        raise _BadTarget(f"not a host; write {spec.scheme}://HOST:PORT, an IPv6 address in [ ]")
    port = int(match["port"] or (25 if spec.scheme == "smtp" else 0))
    if match["port"] and not 0 < port < 65536:
        raise _BadTarget(f"port {port}: a port is 1 to 65535")
    if not port or (spec.scheme == "lmtp" and port == 25):
        raise _BadTarget(f"needs a port, as in {spec.scheme}://HOST:24 (LMTP may not be spoken on port 25)")
    host = match["ip6"] or match["host"]
    return spec._replace(host=host, port=port, user=urllib.parse.unquote(match["user"] or ""))


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise _BadTarget(f"{path or 'the path'} must be absolute, beginning with /")
    return path.rstrip("/") or "/"


def _parse_query(query: str) -> list[tuple[str, str]]:
    options = [word.partition("=") for word in query.split("&") if word]
    return [(name, urllib.parse.unquote(value)) for name, _, value in options]


def _set_option(spec: TargetSpec, name: str, value: str) -> TargetSpec:
    known = _OPTIONS[spec.scheme]
    if name not in known:
        if any(name in names for names in _OPTIONS.values()):
            raise _BadTarget(f"{name} is not an option of {spec.scheme}:, which knows {', '.join(known)}")
        raise _BadTarget(f"unknown option {name}{_nearest(name, known)}")
    match name:
        case "starttls":
            return spec._replace(starttls=_choose(name, value, {word: word for word in (NEVER, MAY, MUST)}))
        case "tls_verify":
            return spec._replace(tls_verify=_choose(name, value, _YES_NO))
        case "final":
            return spec._replace(final=_choose(name, value, _YES_NO))
        case "xforward":
            return spec._replace(xforward=_choose(name, value, _YES_NO))
        case "eightbit":
            return spec._replace(send_eightbit=_choose(name, value, {"send": True, "refuse": False}))
        case "password_file":
            return spec._replace(password_file=_absolute(value))
        case "user":
            return spec._replace(user=value)
        case "sessions":
            if not re.fullmatch(r"[1-9][0-9]?", value) or int(value) > _MAX_SESSIONS:
                raise _BadTarget(f"sessions must be a number from 1 to {_MAX_SESSIONS}")
            return spec._replace(sessions=int(value))
    if not re.fullmatch(r"[1-9][0-9]{0,5}", value):
        raise _BadTarget("session must be a number of transactions from 1 on")
    return spec._replace(session=int(value))


def _choose(name: str, value: str, choices: dict[str, T]) -> T:
    if value not in choices:
        raise _BadTarget(f"{name} must be one of {', '.join(choices)}")
    return choices[value]


def _nearest(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), 1, 0)
    return f"; did you mean {found[0]}?" if found else ""
