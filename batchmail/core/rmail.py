"""From_ lines: how the rmail convention of UUCP gives the sender on top of the message (RFC 976).

Every hop puts `From SENDER DATE remote from ITSELF` on top and turns the one
below into `>From`; read from the top they give the path to the sender.
Only reading: replay into an rmail program writes its own line.
"""

import re
from typing import NamedTuple

from batchmail.core.errors import MalformedInput

MAX_LINE_OCTETS = 2048  # with its line end
MAX_LINES = 100
_DAEMON = b"MAILER-DAEMON"

# The sender's word: quoted strings in it may hold blanks.  It is empty where a blank follows at once.
_FROM = rb'(?s:>?From ((?:"(?:[^"\\]|\\.)*"|[^ \t"])*)(?![^ \t])(.*)\Z)'
_REMOTE = rb"[ \t]remote from ([^ \t]+)"


class FromLines(NamedTuple):
    """The From_ lines at the top of a message."""

    sender: bytes | None  # None where there are none; empty is the null sender
    length_octets: int


def take(text: bytes, eol: bytes, ended: bool, just_one: bool = False) -> FromLines | None:
    """The From_ lines that `text` begins with; None when more of it is needed, `ended` says that there is none.

    With `just_one` a single `From ` line is looked for, no `>From `.  Raises MalformedInput.
    """
    starts = (b"From ",) if just_one else (b"From ", b">From ")
    lines: list[bytes] = []
    offset = 0
    while not (just_one and lines):
        if not text.startswith(starts, offset):
            if not ended and any(start.startswith(text[offset : offset + 6]) for start in starts):
                return None
            break
        end = text.find(eol, offset)
        if end < 0 and not ended and len(text) - offset < MAX_LINE_OCTETS:
            return None
        if end < 0 or end - offset > MAX_LINE_OCTETS:
            raise MalformedInput(f"a From_ line without its end, or of more than {MAX_LINE_OCTETS} octets")
        if len(lines) == MAX_LINES:
            raise MalformedInput(f"more than {MAX_LINES} From_ lines")
        lines.append(text[offset:end])
        offset = end + len(eol)
    return FromLines(_sender(lines) if lines else None, offset)


def null_if_daemon(sender: bytes) -> bytes:
    """The sender, and the null sender for the ways in which UUCP's mailers write that.

    `<>` and an unqualified MAILER-DAEMON, alone or behind a path; with a domain it is an address like any other.
    """
    user = sender.rpartition(b"!")[2]
    return b"" if user in (b"", b"<>", _DAEMON) else sender


def _sender(lines: list[bytes]) -> bytes:
    path = user = b""
    for line in lines:
        match = re.match(_FROM, line)
        if not match:  # a quotation mark that is not closed
            raise MalformedInput(f"a From_ line without a sender: {line[:100]!r}")
        user, rest = match[1], match[2]
        remote = re.search(_REMOTE, rest)
        if remote:
            path += remote[1] + b"!"
        elif b"!" in user:
            system, _, user = user.rpartition(b"!")
            path += system + b"!"
    return null_if_daemon(path + user)
