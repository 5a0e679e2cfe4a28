"""Failures that no sender can be told of are told to the postmaster, once; no report stays for ever.

What was lost here in a damaged batch, and mail from the null sender.
"""

import os
from collections.abc import Callable
from contextlib import closing

import pytest

from batchmail.core.outcome import DELAYED, DELIVERED, FAILED
from batchmail.flow.postmaster import Postmaster
from batchmail.store import batchfile
from tests.crash import test_steps as steps
from tests.crash.stops import every_stop
from tests.sites import Mailbox, Pair, make_pair, messages

Harm = Callable[[str], None]


def torn(path: str) -> None:
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def flipped(path: str) -> None:
    """One transaction's digest is another's, all else is intact."""
    with open(path, "r+b") as file:
        file.seek(-40, os.SEEK_END)
        octet = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([octet ^ 0x55]))


def reported(root: object, action: str, harm: Harm) -> tuple[Pair, list[str]]:
    """The far side has a batch and told its outcomes; ours is harmed since."""
    pair = make_pair(root)
    ids = pair.mx.accept(*messages(2), rcpts=("<a@home.example> NOTIFY=SUCCESS,FAILURE", "<b@home.example>"))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    (name,) = pair.mx.outbox()
    harm(f"{pair.mx.root}/out/home/outbox/{name}")
    steps.replay(pair.home, steps.CountingTarget(action))
    steps.seal(pair.home)
    steps.carry(pair.home, pair.mx)
    return pair, ids


def summarized(site: Mailbox) -> bytes:
    """What the site's target is given by a pass."""
    target = steps.CountingTarget()
    steps.settle(site, target)
    with closing(site.context.open_ledger()) as ledger:
        Postmaster(site.context, ledger).run(lambda: False)
    steps.settle(site, target)
    return b"".join(content for _, _, content in target.given)


@pytest.mark.parametrize("harm", [os.unlink, torn, flipped])
def test_failures_are_told_to_the_postmaster(tmp_path: object, harm: Harm) -> None:
    pair, ids = reported(tmp_path, FAILED, harm)
    letter = summarized(pair.mx)
    assert b"To: postmaster@mx.example" in letter
    for identifier in ids:
        assert letter.count(identifier.encode() + b", notice") == 2
    for number in (b"1", b"2"):
        assert letter.count(b"recipient %b failed 5.1.1 by mta.example: 550 5.1.1 text; " % number) == 2
    assert (pair.mx.inbox(), pair.mx.outbox()) == ([], [])
    pair.mx.clock.now_ms += 2 * 86_400_000
    assert summarized(pair.mx) == b""


@pytest.mark.parametrize("harm", [os.unlink, torn, flipped])
def test_success_is_settled(tmp_path: object, harm: Harm) -> None:
    pair, _ = reported(tmp_path, DELIVERED, harm)
    assert summarized(pair.mx) == b""
    assert (pair.mx.inbox(), pair.mx.outbox()) == ([], [])


def test_a_delay_ends_the_report_and_not_the_transaction(tmp_path: object) -> None:
    pair, _ = reported(tmp_path, DELAYED, os.unlink)
    assert summarized(pair.mx) == b""
    assert pair.mx.inbox() == []
    with closing(pair.mx.context.open_ledger()) as ledger:
        assert ledger.rows("SELECT open FROM out_tx WHERE settled_ms IS NULL") == [(2,), (2,)]


def test_what_is_intact_beside_it_is_told_to_its_sender(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, ids = reported(tmp_path, FAILED, lambda _: None)
    real = batchfile._checked
    monkeypatch.setattr(batchfile, "_checked", lambda item, pieces: real(_other(item, ids[0]), pieces))
    target = steps.CountingTarget()
    steps.settle(pair.mx, target)
    (notice,) = [content for _, _, content in target.given]
    assert notice.count(b"Final-Log-ID: " + ids[1].encode()) == 2
    assert ids[0].encode() in summarized(pair.mx)


def _other(item: batchfile.Item, bad: str) -> batchfile.Item:
    return item._replace(entry=item.entry._replace(sha256="0" * 64)) if item.entry.id == bad else item


def test_what_is_sealed_anew_meanwhile_waits(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is asked again: only what is in the same place still is lost."""
    pair, _ = reported(tmp_path, FAILED, os.unlink)
    real, asked = steps.Sent.new_outcomes, []

    def moved(sent: steps.Sent, rows: list[object]) -> object:
        asked.append(len(rows))
        found = real(sent, rows)  # type: ignore[arg-type]
        return found if len(asked) == 1 else [(row, place._replace(seq=place.seq + 1)) for row, place in found]

    monkeypatch.setattr(steps.Sent, "new_outcomes", moved)
    steps.settle(pair.mx, steps.CountingTarget())
    assert len(pair.mx.inbox()) == 1
    monkeypatch.undo()
    assert summarized(pair.mx)
    assert pair.mx.inbox() == []


def test_stopped_anywhere_it_is_told_once(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=6):
        pair, ids = reported(f"{tmp_path}/{stop}", FAILED, os.unlink)
        with machine:
            steps.settle(pair.mx, steps.CountingTarget())
        letter = summarized(pair.mx)
        assert [letter.count(identifier.encode() + b", notice") for identifier in ids] == [2, 2]
        steps.carry(pair.home, pair.mx)  # which removes the file of a report that was done
        assert pair.mx.inbox() == []


def failed_notice(root: object) -> tuple[Pair, str]:
    """A notice on its way through here that the far side has refused, and reported."""
    pair = make_pair(root)
    (identifier,) = pair.mx.accept(
        *messages(1), sender="<>", rcpts=("<a@home.example> NOTIFY=NEVER", "<b@home.example>")
    )
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    steps.replay(pair.home, steps.CountingTarget(FAILED))
    steps.seal(pair.home)
    steps.carry(pair.home, pair.mx)
    return pair, identifier


def test_of_a_notice_that_failed_there_is_no_notice(tmp_path: object) -> None:
    for stop, machine in every_stop(at_least=6):
        pair, identifier = failed_notice(f"{tmp_path}/{stop}")
        with machine:
            steps.settle(pair.mx, steps.CountingTarget())
        letter = summarized(pair.mx)
        assert b"multipart/report" not in letter and b"To: postmaster@mx.example" in letter
        assert letter.count(identifier.encode() + b", notice") == 2
        for name in (b"a", b"b"):
            assert letter.count(b"from <> to <%b@home.example>: 5.1.1 by mta.example: 550 5.1.1 text\r\n" % name) == 1
        pair.mx.clock.now_ms += 2 * 86_400_000
        assert summarized(pair.mx) == b""
        steps.seal(pair.mx)  # which removes the file of a batch that was settled
        assert pair.mx.outbox() == []


def test_of_a_notice_that_expired_here_neither(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    (identifier,) = pair.mx.accept(*messages(1), sender="<>")
    pair.mx.clock.now_ms += 40 * 86_400_000
    pair.mx.run()
    (letter,) = pair.mx.dropped().values()
    assert identifier.encode() in letter and b"from <> to <r@home.example>: 5.4.7: " in letter
    assert pair.mx.waiting() == []
