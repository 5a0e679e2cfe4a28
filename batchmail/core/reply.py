"""SMTP replies: reading them from a stream of octets, and what their codes say.

The first digit decides, never the text (RFC 5321 §4.2).  An enhanced status
code counts when its class agrees with that digit (RFC 2034 §4); where there is
none, the status is the digit and `.0.0`.  The server may be hostile: a reply
is bounded in lines and octets, and no control octet of it gets further.
"""

import re
from typing import NamedTuple

from batchmail.core.errors import PeerError

MAX_LINES = 512
MAX_OCTETS = 65_536  # of a whole reply on the wire
MAX_TEXT_OCTETS = 4096  # of what is kept of it, whole lines

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.DOTALL)
_STATUS = re.compile(rb"([245]\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2}))(?: +|\Z)")
_CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")


class Reply(NamedTuple):
    """One reply, all its lines."""

    code: int
    status: str  # enhanced status code: the server's own, else derived from the code
    stated: bool  # whether the status is the server's own
    text: bytes  # the lines without codes, joined by \n

    @property
    def digit(self) -> int:
        """2 done, 3 go on, 4 try later, 5 refused."""
        return self.code // 100

    @property
    def subject(self) -> str:
        """The middle number of a status the server gave (RFC 3463 §3: 1 address … 7 policy); else empty."""
        return self.status.split(".")[1] if self.stated else ""

    @property
    def lines(self) -> list[bytes]:
        return self.text.split(b"\n")


def show(reply: Reply) -> str:
    """The reply in one line, for people."""
    codes = f"{reply.code} {reply.status}" if reply.stated else f"{reply.code}"
    return f"{codes} " + " / ".join(line.decode("ascii", "backslashreplace") for line in reply.lines)


class ReplyReader:
    """Cuts a stream of octets into replies.  CRLF and LF end a line alike."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # no line end stands before this
        self._start_reply()

    def _start_reply(self) -> None:
        self._code = b""
        self._lines: list[bytes] = []
        self._octets = 0

    @property
    def is_empty(self) -> bool:
        """Nothing was received beyond the last whole reply."""
        return not self._buffer and not self._lines

    def receive(self, data: bytes) -> None:
        self._buffer += data

    def next_reply(self) -> Reply | None:
        """The next whole reply, or None when more octets are needed.  Raises PeerError."""
        while (line := self._take_line()) is not None:
            match = _LINE.match(line)
            if not match:
                raise PeerError(f"the server sent what is no reply: {_show_line(line)}")
            if self._code and match[1] != self._code:
                raise PeerError(f"the server mixed {self._code.decode()} and {match[1].decode()} in one reply")
            self._code = match[1]
            self._lines.append(match[3] or b"")
            if match[2] != b"-":
                reply = make_reply(int(self._code), self._lines)
                self._start_reply()
                return reply
            if len(self._lines) >= MAX_LINES:
                raise PeerError(f"the server sent a reply of more than {MAX_LINES} lines")
        return None

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._searched)
        self._searched = len(self._buffer)
        if self._octets + (end if end >= 0 else len(self._buffer)) > MAX_OCTETS:
            raise PeerError(f"the server sent a reply of more than {MAX_OCTETS} octets")
        if end < 0:
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        self._searched = 0
        self._octets += end + 1
        return line


def make_reply(code: int, lines: list[bytes]) -> Reply:
    """A reply from its code and its lines, which may begin with an enhanced status code."""
    found = _STATUS.match(lines[0])
    stated = found is not None and found[1][:1] == b"%d" % (code // 100)
    status = found[1] if found and stated else b"%d.0.0" % (code // 100)
    kept: list[bytes] = []
    room = MAX_TEXT_OCTETS
    for line in lines:
        own = _STATUS.match(line)
        text = _CONTROLS.sub(b"?", line[own.end() :] if own and stated and own[1] == status else line).rstrip()
        if len(text) > room:
            if not kept:
                kept.append(text[:room])
            break
        kept.append(text)
        room -= len(text) + 1
    return Reply(code, status.decode(), stated, b"\n".join(kept))


def _show_line(line: bytes) -> str:
    return line[:100].decode("ascii", "backslashreplace").translate(dict.fromkeys(range(32), "?"))
