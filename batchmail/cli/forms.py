"""How the values of the configuration file are read: each function takes what TOML gives, and raises ValueError.

Sizes are octets, or "64M"; durations "30d", "10s".  ConfigError where more is
to be said than the form that a value is to have.
"""

import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from batchmail.core.entry import PRIORITIES
from batchmail.core.envelope import as_a_labels
from batchmail.core.errors import ConfigError
from batchmail.core.listen import Address, Network
from batchmail.core.listen import parse_address as parse_listen
from batchmail.core.names import is_site
from batchmail.core.path import CommandError, check_address
from batchmail.core.schedule import Rule, Span, parse_rule
from batchmail.core.valid import words_of
from batchmail.flow.target_spec import parse_target
from batchmail.wire.ssh_address import parse_address

_MAX_SIZE_OCTETS = 1 << 50  # what crosses the link as an integer of JSON stays far below 2^53
_MAX_TIME_S = 100 * 365 * 86400
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = re.compile(r"([0-9]{1,15})\s*([KMGT]?)(?:i?B)?\Z")
_DURATION = re.compile(r"([0-9]{1,9})\s*(ms|s|min|h|d|w)\Z")


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def directory(value: Any) -> str:
    if not text(value).startswith("/"):
        raise ValueError
    return str(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) and one for one in values):
        raise ValueError
    return tuple(values)


def octets(value: Any) -> int:
    """A size.  Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    else:
        match = _SIZE.match(text(value))
        if not match:
            raise ValueError
        found = int(match[1]) * _UNITS[match[2]]
    if not 0 <= found <= _MAX_SIZE_OCTETS:
        raise ValueError
    return found


def seconds(value: Any) -> float:
    match = _DURATION.match(text(value))
    if not match:
        raise ValueError
    found = int(match[1]) * _SECONDS[match[2]]
    if found > _MAX_TIME_S:
        raise ValueError
    return found


def milliseconds(value: Any) -> int:
    """A duration.  Raises ValueError."""
    return round(seconds(value) * 1000)


def span(value: Any) -> Span:
    """One duration, or a table of them by priority."""
    if not isinstance(value, dict):
        return Span(milliseconds(value))
    normal = milliseconds(value.get("normal"))
    others = {int(key): milliseconds(span) for key, span in value.items() if key != "normal"}
    if not all(priority and priority in PRIORITIES for priority in others):
        raise ValueError
    return Span(normal, tuple(sorted(others.items())))


def rules(value: Any) -> tuple[Rule, ...]:
    return tuple(map(rule, texts(value)))


def rule(text: str) -> Rule:
    """One of a calendar; behind a time of day may stand a time zone."""
    found = re.fullmatch(r"(\S+ \S+) (\S+)", text)
    if not found:
        return parse_rule(text)
    try:
        return parse_rule(found[1], ZoneInfo(found[2]))
    except (ZoneInfoNotFoundError, OSError):  # a directory of zones, for one
        raise ConfigError(f"no time zone {found[2]} is known here; such as Europe/Berlin") from None


def moment(value: Any) -> int:
    """A TOML date or date and time; UTC where it says no zone."""
    if not isinstance(value, datetime):
        if not isinstance(value, date):
            raise ValueError
        value = datetime.combine(value, time())
    moment: datetime = value.replace(tzinfo=value.tzinfo or UTC)
    return round(moment.timestamp() * 1000)


def valid(value: Any) -> tuple[tuple[str, ...], str]:
    """A list, or the path of one."""
    if isinstance(value, str):
        return (), directory(value)
    try:
        words_of(entry.encode() for entry in texts(value))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return texts(value), ""


def mailbox(value: Any) -> str:
    try:
        check_address(text(value).encode())
    except CommandError:
        raise ValueError from None
    return str(value)


def domains(value: Any) -> tuple[str, ...]:
    found = tuple(as_a_labels(domain.encode()).decode("ascii") for domain in texts(value))
    if not all(domain == "*" or is_site(domain.removeprefix(".")) for domain in found):
        raise ValueError
    return found


def site_name(value: Any) -> str:
    if not is_site(text(value)):
        raise ValueError
    return str(value)


def target(value: Any) -> str:
    parse_target(text(value))
    return str(value)


def calls(value: Any) -> tuple[str, ...]:
    found = texts(value)
    for one in found:
        if not one.startswith("command:"):
            parse_address(one)
    return found


def odd(value: Any) -> str:
    if value not in ("normalize", "refuse"):
        raise ValueError
    return str(value)


def listen(value: Any) -> tuple[Address, ...]:
    return tuple(map(parse_listen, texts(value)))


def mode(value: Any) -> int:
    if not re.match(r"0?[0-7]{3}\Z", text(value)):
        raise ValueError
    return int(value, 8)


def group(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def networks(value: Any) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, texts(value)))


def count(most: int) -> Callable[[Any], int]:
    """The reader of a whole number from 1 on."""

    def read(value: Any) -> int:
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError
        return value

    return read


def level(value: Any) -> int:
    return 0 if value == "auto" else count(19)(value)
