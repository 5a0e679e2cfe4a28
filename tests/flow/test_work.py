"""A transaction out of its text; the worker beside a call; and that one bad thing stops no other."""

import os
import threading
from collections.abc import Callable, Iterable

import pytest

from batchmail.core.errors import BatchmailError, PeerError, SpoolError
from batchmail.flow import work
from batchmail.flow.transaction import Transaction
from batchmail.flow.worker import Worker
from batchmail.store import batchfile
from tests.batches import PARAMETERS, PLAIN, TEXTS
from tests.sites import HANG_S, Mailbox, Pair, make_pair, make_site, messages

# Transactions


def pieces(text: bytes, size: int) -> Iterable[bytes]:
    return (text[start : start + size] for start in range(0, len(text), size))


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("text", TEXTS)
def test_a_transaction(tmp_path: object, text: bytes, size: int) -> None:
    with Transaction(pieces(text, size), str(tmp_path)) as transaction:
        content = b"".join(transaction.content())
        assert content == b"".join(transaction.content())
        assert len(content) == transaction.size_octets
        assert transaction.eightbit is not content.isascii()
        assert len(transaction.envelope.recipients) == text.count(b"RCPT TO")
        assert content.startswith(transaction.header)


def test_the_header_ends_where_the_header_ends(tmp_path: object) -> None:
    with Transaction([PLAIN], str(tmp_path)) as transaction:
        assert transaction.header == b"Subject: one\r\n"


def test_an_empty_header_does_not_reach_into_the_body(tmp_path: object) -> None:
    text = PLAIN.replace(b"Subject: one\r\n\r\n", b"\r\nReceived: from a by b\r\n\r\n")
    assert text != PLAIN
    with Transaction([text], str(tmp_path)) as transaction:
        assert transaction.header == b""


@pytest.mark.parametrize("end", [0, 10, len(PLAIN) - 5, len(PLAIN) - 1])
def test_a_transaction_without_its_end_is_none(tmp_path: object, end: int) -> None:
    with pytest.raises(SpoolError, match="damaged"):
        Transaction([PLAIN[:end]], str(tmp_path))
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("text", [b"EHLO x\r\n", PLAIN[1:], PLAIN.replace(b"RCPT", b"RSET\r\nRCPT")])
def test_a_text_that_is_no_transaction(tmp_path: object, text: bytes) -> None:
    with pytest.raises(SpoolError, match="damaged"):
        Transaction([text], str(tmp_path))


def test_large_content_leaves_no_draft_when_its_text_fails(tmp_path: object) -> None:
    def text() -> Iterable[bytes]:
        yield PARAMETERS[:-3]
        yield b"x" * 400_000
        raise PeerError("its digest differs")

    with pytest.raises(PeerError):
        Transaction(text(), str(tmp_path))
    assert os.listdir(str(tmp_path)) == []


# The worker


class Passes:
    """What `work_once` does is up to the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.count = 0
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None
        monkeypatch.setattr(work, "work_once", self._once)

    def _once(self, *_: object) -> None:
        self.count += 1
        self.began.release()
        assert self.go_on.acquire(timeout=HANG_S)
        if self.error:
            raise self.error


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


@pytest.fixture
def worker(tmp_path: object) -> Worker:
    site = make_site(f"{tmp_path}/mx", "mx.example", "home")
    return Worker(site.context, lambda *_: None, lambda: None)


def in_time(action: Callable[[], object]) -> None:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(HANG_S)
    assert not thread.is_alive(), "hangs"


def test_a_kick_during_a_pass_is_another_pass(passes: Passes, worker: Worker) -> None:
    worker.start()
    assert worker.is_idle
    worker.kick()
    assert not worker.is_idle
    passes.began.acquire(timeout=HANG_S)
    worker.kick()
    worker.kick()
    assert not worker.is_idle
    passes.go_on.release(2)
    in_time(lambda: worker.stop(wait=True))
    assert passes.count == 2
    assert worker.is_idle


def test_stopped_without_waiting_it_ends_after_the_pass(passes: Passes, worker: Worker) -> None:
    worker.start()
    worker.kick()
    passes.began.acquire(timeout=HANG_S)
    worker.kick()
    passes.go_on.release(2)
    in_time(lambda: worker.stop(wait=False))
    assert passes.count <= 2


@pytest.mark.parametrize("wait", [True, False])
def test_a_worker_that_never_began_does_not_keep_anybody(worker: Worker, wait: bool) -> None:
    worker.kick()
    in_time(lambda: worker.stop(wait))


@pytest.mark.parametrize("error", [SpoolError("no"), OSError(28, "No space left on device")])
def test_a_worker_that_failed_does_not_keep_anybody(passes: Passes, worker: Worker, error: Exception) -> None:
    passes.error = error
    worker.start()
    worker.kick()
    passes.began.acquire(timeout=HANG_S)
    worker.kick()
    passes.go_on.release()
    in_time(lambda: worker.stop(wait=True))
    assert isinstance(worker.error, BatchmailError)
    assert worker.is_idle


# One bad thing stops no other


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path, batch_octets=700)


def damage(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"damage")


def sealed_and_carried(pair: Pair, target: str) -> Pair:
    """Everything is in the custody of `home`, and not replayed."""
    entry = pair.home.context.peer._replace(target=target, report_wait_s=0.0)
    away = pair.home._replace(context=pair.home.context._replace(peer=entry))
    Pair(pair.mx, away).call()
    return pair


def batches_of(site: Mailbox) -> list[str]:
    return [f"{site.root}/in/{site.context.peer.name}/inbox/{name}" for name in site.inbox() if name.endswith("batch")]


def test_a_batch_that_is_damaged_stops_no_other(pair: Pair) -> None:
    pair.mx.accept(*messages(5))
    sealed_and_carried(pair, "smtp://127.0.0.1:1")
    first, *others = batches_of(pair.home)
    assert others
    lost = len(batchfile.read_manifest(first)[1])
    damage(first)
    pair.home.run()
    assert len(pair.home.dropped()) == 5 - lost
    assert first in batches_of(pair.home)


def test_a_batch_that_is_damaged_at_its_origin_ends_with_its_report_and_stops_no_other(pair: Pair) -> None:
    ids = pair.mx.accept(*messages(5))
    sealed_and_carried(pair, "smtp://127.0.0.1:1")
    first = f"{pair.mx.root}/out/home/outbox/{pair.mx.outbox()[0]}"
    known = len(batchfile.read_manifest(first)[1])
    damage(first)
    pair.home.run()
    pair.call()
    (late,) = pair.mx.accept(*messages(1, seed=9))
    pair.call()
    pair.call()
    assert set(pair.home.dropped()) == {*ids, late}
    assert not pair.mx.outbox()  # all was delivered, so nobody needs its text any more
    assert known < 5
