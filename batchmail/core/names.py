"""Names that become file names or keys: transaction IDs, streams, peers.

Each has one exact form.  What comes from a peer is checked here before
anything is made from it; what is made here is never reused.
"""

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: sorts as it counts
SEQ_MAX = 2**53 - 1

_PEER_FIRST = "abcdefghijklmnopqrstuvwxyz0123456789"
_PEER = _PEER_FIRST + "._-"


def _base32(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 32)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def make_id(now_ms: int, random: bytes) -> str:
    """A transaction's ID: 10 characters of time (milliseconds), 16 of randomness; IDs sort by time.

    `random` is 10 octets of randomness.
    """
    return _base32(now_ms, 10) + _base32(int.from_bytes(random, "big"), 16)


def time_of_id(identifier: str) -> int:
    """When a transaction's ID was made, milliseconds UTC: at its arrival."""
    number = 0
    for digit in identifier[:10]:
        number = number * 32 + ALPHABET.index(digit)
    return number


def next_id(identifier: str, steps: int) -> str:
    """The ID `steps` further on: transactions of one input follow each other."""
    number = 0
    for digit in identifier:
        number = number * 32 + ALPHABET.index(digit)
    return _base32(number + steps, 26)


def make_stream(random: bytes) -> str:
    """The name of a stream of numbered files, from 10 octets of randomness."""
    return _base32(int.from_bytes(random, "big"), 16)


def is_id(text: str) -> bool:
    return len(text) == 26 and text[0] in "01234567" and _holds(text, ALPHABET)


def is_stream(text: str) -> bool:
    return len(text) == 16 and _holds(text, ALPHABET)


def is_peer(text: str) -> bool:
    """A peer's name, as it stands in the configuration and in paths: lower case, no leading dot."""
    return 1 <= len(text) <= 100 and text[0] in _PEER_FIRST and _holds(text, _PEER)


def is_site(text: str) -> bool:
    """A site's name: a host name, ASCII letters, digits, hyphens and dots."""
    return len(text) <= 255 and all(map(_is_label, text.split(".")))


def _is_label(text: str) -> bool:
    return text.isascii() and text.replace("-", "0").isalnum() and text[0] != "-" and text[-1] != "-"


def _holds(text: str, allowed: str) -> bool:
    """Whether these are its only characters."""
    return not text.strip(allowed)
