"""What the server's side of SMTP tells its driver, and what it is answered."""

from typing import NamedTuple

from batchmail.core.envelope import Client, Envelope, Parameters, Recipient
from batchmail.core.lines import CRLF

_MAX_REPLY_OCTETS = 512  # of a line (RFC 5321 §4.5.3.1.5)


class Answer(NamedTuple):
    """A reply of the driver's.  The status begins with the code's first digit."""

    code: int
    status: str  # RFC 3463
    text: str


class Rcpt(NamedTuple):
    """A recipient is asked for: `accept()` or `refuse(...)`."""

    recipient: Recipient
    sender: bytes
    parameters: Parameters  # of MAIL


class Start(NamedTuple):
    """The envelope is complete: `accept()`, and the content comes, or `refuse(...)`."""

    envelope: Envelope
    client: Client  # empty unless the MTA said it by XFORWARD
    queue_id: str  # the MTA's, likewise


class Content(NamedTuple):
    """A piece of the content, not stuffed; no answer.  Its line ends may be odd, and the last one may lack."""

    octets: bytes


class End(NamedTuple):
    """The content is complete: `finish(...)` with one answer for all, or with `answers` of them, in order.

    `answers` is 1 for SMTP; for LMTP, the number of accepted recipients.
    """

    answers: int


class Aborted(NamedTuple):
    """What the driver holds of this transaction is to be discarded; no answer.  Comes also after Rcpt alone."""


Event = Rcpt | Start | Content | End | Aborted


def check(answer: Answer) -> None:
    """Raises ValueError unless code and status agree (RFC 2034 §4)."""
    if answer.status[:1] != str(answer.code)[:1]:
        raise ValueError(f"code {answer.code} and status {answer.status} do not agree")


def format_reply(code: int, status: str, text: str, is_last: bool = True) -> bytes:
    """A line of a reply: whatever the text holds, one line of printable ASCII, within its bound."""
    line = f"{code}{' ' if is_last else '-'}{status and status + ' '}{text}"
    if not (line.isascii() and line.isprintable()):
        line = "".join(c if " " <= c <= "~" else "?" for c in line)
    return line[: _MAX_REPLY_OCTETS - len(CRLF)].encode() + CRLF
