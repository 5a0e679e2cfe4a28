"""Names that become file names or keys: transaction IDs, streams, peers.

Each has one exact form.  What comes from a peer is checked here before
anything is made from it; what is made here is never reused.
"""

import re

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: sorts as it counts
SEQ_MAX = 2**53 - 1

# Compiled when first used: the pipe door starts once per message.
_ID = r"[0-7][0-9A-HJKMNP-TV-Z]{25}\Z"
_STREAM = r"[0-9A-HJKMNP-TV-Z]{16}\Z"
_PEER = r"[a-z0-9][a-z0-9._-]{0,99}\Z"
_SITE = r"(?=.{1,255}\Z)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*\Z"


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
    return re.match(_ID, text) is not None


def is_stream(text: str) -> bool:
    return re.match(_STREAM, text) is not None


def is_peer(text: str) -> bool:
    """A peer's name, as it stands in the configuration and in paths: lower case, no leading dot."""
    return re.match(_PEER, text) is not None


def is_site(text: str) -> bool:
    """A site's name: a host name, ASCII letters, digits, hyphens and dots."""
    return re.match(_SITE, text) is not None
