"""A notice of ours in 7-bit form, for a mail server that offers no 8BITMIME or no SMTPUTF8.

Made from the letter alone, so that the same letter, with its Message-ID, gives
the same octets: words in quoted-printable, the fields as plain
message/delivery-status with UTF-8 addresses as xtext (RFC 6533 §3), and of an
8-bit message only its header, since message/rfc822 must not be encoded.
"""

import re
from binascii import b2a_qp
from email.header import Header

from batchmail.core import dsn

_BOUNDARY = re.compile(rb'boundary="(=_batchmail_[0-9a-f]+)"')
_SUBJECT = re.compile(rb"^Subject: ([^\r\n]*(?:\r\n [^\r\n]*)*)", re.MULTILINE)
_ADDRESS = re.compile(r"((?:Final|Original)-Recipient: utf-8; )(.*)")
_EIGHT_BIT = b"Content-Transfer-Encoding: 8bit\r\n"


def sevenbit(letter: bytes) -> bytes:
    """The whole letter, CRLF lines; one that is ASCII, or not of ours, as it is."""
    boundary = _BOUNDARY.search(letter)
    if letter.isascii() or boundary is None:
        return letter
    delimiter = b"\r\n--" + boundary[1]
    head, *parts, end = letter.split(delimiter)
    if len(parts) != 3:
        return letter
    words, status, returned = parts
    if not returned.isascii():
        words = words.replace(b"\r\nIt is attached.\r\n", b"\r\nIts header is attached.\r\n")
    anew = [_head(head), *map(_encoded, (words, _fields(status), _header_only(returned))), end]
    return delimiter.join(anew)


def _head(head: bytes) -> bytes:
    found = _SUBJECT.search(head)
    if found and not found[1].isascii():
        text = found[1].decode("utf-8", "replace").replace("\r\n", "")
        words = Header(text, "utf-8", header_name="Subject").encode(linesep="\r\n").encode("ascii")
        head = head[: found.start(1)] + words + head[found.end(1) :]
    return head.replace(b"\r\n" + _EIGHT_BIT, b"\r\n")


def _encoded(part: bytes) -> bytes:
    """A part of a text type, its lines encoded if they must be."""
    if part.isascii():
        return part
    top, _, body = part.partition(b"\r\n\r\n")
    top = (top + b"\r\n").replace(_EIGHT_BIT, b"Content-Transfer-Encoding: quoted-printable\r\n")
    return top + b"\r\n" + b2a_qp(body)


def _fields(part: bytes) -> bytes:
    if part.isascii():
        return part
    text = part.decode("utf-8", "replace").replace("message/global-delivery-status", "message/delivery-status")
    lines = [_field(line) for line in text.replace(_EIGHT_BIT.decode(), "").split("\r\n")]
    return "\r\n".join(lines).encode("ascii")


def _field(line: str) -> str:
    if line.isascii():
        return line
    found = _ADDRESS.fullmatch(line)
    if found:
        return found[1] + dsn.address(found[2].encode(), utf8=False)
    return dsn.plain(line.encode(), utf8=False)


def _header_only(part: bytes) -> bytes:
    if part.isascii():
        return part
    _, _, message = part.partition(b"\r\n\r\n")
    header, _, _ = (b"\r\n" + message).partition(b"\r\n\r\n")
    header = header.removeprefix(b"\r\n")
    encoding = b"" if header.isascii() else _EIGHT_BIT
    return b"\r\nContent-Type: text/rfc822-headers\r\n" + encoding + b"\r\n" + header.rstrip(b"\r\n") + b"\r\n"
