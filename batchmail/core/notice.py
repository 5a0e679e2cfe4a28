"""The letter that tells a sender what became of a transaction: an RFC 6522 report with its own envelope.

Three parts: words for a person, the fields of `core.dsn`, and the returned
message or its header.  ASCII and the plain media types are used unless the
message itself needs SMTPUTF8 (RFC 6533).

Not here: who is told what (`core.dsn`), and sending it (`flow.settle`).
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from email.header import Header
from itertools import groupby
from typing import NamedTuple

from batchmail.core import dsn, original
from batchmail.core import outcome as outcomes
from batchmail.core.deliverby import deliver_by
from batchmail.core.dsn import Notice
from batchmail.core.envelope import Envelope, Parameter, Recipient, find
from batchmail.core.outcome import Outcome

Content = Callable[[], Iterable[bytes]]  # the original message from its start, CRLF lines, in chunks of any size

_WHOLE = ("message/rfc822", "message/global")  # media types of a message returned whole; the second for UTF-8


class _Part(NamedTuple):
    media_type: str
    eight_bit: bool
    chunks: Iterable[bytes]  # whole lines


def make_boundary(random: bytes) -> str:
    """A MIME boundary from at least 10 octets of randomness: no message holds it by chance or by design.

    `=_` cannot occur in quoted-printable or base64 (RFC 2045 §6.7).
    """
    return f"=_batchmail_{random.hex()}"


def compose(
    notice: Notice,
    content: Content | None,
    *,
    me: str,
    message_id: str,
    boundary: str,
    now_ms: int,
    retry_until_ms: int | None = None,
    expected_ms: int | None = None,
    max_return_octets: int,
) -> tuple[Envelope, Iterator[bytes]]:
    """The notice's envelope, and its content as CRLF lines in chunks, not dot-stuffed.

    `expected_ms` is when the far site is expected to be connected next.
    `me` is the site that writes it, `message_id` has its angle brackets, `boundary` is from `make_boundary`;
    the same arguments give the same octets.  `content` is called up to three times, the last time while the
    chunks are drawn.  Outcomes that the sender is not owed are not mentioned; ValueError when there is no other.
    """
    told = tuple(outcome for outcome in notice.outcomes if dsn.owed(notice.envelope, outcome, notice.arrival_ms))
    if not told:
        raise ValueError(f"no notice is owed for {notice.transaction}")
    notice = notice._replace(outcomes=told)
    header = original.read_header(content()) if content else b""
    utf8 = _needs_smtputf8(notice, header)
    returned = _returned_part(notice, content, header, utf8, max_return_octets) if content else None
    parts = [
        _words_part(notice, me, retry_until_ms, expected_ms, utf8, returned),
        _status_part(notice, retry_until_ms, utf8),
        *([returned] if returned else []),
    ]
    eight_bit = any(part.eight_bit for part in parts)
    fields = [
        f"From: Mail Delivery System <postmaster@{me}>",
        f"To: {_to(notice.envelope.sender)}",
        f"Date: {dsn.date(now_ms)}",
        f"Message-ID: {message_id}",
        f"Subject: {_subject(notice, header, utf8)}",
        "Auto-Submitted: auto-replied",
        *_in_reply_to(header),
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
        *(["Content-Transfer-Encoding: 8bit"] if eight_bit else []),
    ]
    letter = "".join(f"{field}\r\n" for field in fields).encode("utf-8")
    return _envelope(notice, utf8, eight_bit), _multipart(letter, parts, boundary)


def _envelope(notice: Notice, utf8: bool, eight_bit: bool) -> Envelope:
    """RFC 3461 §6.1: from the null sender, to the original one, and never a notice about it."""
    parameters = []
    if eight_bit or utf8:
        parameters.append(Parameter(b"BODY", b"8BITMIME"))
    if utf8:
        parameters.append(Parameter(b"SMTPUTF8", None))
    return Envelope(b"", tuple(parameters), (Recipient(notice.envelope.sender, (Parameter(b"NOTIFY", b"NEVER"),)),))


def _multipart(letter: bytes, parts: list[_Part], boundary: str) -> Iterator[bytes]:
    yield letter
    for part in parts:
        encoding = "Content-Transfer-Encoding: 8bit\r\n" if part.eight_bit else ""
        yield f"\r\n--{boundary}\r\nContent-Type: {part.media_type}\r\n{encoding}\r\n".encode("ascii")
        yield from part.chunks
    yield f"\r\n--{boundary}--\r\n".encode("ascii")


def _needs_smtputf8(notice: Notice, header: bytes) -> bool:
    """RFC 6533 §4: the UTF-8 forms only where something of the sender's own would be lost without them."""
    envelope = notice.envelope
    if not envelope.sender.isascii():
        return True
    addresses = (envelope.recipients[outcome.recipient].address for outcome in notice.outcomes)
    eight_bit = original.is_utf8(header) or not all(address.isascii() for address in addresses)
    return eight_bit and find(envelope.parameters, b"SMTPUTF8") is not None


# Words for a person


_EXPLAINED = {
    outcomes.FAILED: "Your message could not be delivered to {whom},\r\nand no further attempt will be made:",
    outcomes.DELAYED: "Your message has not yet been delivered to {whom}.\r\n"
    "THIS IS A WARNING ONLY: delivery is still being tried,\r\n"
    "and you need not send it again:",
    outcomes.RELAYED: "Your message was handed on to a mail server that sends no confirmations.\r\n"
    "Expect no further report on success for {whom}:",
    outcomes.DELIVERED: "Your message was delivered to {whom}:",
}
_WIDTH = 76
_FATE_UNKNOWN = (
    "It is not known whether your message was delivered to {whom}, and no\r\n"
    "further attempt will be made. Please ask, or send it again:"
)
_HANDED_ON = "Your message was handed on to the next mail server for {whom}:"
_OVERDUE = (
    "The time by which your message was to be delivered is over for {whom}.\r\n"
    "THIS IS A WARNING ONLY: you need not send it again:"
)


def _explained(notice: Notice, action: str, first: Outcome) -> str:
    if notice.is_fate_unknown and action == outcomes.FAILED:
        return _FATE_UNKNOWN
    if action == outcomes.RELAYED and deliver_by(notice.envelope):  # told of for that; it may be one that confirms
        return _HANDED_ON
    return _OVERDUE if _is_overdue(notice, first) else _EXPLAINED[action]


def _is_overdue(notice: Notice, outcome: Outcome) -> bool:
    by = deliver_by(notice.envelope)
    is_late = by is not None and outcome.time_ms >= by.deadline_ms(notice.arrival_ms)
    return outcome.action == outcomes.DELAYED and is_late


def _words_part(
    notice: Notice, me: str, retry_until_ms: int | None, expected_ms: int | None, utf8: bool, returned: _Part | None
) -> _Part:
    way = f"{notice.far_site}, to which there is a connection only from time to time; that is normal."
    lines = [*_wrapped(f"This is the mail system of {me}. Mail for the addresses below goes by way of {way}"), ""]
    by_action = sorted(notice.outcomes, key=lambda outcome: list(_EXPLAINED).index(outcome.action))
    for action, group in groupby(by_action, key=lambda outcome: outcome.action):
        lines += _section(notice, action, list(group), utf8)
        if action == outcomes.DELAYED:
            lines += _what_comes_next(notice, retry_until_ms, expected_ms)
    lines.append(f"Your message arrived on {dsn.date(notice.arrival_ms)}.")
    if returned:
        lines.append("It is attached." if returned.media_type in _WHOLE else "Its header is attached.")
    text = "".join(f"{line}\r\n" for line in lines)
    charset = "us-ascii" if text.isascii() else "utf-8"
    return _Part(f"text/plain; charset={charset}", not text.isascii(), [text.encode("utf-8")])


def _what_comes_next(notice: Notice, retry_until_ms: int | None, expected_ms: int | None) -> Iterator[str]:
    if expected_ms is not None:
        yield f"{notice.far_site} is expected to be connected next on {dsn.date(expected_ms)}."
    if retry_until_ms is not None:
        yield f"Delivery will be tried until {dsn.date(retry_until_ms)}."
        late = [outcome for outcome in notice.outcomes if outcome.action == outcomes.DELAYED]
        if all(dsn.owed(notice.envelope, outcome._replace(action=outcomes.FAILED), 0) for outcome in late):
            yield "If it does not succeed by then, you will be told."
    yield ""


def _section(notice: Notice, action: str, group: list[Outcome], utf8: bool) -> Iterator[str]:
    yield _explained(notice, action, group[0]).format(whom="this recipient" if len(group) == 1 else "these recipients")
    yield ""
    for outcome in group:
        yield f"  <{dsn.address(notice.envelope.recipients[outcome.recipient].address, utf8=utf8)}>"
        server = dsn.host(outcome.mta) or "the mail server"
        if action in (outcomes.DELIVERED, outcomes.RELAYED):
            yield from [f"      accepted by {server}"] if outcome.code else []
            continue
        if outcome.code:
            is_expired = action == outcomes.FAILED and outcome.code // 100 == 4
            yield f"      {server} said{' on the last attempt, and the time for more is over' if is_expired else ''}:"
        for line in dsn.reply_lines(outcome, utf8=utf8):
            yield from _wrapped(line, " " * 6)
    yield ""


def _wrapped(line: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        line, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _status_part(notice: Notice, retry_until_ms: int | None, utf8: bool) -> _Part:
    if utf8:
        fields = dsn.delivery_status(notice, utf8=True, retry_until_ms=retry_until_ms)
        if not fields.isascii():
            return _Part("message/global-delivery-status", True, [fields.encode("utf-8")])
    fields = dsn.delivery_status(notice, utf8=False, retry_until_ms=retry_until_ms)
    return _Part("message/delivery-status", False, [fields.encode("ascii")])


# What is returned


def _returned_part(notice: Notice, content: Content, header: bytes, utf8: bool, max_octets: int) -> _Part:
    """The whole message where a failure is told and it was asked for (RFC 3461 §4.3, §6.2), else its header."""
    is_global = utf8 and original.is_utf8(header)
    ret = find(notice.envelope.parameters, b"RET")
    headers_only = ret is not None and (ret.value or b"").upper() == b"HDRS"
    if not headers_only and any(outcome.action == outcomes.FAILED for outcome in notice.outcomes):
        seen = original.survey(content(), max_octets)
        if seen.can_return:
            return _Part(_WHOLE[is_global], seen.eight_bit, _drawn(content))
    media_type = "message/global-headers" if is_global else "text/rfc822-headers"
    return _Part(media_type, not header.isascii(), [original.fold_long_lines(header)])


def _drawn(content: Content) -> Iterator[bytes]:
    yield from content()  # opened when the first chunk is asked for


# The letter's own header


_MAX_SUBJECT_OCTETS = 300
_PLAIN_ID = re.compile(r"<[!#-'*+\--:=?A-Z\[\]^-~]+@[!#-'*+\--:=?A-Z\[\]^-~]+>")  # no quoting, no comments
_ATOM = r"[^\s()<>\[\]:;,@\\\".]+"
_LOCAL_PART = re.compile(rf'{_ATOM}(?:\.{_ATOM})*|"(?:[^"\\]|\\.)*"')
_DOMAIN = re.compile(rf"{_ATOM}(?:\.{_ATOM})*|\[[^\s\[\]\\]*\]")
_SUBJECTS = {
    outcomes.FAILED: "Undeliverable:",
    outcomes.DELAYED: "Delayed:",
    outcomes.RELAYED: "Relayed:",
    outcomes.DELIVERED: "Delivered:",
}


def _subject(notice: Notice, header: bytes, utf8: bool) -> str:
    """The gravest action and the original's subject: encoded words as they are, bounded, folded."""
    actions = {outcome.action for outcome in notice.outcomes}
    gravest = next(text for action, text in _SUBJECTS.items() if action in actions)
    lines = ["Fate unknown:" if notice.is_fate_unknown else gravest]
    text = dsn.plain(original.field(header, b"subject"), utf8=True)
    if not utf8 and not text.isascii():
        text = Header(text[:100], "utf-8").encode()
    octets = 0
    for word in text.split() or ["your", "message"]:
        octets += len(word.encode("utf-8")) + 1
        if octets > _MAX_SUBJECT_OCTETS:
            lines[-1] += " ..."
            break
        if len(lines[-1]) + len(word) < 66:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\r\n ".join(lines)


def _in_reply_to(header: bytes) -> Iterator[str]:
    """The original's Message-ID verbatim, if it has a form that cannot hurt a reader."""
    message_id = original.field(header, b"message-id")[:251].decode("ascii", "replace")
    if len(message_id) <= 250 and _PLAIN_ID.fullmatch(message_id):
        yield f"In-Reply-To: {message_id}"


def _to(sender: bytes) -> str:
    """The sender as a header may name it; envelopes are wider than RFC 5322 §3.4.1."""
    local_part, at, domain = dsn.plain(sender, utf8=True).rpartition("@")
    if not at:
        local_part, domain = domain, ""
    if not _LOCAL_PART.fullmatch(local_part):
        local_part = '"' + re.sub(r'(["\\])', r"\\\1", local_part) + '"'
    if len(sender) > 500 or (at and not _DOMAIN.fullmatch(domain)):
        return "undisclosed-recipients:;"
    return f"{local_part}{at}{domain}"
