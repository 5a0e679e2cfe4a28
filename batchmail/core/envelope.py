"""The envelope of a transaction, and the one writer of MAIL and RCPT commands.

Addresses and parameters are octets, kept in their original spelling (RFC 5321
§4.1.1); `core.commands` reads them, and what it gives is well-formed.

Not here: what a next hop is offered (`proto.smtp_client`), and who may send.
"""

from batchmail.core.value import NamedTuple

MAX_RECIPIENTS = 10_000
_MAX_LABEL = 63  # of a domain (RFC 1035 §2.3.4)


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
    port: bytes = b""
    source: bytes = b""  # LOCAL or REMOTE, as XFORWARD has it


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
    """The domain of an address in lower case and A-labels; empty when it has none."""
    _, at, domain = address.rpartition(b"@")
    return as_a_labels(domain) if at else b""


def as_a_labels(domain: bytes) -> bytes:
    """A domain in lower case, the labels that are not ASCII as they stand in the DNS (RFC 5890 §2.3.2.1, RFC 5891).

    So one domain has one name in tables and policy, however MTAs spell it.  What can be none stays as it is.
    The codec `idna` is that of RFC 3490, which takes a sharp s for two and so the domain for another one.
    """
    if domain.isascii():
        return domain.lower()
    from unicodedata import normalize  # seldom: the pipe door loads this module

    try:
        labels = normalize("NFKC", domain.decode().lower()).split(".")
    except UnicodeDecodeError:
        return domain.lower()
    if any(len(label) > _MAX_LABEL for label in labels):  # in no DNS; and the codec's time grows with the square
        return domain.lower()
    return b".".join(
        label.encode() if label.isascii() else b"xn--" + label.encode("punycode") for label in labels
    ).lower()
