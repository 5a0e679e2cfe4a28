"""Directories as targets: RFC 2442 text in a file per transaction, or a maildir.

Files refuse nobody: all recipients of a transaction share one outcome.
"""

import errno
from collections.abc import Callable

from batchmail.core.deliverby import OVER, deliver_by
from batchmail.core.envelope import Envelope, Parameter, find, without
from batchmail.core.errors import TargetDown
from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, PASSED, RELAYED
from batchmail.flow.delivery import Attempt, BeforeDot, Delivery, Settled
from batchmail.flow.target_spec import TargetSpec
from batchmail.store import dropdir

_TOO_LARGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        begun = False

        def begin() -> None:
            nonlocal begun
            before_dot()
            begun = True

        try:
            self._drop(delivery, begin)
        except OSError as error:
            # What is too large for the room that is left does not stop the smaller ones behind it.
            if begun or error.errno not in _TOO_LARGE or not dropdir.has_room(self._spec.path):
                raise TargetDown(f"{self._spec.text}: cannot write: {error.strerror or error}") from None
            attempt.settle_pending(DELAYED, "4.3.1", f"cannot write: {error.strerror or error}".encode())
            return
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
