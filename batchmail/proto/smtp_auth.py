"""SMTP AUTH (RFC 4954): which mechanism, and the lines of its dialogue.

PLAIN and LOGIN show the password to whoever reads the line, so they are for
TLS and for connections that do not leave the machine.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from typing import NamedTuple

from batchmail.core.errors import PeerError
from batchmail.core.reply import Reply


class Credentials(NamedTuple):
    user: bytes
    password: bytes


def choose(mechanisms: Sequence[bytes], private: bool) -> bytes | None:
    """The mechanism to use; None when the server offers none that may be used on this line."""
    usable = (b"PLAIN", b"LOGIN", b"CRAM-MD5") if private else (b"CRAM-MD5",)
    return next((name for name in usable if name in mechanisms), None)


def first_line(mechanism: bytes, who: Credentials) -> bytes:
    """The AUTH command."""
    if mechanism == b"PLAIN":
        return b"AUTH PLAIN " + base64.b64encode(b"\0" + who.user + b"\0" + who.password)
    return b"AUTH " + mechanism


def next_line(mechanism: bytes, who: Credentials, steps: int, challenge: Reply) -> bytes:
    """The answer to the challenge after `steps` lines of ours.  Raises PeerError."""
    if mechanism == b"CRAM-MD5" and steps == 1:
        try:
            text = base64.b64decode(challenge.text, validate=True)
        except binascii.Error:
            raise PeerError("the server's CRAM-MD5 challenge is not base64") from None
        return base64.b64encode(who.user + b" " + hmac.new(who.password, text, "md5").hexdigest().encode())
    if mechanism == b"LOGIN" and steps in (1, 2):  # its prompts are not looked at: user name, then password
        return base64.b64encode(who.user if steps == 1 else who.password)
    raise PeerError(f"the server asks for more than {mechanism.decode()} has")
