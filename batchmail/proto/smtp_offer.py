"""What an SMTP or LMTP server offers, and what an envelope becomes for it.

Parameters go out exactly where the server offers their extension in this
session, in their original spelling but for hex digits of xtext in lower case,
which strict servers refuse; what that makes impossible is a refusal, found
before anything is sent.  batchmail never converts content.
Sources: RFC 5321 §4.1.1.1, 3461 §5.2, 1870 §6, 2852 §4.1.4, 6152 §3, 6531 §3,
6533 §3, 4954 §5, 6710 §4, 7293 §5, 9422.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from batchmail.core import xtext
from batchmail.core.deliverby import OVER, deliver_by
from batchmail.core.envelope import Envelope, Parameter, Parameters, Recipient, find
from batchmail.core.reply import Reply

# parameter: the EHLO keyword that allows it.  SIZE, BODY, SMTPUTF8, AUTH and ORCPT have further rules below.
NEEDED = {
    b"SIZE": b"SIZE",
    b"BODY": b"8BITMIME",
    b"SMTPUTF8": b"SMTPUTF8",
    b"RET": b"DSN",
    b"ENVID": b"DSN",
    b"NOTIFY": b"DSN",
    b"ORCPT": b"DSN",
    b"AUTH": b"AUTH",
    b"MT-PRIORITY": b"MT-PRIORITY",
    b"BY": b"DELIVERBY",
    b"SUBMITTER": b"SUBMITTER",
    b"SOLICIT": b"NO-SOLICITING",
    b"RRVS": b"RRVS",
}


class Habits(NamedTuple):
    """What a server does that its EHLO reply does not say."""

    transactions: int = 100  # in one session; then a new one
    mixed_dsn: bool = True  # recipients with different DSN parameters may share a transaction


_HABITS = (
    (b"POSTFIX", Habits(transactions=1000)),  # whatever it is, it keeps; a process of its own for each session is dear
    # The 11th message of a session is only queued until the next queue run (smtp_accept_queue_per_connection).
    (b"EXIM", Habits(transactions=10)),
    # The NOTIFY flags and ORCPT of one RCPT leak into the next; the 101st message gets 452.
    (b"OPENSMTPD", Habits(mixed_dsn=False)),
)


class Offer(NamedTuple):
    """What the server said to EHLO or LHLO; valid for this session only."""

    mta: bytes = b""  # as the server names itself
    keywords: dict[bytes, bytes] = {}  # in upper case, with what stands behind them
    habits: Habits = Habits()

    def has(self, keyword: bytes) -> bool:
        return keyword in self.keywords

    @property
    def size_limit_octets(self) -> int:
        """The largest content it takes; 0 when it did not say."""
        value = self.keywords.get(b"SIZE", b"")
        return int(value) if re.match(rb"[0-9]{1,20}\Z", value) else 0

    @property
    def least_by_s(self) -> int:
        """The shortest time that it takes with BY and mode R; 0 when any will do."""
        value = self.keywords.get(b"DELIVERBY", b"")
        return int(value) if re.match(rb"[0-9]{1,9}\Z", value) else 0

    @property
    def mechanisms(self) -> list[bytes]:
        return self.keywords.get(b"AUTH", b"").upper().split()

    def limit(self, name: bytes) -> int:
        """A limit of RFC 9422; 0 when there is none.  A malformed one is ignored (§3.7)."""
        for word in self.keywords.get(b"LIMITS", b"").upper().split():
            key, _, value = word.partition(b"=")
            if key == name and re.match(rb"[1-9][0-9]{0,5}\Z", value):
                return int(value)
        return 0


def parse_offer(greeting: Reply, reply: Reply) -> Offer:
    """The offer in the reply to EHLO; the greeting tells which program it is."""
    keywords: dict[bytes, bytes] = {}
    for line in reply.lines[1:]:
        keyword, _, rest = line.partition(b" ")
        if keyword.upper().startswith(b"AUTH="):  # an old spelling that some servers send beside the right one
            continue
        keywords.setdefault(keyword.upper(), rest.strip())
    mta = _host_name(reply.text) or _host_name(greeting.text)
    return Offer(mta, keywords, habits_of(greeting))


def habits_of(greeting: Reply) -> Habits:
    """By the program's name in the greeting, behind the host's."""
    _, _, banner = greeting.text.upper().partition(b" ")
    words = set(re.split(rb"[^A-Z0-9]+", banner))
    return next((habits for name, habits in _HABITS if name in words), Habits())


def _host_name(text: bytes) -> bytes:
    word = re.match(rb"[0-9A-Za-z\[\]_.:-]{1,255}(?=\s|\Z)", text)
    return word[0] if word else b""


class Content(NamedTuple):
    """What has to be known of a content to say whether a server can take it."""

    size_octets: int
    eightbit: bool
    utf8_header: bool


class Refusal(NamedTuple):
    """A recipient that this server cannot be given."""

    number: int
    status: str
    text: bytes


class Plan(NamedTuple):
    """An envelope as it goes to this server."""

    sender: bytes
    parameters: Parameters
    recipients: tuple[tuple[int, Recipient], ...]  # with their numbers in the envelope
    refusals: tuple[Refusal, ...]


def plan(
    envelope: Envelope,
    numbers: Iterable[int],
    content: Content,
    offer: Offer,
    authenticated: bool = False,
    send_eightbit: bool = False,
    final: bool = False,
) -> Plan:
    """What of `envelope` goes to this server for the recipients `numbers`, and what cannot.

    Its BY parameter says what time is left; a `final` server delivers and needs to know nothing of it.
    """
    numbers = tuple(numbers)
    why = _refuse_all(envelope, content, offer, send_eightbit) or _refuse_by(envelope, offer, final)
    if why:
        return Plan(envelope.sender, (), (), tuple(Refusal(n, *why) for n in numbers))
    refusals = []
    recipients = []
    for number in numbers:
        recipient = envelope.recipients[number]
        if why := _refuse_one(recipient, offer):
            refusals.append(Refusal(number, *why))
        else:
            recipients.append((number, recipient))
    parameters = _mail_parameters(envelope, [r for _, r in recipients], content, offer, authenticated)
    utf8 = find(parameters, b"SMTPUTF8") is not None
    notify_delay = not final and _is_promise_lost(envelope, offer)
    planned = tuple(
        (
            n,
            Recipient(
                r.address, _rcpt_parameters(_tell_delay(r.parameters) if notify_delay else r.parameters, offer, utf8)
            ),
        )
        for n, r in recipients
    )
    return Plan(envelope.sender, parameters, planned, tuple(refusals))


Why = tuple[str, bytes]  # enhanced status and text of a refusal


def _refuse_all(envelope: Envelope, content: Content, offer: Offer, send_eightbit: bool) -> Why | None:
    limit = offer.size_limit_octets
    if limit and content.size_octets > limit:
        return "5.3.4", b"the message has %d octets, the server takes at most %d" % (content.size_octets, limit)
    if not offer.has(b"SMTPUTF8"):
        if not envelope.sender.isascii():
            return "5.6.7", b"the sender's address needs SMTPUTF8, which the server does not offer"
        if content.utf8_header and find(envelope.parameters, b"SMTPUTF8"):
            return "5.6.9", b"the header needs SMTPUTF8, which the server does not offer"
    if content.eightbit and not offer.has(b"8BITMIME") and not send_eightbit:
        return "5.6.3", b"the message has 8-bit content and the server does not offer 8BITMIME"
    return None


def _refuse_by(envelope: Envelope, offer: Offer, final: bool) -> Why | None:
    """RFC 2852 §4.1.4.1: with mode R only to who gives a message back in time."""
    by = deliver_by(envelope)
    if by is None or not by.must_return:
        return None
    if by.is_over:
        return "5.4.7", OVER
    server = offer.mta or b"the next server"
    if not offer.has(b"DELIVERBY") and not final:
        return "5.3.3", b"it is to be delivered in time or given back, for which %b offers no DELIVERBY" % server
    if offer.least_by_s > by.seconds:
        return "5.3.3", b"%d s are left to deliver it, %b takes it with at least %d" % (
            by.seconds,
            server,
            offer.least_by_s,
        )
    return None


def _is_promise_lost(envelope: Envelope, offer: Offer) -> bool:
    """Whether the server will not tell when the time is over (RFC 2852 §4.1.4.2)."""
    by = deliver_by(envelope)
    return by is not None and not by.must_return and not by.is_over and not offer.has(b"DELIVERBY")


def relayed_is_told(envelope: Envelope, offer: Offer) -> bool:
    """Whether we owe a "relayed" even where the server offers DSN, unless to NEVER (RFC 2852 §4.1.4)."""
    by = deliver_by(envelope)
    return by is not None and (by.trace or _is_promise_lost(envelope, offer))


def _tell_delay(parameters: Parameters) -> Parameters:
    """NOTIFY with a DELAY, since the server does not know that it is owed one."""
    notify = find(parameters, b"NOTIFY")
    if notify is None or notify.value is None:
        return (*parameters, Parameter(b"NOTIFY", b"FAILURE,DELAY"))
    if {b"NEVER", b"DELAY"} & set(notify.value.upper().split(b",")):
        return parameters
    anew = Parameter(notify.keyword, notify.value + b",DELAY")
    return tuple(anew if p is notify else p for p in parameters)


def _refuse_one(recipient: Recipient, offer: Offer) -> Why | None:
    if not recipient.address.isascii() and not offer.has(b"SMTPUTF8"):
        return "5.6.7", b"the address needs SMTPUTF8, which the server does not offer"
    rrvs = find(recipient.parameters, b"RRVS")
    if rrvs and not offer.has(b"RRVS") and not (rrvs.value or b"").upper().endswith(b";C"):
        return "5.7.19", b"RRVS asks for a check that the server does not offer"
    return None


def _mail_parameters(
    envelope: Envelope, recipients: list[Recipient], content: Content, offer: Offer, authenticated: bool
) -> Parameters:
    """In the order that the client gave them; what it gave none of comes first."""
    said = {p.name: _strict(p) for p in envelope.parameters}
    ours: dict[bytes, Parameter | None] = {}
    if offer.has(b"SIZE"):
        ours[b"SIZE"] = Parameter(b"SIZE", b"%d" % content.size_octets)
    if offer.has(b"8BITMIME"):
        body = said.get(b"BODY")
        if content.eightbit and (body is None or (body.value or b"").upper() == b"7BIT"):
            body = Parameter(b"BODY", b"8BITMIME")  # a false 7BIT would be our lie now
        ours[b"BODY"] = body
    if offer.has(b"SMTPUTF8"):
        needed = not (envelope.sender.isascii() and all(r.address.isascii() for r in recipients))
        ours[b"SMTPUTF8"] = said.get(b"SMTPUTF8") or (Parameter(b"SMTPUTF8", None) if needed else None)
    # RFC 4954 §5: a server one is authenticated to is told, `<>` when it is unknown
    ours[b"AUTH"] = (said.get(b"AUTH") or Parameter(b"AUTH", b"<>")) if offer.has(b"AUTH") and authenticated else None
    kept = {name: ours.get(name, p) for name, p in said.items() if offer.has(NEEDED[name])}
    added = [p for name, p in ours.items() if name not in kept]
    return tuple(p for p in (*added, *kept.values()) if p)


def _rcpt_parameters(parameters: Parameters, offer: Offer, utf8: bool) -> Parameters:
    offered = [_strict(p) for p in parameters if offer.has(NEEDED[p.name])]
    spelled = (p if utf8 or p.name != b"ORCPT" else _ascii_orcpt(p) for p in offered)
    return tuple(p for p in spelled if p is not None)


def _strict(parameter: Parameter) -> Parameter:
    """ENVID and ORCPT as RFC 3461 §4 has them; doors take hex digits in lower case too, as some MTAs pass them on."""
    if parameter.name not in (b"ENVID", b"ORCPT") or parameter.value is None:
        return parameter
    return parameter._replace(value=xtext.in_upper_case(parameter.value))


def _ascii_orcpt(orcpt: Parameter) -> Parameter | None:
    """An `ORCPT=utf-8;` for a transaction without SMTPUTF8 (RFC 6533 §3); None where it has no such form."""
    value = orcpt.value or b""
    if value.isascii():
        return orcpt
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    ascii_value = "".join(c if c.isascii() else f"\\x{{{ord(c):02X}}}" for c in text).encode()
    return Parameter(orcpt.keyword, ascii_value) if len(ascii_value) <= 500 else None
