"""The envelope of a transaction, and the one reader and writer of MAIL and RCPT commands.

Addresses and parameters are octets, kept in their original spelling; a value
that has been parsed is known to be well-formed and is not checked again.
Sources: RFC 5321 §4.1.1, §4.1.2; RFC 3461 §4; RFC 6531 §3; RFC 6710 §4.

Not here: what a next hop is offered (`proto.smtp_client`), and who may send.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from batchmail.core import xtext

MAX_COMMAND_OCTETS = 4096  # a MAIL or RCPT line with its line end; RFC 3461 §5.4 asks for 1036
MAX_RECIPIENTS = 10_000


class Parameter(NamedTuple):
    """An ESMTP parameter as it was written; `value` is None where no `=` stood."""

    keyword: bytes
    value: bytes | None

    def __bytes__(self) -> bytes:
        return self.keyword if self.value is None else self.keyword + b"=" + self.value

    @property
    def name(self) -> bytes:
        """The keyword in upper case: keywords are compared without case (RFC 5321 §2.4)."""
        return self.keyword.upper()


Parameters = tuple[Parameter, ...]
Check = Callable[[bytes | None], bool]  # is this value of a parameter well-formed?


class Recipient(NamedTuple):
    """One RCPT command: the address without its angle brackets, and its parameters."""

    address: bytes
    parameters: Parameters = ()


class Envelope(NamedTuple):
    """Sender (empty: the null sender), its parameters, and the recipients in their order."""

    sender: bytes
    parameters: Parameters
    recipients: tuple[Recipient, ...]


class Client(NamedTuple):
    """Who gave the message to the MTA upstream, where it said so; empty where not."""

    address: bytes = b""
    name: bytes = b""
    helo: bytes = b""
    protocol: bytes = b""


class CommandError(Exception):
    """A MAIL or RCPT command that cannot be taken: reply code, enhanced status and a text for the writer."""

    def __init__(self, code: int, status: str, text: str):
        super().__init__(text)
        self.code, self.status, self.text = code, status, text


def parse_mail(line: bytes) -> tuple[bytes, Parameters]:
    """Sender and parameters of a MAIL command, given without its line end.  Raises CommandError."""
    address, rest = _parse_path(line, b"MAIL", b"FROM:")
    return address, _parse_parameters(rest, _MAIL_CHECKS, "MAIL")


def parse_rcpt(line: bytes) -> Recipient:
    """The recipient of an RCPT command, given without its line end.  Raises CommandError."""
    address, rest = _parse_path(line, b"RCPT", b"TO:")
    if not address:
        raise CommandError(501, "5.1.3", "the recipient is empty")
    return Recipient(address, _parse_parameters(rest, _RCPT_CHECKS, "RCPT"))


def split_command(line: bytes, verb: bytes) -> tuple[bytes, bytes]:
    """Address and parameters, not yet parsed, of a MAIL or RCPT command.  Raises CommandError."""
    return _parse_path(line, verb, b"FROM:" if verb == b"MAIL" else b"TO:")


def parse_mail_parameter(word: bytes) -> Parameter:
    """One parameter of a MAIL command.  Raises CommandError."""
    return _parse_parameter(word, _MAIL_CHECKS, "MAIL")


def parse_rcpt_parameter(word: bytes) -> Parameter:
    """One parameter of an RCPT command.  Raises CommandError."""
    return _parse_parameter(word, _RCPT_CHECKS, "RCPT")


def format_mail(sender: bytes, parameters: Parameters) -> bytes:
    """The MAIL command, without its line end."""
    return b" ".join((b"MAIL FROM:<%b>" % sender, *map(bytes, parameters)))


def format_rcpt(recipient: Recipient) -> bytes:
    """The RCPT command, without its line end."""
    return b" ".join((b"RCPT TO:<%b>" % recipient.address, *map(bytes, recipient.parameters)))


def find(parameters: Parameters, name: bytes) -> Parameter | None:
    """The parameter called `name` (upper case), or None."""
    return next((p for p in parameters if p.name == name), None)


def without(parameters: Parameters, *names: bytes) -> Parameters:
    """The parameters but those called `names` (upper case)."""
    return tuple(p for p in parameters if p.name not in names)


def domain_of(address: bytes) -> bytes:
    """The domain of an address in lower case; empty when it has none."""
    _, at, domain = address.rpartition(b"@")
    return domain.lower() if at else b""


def check_address(address: bytes) -> bytes:
    """The address itself, when it can stand between angle brackets.  Raises CommandError."""
    parsed, rest = _parse_path(b"RCPT TO:<" + address + b">", b"RCPT", b"TO:")
    if not address or rest or parsed != address:
        raise CommandError(501, "5.1.3", f"malformed address {_show(address)}")
    return address


# A path's inside: quoted strings may hold any printable octet, brackets included; outside of them
# neither blanks, controls nor brackets.  Octets above 127 are left to SMTPUTF8 and the target.
_PATH = re.compile(rb'<((?:"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])*"|[!#-;=?-~\x80-\xff\\])*)>')
_SOURCE_ROUTE = re.compile(rb"@[^:\"]*:")
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\xff]+))?\Z")
_X400 = re.compile(rb"[!-~]*\Z")


def _show(octets: bytes) -> str:
    """For a reply or the log: one printable line, whatever the writer sent."""
    return "".join(chr(octet) if 32 <= octet < 127 else f"\\x{octet:02x}" for octet in octets[:200])


def _parse_path(line: bytes, verb: bytes, keyword: bytes) -> tuple[bytes, bytes]:
    if len(line) > MAX_COMMAND_OCTETS:
        raise CommandError(500, "5.5.2", f"{verb.decode()} command longer than {MAX_COMMAND_OCTETS} octets")
    head, _, rest = line.partition(b":")
    if head.upper().split() != [verb, keyword[:-1]]:
        raise CommandError(501, "5.5.4", f"not a {verb.decode()} command: {_show(line)}")
    rest = rest.lstrip(b" ")  # `FROM: <x>` is tolerated on reading
    match = _PATH.match(rest)
    if not match:
        raise CommandError(501, "5.1.7" if verb == b"MAIL" else "5.1.3", f"malformed address in {_show(line)}")
    address, tail = match[1], rest[match.end() :]
    if tail and not tail.startswith(b" "):
        raise CommandError(501, "5.5.4", f"text after the address in {_show(line)}")
    route = _SOURCE_ROUTE.match(address)  # RFC 5321 App. C: accepted and ignored
    return (address[route.end() :] if route else address), tail.strip(b" ")


def _parse_parameters(text: bytes, checks: dict[bytes, Check], verb: str) -> Parameters:
    found: dict[bytes, Parameter] = {}
    for word in text.split():
        parameter = _parse_parameter(word, checks, verb)
        if parameter.name in found:
            raise CommandError(501, "5.5.4", f"{verb} parameter {_show(parameter.name)} stands twice")
        found[parameter.name] = parameter
    return tuple(found.values())


def _parse_parameter(word: bytes, checks: dict[bytes, Check], verb: str) -> Parameter:
    match = _PARAMETER.match(word)
    if not match:
        raise CommandError(501, "5.5.4", f"malformed {verb} parameter {_show(word)}")
    parameter = Parameter(match[1], match[2])
    check = checks.get(parameter.name)
    if check is None:
        raise CommandError(555, "5.5.4", f"{verb} parameter {_show(parameter.name)} cannot be carried")
    if not check(parameter.value):
        raise CommandError(501, "5.5.4", f"bad value in {_show(word)}")
    return parameter


def _printable_xtext(value: bytes | None, utf8: bool = False) -> bool:
    if value is None:
        return False
    try:
        decoded = xtext.decode(value)
    except ValueError:
        return False
    return all(32 <= octet <= 126 or (utf8 and octet > 127) for octet in decoded)


def _is_ret(value: bytes | None) -> bool:
    return value is not None and value.upper() in (b"FULL", b"HDRS")


def _is_envid(value: bytes | None) -> bool:
    return value is not None and len(value) <= 100 and _printable_xtext(value)


def _is_notify(value: bytes | None) -> bool:
    words = (value or b"").upper().split(b",")
    return words == [b"NEVER"] or (len(set(words)) == len(words) and set(words) <= {b"SUCCESS", b"FAILURE", b"DELAY"})


def _is_orcpt(value: bytes | None) -> bool:
    kind, semicolon, address = (value or b"").partition(b";")
    if not semicolon or not re.match(rb"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\Z", kind) or len(value or b"") > 500:
        return False
    if kind.lower() == b"utf-8":  # RFC 6533 §3: not xtext; escapes are \x{H}
        return re.match(rb"(?:[!-*,-<>-\[\]-~\x80-\xff]|\\x\{[0-9A-Fa-f]{2,6}\})+\Z", address) is not None
    return bool(address) and _printable_xtext(address, utf8=True)  # Postfix makes rfc822 ones of UTF-8 addresses too


_MAIL_CHECKS: dict[bytes, Check] = {
    b"SIZE": lambda v: v is not None and re.match(rb"[0-9]{1,20}\Z", v) is not None,
    b"BODY": lambda v: v is not None and v.upper() in (b"7BIT", b"8BITMIME"),
    b"SMTPUTF8": lambda v: v is None,
    b"RET": _is_ret,
    b"ENVID": _is_envid,
    b"AUTH": lambda v: v == b"<>" or _printable_xtext(v),
    b"MT-PRIORITY": lambda v: v is not None and re.match(rb"-?[1-9]\Z|0\Z", v) is not None,
    b"SUBMITTER": _printable_xtext,
    b"SOLICIT": lambda v: v is not None and _X400.match(v) is not None,
}
_RCPT_CHECKS: dict[bytes, Check] = {
    b"NOTIFY": _is_notify,
    b"ORCPT": _is_orcpt,
    b"RRVS": lambda v: v is not None and re.match(rb"[0-9T:Z+.-]{20,35}(;[CR])?\Z", v) is not None,
}
