"""Small spools for tests: made, and read back the way the far side would."""

import os
import re
from typing import NamedTuple

from batchmail.core.bsmtp import Content, End, Reader, Start
from batchmail.core.entry import Entry
from batchmail.core.envelope import Envelope
from batchmail.store.setup import set_up
from batchmail.store.spool import Door, Spool
from batchmail.store.waiting import WaitingRoom, read_entry

PEER = "home"


class Mail(NamedTuple):
    """A waiting transaction."""

    entry: Entry
    envelope: Envelope
    content: bytes


def make_spool(root: object, **door: int | str) -> Spool:
    """A spool with one peer, `home`, for home.example and all below sub.example."""
    values: dict[str, int | str] = {
        "peer": PEER,
        "site": "mx.example",
        "max_message_octets": 50_000_000,
        "reserve_octets": 0,
        "odd_octets": "normalize",
    }
    set_up(str(root), [(Door(**{**values, **door}), ["home.example", ".sub.example"])])  # type: ignore[arg-type]
    return Spool(str(root))


def door_of(spool: Spool, **changes: int | str) -> Door:
    return Door(PEER, "mx.example", 50_000_000, 0, "normalize")._replace(**changes)  # type: ignore[arg-type]


def read_waiting(spool: Spool) -> list[Mail]:
    """What waits, in order; each text was checked against its digest and read strictly."""
    found = []
    for waiting in WaitingRoom(spool, PEER).scan():
        entry, text = read_entry(waiting)
        assert entry.text_octets == waiting.text_octets
        envelope, content = read_text(b"".join(text()))
        assert entry.size_octets == len(content)
        assert entry.recipients == len(envelope.recipients)
        found.append(Mail(entry, envelope, content))
    return found


def read_text(text: bytes) -> tuple[Envelope, bytes]:
    """Envelope and content of a text that must hold exactly one transaction, safe for any server (spec: smuggling)."""
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", text)
    assert text.count(b"\r\n.\r\n") == 1
    reader = Reader(b"\r\n")
    reader.receive(text)
    reader.receive(b"")
    events = list(iter(reader.next_event, None))
    start = events[0]
    assert isinstance(start, Start)
    assert events[-1] == End(len(text))
    return start.envelope, b"".join(event.octets for event in events if isinstance(event, Content))


def drafts(spool: Spool) -> list[str]:
    return os.listdir(spool.tmp)


def as_crlf(octets: bytes) -> bytes:
    """What a door makes of content."""
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    return text if not text or text.endswith(b"\r\n") else text + b"\r\n"


def stuff(content: bytes, eol: bytes) -> bytes:
    """As a writer with this line end does it: dots doubled, the end of data behind it."""
    text = (eol + content).replace(eol + b".", eol + b"..")[len(eol) :]
    return text + (b"" if not content or content.endswith(eol) else eol) + b"." + eol
