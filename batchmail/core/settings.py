"""What a site is told about itself and its peers: the values of the configuration (read by `cli.config`)."""

from typing import NamedTuple

DAY_MS = 86_400_000


class Peer(NamedTuple):
    """A peer's entry."""

    name: str
    domains: tuple[str, ...] = ()  # exact, `.domain` for all below it, `*`
    site: str = ""  # the peer's own name; empty: learned in the first call
    call: tuple[str, ...] = ()  # ssh://user@host:port or `command: ...`, tried in turn; empty: it calls us
    identity: tuple[str, ...] = ()  # private key files
    known_hosts: tuple[str, ...] = ()
    ssh_config: str = ""
    use_agent: bool = False
    target: str = "smtp://127.0.0.1:25"
    senders: tuple[str, ...] = ()  # from whom it may send, as in `domains`; empty: its domains
    recipients: tuple[str, ...] = ("*",)  # to whom
    lifetime_ms: int = 30 * DAY_MS
    max_message_octets: int = 1 << 30
    quota_octets: int = 8 << 30  # of what came from it and is not done
    report_wait_s: float = 10.0
    batch_octets: int = 4 << 20  # of text; one larger transaction is a batch of its own
    remember_ms: int = 90 * DAY_MS
    level: int = 9  # of compression


class Site(NamedTuple):
    """The whole configuration."""

    name: str
    spool: str
    user: str
    reserve_octets: int
    odd_octets: str
    peers: dict[str, Peer]


def matches(domain: str, patterns: tuple[str, ...]) -> bool:
    """Whether a domain (lower case) is one of `patterns`: exact, `.domain` for all below it, or `*`."""
    return any(
        pattern in ("*", domain) or (pattern.startswith(".") and domain.endswith(pattern)) for pattern in patterns
    )
