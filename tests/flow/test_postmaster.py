"""The postmaster's summary: of what nobody takes, once a day, and never about itself."""

import email

from batchmail.core.outcome import DELIVERED, FAILED
from batchmail.core.settings import DAY_MS
from batchmail.core.summary import MAX_LINES, Undelivered, compose
from batchmail.flow.postmaster import Postmaster
from tests.crash import test_steps as steps
from tests.crash.stops import every_stop
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, messages


def refused(tmp_path: object, count: int = 2) -> Pair:
    """Failures whose notices the origin's target refused."""
    pair = make_pair(tmp_path)
    pair.mx.accept(*messages(count))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    steps.replay(pair.home, steps.CountingTarget(FAILED))
    steps.seal(pair.home)
    steps.carry(pair.home, pair.mx)
    steps.settle(pair.mx, steps.CountingTarget(FAILED))
    return pair


def summarize(site: Mailbox, target: steps.CountingTarget) -> list[bytes]:
    """What a pass hands over."""
    ledger = site.context.open_ledger()
    Postmaster(site.context, ledger).run(lambda: False)
    ledger.close()
    steps.settle(site, target)
    return [content for _, _, content in target.given]


def test_it_is_told_once(tmp_path: object) -> None:
    pair = refused(tmp_path)
    assert pair.mx.outbox() == []
    (letter,) = summarize(pair.mx, steps.CountingTarget(DELIVERED))
    assert letter.count(b"<s@mx.example>: text") == 2
    assert b"To: postmaster@mx.example" in letter
    pair.mx.clock.now_ms += 2 * DAY_MS
    assert summarize(pair.mx, steps.CountingTarget(DELIVERED)) == []


def test_it_is_told_once_a_day(tmp_path: object) -> None:
    pair = refused(tmp_path)
    assert len(summarize(pair.mx, steps.CountingTarget(DELIVERED))) == 1
    (identifier,) = pair.mx.accept(*messages(1, seed=9))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    steps.replay(pair.home, steps.CountingTarget(FAILED))
    steps.seal(pair.home)
    steps.carry(pair.home, pair.mx)
    steps.settle(pair.mx, steps.CountingTarget(FAILED))
    pair.mx.clock.now_ms += DAY_MS - 1
    assert summarize(pair.mx, steps.CountingTarget(DELIVERED)) == []
    pair.mx.clock.now_ms += 1
    (letter,) = summarize(pair.mx, steps.CountingTarget(DELIVERED))
    assert identifier.encode() in letter


def test_nobody_is_told_of_a_summary_that_is_refused(tmp_path: object) -> None:
    pair = refused(tmp_path)
    assert len(summarize(pair.mx, steps.CountingTarget(FAILED))) == 1
    pair.mx.clock.now_ms += 2 * DAY_MS
    assert summarize(pair.mx, steps.CountingTarget(DELIVERED)) == []


def test_stopped_anywhere_it_is_told_once(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=6):
        pair = refused(f"{tmp_path}/{stop}", 1)
        target = steps.CountingTarget(DELIVERED)
        with machine:
            summarize(pair.mx, target)
        summarize(pair.mx, target)
        assert len({identifier for identifier, _, _ in target.given}) == 1


def test_a_long_one_is_bounded() -> None:
    rows = [Undelivered("N", "T", NOW_MS, b"<a@b>: no\n\xff" + b"x" * 5000)] * (MAX_LINES + 5)
    envelope, content = compose(rows, me="a.example", peer="b", postmaster="p@c", message_id="<x@y>", now_ms=NOW_MS)
    text = b"".join(content)
    assert (envelope.sender, envelope.recipients[0].address) == (b"", b"p@c")
    assert text.isascii() and max(map(len, text.split(b"\r\n"))) < 998
    letter = email.message_from_bytes(text)
    assert letter.defects == []
    assert "and 5 more" in letter.get_payload()
    assert letter["subject"] == f"{MAX_LINES + 5} notices about mail for b could not be delivered"
