"""XFORWARD: the MTA says whom it has the next message from (Postfix, XFORWARD_README).

    XFORWARD NAME=spike.example ADDR=IPV6:2001:db8::1 PORT=2525 PROTO=ESMTP
    XFORWARD HELO=spike.example IDENT=4A1 SOURCE=REMOTE

Values are xtext, `[UNAVAILABLE]` where the MTA does not know.  Several commands add up until the transaction ends.
"""

import ipaddress
import re
from typing import NamedTuple

from batchmail.core import xtext
from batchmail.core.envelope import Client
from batchmail.core.path import CommandError

MAX_VALUE_OCTETS = 255
_FIELDS = {  # attribute: field of Client
    b"NAME": "name",
    b"ADDR": "address",
    b"PORT": "port",
    b"PROTO": "protocol",
    b"HELO": "helo",
    b"SOURCE": "source",
}
_IDENT = b"IDENT"
ATTRIBUTES = (b"NAME", b"ADDR", b"PORT", b"PROTO", b"HELO", _IDENT, b"SOURCE")
# A server refuses a whole command for one value, such as an IPv6 address where it has none.  Each fits in 512 octets.
_TOGETHER = ((b"NAME",), (b"ADDR", b"PORT"), (b"PROTO", b"HELO", _IDENT, b"SOURCE"))
_CUT = (b"NAME", b"HELO")  # a client may call itself what it likes: no reason to refuse its mail
_UNKNOWN = (b"[UNAVAILABLE]", b"[TEMPUNAVAIL]")
_SHAPES = {
    b"PORT": re.compile(rb"[0-9]{1,5}\Z"),
    b"PROTO": re.compile(rb"[!-~]{1,64}\Z"),
    b"SOURCE": re.compile(rb"LOCAL\Z|REMOTE\Z", re.IGNORECASE),
    _IDENT: re.compile(rb"[!-~]+\Z"),
}
_PRINTABLE = re.compile(rb"[ -~\x80-\xff]+\Z")


class Forwarded(NamedTuple):
    """What the MTA has said; empty where it has not."""

    client: Client = Client()
    queue_id: str = ""


def parse(text: bytes, known: Forwarded) -> Forwarded:
    """What is known after a command, given what stands behind its verb.  Raises CommandError."""
    client, queue_id = known
    words = text.split()
    if not words:
        raise CommandError(501, "5.5.4", "XFORWARD without an attribute")
    for word in words:
        name, equals, encoded = word.partition(b"=")
        name = name.upper()
        if not equals or name not in ATTRIBUTES:
            raise CommandError(501, "5.5.4", "XFORWARD wants NAME=value with the names it was offered")
        value = _value(name, encoded)
        if name == _IDENT:
            queue_id = value.decode("ascii")
        else:
            client = client._replace(**{_FIELDS[name]: value})
    return Forwarded(client, queue_id)


def _value(name: bytes, encoded: bytes) -> bytes:
    try:
        value = xtext.decode(encoded)
    except ValueError:
        value = b""
    if value.upper() in _UNKNOWN:
        return b""
    if name in _CUT:
        value = value[:MAX_VALUE_OCTETS]
    if len(value) > MAX_VALUE_OCTETS or not _SHAPES.get(name, _PRINTABLE).match(value):
        raise CommandError(501, "5.5.4", f"XFORWARD {name.decode()} has a bad value")
    return _address(value) if name == b"ADDR" else value


def _address(value: bytes) -> bytes:
    """An IP address as it is written elsewhere."""
    if value[:5].upper() == b"IPV6:":
        value = value[5:]
    try:
        return str(ipaddress.ip_address(value.decode("ascii"))).encode()
    except ValueError:
        raise CommandError(501, "5.5.4", "XFORWARD ADDR is no IP address") from None


def commands(client: Client, queue_id: str, offered: bytes) -> list[bytes]:
    """The commands, without line ends, for a server that offers these attributes; none for a client not known.

    What is not known, or no server would take, is left out: the server then knows nothing of it either.
    """
    values = {name: getattr(client, field) for name, field in _FIELDS.items()}
    if not any(values.values()):
        return []
    values |= {b"ADDR": _address_on_the_wire(client.address), _IDENT: queue_id.encode()}
    known = offered.upper().split()
    groups = ([name for name in group if name in known and _is_fit(name, values[name])] for group in _TOGETHER)
    return [
        b" ".join((b"XFORWARD", *(b"%b=%b" % (n, xtext.encode(values[n])) for n in group))) for group in groups if group
    ]


def _is_fit(name: bytes, value: bytes) -> bool:
    shape = _SHAPES.get(name)
    return 0 < len(xtext.encode(value)) <= MAX_VALUE_OCTETS and (shape is None or shape.match(value) is not None)


def _address_on_the_wire(address: bytes) -> bytes:
    try:
        ip = ipaddress.ip_address(address.decode("ascii"))
    except ValueError:
        return b""
    return (b"IPV6:" if ip.version == 6 else b"") + address
