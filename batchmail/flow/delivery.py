"""What a target is given and what it must do with it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from batchmail.core.envelope import Client, Envelope
from batchmail.core.outcome import Outcome


def _nothing() -> None:
    pass


class Delivery(NamedTuple):
    """One transaction, to be given to a target."""

    id: str
    envelope: Envelope
    recipients: tuple[int, ...]  # numbers of the recipients still to do
    size_octets: int  # of the content
    eightbit: bool  # the content holds octets above 127
    utf8_header: bool  # its header does
    content: Callable[[], Iterator[bytes]]  # CRLF, not dot-stuffed, our Received: on top; may be called several times
    client: Client
    following: "Callable[[], Delivery | None]" = _nothing  # what comes next; to be asked for behind the dot


BeforeDot = Callable[[], None]
Settled = Callable[[Outcome], None]


class Target(Protocol):
    """Where a site's received mail goes."""

    offers: str  # EHLO keywords, as in "8BITMIME DSN"; empty: not known, or it speaks no SMTP

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        """Give the transaction.

        `before_dot` is called just before the octets that make it count are written, more than once when the
        transaction has to be split; what it raises stops the delivery there.  `settled` is called once for each
        of `delivery.recipients`, as soon as its outcome is known; a temporary one has the action DELAYED.
        Raises TargetDown when the target as a whole takes nothing now: nobody was settled then.
        """

    def close(self) -> None:
        """Take leave.  The target may be used again."""


class Attempt:
    """One delivery under way: who is not settled yet, and how the others were."""

    def __init__(self, delivery: Delivery, settled: Settled, now_ms: Callable[[], int]):
        self.delivery = delivery
        self.pending = dict.fromkeys(delivery.recipients)  # in their order
        self._settled, self._now_ms = settled, now_ms

    @property
    def has_settled(self) -> bool:
        return len(self.pending) < len(self.delivery.recipients)

    def settle(self, number: int, action: str, code: int, status: str, text: bytes, mta: bytes = b"") -> None:
        del self.pending[number]
        self._settled(Outcome(number, action, code, status, text, mta, self._now_ms()))

    def settle_pending(self, action: str, status: str, text: bytes, mta: bytes = b"") -> None:
        """The same for everybody left, without a reply."""
        for number in tuple(self.pending):
            self.settle(number, action, 0, status, text, mta)
