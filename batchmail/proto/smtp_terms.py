"""What a door offers in its answer to EHLO and LHLO, and which parameters that allows.

The door builds `Terms` from its configuration and from what the whole way keeps,
down to the far target: what is not kept is not offered, and a parameter whose
keyword is not offered is refused (RFC 5321 §4.1.1.11).  A further extension is a
field of `Terms`, a line in `keywords`, and its parameter's check in `core.envelope`.
"""

from functools import lru_cache
from typing import NamedTuple

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Parameters, Recipient, find
from batchmail.core.path import CommandError, split_command
from batchmail.proto.smtp_events import Answer
from batchmail.proto.smtp_offer import NEEDED

_BINARY = b"BODY=BINARYMIME"


class Terms(NamedTuple):
    """What this door takes."""

    host: str  # as which the door greets
    max_message_octets: int
    max_recipients: int  # in one transaction, refused ones counted
    max_transactions: int = 0  # in one session; 0: any number
    eightbitmime: bool = True
    smtputf8: bool = False
    mt_priority: bool = True
    deliverby: bool = True
    rrvs: bool = False
    xforward: bool = False  # the MTA may say whom it has the message from

    @property
    def keywords(self) -> tuple[bytes, ...]:
        """The lines of the answer to EHLO and LHLO, behind its first."""
        limits = b"LIMITS RCPTMAX=%d" % self.max_recipients
        if self.max_transactions:
            limits += b" MAILMAX=%d" % self.max_transactions
        lines = (
            (True, b"PIPELINING"),
            (True, b"SIZE %d" % self.max_message_octets),
            (self.eightbitmime, b"8BITMIME"),
            (self.smtputf8, b"SMTPUTF8"),
            (True, b"DSN"),  # without it the MTA answers for us and drops what the sender asked for
            (True, b"ENHANCEDSTATUSCODES"),
            (True, b"CHUNKING"),
            (self.mt_priority, b"MT-PRIORITY"),
            (self.deliverby, b"DELIVERBY"),  # no least time: what cannot be done in it comes back when it is over
            (self.rrvs, b"RRVS"),
            (True, limits),
            (self.xforward, b"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"),
        )
        return tuple(line for offered, line in lines if offered)

    @property
    def too_large(self) -> Answer:
        return Answer(552, "5.3.4", f"at most {self.max_message_octets} octets are taken")

    def parse_mail(self, line: bytes, extended: bool) -> tuple[bytes, Parameters]:
        """Sender and parameters of a MAIL command, if this door takes them.  Raises CommandError."""
        if _BINARY in line.upper() and _BINARY in split_command(line, b"MAIL")[1].upper().split():
            raise CommandError(555, "5.5.4", "BODY=BINARYMIME is not offered here")
        sender, parameters = parse_mail(line)
        self._check_offered(parameters, extended)
        _check_utf8(sender, parameters, parameters, "5.1.7")
        size = find(parameters, b"SIZE")
        if size and int(size.value or b"0") > self.max_message_octets:
            raise CommandError(*self.too_large)
        return sender, parameters

    def parse_rcpt(self, line: bytes, mail_parameters: Parameters, extended: bool) -> Recipient:
        """The recipient of an RCPT command, if this door takes it.  Raises CommandError."""
        recipient = parse_rcpt(line)
        self._check_offered(recipient.parameters, extended)
        _check_utf8(recipient.address, recipient.parameters, mail_parameters, "5.1.3")
        return recipient

    def _check_offered(self, parameters: Parameters, extended: bool) -> None:
        for parameter in parameters:
            if not extended or NEEDED.get(parameter.name) not in _names(self):
                raise CommandError(555, "5.5.4", f"{parameter.name.decode()} is not offered here")


@lru_cache(maxsize=16)
def _names(terms: Terms) -> frozenset[bytes]:
    return frozenset(line.partition(b" ")[0] for line in terms.keywords)


def _check_utf8(address: bytes, parameters: Parameters, mail_parameters: Parameters, status: str) -> None:
    """RFC 6531 §3.4, §3.5: octets above 127 are UTF-8, and only where MAIL said SMTPUTF8."""
    values = b" ".join(parameter.value or b"" for parameter in parameters)
    if not find(mail_parameters, b"SMTPUTF8"):
        if not address.isascii():
            raise CommandError(553, "5.6.7", "the address needs SMTPUTF8")
        if not values.isascii():
            raise CommandError(501, "5.5.4", "a parameter needs SMTPUTF8")
    try:
        (address + values).decode()
    except UnicodeDecodeError:
        raise CommandError(501, status, "the address is not UTF-8") from None
