"""One that cannot be read, or is too large, holds up no other."""

import random

import pytest

from batchmail.core.outcome import FAILED
from batchmail.flow.replay import Replayer
from batchmail.store import batchfile, boxes
from batchmail.store.streams import begin_new_stream
from tests.disks import unreadable
from tests.fake_smtp import FakeSmtp, Script
from tests.sites import Clock, Mailbox, Pair, make_pair, make_site, messages

HOUR_MS = 3_600_000


def call_without_replay(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Replayer, "run", lambda *_: None)
        assert pair.call()[0].error is None


def test_a_batch_in_the_inbox(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path, batch_octets=500)
    pair.mx.accept(*messages(4))
    call_without_replay(pair, monkeypatch)
    assert len(pair.home.inbox()) == 4
    unreadable(monkeypatch, batchfile, f"{pair.home.root}/in/mx/inbox/{pair.home.inbox()[0]}")
    pair.home.run()
    assert len(pair.home.dropped()) == 3


@pytest.mark.parametrize("query", ["sessions=1", "sessions=4"])
def test_what_was_delivered_before_it_is_known(tmp_path: object, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    """Whatever stops the reading of batches: what the target has taken is recorded, and not given to it again."""
    with FakeSmtp(Script()) as server:
        clock = Clock()
        pair = Pair(
            make_site(f"{tmp_path}/mx", "mx.example", "home", clock),
            make_site(f"{tmp_path}/home", "home.example", "mx", clock, target=server.url(query=query)),
        )
        pair.mx.accept(*messages(40))
        call_without_replay(pair, monkeypatch)
        real = Replayer._read

        def read(self, number, wanted):  # type: ignore[no-untyped-def]
            for count, found in enumerate(real(self, number, wanted)):
                if count == 30:
                    raise MemoryError
                yield found

        monkeypatch.setattr(Replayer, "_read", read)
        pair.home.run()
        assert len(server.messages) == 30
        assert states(pair.home) == {"done": 30, "waiting": 10}
        monkeypatch.undo()
        clock.now_ms += HOUR_MS
        pair.home.run()
        assert len(server.messages) == len(set(server.messages)) == 40
        assert states(pair.home) == {"done": 40}


def states(site: Mailbox) -> dict[str, int]:
    ledger = site.context.open_ledger()
    found = dict(ledger.rows("SELECT state, COUNT(*) FROM in_tx GROUP BY state"))
    ledger.close()
    return found


def test_a_part_of_a_file(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(*messages(1, octets=400_000))
    pair.call(cut_down=100_000)
    (part,) = pair.home.partial()
    pair.home.accept(*messages(1, seed=5))
    unreadable(monkeypatch, boxes, f"{pair.home.root}/in/mx/partial/{part}")
    assert pair.call()[0].error is None
    assert (len(pair.mx.dropped()), len(pair.home.dropped())) == (1, 1)


def test_a_part_of_a_stream_that_was_given_up_goes_in_time(tmp_path: object) -> None:
    clock = Clock()
    pair = make_pair(tmp_path, clock)
    pair.mx.accept(*messages(1, octets=3_000_000))
    pair.call(cut_down=800_000)
    (part,) = pair.home.partial()
    ledger = pair.mx.context.open_ledger()
    begin_new_stream(ledger)
    ledger.close()
    assert pair.call()[0].error is None
    assert len(pair.home.dropped()) == 1
    assert pair.home.partial() == [part]
    clock.now_ms += 400 * 24 * HOUR_MS
    pair.call()
    assert pair.home.partial() == []


def test_a_peer_that_takes_smaller_files_than_our_batches(tmp_path: object) -> None:
    source, clock = random.Random(1), Clock()
    pair = Pair(
        make_site(f"{tmp_path}/mx", "mx.example", "home", clock, level=19),
        make_site(f"{tmp_path}/home", "home.example", "mx", clock, max_message_octets=200_000),
    )
    texts = [source.randbytes(60_000).hex().encode() for _ in range(40)]
    pair.mx.accept(*(b"Subject: x\r\n\r\n" + b"\r\n".join(t[n : n + 70] for n in range(0, len(t), 70)) for t in texts))
    assert pair.call()[0].error is None
    assert len(pair.home.dropped()) == 40
    assert pair.mx.waiting() == []


def test_a_batch_that_was_sealed_before_the_peer_took_less(tmp_path: object) -> None:
    source, clock = random.Random(1), Clock()
    pair = make_pair(tmp_path, clock, level=19)
    texts = [source.randbytes(50_000).hex().encode() for _ in range(40)]
    pair.mx.accept(*(b"Subject: x\r\n\r\n" + b"\r\n".join(t[n : n + 70] for n in range(0, len(t), 70)) for t in texts))
    pair.call(cut_down=5000)
    assert len(pair.mx.outbox()) == 1
    peer = pair.home.context.peer._replace(max_message_octets=200_000)
    pair = pair._replace(home=pair.home._replace(context=pair.home.context._replace(peer=peer)))
    for _ in range(2):
        assert pair.call()[0].error is None
    assert len(pair.home.dropped()) == 40


def test_outcomes_that_do_not_fit_into_one_report(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(3)
    monkeypatch.setattr(Replayer, "_judge", lambda *_: (FAILED, 550, "5.7.1", source.randbytes(2000).hex().encode()))
    pair = make_pair(tmp_path)
    pair.mx.accept(*[b"Subject: x\r\n\r\n"] * 600)
    for _ in range(2):
        assert [result.error for result in pair.call()] == [None, None]
    ledger = pair.mx.context.open_ledger()
    assert ledger.rows("SELECT COUNT(*) FROM out_rcpt") == [(600,)]
    ledger.close()
