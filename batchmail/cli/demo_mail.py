"""The mail of the demonstration, and how it is handed to batchmail-pipe."""

from typing import NamedTuple

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Envelope, Parameters, Recipient, format_mail, format_rcpt
from batchmail.core.lines import Stuffer

_DATE = "Fri, 21 Nov 2025 09:00:00 +0000"


class Mail(NamedTuple):
    """A transaction as it is handed over."""

    subject: str
    envelope: Envelope
    content: bytes  # CRLF line ends


def _mail(subject: str, sender: str, recipients: list[str], body: str) -> Mail:
    """`sender` and `recipients` with their parameters, as they stand in SMTP commands."""
    mail_from, parameters = parse_mail(b"MAIL FROM:" + sender.encode())
    to = tuple(parse_rcpt(b"RCPT TO:" + recipient.encode()) for recipient in recipients)
    fields = {
        "From": mail_from.decode() or "Mail Delivery System <postmaster@example.com>",
        "To": to[0].address.decode(),
        "Subject": subject,
        "Date": _DATE,
        "Message-ID": f"<{subject.lower().replace(' ', '-')}@example.com>",
    }
    head = "".join(f"{name}: {value}\n" for name, value in fields.items())
    return Mail(subject, Envelope(mail_from, parameters, to), f"{head}\n{body}".replace("\n", "\r\n").encode())


TO_HOME = (
    _mail(
        "Minutes of the meeting",
        "<alice@example.com> RET=HDRS ENVID=QQ314159",
        [
            "<carol@home.example.org> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;carol@home.example.org",
            "<dave@home.example.org> NOTIFY=NEVER ORCPT=rfc822;d+2Blists@example.com",
        ],
        "We met.\n.\nA dot alone on a line is content like any other.\n",
    ),
    _mail(
        "Häppchen",
        "<jörg@exämple.com> SMTPUTF8 BODY=8BITMIME",
        ["<carol@home.example.org> NOTIFY=DELAY ORCPT=utf-8;carol@home.example.org"],
        "Grüße aus Köln, Ελλάδα und 東京.\n",
    ),
    _mail(
        "Is anybody there",
        "<alice@example.com> RET=FULL ENVID=letter+2Bno.2",
        [
            "<nobody@home.example.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;nobody@home.example.org",
            "<carol@home.example.org> NOTIFY=FAILURE,DELAY",
        ],
        "One of the two will be refused.\n",
    ),
    _mail("An old notice", "<>", ["<bob@home.example.org> NOTIFY=NEVER"], "A notice has no sender.\n"),
)
BY_OPTIONS = _mail(
    "An answer",
    "<bob@home.example.org> RET=HDRS ENVID=order+2066",
    ["<alice@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;alice@example.com"],
    "Handed over as many MTAs do it: a plain message, and the envelope in arguments.\n",
)
_NEWS = "".join(
    f"{number}. The club meets again on day {number}, as it did before. Bring cake.\n" for number in range(900)
)
TO_MX = (
    _mail(
        "The club's letter",
        "<bob@home.example.org> RET=HDRS ENVID=club-2025-11",
        [f"<member{number}@example.com> NOTIFY=FAILURE" for number in range(1, 21)],
        _NEWS,
    ),
)


def bsmtp(mails: tuple[Mail, ...]) -> bytes:
    """Transactions as RFC 2442 text."""
    lines = [b"EHLO demo\r\n"]
    for mail in mails:
        lines += [format_mail(mail.envelope.sender, mail.envelope.parameters) + b"\r\n"]
        lines += [format_rcpt(recipient) + b"\r\n" for recipient in mail.envelope.recipients]
        stuffer = Stuffer()
        lines += [b"DATA\r\n", stuffer.feed(mail.content), stuffer.end()]
    return b"".join([*lines, b"QUIT\r\n"])


def options(mail: Mail) -> list[str]:
    """Sender, recipient and parameters of a message as arguments of batchmail-pipe."""
    recipient = mail.envelope.recipients[0]
    values = {bytes(p.name).decode(): (p.value or b"").decode() for p in _all(mail.envelope.parameters, recipient)}
    values["ENVID"] = values["ENVID"].replace("+20", " ")
    words = [word for name, value in values.items() for word in (f"--{name.lower()}", value)]
    return ["-f", mail.envelope.sender.decode(), *words, "--", recipient.address.decode()]


def _all(parameters: Parameters, recipient: Recipient) -> Parameters:
    return parameters + recipient.parameters
