"""JSON as batchmail writes and reads it: compact lines, strictly bounded.

Integers 0 to 2^53-1, nesting of at most four, no double keys, no fractions;
strings are printable ASCII, and octets of the mail side (addresses, replies,
HELO names) stand in them as xtext.
Whatever is wrong in a text from a peer is PeerError.
"""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from batchmail.core import xtext
from batchmail.core.errors import PeerError

INT_MAX = 2**53 - 1
_DEPTH = 4


def write(value: dict[str, Any]) -> bytes:
    """One line, with its line end."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def is_text(value: object) -> bool:
    """Whether a value is a string that may stand in logs, file names and messages: printable ASCII."""
    return type(value) is str and value.isascii() and value.isprintable()


def octets(value: bytes) -> str:
    """Octets of the mail side, as they stand in JSON."""
    return xtext.encode(value).decode()


class Fields:
    """A JSON object, read with the type and bound that each key is to have."""

    def __init__(self, value: dict[str, Any], where: str):
        self.value, self._where = value, where

    def _fail(self, key: str) -> NoReturn:
        raise PeerError(f"{self._where}: {key!r} is missing or not what it should be")

    def has(self, key: str) -> bool:
        return key in self.value

    def integer(self, key: str, low: int = 0, high: int = INT_MAX, default: int | None = None) -> int:
        value = self.value.get(key, default)
        if type(value) is not int or not low <= value <= high:
            self._fail(key)
        return value

    def text(self, key: str, longest: int = 255, default: str | None = None) -> str:
        value = self.value.get(key, default)
        if type(value) is not str or len(value) > longest or not is_text(value):
            self._fail(key)
        return value

    def octets(self, key: str, longest: int = 255, default: bytes | None = None) -> bytes:
        if default is not None and key not in self.value:
            return default
        try:
            value = xtext.decode(self.text(key, 3 * longest).encode())
        except ValueError:
            self._fail(key)
        if len(value) > longest:
            self._fail(key)
        return value

    def digest(self, key: str) -> str:
        value = self.text(key, 64)
        if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            self._fail(key)
        return value

    def items(self, key: str, longest: int) -> list[Any]:
        value = self.value.get(key, [])
        if type(value) is not list or len(value) > longest:
            self._fail(key)
        return value

    def object(self, key: str) -> "Fields":
        value = self.value.get(key, {})
        if type(value) is not dict:
            self._fail(key)
        return Fields(value, f"{self._where}, {key}")

    def objects(self, key: str, longest: int) -> "list[Fields]":
        found = self.items(key, longest)
        if not all(type(item) is dict for item in found):
            self._fail(key)
        return [Fields(item, f"{self._where}, {key}") for item in found]


def read(line: bytes, where: str, longest: int = 65536) -> Fields:
    """The object in one line.  `where` names it in errors.  Raises PeerError."""
    if len(line) > longest:
        raise PeerError(f"{where}: a line of {len(line)} octets, at most {longest} are read")
    try:
        value = json.loads(
            line.decode("ascii"),
            object_pairs_hook=_object,
            parse_float=_refuse,
            parse_constant=_refuse,
            parse_int=_integer,
        )
        depth = _depth(value)
    except (ValueError, RecursionError) as error:
        raise PeerError(f"{where}: not the JSON that is read here: {str(error)[:100]}") from None
    if type(value) is not dict or depth > _DEPTH:
        raise PeerError(f"{where}: not a JSON object of at most {_DEPTH} levels")
    return Fields(value, where)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"no number of that form is read: {text[:20]}")


def _integer(text: str) -> int:
    if len(text) > 16 or not 0 <= int(text) <= INT_MAX:
        _refuse(text)
    return int(text)


def _depth(value: Any) -> int:
    inner: Iterable[Any]
    if type(value) is dict:
        inner = value.values()
    elif type(value) is list:
        inner = value
    else:
        return 0
    return 1 + max(map(_depth, inner), default=0)
