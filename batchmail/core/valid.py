"""Which recipients are valid: the words of a list, and the keys by which an address is looked up in it.

A list is made of words in one form: `local@domain`, `*@domain` for all of a
domain, and the domains that it speaks for; of others it says nothing.  Each
word becomes a key, a short digest of fixed length, so a list is a sorted table
(`store.recipients`).  ASCII letters of local parts are compared without case:
a host may tell Smith from smith (RFC 5321 §2.4), but a valid address that is
refused is mail lost, and one too many that is accepted only a bounce.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from batchmail.core.digest import sha256
from batchmail.core.envelope import domain_of
from batchmail.core.path import CommandError, check_address

KEY_OCTETS = 6  # an unknown address passes for one of a hundred thousand with 1 : 3,000,000,000
MAX_KEYS = 500_000
MAX_WORD_OCTETS = 320
_MAX_EXTENSIONS = 10  # places in a local part where one may begin
_IDENTITY = re.compile(r"[0-9a-f]{16}\Z")
_SALT = re.compile(r"([0-9a-f]{16})?\Z")
_DELIMITERS = re.compile(r"[!#$%&'*+/=?^_`{|}~.-]{0,8}\Z")
_ENTRY = re.compile(rb'((?:"(?:[^"\\]|\\.)*")?[^\s"]*)(?:\s|\Z)')

Has = Callable[[bytes], bool]  # is this key in the table?


class Terms(NamedTuple):
    """How the keys of a list are made, and looked up."""

    salt: str = ""  # 16 hexadecimal digits; empty: the words are no secret
    delimiters: str = ""  # of address extensions: with "+", user+list is user


def is_terms(terms: Terms) -> bool:
    """Whether these are of their form."""
    return bool(_SALT.match(terms.salt) and _DELIMITERS.match(terms.delimiters))


def parse_delimiters(value: object) -> str:
    """As the configuration has them.  Raises ValueError."""
    if not isinstance(value, str) or not _DELIMITERS.match(value):
        raise ValueError
    return value


def is_identity(text: str) -> bool:
    return _IDENTITY.match(text) is not None


def identity_of(terms: Terms, keys: Iterable[bytes]) -> str:
    """Two lists that say the same have the same; `keys` are sorted, one by one or in pieces."""
    digest = sha256(f"{terms.salt} {terms.delimiters}\n".encode())
    for piece in keys:
        digest.update(piece)
    return str(digest.hexdigest()[:16])


def key_of(word: bytes, salt: str) -> bytes:
    return bytes.fromhex(sha256(salt.encode() + b" " + word).hexdigest()[: 2 * KEY_OCTETS])


# -- lists as people write them -----------------------------------------------------------------------------------


def read_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The entries of a file, one to a line.

    What stands behind an address and a blank counts for nothing: the source of a table of Postfix's will do.
    """
    for line in lines:
        text = line.strip()
        if text and not text.startswith(b"#"):
            match = _ENTRY.match(text)
            yield match[1] if match and match[1] else text


def words_of(entries: Iterable[bytes]) -> set[bytes]:
    """The words of a list.  Raises ValueError naming the entry that is none, or when there are too many."""
    words: set[bytes] = set()
    for entry in entries:
        words |= _words_of(entry)
        if len(words) > MAX_KEYS:
            raise ValueError(f"more than {MAX_KEYS} addresses and domains")
    return words


def addresses_in(words: Iterable[bytes]) -> int:
    return sum(b"@" in word for word in words)


def _words_of(entry: bytes) -> set[bytes]:
    for_all = entry.startswith((b"@", b"*@"))
    address = b"x@" + entry.partition(b"@")[2] if for_all else entry
    try:
        check_address(address)
        local, domain = _split(address)
    except CommandError:
        domain = b""
    if not domain or (for_all and local != b"x") or len(entry) > MAX_WORD_OCTETS:
        shown = entry[:100].decode("utf-8", "replace")
        raise ValueError(f"{shown!r} is neither an address nor @domain")
    return {b"%b@%b" % (b"*" if for_all else local, domain), domain}


def _split(address: bytes) -> tuple[bytes, bytes]:
    """Local part and domain in one form: quotes that need not be say nothing (RFC 5321 §4.1.2)."""
    local = address.rpartition(b"@")[0] or address
    if len(local) > 1 and local.startswith(b'"') and local.endswith(b'"'):
        local = re.sub(rb"\\(.)", rb"\1", local[1:-1])
    return local.lower(), domain_of(address).removesuffix(b".")


# -- looking up ---------------------------------------------------------------------------------------------------


def is_valid(terms: Terms, has: Has, address: bytes) -> bool:
    """Whether mail to an address is to be accepted; postmaster always is (RFC 5321 §4.5.1)."""
    local, domain = _split(address)

    def lists(word: bytes) -> bool:
        return has(key_of(word, terms.salt))

    if local == b"postmaster" or not domain or not lists(domain):
        return True
    return any(lists(b"%b@%b" % (form, domain)) for form in (local, b"*", *_plain(local, terms.delimiters)))


def _plain(local: bytes, delimiters: str) -> list[bytes]:
    """A local part without the extension that it may have."""
    places = [place for place, octet in enumerate(local) if place and chr(octet) in delimiters]
    return [local[:place] for place in places[:_MAX_EXTENSIONS]]
