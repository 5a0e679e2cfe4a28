"""Deliver-By: the parameter, the moment it means, and what a sender is told (RFC 2852)."""

import pytest

from batchmail.core import dsn
from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.deliverby import DeliverBy, deliver_by, parse, with_left
from batchmail.core.envelope import Envelope
from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, PASSED, RELAYED, Outcome
from batchmail.core.path import CommandError

ARRIVAL_MS = 1_800_000_000_000
NOTIFIES = ("", " NOTIFY=NEVER", " NOTIFY=SUCCESS", " NOTIFY=FAILURE", " NOTIFY=DELAY", " NOTIFY=SUCCESS,DELAY")


def envelope(by: str, *notifies: str, sender: str = "<s@x.example>") -> Envelope:
    rcpts = tuple(parse_rcpt(f"RCPT TO:<r@y.example>{notify}".encode()) for notify in notifies or ("",))
    return Envelope(*parse_mail(f"MAIL FROM:{sender} {by}".encode()), rcpts)


def outcome(action: str, after_s: float, recipient: int = 0) -> Outcome:
    return Outcome(recipient, action, 250, "2.0.0", b"ok", b"mx", ARRIVAL_MS + round(after_s * 1000))


@pytest.mark.parametrize(
    ("value", "means"),
    [
        (b"120;R", DeliverBy(120, True, False)),
        (b"+120;n", DeliverBy(120, False, False)),
        (b"-000000007;NT", DeliverBy(-7, False, True)),
        (b"999999999;rt", DeliverBy(999_999_999, True, True)),
        (b"0;N", DeliverBy(0, False, False)),
    ],
)
def test_values(value: bytes, means: DeliverBy) -> None:
    assert parse(value) == means
    assert parse(bytes(means)) == means
    assert deliver_by(envelope(f"BY={value.decode()}")) == means


@pytest.mark.parametrize(
    "value", ["", "5", "5;", ";N", "5;X", "5;NN", "5;TN", "1000000000;N", "+-5;N", "0;R", "-5;RT", "5;R;T"]
)
def test_what_is_no_value(value: str) -> None:
    with pytest.raises(CommandError) as refused:
        envelope(f"BY={value}")
    assert (refused.value.code, refused.value.status) == (501, "5.5.4")


def test_the_time_that_is_left() -> None:
    given = envelope("SIZE=5 by=+60;Rt RET=HDRS")
    assert deliver_by(given) is not None
    assert deliver_by(given).deadline_ms(ARRIVAL_MS) == ARRIVAL_MS + 60_000
    assert [bytes(p) for p in with_left(given, 59_999).parameters] == [b"SIZE=5", b"by=59;RT", b"RET=HDRS"]
    late = deliver_by(with_left(given, -1))
    assert late == DeliverBy(-1, True, True)
    assert late.is_over
    assert deliver_by(with_left(given, 10**15)) == DeliverBy(999_999_999, True, True)
    assert with_left(envelope("RET=HDRS"), 5) == envelope("RET=HDRS")


@pytest.mark.parametrize(
    ("by", "after_s", "told"),
    [
        ("BY=60;N", 59, (True, False, True, True, True, True)),  # in time, to who promises nothing
        ("BY=60;N", 60, (False, False, True, False, False, True)),  # the time is over: as always
        ("BY=-1;N", 0, (False, False, True, False, False, True)),
        ("BY=60;R", 59, (False, False, True, False, False, True)),
        ("BY=60;RT", 59, (True, False, True, True, True, True)),  # traced
        ("BY=60;NT", 90, (True, False, True, True, True, True)),
    ],
)
def test_who_is_told_of_a_relay(by: str, after_s: float, told: tuple[bool, ...]) -> None:
    given = envelope(by, *NOTIFIES)
    found = [dsn.owed(given, outcome(RELAYED, after_s, n), ARRIVAL_MS) for n in range(len(NOTIFIES))]
    assert found == ["relayed" if one else None for one in told]
    nobody = envelope(by, *NOTIFIES, sender="<>")
    assert not any(dsn.owed(nobody, outcome(RELAYED, after_s, n), ARRIVAL_MS) for n in range(len(NOTIFIES)))


@pytest.mark.parametrize("action", [PASSED, DELIVERED, RELAYED])
def test_what_was_served_late(action: str) -> None:
    given = envelope("BY=60;N", *NOTIFIES)
    found = [dsn.overdue(given, outcome(action, 61, n), ARRIVAL_MS) for n in range(len(NOTIFIES))]
    told_of_it = action != PASSED  # by "delivered" or "relayed", where SUCCESS was asked for
    assert [one is not None for one in found] == [True, True, not told_of_it, True, True, not told_of_it]
    assert found[0] is not None
    assert (found[0].action, found[0].status, found[0].code) == (DELAYED, "4.4.7", 0)
    assert dsn.overdue(given, outcome(action, 59), ARRIVAL_MS) is None


@pytest.mark.parametrize(("by", "action"), [("BY=60;R", PASSED), ("BY=60;N", FAILED), ("BY=0;N", PASSED), ("", PASSED)])
def test_what_is_not_late(by: str, action: str) -> None:
    assert dsn.overdue(envelope(by), outcome(action, 61), ARRIVAL_MS) is None


def test_notices_name_the_moment() -> None:
    notice = dsn.Notice(envelope("BY=3600;R"), (outcome(FAILED, 1),), "ID", ARRIVAL_MS, "x.example", "y.example")
    lines = dsn.delivery_status(notice, utf8=False, retry_until_ms=None).split("\r\n")
    assert "Arrival-Date: Fri, 15 Jan 2027 08:00:00 +0000" in lines
    assert "Deliver-By-Date: Fri, 15 Jan 2027 09:00:00 +0000" in lines
    without = dsn.delivery_status(notice._replace(envelope=envelope("")), utf8=False, retry_until_ms=None)
    assert "Deliver-By-Date" not in without
