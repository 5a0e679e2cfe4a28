"""Giving transactions to rmail: recipients as arguments, one exit status for them all.

rmail carries no parameter, and can be given no address that it or what it runs
could take for an option or a file: such a recipient is refused, as by a server
that does not offer what is needed.
"""

import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from batchmail.core.errors import LineError, TargetDown
from batchmail.core.lines import to_lf
from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, RELAYED
from batchmail.flow.delivery import Attempt, BeforeDot, Delivery, Settled
from batchmail.flow.target_spec import TargetSpec
from batchmail.proto.smtp_offer import Content, Offer, Plan, plan
from batchmail.wire import rmail

MAX_RECIPIENTS = 100  # in one call, and
MAX_ARGUMENT_OCTETS = 900  # of addresses: what is customary
_OFFER = Offer(b"rmail", {b"8BITMIME": b""})  # a file holds any octet
_SPECIAL = b"-|/:("  # at the start of an address: an option, a program, a file, a list, or uux's brackets

# sysexits.h: what sendmail and Postfix make of them.  71, 74 and 75 may pass; any other is for good.
_LATER = {71: "4.3.0", 74: "4.3.0", 75: "4.3.0"}
_FAILED = {65: "5.6.0", 67: "5.1.1", 68: "5.1.2", 73: "5.2.0", 76: "5.5.0", 77: "5.7.0", 78: "5.3.5"}


class RmailTarget:
    """`rmail:PROGRAM`."""

    offers = ""

    def __init__(self, spec: TargetSpec, now_ms: Callable[[], int], tmp_dir: str):
        self._spec, self._now_ms, self._tmp_dir = spec, now_ms, tmp_dir

    def deliver(self, delivery: Delivery, before_dot: BeforeDot, settled: Settled) -> None:
        attempt = Attempt(delivery, settled, self._now_ms)
        planned = self._plan(attempt)
        if not planned.recipients:
            return
        try:
            with rmail.write_input(self._tmp_dir, self._text(delivery)) as message:
                for group in _calls(planned):
                    before_dot()
                    self._call(attempt, message, group, planned)
        except LineError as error:
            if not attempt.has_settled:
                raise TargetDown(f"{self._spec.text}: {error}") from None
            attempt.settle_pending(DELAYED, "4.3.0", str(error).encode())

    def close(self) -> None:
        pass

    def _plan(self, attempt: Attempt) -> Plan:
        delivery = attempt.delivery
        content = Content(delivery.size_octets, delivery.eightbit, delivery.utf8_header)
        planned = plan(delivery.envelope, delivery.recipients, content, _OFFER, final=self._spec.final)
        for number, status, text in planned.refusals:
            attempt.settle(number, FAILED, 0, status, text)
        if b" " in planned.sender:  # in a quoted local part; a From_ line ends its sender at the first blank
            for number in tuple(attempt.pending):
                attempt.settle(number, FAILED, 0, "5.1.7", b"rmail cannot carry a sender with a blank in it")
            return planned._replace(recipients=())
        for number, recipient in planned.recipients:
            if recipient.address[:1] in _SPECIAL:
                attempt.settle(number, FAILED, 0, "5.1.3", b"rmail cannot be given an address that begins so")
        return planned._replace(recipients=tuple((n, r) for n, r in planned.recipients if n in attempt.pending))

    def _text(self, delivery: Delivery) -> Iterator[bytes]:
        """The message as rmail reads it.  No `remote from`: it would make a path of the sender.

        Of the forms a null sender may have, `<>` is the one that rmail (BSD's, and Exim's) keeps null: it makes
        MAILER-DAEMON@HOST of MAILER-DAEMON, and of nothing the name of a weekday.
        """
        date = time.asctime(time.gmtime(self._now_ms() // 1000)).encode()
        yield b"From %b %b\n" % (delivery.envelope.sender or b"<>", date)
        yield from to_lf(delivery.content())

    def _call(self, attempt: Attempt, message: BinaryIO, group: list[int], planned: Plan) -> None:
        addresses = dict(planned.recipients)
        argv = [self._spec.path.encode(), *(addresses[number].address for number in group)]
        ended = rmail.run(argv, message, self._tmp_dir)
        action, status, text = self._read(ended)
        for number in group:
            attempt.settle(number, action, 0, status, text)

    def _read(self, ended: rmail.Exit) -> tuple[str, str, bytes]:
        said = b": " + _clean(ended.stderr) if ended.stderr.strip() else b""
        if ended.status is None:
            return DELAYED, "4.4.7", b"rmail was stopped for taking longer than %d s" % rmail.TIMEOUT_S + said
        if ended.status < 0:
            return DELAYED, "4.3.0", b"rmail was ended by signal %d" % -ended.status + said
        if ended.status == 0:
            return (DELIVERED if self._spec.final else RELAYED), "2.0.0", b"rmail took it"
        text = b"rmail exited with status %d" % ended.status + said
        if ended.status in _LATER:
            return DELAYED, _LATER[ended.status], text
        return FAILED, _FAILED.get(ended.status, "5.3.0"), text


def _calls(planned: Plan) -> Iterator[list[int]]:
    """The recipients of each call, by number."""
    group: list[int] = []
    room = MAX_ARGUMENT_OCTETS
    for number, recipient in planned.recipients:
        needed = len(recipient.address) + 1
        if group and (len(group) == MAX_RECIPIENTS or needed > room):
            yield group
            group, room = [], MAX_ARGUMENT_OCTETS
        group.append(number)
        room -= needed
    if group:
        yield group


def _clean(stderr: bytes) -> bytes:
    """Lines without control octets."""
    lines = stderr.decode("ascii", "backslashreplace").splitlines()
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines).strip().encode()
