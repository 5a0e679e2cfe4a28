"""What breaks one thing stops nothing else, and what two sides remember of each other is not believed blindly."""

import os
import shutil

import pytest

from batchmail.core.entry import Entry
from batchmail.core.errors import LineError
from batchmail.core.numbered import BATCH, REPORT, Number
from batchmail.core.request import DONE, LATE
from batchmail.flow.incoming import Arrivals
from batchmail.flow.notify import Teller
from batchmail.flow.outgoing import Outgoing
from batchmail.flow.replay import Replayer
from batchmail.flow.seal import Sealer
from batchmail.store import batchfile
from batchmail.store.boxes import Inbox, Outbox
from batchmail.store.ledger import Ledger
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from batchmail.store.streams import begin_new_stream
from batchmail.store.waiting import WaitingRoom
from batchmail.wire.stream import PipeStream
from tests.fake_smtp import CLOSE, END, FakeSmtp, Script
from tests.sites import NOW_MS, Mailbox, Pair, make_pair, make_site, messages


def begin_again(site: Mailbox) -> None:
    """What `batchmail setup --adopt` does."""
    ledger = Ledger(site.spool, site.context.peer.name, adopt=True)
    begin_new_stream(ledger)
    ledger.close()


def errors(pair: Pair) -> list[str]:
    return [str(result.error or "") for result in pair.call()]


def test_an_older_call_takes_custody_while_a_newer_one_looks(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    (identifier,) = pair.mx.accept(*messages(1))
    sealer = Sealer(pair.mx.context, pair.mx.context.open_ledger())
    number = sealer.seal_batch("home.example", 1 << 30, 1 << 30)
    assert number is not None
    path = Outbox(pair.mx.spool, "home").path(number)
    _, items, identity = batchfile.check_batch(path)
    inbox = Inbox(pair.home.spool, "mx")
    incoming = inbox.begin(number, identity, 0)
    with open(path, "rb") as file:
        incoming.append(file.read())
    incoming.close()
    newer = Arrivals(pair.home.context, pair.home.context.open_ledger(), lambda _answer: None)
    listing = Inbox.numbers

    def take_then_list(self: Inbox) -> list[Number]:
        inbox.take(incoming)
        Received(pair.home.context.open_ledger()).custody(number, identity, items, NOW_MS, 0)
        return listing(self)

    monkeypatch.setattr(Inbox, "numbers", take_then_list)
    newer.recover()
    monkeypatch.undo()
    pair.home.run()
    assert list(pair.home.dropped()) == [identifier]


@pytest.mark.parametrize("cut_down", [None, 1000], ids=["", "and the line is cut"])
def test_an_older_call_takes_custody_of_what_is_sealed_anew(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, cut_down: int | None
) -> None:
    pair = make_pair(tmp_path)
    ids = pair.mx.accept(*messages(2))
    ledger = pair.mx.context.open_ledger()
    number = Sealer(pair.mx.context, ledger).seal_batch("home.example", 1 << 30, 1 << 30)
    assert number is not None
    Sent(ledger).whole(number, NOW_MS)
    for _ in range(3):
        Sent(ledger).count_cut(number)
    ledger.close()
    path = Outbox(pair.mx.spool, "home").path(number)
    _, items, identity = batchfile.check_batch(path)
    inbox = Inbox(pair.home.spool, "mx")
    incoming = inbox.begin(number, identity, 0)
    with open(path, "rb") as file:
        incoming.append(file.read())
    incoming.close()
    have = Arrivals.have

    def then_take(self: Arrivals):  # type: ignore[no-untyped-def]
        found = have(self)
        if self._inbox.path(number) == inbox.path(number):
            inbox.take(incoming)
            Received(self._ledger).custody(number, identity, items, NOW_MS, 0)
        return found

    monkeypatch.setattr(Arrivals, "have", then_take)
    assert [bool(result.error) for result in pair.call(cut_down=cut_down)] == [bool(cut_down)] * 2
    monkeypatch.undo()
    for _ in range(4):
        assert errors(pair) == ["", ""]
    assert sorted(pair.home.dropped()) == sorted(ids)
    assert (pair.mx.outbox(), pair.home.inbox()) == ([], [])


def test_a_pipe_that_is_closed_keeps_its_numbers() -> None:
    read_end, write_end = os.pipe()
    PipeStream(read_end, write_end).close()
    numbers = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    assert not {read_end, write_end} & set(numbers), "a thread that still writes would write into another file"
    for number in (read_end, write_end, *numbers):
        os.close(number)


def test_a_dot_without_a_reply_is_in_doubt(tmp_path: object) -> None:
    with FakeSmtp(Script(replies={END: CLOSE}), Script()) as server:
        pair = make_pair(tmp_path, target=server.url())
        pair.mx.accept(*messages(1))
        pair.call()
        pair.home.clock.now_ms += 120_000
        pair.home.run()
        assert len(server.messages) == 2
        ledger = pair.home.context.open_ledger()
        assert ledger.rows("SELECT state, doubtful FROM in_tx") == [("done", 1)]
        ledger.close()


def withdraw(site: Mailbox, identifier: str) -> str:
    ledger = site.context.open_ledger()
    verdict, _ = Received(ledger).withdraw(identifier, site.clock.now_ms)
    ledger.close()
    return verdict


def test_a_doubt_outlives_an_attempt_that_is_refused_before_its_dot(tmp_path: object) -> None:
    busy = Script(replies={b"RCPT": b"450 4.2.1 later"})
    with FakeSmtp(Script(replies={END: CLOSE}), busy, Script()) as server:
        pair = make_pair(tmp_path, target=server.url())
        (identifier,) = pair.mx.accept(*messages(1))
        pair.call()
        pair.home.clock.now_ms += 120_000
        pair.home.run()
        assert withdraw(pair.home, identifier) == LATE
        pair.home.clock.now_ms += 600_000
        pair.home.run()
        assert len(server.messages) == 2
        ledger = pair.home.context.open_ledger()
        assert ledger.rows("SELECT state, doubtful FROM in_tx") == [("done", 1)]
        ledger.close()


def test_a_doubt_outlives_an_attempt_that_goes_wrong_here(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeSmtp(Script(replies={END: CLOSE}), Script()) as server:
        pair = make_pair(tmp_path, target=server.url())
        (identifier,) = pair.mx.accept(*messages(1))
        pair.call()
        pair.home.clock.now_ms += 120_000
        monkeypatch.setattr(Replayer, "_judge", lambda *_: 1 // 0)
        pair.home.run()
        monkeypatch.undo()
        assert withdraw(pair.home, identifier) == LATE
        pair.home.clock.now_ms += 600_000
        pair.home.run()
        ledger = pair.home.context.open_ledger()
        assert ledger.rows("SELECT state, doubtful FROM in_tx") == [("done", 1)]
        ledger.close()


def test_a_doubt_outlives_a_refusal_of_the_next_dot(tmp_path: object) -> None:
    with FakeSmtp(Script(replies={END: CLOSE}), Script(replies={END: b"451 4.3.0 later"})) as server:
        pair = make_pair(tmp_path, target=server.url())
        (identifier,) = pair.mx.accept(*messages(1))
        pair.call()
        pair.home.clock.now_ms += 120_000
        pair.home.run()
        assert len(server.messages) == 2
        assert withdraw(pair.home, identifier) == LATE


def test_there_is_no_doubt_of_a_dot_that_was_refused(tmp_path: object) -> None:
    with FakeSmtp(Script(replies={END: b"451 4.3.0 later"}), Script()) as server:
        pair = make_pair(tmp_path, target=server.url())
        (identifier,) = pair.mx.accept(*messages(1))
        pair.call()
        assert len(server.messages) == 1
        assert withdraw(pair.home, identifier) == DONE


def test_a_new_stream_sends_nothing_that_was_settled(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    ids = pair.mx.accept(*messages(5))
    due = Received.due
    monkeypatch.setattr(Received, "due", lambda *a: {k: v for k, v in due(*a).items() if k != ids[4]})
    pair.call()
    pair.call()
    monkeypatch.undo()
    shutil.rmtree(pair.home.root)
    shutil.rmtree(pair.home.drop)
    after = pair._replace(home=make_site(pair.home.root, "home.example", "mx", pair.home.clock))
    assert "batchmail resend home" in errors(after)[1]
    begin_again(pair.mx)
    assert errors(after) == ["", ""]
    assert list(after.home.dropped()) == [ids[4]]


def test_a_new_stream_reports_again_what_was_on_its_way(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(*messages(3))
    events = Outgoing.next_events

    def cut(self: Outgoing, *arguments: int) -> list[object]:
        if self._context.site.name == "home.example" and self._queue:  # a report is sealed and does not leave
            raise LineError("cut")
        return list(events(self, *arguments))

    monkeypatch.setattr(Outgoing, "next_events", cut)
    assert errors(pair)[0] == "cut"
    monkeypatch.undo()
    begin_again(pair.home)
    for _ in range(3):
        assert errors(pair) == ["", ""]
    assert (pair.mx.outbox(), pair.home.inbox()) == ([], [])


def test_a_transaction_that_cannot_be_settled_stops_no_other(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    mx = make_site(f"{tmp_path}/mx", "mx.example", "home")
    home = make_site(f"{tmp_path}/home", "home.example", "mx", mx.clock, recipients=("nowhere.example",))
    pair = Pair(mx, home)  # home refuses all
    ids = mx.accept(*messages(3))
    tell = Teller.tell

    def stumble(self: Teller, entry: Entry, *rest: object, **more: object) -> object:
        if entry.id == ids[1]:
            raise KeyError("a fault of ours")
        return tell(self, entry, *rest, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Teller, "tell", stumble)
        assert errors(pair) == ["", ""]
        mx.run()
        assert len(mx.dropped()) == 2
        assert len(mx.outbox()) == len(mx.inbox()) == 1
    mx.run()
    assert len(mx.dropped()) == 3
    assert mx.outbox() == mx.inbox() == []


def test_a_restored_peer_that_lost_our_reports_is_noticed(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(*messages(2))
    monkeypatch.setattr(Received, "due_batches", lambda *_: [])
    pair.call()
    monkeypatch.undo()
    places = ("ledger", "out", "in")
    for place in places:
        shutil.copytree(f"{pair.mx.root}/{place}", f"{tmp_path}/backup/{place}")
    pair.home.run()
    assert errors(pair) == ["", ""]
    assert pair.mx.outbox() == []
    for place in places:  # the files go back, the directories stay the same
        for where, _, names in os.walk(f"{pair.mx.root}/{place}"):
            for name in names:
                os.unlink(f"{where}/{name}")
        shutil.copytree(f"{tmp_path}/backup/{place}", f"{pair.mx.root}/{place}", dirs_exist_ok=True)
    assert "no longer has files that it took" in errors(pair)[0]
    begin_again(pair.home)
    assert errors(pair) == ["", ""]
    assert pair.mx.outbox() == []


def test_a_full_disk_here_stops_one_direction(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(*messages(2))
    pair.home.accept(*messages(2, seed=1))
    write = Sealer._write_batch

    def full(self: Sealer, *arguments: object) -> Number:
        if self._context.site.name == "mx.example":
            raise OSError(28, "No space left on device")
        return write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Sealer, "_write_batch", full)
    assert "No space left on device" in errors(pair)[1]
    assert (len(pair.mx.dropped()), len(pair.home.dropped())) == (2, 0)
    monkeypatch.undo()
    assert errors(pair) == ["", ""]
    assert len(pair.home.dropped()) == 2


def test_a_report_that_cannot_be_sealed_does_not_hold_the_call(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(*messages(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sealer, "seal_report", full)
    assert "No space left on device" in errors(pair)[0]
    monkeypatch.undo()
    assert errors(pair) == ["", ""]
    assert pair.mx.outbox() == []


def test_a_waiting_file_that_cannot_be_read_is_left_out(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(*messages(3))
    first = next(WaitingRoom(pair.mx.spool, "home").scan())
    os.unlink(first.path)
    os.mkdir(first.path)
    pair.call()
    assert len(pair.home.dropped()) == 2


def test_a_report_that_is_gone_stops_no_replay(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    pair.home.accept(*messages(1, seed=3))
    ledger = pair.mx.context.open_ledger()
    Received(ledger).custody(Number("0123456789ABCDEF", 1, REPORT), "0" * 64, [], NOW_MS, 0)
    ledger.close()
    pair.call()
    assert len(pair.mx.dropped()) == 1


def test_one_bad_transaction_stops_no_other(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    ids = pair.mx.accept(*messages(6))
    judge = Replayer._judge

    def stumble(self: Replayer, item, *more):  # type: ignore[no-untyped-def]
        if item.entry.id == ids[2]:
            raise ZeroDivisionError
        return judge(self, item, *more)

    monkeypatch.setattr(Replayer, "_judge", stumble)
    pair.call()
    assert sorted(pair.home.dropped()) == sorted(set(ids) - {ids[2]})
    monkeypatch.undo()
    pair.home.clock.now_ms += 120_000
    pair.home.run()
    assert sorted(pair.home.dropped()) == sorted(ids)
    assert [number.kind for number in Received(pair.home.context.open_ledger()).in_custody(BATCH)] == [BATCH]
