"""xtext (RFC 3461 §4): octets as printable ASCII; `+` and two upper-case hex digits stand for the rest."""

import re

# Compiled when first used (re keeps them): the pipe door starts once per message and may need none.
_TO_ESCAPE = rb"[^!-*,-<>-~]"
_XTEXT = rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z"
_HEXCHAR = rb"\+([0-9A-F]{2})"


def encode(octets: bytes) -> bytes:
    """The shortest xtext of any octets."""
    return re.sub(_TO_ESCAPE, lambda m: b"+%02X" % m[0][0], octets)


def decode(text: bytes) -> bytes:
    """The octets behind xtext.  Raises ValueError when it is not xtext."""
    if not re.match(_XTEXT, text):
        raise ValueError(f"not xtext: {text[:100]!r}")
    return re.sub(_HEXCHAR, lambda m: bytes([int(m[1], 16)]), text)
