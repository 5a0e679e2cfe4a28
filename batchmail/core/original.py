"""What a notice needs to see of the original message, read in chunks and within bounds.

Subject and Message-ID are found with expressions of our own: real messages
make Python's header parser recurse without end.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_HEADER_OCTETS = 65_536
MAX_LINE_OCTETS = 998  # without CRLF, RFC 5322 §2.1.1

_PIECE = re.compile(rb"[^\n]{1,990}[\x80-\xbf]{0,3}")  # cuts no UTF-8 character apart
_FIELDS = {
    name: re.compile(rb"^%b[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)" % name, re.IGNORECASE | re.MULTILINE)
    for name in (b"subject", b"message-id")
}


class Survey(NamedTuple):
    can_return: bool  # small enough, and with no line that transports refuse
    eight_bit: bool


def read_header(chunks: Iterable[bytes]) -> bytes:
    """The header without the empty line; of an endless one whole lines up to the bound."""
    head = bytearray(b"\r\n")  # so that a message without a header has its empty line at the start as well
    for chunk in chunks:
        seen = len(head)
        head += chunk[: MAX_HEADER_OCTETS - seen]
        end = head.find(b"\r\n\r\n", max(0, seen - 3))
        if end >= 0:
            return bytes(head[2 : end + 2])
        if len(head) >= MAX_HEADER_OCTETS:
            break
    return bytes(head[2 : head.rfind(b"\r\n") + 2])


def survey(chunks: Iterable[bytes], max_octets: int) -> Survey:
    """Whether the message can be returned whole; stops reading where it cannot."""
    octets = line_octets = 0
    eight_bit = False
    for chunk in chunks:
        octets += len(chunk)
        line_lengths = [len(piece) for piece in chunk.split(b"\n")]  # with their CR
        line_lengths[0] += line_octets
        if octets > max_octets or max(line_lengths) > MAX_LINE_OCTETS + 1:
            return Survey(can_return=False, eight_bit=False)
        line_octets = line_lengths[-1]
        eight_bit = eight_bit or not chunk.isascii()
    return Survey(can_return=True, eight_bit=eight_bit)


def field(header: bytes, name: bytes) -> bytes:
    """The unfolded value of the first field called `name` (lower case, one of those known here); empty without one."""
    match = _FIELDS[name].search(header)
    return match[1].replace(b"\r\n", b"").strip() if match else b""


def is_utf8(header: bytes) -> bool:
    """Whether it holds UTF-8 beyond ASCII and nothing else beyond ASCII."""
    try:
        return not header.decode("utf-8").isascii()
    except UnicodeDecodeError:
        return False


def fold_long_lines(header: bytes) -> bytes:
    """The header with its over-long lines folded: Exim refuses to send longer ones, and the notice with them."""
    lines = header.split(b"\r\n")
    return b"\r\n".join(b"\r\n ".join(_PIECE.findall(ln)) if len(ln) > MAX_LINE_OCTETS else ln for ln in lines)
