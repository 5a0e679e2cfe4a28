"""xtext (RFC 3461 §4): octets as printable ASCII; `+` and two upper-case hex digits stand for the rest."""

_PLAIN = bytes(range(33, 127)).translate(None, b"+=")
_HEX_DIGITS = b"0123456789ABCDEF"


def encode(octets: bytes) -> bytes:
    """The shortest xtext of any octets."""
    if not octets.translate(None, _PLAIN):
        return octets
    return b"".join(b"%c" % octet if octet in _PLAIN else b"+%02X" % octet for octet in octets)


def decode(text: bytes) -> bytes:
    """The octets behind xtext.  Raises ValueError when it is not xtext."""
    first, *escapes = text.split(b"+")
    pieces = [first]
    for escape in escapes:
        digits = escape[:2]
        if len(digits) < 2 or digits.translate(None, _HEX_DIGITS):
            raise ValueError(f"not xtext: {text[:100]!r}")
        pieces += (b"%c" % int(digits, 16), escape[2:])
    if text.translate(None, _PLAIN + b"+"):
        raise ValueError(f"not xtext: {text[:100]!r}")
    return b"".join(pieces)
