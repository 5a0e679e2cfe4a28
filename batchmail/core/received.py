"""The id of a message's topmost Received: line: what the MTA that hands it over calls it (RFC 5321 §4.4)."""

import re

TOP_OCTETS = 2048  # of the content, in which the line is looked for
_LINE = re.compile(rb"(?:[!-9;-~]+:[^\n]*\n(?:[ \t][^\n]*\n)*?)*?received:((?:[^\n]*\n[ \t])*[^\n]*)\n", re.IGNORECASE)
_ID = re.compile(rb"\sid\s+([!-:<-~]{1,100})(?=[\s;])", re.IGNORECASE)
_COMMENT = re.compile(rb"\([^()]*\)")


def received_id(top: bytes) -> str:
    """The id, given the first octets of CRLF content; empty where there is none."""
    match = _LINE.match(top.partition(b"\r\n\r\n")[0] + b"\r\n")
    found = _ID.search(_COMMENT.sub(b" ", match[1]) + b" ") if match else None
    return found[1].decode("ascii") if found else ""
