"""Deliver-By (RFC 2852): how long a sender wants a message to be tried, and what is to be done afterwards.

The BY parameter counts from the moment MAIL was received.  A transaction keeps
it as it came beside its arrival, which makes it a moment; the seconds that are
left are counted anew wherever it goes on.
"""

from batchmail.core.envelope import Envelope, Parameter, find
from batchmail.core.value import NamedTuple

OVER = b"the time by which it was to be delivered is over"


class DeliverBy(NamedTuple):
    """A BY parameter."""

    seconds: int  # for N zero or less as well: the time is over, and whoever had it then has told so
    must_return: bool  # by-mode R: give up when the time is over; else N: tell of the delay and go on
    trace: bool  # each relay is to be told of

    @property
    def is_over(self) -> bool:
        return self.seconds <= 0

    def deadline_ms(self, arrival_ms: int) -> int:
        return arrival_ms + 1000 * self.seconds

    def left(self, left_ms: int) -> "DeliverBy":
        """The same with so much time left, in whole seconds."""
        return self._replace(seconds=max(-999_999_999, min(left_ms // 1000, 999_999_999)))

    def __bytes__(self) -> bytes:
        return b"%d;%b%b" % (self.seconds, b"R" if self.must_return else b"N", b"T" if self.trace else b"")


def parse(value: bytes) -> DeliverBy:
    """The value of a BY parameter.  Raises ValueError."""
    seconds, _, mode = value.upper().partition(b";")
    digits = seconds[1:] if seconds.startswith((b"+", b"-")) else seconds
    if not digits.isdigit() or len(digits) > 9 or mode not in (b"N", b"NT", b"R", b"RT"):
        raise ValueError(value)
    return DeliverBy(int(seconds), mode.startswith(b"R"), mode.endswith(b"T"))


def deliver_by(envelope: Envelope) -> DeliverBy | None:
    """What the BY parameter of an envelope says; in a stored transaction it counts from the arrival."""
    by = find(envelope.parameters, b"BY")
    return parse(by.value) if by and by.value is not None else None


def with_left(envelope: Envelope, left_ms: int) -> Envelope:
    """The same with so much time left in its BY parameter, if it has one."""
    by, said = find(envelope.parameters, b"BY"), deliver_by(envelope)
    if by is None or said is None:
        return envelope
    anew = Parameter(by.keyword, bytes(said.left(left_ms)))
    return envelope._replace(parameters=tuple(anew if p is by else p for p in envelope.parameters))
