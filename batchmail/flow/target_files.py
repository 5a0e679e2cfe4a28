"""Directories as targets: RFC 2442 text in a file per transaction, or a maildir.

Files refuse nobody: all recipients of a transaction share one outcome.
"""

from collections.abc import Callable

from batchmail.core.deliverby import OVER, deliver_by
from batchmail.core.envelope import Envelope, Parameter, find, without
from batchmail.core.errors import TargetDown
from batchmail.core.outcome import DELIVERED, FAILED, PASSED, RELAYED
from batchmail.flow.delivery import Attempt, BeforeDot, Delivery, Settled
from batchmail.flow.target_spec import TargetSpec
from batchmail.store import dropdir


class DirectoryTarget:
    """`bsmtp:DIR` and `maildir:DIR`."""

    offers = ""

    def __init__(self, spec: TargetSpec, me: str, now_ms: Callable[[], int]):
        self._spec, self._me, self._now_ms = spec, me, now_ms
        dropdir.sweep(spec.path, now_ms())

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        attempt = Attempt(delivery, settled, self._now_ms)
        by = deliver_by(delivery.envelope)
        if by and by.must_return and by.is_over:
            attempt.settle_pending(FAILED, "5.4.7", OVER)
            return
        try:
            self._drop(delivery, before_dot)
        except OSError as error:
            raise TargetDown(f"{self._spec.text}: cannot write: {error.strerror or error}") from None
        # Who reads RFC 2442 text has the parameters, and owes the notices from here on.
        action = DELIVERED if self._spec.final else RELAYED if by and by.trace else PASSED
        attempt.settle_pending(action, "2.0.0", b"written to a file")

    def close(self) -> None:
        pass

    def _drop(self, delivery: Delivery, before_dot: BeforeDot) -> None:
        envelope = _part(delivery)
        if self._spec.scheme == "bsmtp":
            text = dropdir.bsmtp_text(self._me, envelope, delivery.content())
            dropdir.drop_bsmtp(self._spec.path, delivery.id, text, before_dot)
            return
        name = dropdir.maildir_name(delivery.id, self._me)
        text = dropdir.maildir_text(envelope, delivery.content())
        dropdir.drop_maildir(self._spec.path, name, text, before_dot)


def _part(delivery: Delivery) -> Envelope:
    """The envelope for the recipients still to do, its SIZE that of the content as it is now."""
    sender, parameters, recipients = delivery.envelope
    if find(parameters, b"SIZE"):
        parameters = (Parameter(b"SIZE", b"%d" % delivery.size_octets), *without(parameters, b"SIZE"))
    return Envelope(sender, parameters, tuple(recipients[number] for number in delivery.recipients))
