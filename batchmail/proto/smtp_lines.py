"""Command lines out of a server's input.

Only CRLF ends a line.  A line with any other control octet, a lone CR or LF among them, is refused as a whole, so that
what one server takes for text is never a command here (SMTP smuggling); so is one that is too long.  What such a line
still has to come is thrown away as it comes.
"""

import re

from batchmail.core.lines import CRLF
from batchmail.core.path import MAX_COMMAND_OCTETS, CommandError

_MAX_OCTETS = MAX_COMMAND_OCTETS - len(CRLF)
_ODD = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class CommandLines:
    """Takes one line after the other from the front of a buffer."""

    def __init__(self) -> None:
        self._eating = False  # the rest of a refused line
        self.begun = b""  # how the last line began, a refused one too

    def take(self, buffer: bytearray) -> bytes | None:
        """The next line, without its end, or None when more is needed.  Raises CommandError once per refused line."""
        while (end := buffer.find(CRLF)) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + len(CRLF)]
            if self._eating:
                self._eating = False
                continue
            self.begun = line[:4]
            _check(line)
            return line
        if not buffer:
            return None
        begun = bytes(buffer.removesuffix(b"\r"))
        if self._eating:
            del buffer[: len(begun)]
        elif len(begun) > _MAX_OCTETS or b"\n" in begun:  # the answer does not wait for an end that may never come
            self._eating = True
            self.begun = begun[:4]
            _check(begun)
        return None


def _check(line: bytes) -> None:
    if b"\n" in line[:_MAX_OCTETS]:
        raise CommandError(500, "5.5.2", "a command ends with CR LF; LF alone does not end it")
    if len(line) > _MAX_OCTETS:
        raise CommandError(500, "5.5.2", f"a command of more than {MAX_COMMAND_OCTETS} octets")
    if _ODD.search(line):
        raise CommandError(500, "5.5.2", "a command holds a control octet")
