"""xtext (RFC 3461 §4): octets as printable ASCII; `+` and two upper-case hex digits stand for the rest."""

_PLAIN = bytes(range(33, 127)).translate(None, b"+=")
_HEX_DIGITS = b"0123456789ABCDEF"
_IN_ANY_CASE = b"0123456789ABCDEFabcdef"


def encode(octets: bytes) -> bytes:
    """The shortest xtext of any octets."""
    if not octets.translate(None, _PLAIN):
        return octets
    return b"".join(b"%c" % octet if octet in _PLAIN else b"+%02X" % octet for octet in octets)


def decode(text: bytes, any_case: bool = False) -> bytes:
    """The octets behind xtext; in `any_case` its hex digits may be lower case.  Raises ValueError when it is none."""
    allowed = _IN_ANY_CASE if any_case else _HEX_DIGITS
    first, *escapes = text.split(b"+")
    pieces = [first]
    for escape in escapes:
        digits = escape[:2]
        if len(digits) < 2 or digits.translate(None, allowed):
            raise ValueError(f"not xtext: {text[:100]!r}")
        pieces += (b"%c" % int(digits, 16), escape[2:])
    if text.translate(None, _PLAIN + b"+"):
        raise ValueError(f"not xtext: {text[:100]!r}")
    return b"".join(pieces)


def in_upper_case(text: bytes) -> bytes:
    """The same with its hex digits as RFC 3461 has them."""
    first, *escapes = text.split(b"+")
    return b"+".join((first, *(escape[:2].upper() + escape[2:] for escape in escapes)))
