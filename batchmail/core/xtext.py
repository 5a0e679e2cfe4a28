"""xtext (RFC 3461 §4): octets as printable ASCII; `+` and two upper-case hex digits stand for the rest."""

import re

_TO_ESCAPE = re.compile(rb"[^!-*,-<>-~]")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_HEXCHAR = re.compile(rb"\+([0-9A-F]{2})")


def encode(octets: bytes) -> bytes:
    """The shortest xtext of any octets."""
    return _TO_ESCAPE.sub(lambda m: b"+%02X" % m[0][0], octets)


def decode(text: bytes) -> bytes:
    """The octets behind xtext.  Raises ValueError when it is not xtext."""
    if not _XTEXT.match(text):
        raise ValueError(f"not xtext: {text[:100]!r}")
    return _HEXCHAR.sub(lambda m: bytes([int(m[1], 16)]), text)
