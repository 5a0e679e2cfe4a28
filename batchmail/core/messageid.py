"""The Message-ID of a message, for those who look for it by that (RFC 5322 §3.6.4)."""

import re

_FIELD = re.compile(rb"^message-id:[ \t]*(?:\r\n[ \t]+)?<([^<>\s]{1,250})>", re.IGNORECASE | re.MULTILINE)


def of_header(header: bytes) -> str:
    """Without its angle brackets, printable; empty when there is none, or none that can be read."""
    match = _FIELD.search(header)
    return match[1].decode("ascii", "backslashreplace") if match else ""


def of_text(text: bytes) -> str:
    """As `of_header`, out of the first octets of a transaction's text: its content begins behind DATA."""
    content = text.partition(b"\r\nDATA\r\n")[2]
    return "" if content.startswith(b"\r\n") else of_header(content.partition(b"\r\n\r\n")[0])
