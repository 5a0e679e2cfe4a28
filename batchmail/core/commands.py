"""The one reader of MAIL and RCPT commands and their parameters.

A value that has been parsed is known to be well-formed and is not checked again.
Sources: RFC 5321 §4.1.1; RFC 2852 §4; RFC 3461 §4; RFC 6531 §3; RFC 6710 §4.
"""

from batchmail.core import deliverby, xtext
from batchmail.core.envelope import Parameter, Parameters, Recipient
from batchmail.core.path import CommandError, show, split_command
from batchmail.core.value import Callable

Check = Callable[[bytes | None], bool]  # is this value of a parameter well-formed?

# The octets that may stand in a place.  Those above 127 are left to SMTPUTF8 and the target.
_VISIBLE = bytes(range(33, 127))
_ABOVE = bytes(range(128, 256))
_OF_VALUE = _VISIBLE.translate(None, b"=") + _ABOVE
_OF_UTF8_ADDRESS = _VISIBLE.translate(None, b"+=\\") + _ABOVE
_HEX_DIGITS = b"0123456789ABCDEFabcdef"
_DIGITS_TO_0 = bytes.maketrans(b"123456789", b"000000000")


def parse_mail(line: bytes) -> tuple[bytes, Parameters]:
    """Sender and parameters of a MAIL command, given without its line end.  Raises CommandError."""
    address, rest = split_command(line, b"MAIL")
    return address, _parse_parameters(rest, _MAIL_CHECKS, "MAIL")


def parse_rcpt(line: bytes) -> Recipient:
    """The recipient of an RCPT command, given without its line end.  Raises CommandError."""
    address, rest = split_command(line, b"RCPT")
    if not address:
        raise CommandError(501, "5.1.3", "the recipient is empty")
    return Recipient(address, _parse_parameters(rest, _RCPT_CHECKS, "RCPT"))


def parse_mail_parameter(word: bytes) -> Parameter:
    """One parameter of a MAIL command.  Raises CommandError."""
    return _parse_parameter(word, _MAIL_CHECKS, "MAIL")


def parse_rcpt_parameter(word: bytes) -> Parameter:
    """One parameter of an RCPT command.  Raises CommandError."""
    return _parse_parameter(word, _RCPT_CHECKS, "RCPT")


def _parse_parameters(text: bytes, checks: dict[bytes, Check], verb: str) -> Parameters:
    found: dict[bytes, Parameter] = {}
    for word in text.split():
        parameter = _parse_parameter(word, checks, verb)
        if parameter.name in found:
            raise CommandError(501, "5.5.4", f"{verb} parameter {show(parameter.name)} stands twice")
        found[parameter.name] = parameter
    return tuple(found.values())


def _parse_parameter(word: bytes, checks: dict[bytes, Check], verb: str) -> Parameter:
    keyword, equals, value = word.partition(b"=")
    is_well_formed = _is_keyword(keyword) and not keyword.startswith(b"-") and _holds(value, _OF_VALUE)
    if not is_well_formed or bool(equals) != bool(value):
        raise CommandError(501, "5.5.4", f"malformed {verb} parameter {show(word)}")
    parameter = Parameter(keyword, value if equals else None)
    check = checks.get(parameter.name)
    if check is None:
        raise CommandError(555, "5.5.4", f"{verb} parameter {show(parameter.name)} cannot be carried")
    if not check(parameter.value):
        raise CommandError(501, "5.5.4", f"bad value in {show(word)}")
    return parameter


def _holds(octets: bytes, allowed: bytes) -> bool:
    """Whether these are the only octets."""
    return not octets.translate(None, allowed)


def _is_keyword(word: bytes) -> bool:
    """Letters, digits and hyphens."""
    return word.replace(b"-", b"0").isalnum()


def _printable_xtext(value: bytes | None, utf8: bool = False, any_case: bool = False) -> bool:
    if value is None:
        return False
    try:
        decoded = xtext.decode(value, any_case)
    except ValueError:
        return False
    return all(32 <= octet <= 126 or (utf8 and octet > 127) for octet in decoded)


def _is_ret(value: bytes | None) -> bool:
    return value is not None and value.upper() in (b"FULL", b"HDRS")


def _is_envid(value: bytes | None) -> bool:
    """In lower case too: Exim passes on what its clients write, and refusing it would bounce their mail."""
    return value is not None and len(value) <= 100 and _printable_xtext(value, any_case=True)


def _is_notify(value: bytes | None) -> bool:
    words = (value or b"").upper().split(b",")
    return words == [b"NEVER"] or (len(set(words)) == len(words) and set(words) <= {b"SUCCESS", b"FAILURE", b"DELAY"})


def _is_by(value: bytes | None) -> bool:
    try:
        by = deliverby.parse(value or b"")
    except ValueError:
        return False
    return not (by.must_return and by.is_over)


def _is_orcpt(value: bytes | None) -> bool:
    kind, semicolon, address = (value or b"").partition(b";")
    if not semicolon or not address or not all(map(_is_keyword, kind.split(b"."))) or len(value or b"") > 500:
        return False
    if kind.lower() == b"utf-8":
        return _is_utf8_address(address)
    return _printable_xtext(address, utf8=True, any_case=True)  # Postfix makes rfc822 ones of UTF-8 addresses too


def _is_utf8_address(text: bytes) -> bool:
    """RFC 6533 §3: not xtext; escapes are \\x{H}."""
    plain, *escapes = text.split(b"\\")
    for escape in escapes:
        digits, brace, rest = escape.removeprefix(b"x{").partition(b"}")
        if not escape.startswith(b"x{") or not brace or not 2 <= len(digits) <= 6 or not _holds(digits, _HEX_DIGITS):
            return False
        plain += rest
    try:
        plain.decode()
    except UnicodeDecodeError:
        return False
    return _holds(plain, _OF_UTF8_ADDRESS)


def _is_rrvs(value: bytes | None) -> bool:
    """RFC 7293 §3.1: a date-time of RFC 3339 without fractions, and an action."""
    time, semicolon, action = (value or b"").partition(b";")
    return _is_date_time(time) and (not semicolon or action.upper() in (b"C", b"R"))


def _is_date_time(text: bytes) -> bool:
    shape = text.translate(_DIGITS_TO_0)
    if shape[:19] != b"0000-00-00T00:00:00" or shape[19:] not in (b"Z", b"+00:00", b"-00:00"):
        return False
    month, day, hour, minute = (int(text[at : at + 2]) for at in (5, 8, 11, 14))
    return 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60


_PRIORITIES = [b"%d" % priority for priority in range(-9, 10)]
_MAIL_CHECKS: dict[bytes, Check] = {
    b"SIZE": lambda v: v is not None and v.isdigit() and len(v) <= 20,
    b"BODY": lambda v: v is not None and v.upper() in (b"7BIT", b"8BITMIME"),
    b"SMTPUTF8": lambda v: v is None,
    b"RET": _is_ret,
    b"ENVID": _is_envid,
    b"AUTH": lambda v: v == b"<>" or _printable_xtext(v),
    b"MT-PRIORITY": lambda v: v in _PRIORITIES,
    b"BY": _is_by,
    b"SUBMITTER": _printable_xtext,
    b"SOLICIT": lambda v: v is not None and _holds(v, _VISIBLE),
}
_RCPT_CHECKS: dict[bytes, Check] = {
    b"NOTIFY": _is_notify,
    b"ORCPT": _is_orcpt,
    b"RRVS": _is_rrvs,
}
