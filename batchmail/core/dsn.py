"""Which notices a sender is owed, and the machine-readable part of one (message/delivery-status).

The decision is RFC 3461 §5.2 as a table; the fields are RFC 3464 with the
UTF-8 forms of RFC 6533.  Everything that came from outside passes through
`plain`, `address` or `host`, after which it is printable, bounded and cannot
start another line.

Not here: the letter around the fields (`core.notice`), when a delay is worth
telling, and that a notice is sent once (`flow.settle`).
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import NamedTuple

from batchmail.core import outcome as outcomes
from batchmail.core import xtext
from batchmail.core.deliverby import deliver_by
from batchmail.core.envelope import Client, Envelope, find
from batchmail.core.outcome import Outcome

MAX_VALUE_OCTETS = 900  # of one foreign value or reply line; with its field name it stays below 998
MAX_REPLY_OCTETS = 2048  # of one recipient; a notice may tell of thousands

# What a recipient's NOTIFY must name for an outcome to be told (RFC 3461 §4.1).  PASSED is not
# here: the next hop offered DSN and has taken the duty over with the parameters (§5.2.1).
_NOTIFY_WORD = {
    outcomes.DELIVERED: b"SUCCESS",
    outcomes.RELAYED: b"SUCCESS",
    outcomes.FAILED: b"FAILURE",
    outcomes.DELAYED: b"DELAY",
}
_NOTIFY_ABSENT = (b"FAILURE", b"DELAY")
_SERVED = (outcomes.PASSED, outcomes.RELAYED, outcomes.DELIVERED)
LATE = "4.4.7"  # the time of BY is over, RFC 2852 §4.1.3; where a message had to be given back, TOO_LATE
TOO_LATE = "5.4.7"

# The classes of status that an action may carry, and the status when there is none that fits.  What
# expired is "failed" with a code of class 4 (RFC 3464 §2.3.3).
_STATUS = {
    outcomes.DELIVERED: ("2", "2.0.0"),
    outcomes.RELAYED: ("2", "2.0.0"),
    outcomes.FAILED: ("45", "5.0.0"),
    outcomes.DELAYED: ("4", "4.0.0"),
}
_NUMBER = r"(?:0|[1-9][0-9]{0,2})"
_STATUS_CODE = re.compile(rf"[245]\.{_NUMBER}\.{_NUMBER}(?![0-9.])")

_ESCAPED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_NOT_UNITEXT = re.compile(r"[\x00-\x20\\+=\x7f]")
_LATEST_MS = 253_402_300_799_000  # the last second of the year 9999


class Notice(NamedTuple):
    """What a notice tells about one transaction."""

    envelope: Envelope
    outcomes: tuple[Outcome, ...]
    transaction: str  # its ID
    arrival_ms: int  # at the door
    site: str  # the site that tried: the Reporting-MTA
    far_site: str  # the site beyond the link; mostly the same
    received_from: Client = Client()  # whom that site had it from; for a peer its site name as `helo`
    is_fate_unknown: bool = False  # what failed was handed over, and nothing was told since


def owed(envelope: Envelope, outcome: Outcome, arrival_ms: int) -> str | None:
    """The action of the notice that this outcome calls for, or None.

    "delayed" is permitted rather than owed: whether it is worth telling is the caller's to say.
    """
    word = _NOTIFY_WORD.get(outcome.action)
    if not envelope.sender or word is None:  # RFC 3461 §5.2: never to the null sender
        return None
    notify = find(envelope.recipients[outcome.recipient].parameters, b"NOTIFY")
    wanted = _NOTIFY_ABSENT if notify is None or notify.value is None else notify.value.upper().split(b",")
    if outcome.action == outcomes.RELAYED and b"NEVER" not in wanted and _is_out_of_hand(envelope, outcome, arrival_ms):
        return outcome.action
    return outcome.action if word in wanted else None


def _is_out_of_hand(envelope: Envelope, outcome: Outcome, arrival_ms: int) -> bool:
    """RFC 2852 §4.1.4: traced, or given to who will not tell when its time is over."""
    by = deliver_by(envelope)
    return by is not None and (by.trace or (not by.must_return and outcome.time_ms < by.deadline_ms(arrival_ms)))


def overdue(envelope: Envelope, outcome: Outcome, arrival_ms: int) -> Outcome | None:
    """The delay to be told of a recipient who was served after the time that BY gave, and in no other way told so."""
    by = deliver_by(envelope)
    if by is None or by.must_return or by.is_over or outcome.action not in _SERVED:
        return None
    deadline_ms = by.deadline_ms(arrival_ms)
    if outcome.time_ms < deadline_ms or owed(envelope, outcome, arrival_ms):
        return None
    text = f"it was to be delivered by {date(deadline_ms)}, and was handed on at {date(outcome.time_ms)}"
    return Outcome(outcome.recipient, outcomes.DELAYED, 0, LATE, text.encode(), b"", outcome.time_ms)


def delivery_status(notice: Notice, *, utf8: bool, retry_until_ms: int | None) -> str:
    """The content of the message/delivery-status part, or with `utf8` of message/global-delivery-status."""
    blocks = [_message_fields(notice, utf8)]
    blocks += [_recipient_fields(notice, outcome, utf8, retry_until_ms) for outcome in notice.outcomes]
    return "\r\n".join("".join(f"{line}\r\n" for line in block) for block in blocks)


def _message_fields(notice: Notice, utf8: bool) -> Iterator[str]:
    envid = find(notice.envelope.parameters, b"ENVID")
    if envid and envid.value is not None:
        yield f"Original-Envelope-Id: {plain(xtext.decode(envid.value, any_case=True), utf8=utf8)}"
    yield f"Reporting-MTA: {_mta(notice.site)}"
    client = notice.received_from
    if name := client.helo or client.name:
        comment = f" ([{host(client.address)}])" if client.address else ""
        yield f"Received-From-MTA: {_mta(host(name))}{comment}"
    yield f"Arrival-Date: {date(notice.arrival_ms)}"
    if by := deliver_by(notice.envelope):
        yield f"Deliver-By-Date: {date(by.deadline_ms(notice.arrival_ms))}"  # RFC 2852 §5


def _recipient_fields(notice: Notice, outcome: Outcome, utf8: bool, retry_until_ms: int | None) -> Iterator[str]:
    recipient = notice.envelope.recipients[outcome.recipient]
    orcpt = find(recipient.parameters, b"ORCPT")
    if orcpt and orcpt.value is not None:  # RFC 3461 §6.3(d): never invented
        yield f"Original-Recipient: {_original_recipient(orcpt.value, utf8)}"
    yield f"Final-Recipient: {_typed_address(recipient.address, utf8)}"
    yield f"Action: {outcome.action}"
    yield f"Status: {status(outcome)}"
    if outcome.mta:
        yield f"Remote-MTA: {_mta(host(outcome.mta))}"
    if lines := reply_lines(outcome, utf8=utf8):
        kind = "smtp" if outcome.code else "x-batchmail"
        yield f"Diagnostic-Code: {kind}; " + "\r\n ".join(lines)
    if outcome.code or outcome.action not in (outcomes.FAILED, outcomes.DELAYED):  # else perhaps nobody was asked
        yield f"Last-Attempt-Date: {date(outcome.time_ms)}"
    yield f"Final-Log-ID: {notice.transaction}"
    if outcome.action == outcomes.DELAYED and retry_until_ms is not None:
        yield f"Will-Retry-Until: {date(retry_until_ms)}"


def status(outcome: Outcome) -> str:
    """The outcome's enhanced status code where its class fits the action, else the general one."""
    classes, general = _STATUS[outcome.action]
    fits = _STATUS_CODE.fullmatch(outcome.status) and outcome.status[0] in classes
    return outcome.status if fits else general


def reply_lines(outcome: Outcome, *, utf8: bool) -> list[str]:
    """What was said of a recipient: a server's reply with its codes, or our own words."""
    lines = [plain(line.strip(), utf8=utf8) for line in outcome.text[:MAX_REPLY_OCTETS].split(b"\n")]
    if not outcome.code:
        return [line for line in lines if line]
    # A general x.0.0 may be ours, made up for a server without enhanced codes: not quoted as the server's.
    if not status(outcome).endswith(".0.0") and not any(map(_STATUS_CODE.match, lines)):
        lines = [f"{outcome.status} {line}".strip() for line in lines]
    *first, last = lines
    return [f"{outcome.code}-{line}" for line in first] + [f"{outcome.code} {last}".strip()]


def plain(octets: bytes, *, utf8: bool) -> str:
    """Foreign text as one bounded line of printable characters; ASCII unless `utf8`."""
    text = octets[: MAX_VALUE_OCTETS + 1].decode("utf-8", "replace").replace("\t", " ")
    return _bounded("".join(c if c.isprintable() and (utf8 or c.isascii()) else "?" for c in text))


def host(name: bytes) -> str:
    """A host name or address literal as a stranger gave it, fit to stand outside of a comment."""
    return re.sub(r"[^A-Za-z0-9._:\[\]-]", "?", name[:255].decode("ascii", "replace"))


def address(octets: bytes, *, utf8: bool) -> str:
    """A mail address to be shown: itself; in ASCII surroundings as utf-8-addr-xtext (RFC 6533 §3)."""
    return _typed_address(octets, utf8).partition("; ")[2]


def date(time_ms: int) -> str:
    """An RFC 5322 date in UTC; a peer's clock may say anything."""
    return format_datetime(datetime.fromtimestamp(min(time_ms, _LATEST_MS) // 1000, UTC))


def _mta(name: str) -> str:
    """RFC 3461 §9.3: `dns` is for qualified names."""
    return f"dns; {name}" if "." in name or ":" in name else f"x-local-hostname; {name}"


def _typed_address(octets: bytes, utf8: bool) -> str:
    if octets.isascii():
        return f"rfc822; {plain(octets, utf8=False)}"
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return f"rfc822; {plain(octets, utf8=False)}"
    if utf8:
        return "utf-8; " + _bounded("".join(c if c.isprintable() else _escape(c) for c in text))
    return "utf-8; " + _bounded(_addr_xtext(text))


def _original_recipient(orcpt: bytes, utf8: bool) -> str:
    kind, _, value = orcpt.partition(b";")
    if kind.lower() == b"utf-8":
        return f"utf-8; {_orcpt_utf8(value, utf8)}"
    decoded = xtext.decode(value, any_case=True)
    if not decoded.isascii():  # Postfix writes UTF-8 addresses as rfc822 and in xtext
        return _typed_address(decoded, utf8)
    return f"{plain(kind, utf8=False)}; {plain(decoded, utf8=False)}"


def _orcpt_utf8(value: bytes, utf8: bool) -> str:
    """RFC 6533 §3: converted to the form of the surroundings; copied when it cannot be read."""
    try:
        text = value.decode("utf-8")
        unescaped = _ESCAPED.sub(lambda m: chr(int(m[1], 16)), text)
        unescaped.encode("utf-8")  # no surrogates
    except (ValueError, OverflowError):
        return plain(value, utf8=utf8)
    if not utf8:
        return _bounded(text if text.isascii() else _addr_xtext(unescaped))
    return _bounded(unescaped) if unescaped.isprintable() else plain(value, utf8=True)


def _addr_xtext(text: str) -> str:
    return "".join(c if c.isascii() and not _NOT_UNITEXT.match(c) else _escape(c) for c in text)


def _escape(character: str) -> str:
    return f"\\x{{{ord(character):02X}}}"


def _bounded(text: str) -> str:
    octets = text.encode("utf-8")
    return text if len(octets) <= MAX_VALUE_OCTETS else octets[:MAX_VALUE_OCTETS].decode("utf-8", "ignore") + "..."
