"""What a reply means for a recipient.

An answer that says the client made a mistake (500, 501, 503, 555, 530) keeps
the mail: our fault, or the server's, bounces nobody's mail.  Where the status
says it is about an address, a mailbox, the content or policy, it is not that.
"""

from typing import NamedTuple

from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, PASSED, RELAYED
from batchmail.core.reply import Reply

_OUR_FAULT = (500, 501, 503, 555)
_NOT_OUR_FAULT = ("1", "2", "6", "7")  # subjects of RFC 3463 §3
_ENOUGH_RECIPIENTS = 100  # every server takes this many (RFC 5321 §4.5.3.1.8)


class Verdict(NamedTuple):
    action: str
    status: str


def refused(reply: Reply) -> Verdict:
    """For a 4yz or 5yz to any command."""
    our_fault = reply.code in _OUR_FAULT and reply.subject not in _NOT_OUR_FAULT
    if reply.digit == 4 or our_fault or reply.code == 530:
        return later(reply)
    return Verdict(FAILED, reply.status)


def refused_recipient(reply: Reply) -> Verdict:
    """For a 4yz or 5yz to RCPT."""
    if reply.code in (501, 553) and not reply.stated:  # an address it cannot read: our parameters are well-formed
        return Verdict(FAILED, "5.1.3")
    return refused(reply)


def later(reply: Reply) -> Verdict:
    """Whatever the reply says, it is not final."""
    return Verdict(DELAYED, "4" + reply.status[1:])


def taken(reply: Reply, offers_dsn: bool, final: bool) -> Verdict:
    """For a 2yz to the final dot."""
    if offers_dsn:
        return Verdict(PASSED, reply.status)
    return Verdict(DELIVERED if final else RELAYED, reply.status)


def names_too_many(reply: Reply, accepted: int) -> bool:
    """Whether a reply to RCPT says that the transaction is full, after `accepted` recipients.

    552 did so in RFC 821; RFC 5321 §4.5.3.1.10 asks to go on reading it so.  OpenSMTPD says 451 4.5.3.
    """
    if reply.digit == 4:
        return reply.status == "4.5.3" or (reply.code == 452 and not reply.stated)
    if reply.code == 552:
        bare = not reply.stated and not reply.text[:1].isdigit()
        return reply.status == "5.5.3" or reply.text.startswith(b"4.5.3") or (bare and accepted >= _ENOUGH_RECIPIENTS)
    return False
