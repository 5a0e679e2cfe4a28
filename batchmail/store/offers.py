"""What the MTA at the far end of a peer offers, as the peer said last: one line of EHLO keywords in out/PEER/offers.

A call writes it, doors read it.  No file: the peer has not said yet.
"""

import re

from batchmail.store.durable import replace
from batchmail.store.spool import Spool

_MAX_OCTETS = 4096
_KEYWORD = re.compile(r"[A-Z0-9][A-Z0-9-]{0,63}\Z")


def read_offers(root: str, peer: str) -> frozenset[str] | None:
    """The keywords in upper case; None where nothing is known."""
    try:
        with open(f"{root}/out/{peer}/offers", "rb") as file:
            text = file.read(_MAX_OCTETS).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    return frozenset(text.split())


def write_offers(spool: Spool, peer: str, offers: tuple[str, ...]) -> None:
    """Keep what the peer said, where it is new.  What has not the form of a keyword is left out."""
    known = frozenset(word for word in offers if _KEYWORD.match(word))
    if read_offers(spool.root, peer) != known:
        text = " ".join(sorted(known)).encode()[: _MAX_OCTETS - 1]
        replace(spool.tmp, f"{spool.root}/out/{peer}/offers", text + b"\n")
