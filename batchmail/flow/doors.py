"""Which peer a recipient is for, and what that peer's way keeps: the doors' files, remembered while they do not change.

`batchmail setup` renames files into the directory of doors, which changes its time: then all is read anew.
"""

import os
import time
from collections.abc import Callable

from batchmail.core.envelope import domain_of
from batchmail.core.errors import SpoolError
from batchmail.store.offers import read_offers
from batchmail.store.recipients import Listing, listed_path
from batchmail.store.spool import Door, Spool, find_domain_door, find_peer_door
from batchmail.wire import maillog

_MAX_REMEMBERED = 10_000
_OFFERS_LIFE_S = 5.0
_SETTLED_NS = 10**9  # a directory's time counts in steps of a few milliseconds
_UNKNOWN_OFFERS = frozenset({"SMTPUTF8", "DELIVERBY"})  # a server that lacks them makes a notice, no loss


class Doors:
    """The doors of one spool."""

    def __init__(self, spool: Spool):
        self._root = spool.root
        self._stamp_ns = 0
        self._found: dict[tuple[Callable[[str, str], Door | None], str], Door | None] = {}
        self._all: list[Door] | None = None
        self._offers: dict[str, tuple[float, frozenset[str]]] = {}
        self._sound: dict[str, tuple[int, int, int]] = {}  # lists of recipients that were read once
        self._complaints: dict[str, str] = {}

    def of_recipient(self, address: bytes) -> Door | None:
        """The door for a recipient's domain; None where no peer takes it."""
        return self._find(find_domain_door, domain_of(address).decode("utf-8", "replace"))

    def of_peer(self, peer: str) -> Door | None:
        """The door of a peer; None where it has left the configuration."""
        return self._find(find_peer_door, peer)

    def all(self) -> list[Door]:
        """One for each peer."""
        self._forget_changed()
        if self._all is None:
            names = (name[5:] for name in os.listdir(f"{self._root}/doors") if name.startswith("peer."))
            self._all = [door for name in names if (door := find_peer_door(self._root, name))]
        return self._all

    def refused_since(self, door: Door, address: bytes) -> str:
        """The day since when the peer's list does not have this recipient; empty: it is to be accepted.

        Of domains that are not its own it may say what it likes: a socket may be for one peer and take all domains.
        """
        own = self.of_recipient(address)
        if own is None or own.peer != door.peer:
            return ""
        try:
            with Listing(listed_path(self._root, door.peer)) as found:
                if found.stamp != self._sound.get(door.peer):
                    found.check()
                    self._sound[door.peer] = found.stamp
                return "" if found.accepts(address) else found.head.day
        except FileNotFoundError:
            return ""
        except (SpoolError, OSError) as error:  # a list that cannot be believed refuses nobody
            if self._complaints.get(door.peer) != str(error):
                self._complaints[door.peer] = str(error)
                maillog.trouble(door.peer, str(error))
            return ""

    def keeps(self, door: Door, keyword: str) -> bool:
        """Whether the peer's target is known to offer an extension, or may."""
        now_s = time.monotonic()
        read_s, offers = self._offers.get(door.peer, (0.0, frozenset()))
        if not read_s or now_s > read_s + _OFFERS_LIFE_S:
            known = read_offers(self._root, door.peer)
            offers = _UNKNOWN_OFFERS if known is None else known
            self._offers[door.peer] = (now_s, offers)
        return keyword in offers

    def _find(self, find: Callable[[str, str], Door | None], name: str) -> Door | None:
        self._forget_changed()
        key = (find, name)
        if key not in self._found:
            if len(self._found) >= _MAX_REMEMBERED:
                self._found.clear()
            self._found[key] = find(self._root, name)
        return self._found[key]

    def _forget_changed(self) -> None:
        stamp_ns = os.stat(f"{self._root}/doors").st_mtime_ns
        is_settled = abs(time.time_ns() - stamp_ns) > _SETTLED_NS  # the clock may have gone back since
        if stamp_ns != self._stamp_ns or not is_settled:
            self._found.clear()
            self._all = None
            self._stamp_ns = stamp_ns
