"""What a site is told about itself and its peers: the values of the configuration (read by `cli.config`)."""

from collections.abc import Mapping
from typing import NamedTuple

from batchmail.core.listen import Address, Network
from batchmail.core.schedule import Calendar, Span

DAY_MS = 86_400_000


class Peer(NamedTuple):
    """A peer's entry."""

    name: str
    domains: tuple[str, ...] = ()  # exact, `.domain` for all below it, `*`
    listen: tuple[Address, ...] = ()  # where the local MTA hands over mail for it
    site: str = ""  # the peer's own name; empty: learned in the first call
    call: tuple[str, ...] = ()  # ssh://user@host:port or `command: ...`, tried in turn; empty: it calls us
    identity: tuple[str, ...] = ()  # private key files
    known_hosts: tuple[str, ...] = ()
    ssh_config: str = ""
    use_agent: bool = False
    target: str = "smtp://127.0.0.1:25"
    senders: tuple[str, ...] = ()  # from whom it may send, as in `domains`; empty: its domains
    recipients: tuple[str, ...] = ("*",)  # to whom
    valid_recipients: tuple[str, ...] = ()  # here, of which the peer is told: addresses, or `@domain` for all of it
    valid_recipients_file: str = ""  # one of these on a line
    recipient_delimiter: str = "+"  # characters that begin an extension of an address here
    hide_recipients: bool = True  # the peer is told no names
    lifetime: Span = Span(30 * DAY_MS)  # from arrival, until a transaction is given up
    delay_notice: Span = Span(3 * DAY_MS)  # from arrival, until its sender is told that it waits
    give_up_ms: int = 30 * DAY_MS  # beyond the lifetime: without a word of what was handed over, its fate is unknown
    calendar: Calendar = Calendar()  # when calls are expected
    max_message_octets: int = 1 << 30
    quota_octets: int = 8 << 30  # of what came from it and is not done
    report_wait_s: float = 10.0
    batch_octets: int = 8 << 20  # of text; one larger transaction is a batch of its own
    remember_ms: int = 90 * DAY_MS
    level: int = 0  # of compression; 0: by the rate of the line

    @property
    def lifetime_ms(self) -> int:
        """Of mail of normal priority."""
        return self.lifetime.normal_ms


class DoorSettings(NamedTuple):
    """How the socket door is reached."""

    listen: tuple[Address, ...] = ()  # for all peers, by their domains
    mode: int = 0o660  # of unix sockets
    group: str = ""  # of unix sockets; empty: the spool owner's
    clients: tuple[Network, ...] = ()  # who else than this host may connect
    xforward: bool = True  # believe who the MTA says the mail is from
    connections: int = 1000
    workers: int = 0  # processes; 0: by the number of processors


class Site(NamedTuple):
    """The whole configuration."""

    name: str
    spool: str
    user: str
    reserve_octets: int
    odd_octets: str
    peers: Mapping[str, Peer]
    door: DoorSettings = DoorSettings()
    postmaster: str = ""  # who is told what no notice can tell; empty: postmaster of this site
    return_octets: int = 100 << 10  # of a message that a notice returns whole; of a larger one its header
    digest: str = ""  # of the text of all this


def matches(domain: str, patterns: tuple[str, ...]) -> bool:
    """Whether a domain (lower case) is one of `patterns`: exact, `.domain` for all below it, or `*`."""
    return any(
        pattern in ("*", domain) or (pattern.startswith(".") and domain.endswith(pattern)) for pattern in patterns
    )
