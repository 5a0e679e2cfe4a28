"""From_ lines: how the rmail convention of UUCP gives the sender on top of the message (RFC 976).

Every hop puts `From SENDER DATE remote from ITSELF` on top and turns the one
below into `>From`; read from the top they give the path to the sender.
Only reading: replay into an rmail program writes its own line.
"""

from batchmail.core.errors import MalformedInput
from batchmail.core.path import CommandError, check_address
from batchmail.core.value import NamedTuple

MAX_LINE_OCTETS = 2048  # with its line end
MAX_LINES = 100
_DAEMON = b"MAILER-DAEMON"
_BLANKS = b" \t"
_QUOTE, _BACKSLASH = b'"\\'


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
        text = line[line.index(b" ") + 1 :]
        end = _end_of_word(text)
        if end < 0:
            raise MalformedInput(f"a From_ line without a sender: {line[:100]!r}")
        user, rest = text[:end], text[end:]
        remote = _remote_system(rest)
        if remote:
            path += remote + b"!"
        elif b"!" in user:
            system, _, user = user.rpartition(b"!")
            path += system + b"!"
    sender = null_if_daemon(path + user)
    try:
        return sender and check_address(sender)
    except CommandError as error:
        raise MalformedInput(f"a From_ line with a sender that is no address: {error.text}") from None


def _end_of_word(text: bytes) -> int:
    """Where the first word ends; quoted strings in it may hold blanks.  -1 where such a one is not closed."""
    quoted = escaped = False
    for position, octet in enumerate(text):
        if escaped:
            escaped = False
        elif octet == _QUOTE:
            quoted = not quoted
        elif quoted:
            escaped = octet == _BACKSLASH
        elif octet in _BLANKS:
            return position
    return -1 if quoted else len(text)


def _remote_system(rest: bytes) -> bytes:
    """What stands behind the first `remote from`; empty where it does not say so."""
    words = rest.replace(b"\t", b" ").split(b" ")
    triples = zip(words, words[1:], words[2:], strict=False)
    return next((system for *two, system in triples if two == [b"remote", b"from"] and system), b"")
