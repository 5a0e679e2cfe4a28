"""Parameters that come beside a message: by options of the pipe door or from the MTA's environment.

MTAs' pipes carry no MAIL and RCPT commands, and the MTA that pipes has told
the sender "relayed" where success was to be reported.  So SUCCESS is taken
out here (RFC 3461 §5.2.2; design: "DSN data beside the text lose SUCCESS").
What cannot be used is listed, not raised: senders choose these values.
"""

from batchmail.core import xtext
from batchmail.core.commands import parse_mail_parameter, parse_rcpt_parameter
from batchmail.core.envelope import Envelope, Parameter, Parameters, Recipient, find
from batchmail.core.path import CommandError, split_command
from batchmail.core.value import Callable, Iterable, NamedTuple


class Beside(NamedTuple):
    """What is known of a message's parameters beside its text."""

    mail: Parameters = ()
    rcpt: Parameters = ()  # of every recipient
    recipients: tuple[Recipient, ...] = ()  # of one address each
    dropped: tuple[bytes, ...] = ()  # what was given and cannot be used

    def complete(self, envelope: Envelope) -> Envelope:
        """The envelope with what was known beside it; what it says itself stays as it is."""
        by_address: dict[bytes, Parameters] = {}
        for recipient in self.recipients:
            by_address.setdefault(_key(recipient.address), recipient.parameters)
        recipients = tuple(
            Recipient(address, _add(parameters, by_address.get(_key(address), ()) + self.rcpt))
            for address, parameters in envelope.recipients
        )
        return Envelope(envelope.sender, _add(envelope.parameters, self.mail), recipients)


_MAIL_NAMES = (b"RET", b"ENVID", b"BODY", b"SMTPUTF8", b"MT-PRIORITY")
_RCPT_NAMES = (b"NOTIFY", b"ORCPT", b"RRVS")
# Of this hop alone, or told better by the text itself: no loss, so no word about them.
_OF_THE_HOP = (b"SIZE", b"PRDR", b"BODY=7BIT")


def from_options(ret: bytes, envid: bytes, notify: bytes, orcpt: bytes) -> Beside:
    """From the pipe door's options; empty ones were not given.  `envid` is plain text, the others are in wire form."""
    mail, lost_mail = _choose(
        [b"RET=" + ret] * bool(ret) + [b"ENVID=" + xtext.encode(envid)] * bool(envid), parse_mail_parameter, _MAIL_NAMES
    )
    rcpt, lost_rcpt = _choose(
        [b"NOTIFY=" + notify] * bool(notify) + [b"ORCPT=" + orcpt] * bool(orcpt), parse_rcpt_parameter, _RCPT_NAMES
    )
    return Beside(mail, rcpt, (), lost_mail + lost_rcpt)


def from_commands(mail: bytes, rcpt: bytes) -> Beside:
    """From the MAIL command and the RCPT commands, one a line, as the MTA received them."""
    parameters: Parameters = ()
    recipients: list[Recipient] = []
    dropped: tuple[bytes, ...] = ()
    for line in mail.splitlines()[-1:]:  # an earlier one was reset
        _, words = _split(line, b"MAIL")
        parameters, dropped = _choose(words, parse_mail_parameter, _MAIL_NAMES)
    for line in filter(None, rcpt.splitlines()):
        address, words = _split(line, b"RCPT")
        chosen, lost = _choose(words, parse_rcpt_parameter, _RCPT_NAMES)
        recipients.append(Recipient(address, chosen))
        dropped += lost
    return Beside(parameters, (), tuple(recipients), dropped)


def join(first: Beside, second: Beside) -> Beside:
    """Both; the first one's values count where both have one."""
    return Beside(
        first.mail + second.mail,
        first.rcpt + second.rcpt,
        first.recipients + second.recipients,
        first.dropped + second.dropped,
    )


def without_success(notify: Parameter) -> Parameter:
    """A NOTIFY parameter less its SUCCESS; NEVER when nothing else was asked for."""
    left = [word for word in (notify.value or b"").split(b",") if word.upper() != b"SUCCESS"]
    return Parameter(notify.keyword, b",".join(left) or b"NEVER")


def _split(command: bytes, verb: bytes) -> tuple[bytes, list[bytes]]:
    """Address and parameters of a command; all of it counts as a word that cannot be used when it is none."""
    try:
        address, rest = split_command(command, verb)
    except CommandError:
        return b"", [command]
    return address, rest.split()


def _choose(
    words: Iterable[bytes], parse: Callable[[bytes], Parameter], names: tuple[bytes, ...]
) -> tuple[Parameters, tuple[bytes, ...]]:
    chosen: list[Parameter] = []
    dropped: list[bytes] = []
    for word in words:
        if word.upper().startswith(_OF_THE_HOP):
            continue
        try:
            parameter = parse(word)
        except CommandError:
            dropped.append(word)
            continue
        if parameter.name not in names or find(tuple(chosen), parameter.name):
            dropped.append(word)
        else:
            chosen.append(without_success(parameter) if parameter.name == b"NOTIFY" else parameter)
    return tuple(chosen), tuple(dropped)


def _add(parameters: Parameters, more: Parameters) -> Parameters:
    for parameter in more:
        if not find(parameters, parameter.name):
            parameters += (parameter,)
    return parameters


def _key(address: bytes) -> bytes:
    """Addresses that are one mailbox to every MTA: the domain's case does not count."""
    local, at, domain = address.rpartition(b"@")
    return local + at + domain.lower()
