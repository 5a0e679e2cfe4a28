"""Lists of valid recipients, for people: the peer's that our door goes by, and ours that the peer was told."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from batchmail.core.envelope import Recipient
from batchmail.core.errors import SpoolError
from batchmail.flow.context import Context
from batchmail.flow.doors import Doors
from batchmail.flow.recipients import NONE, REFUSED, THERE, TROUBLE, WANTED, first_word
from batchmail.store.recipients import Head, listed_path, read_head, told_path


class Lists(NamedTuple):
    """How it stands with the lists between us and a peer."""

    theirs: Head | None = None  # our door goes by it
    ours: Head | None = None  # the peer was told it
    is_in_force: bool = False  # ours is, there, as the peer said last
    troubles: tuple[str, ...] = ()


def look_at_lists(context: Context, facts: Mapping[str, str]) -> Lists:
    """By the files, and the facts of the ledger where there is one."""
    root, peer = context.spool.root, context.peer
    troubles: list[str] = []

    def head(path: str) -> Head | None:
        try:
            return read_head(path)
        except SpoolError as error:
            troubles.append(str(error))
            return None

    theirs, ours = head(listed_path(root, peer.name)), head(told_path(root, peer.name))
    wanted, there = first_word(facts.get(WANTED)), facts.get(THERE)
    if text := facts.get(TROUBLE):
        troubles.append(text)
    refused, _, why = (facts.get(REFUSED) or "").partition(" ")
    if refused and refused == wanted != there:
        text = why.partition(" ")[2]  # behind the time
        troubles.append(f"the other side refused our list of valid recipients: {text}")
    if wanted not in ("", NONE) and there == "":
        troubles.append("the other side takes no list of valid recipients: it needs a newer batchmail")
    return Lists(theirs, ours, bool(ours and ours.identity == there), tuple(troubles))


def unlisted(context: Context, recipients: Iterable[Recipient]) -> dict[bytes, str]:
    """Those that the door would refuse, and the day of the list that does not have them."""
    doors = Doors(context.spool)
    door = doors.of_peer(context.peer.name)
    found = {one.address: doors.refused_since(door, one.address) for one in recipients} if door else {}
    return {address: day for address, day in found.items() if day}
