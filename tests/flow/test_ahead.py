"""Sealing ahead: what is sealed while the call does other things, and what is left when it ends in the middle."""

import threading

import pytest

from batchmail.core.errors import SpoolError
from batchmail.flow.ahead import Ahead, Order
from batchmail.flow.seal import Sealer
from batchmail.store.sent import Sent
from tests.disks import Disk
from tests.sites import HANG_S, make_pair

ORDER = Order("home.example", 1 << 30, 1 << 30, 0.0)


def test_a_batch_is_sealed_by_another_thread_and_taken(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(b"Subject: one\r\n\r\n", b"Subject: two\r\n\r\n")
    told = threading.Event()
    ahead = Ahead(pair.mx.context, told.set)
    assert not ahead.has_sealed()
    ahead.begin(ORDER)
    assert told.wait(HANG_S)
    assert (ahead.is_busy, ahead.has_sealed()) == (True, True)
    number = ahead.take()
    assert number is not None
    assert pair.mx.outbox() == [number.file_name]
    ahead.begin(ORDER)
    assert ahead.take() is None, "nothing waits any more"
    assert not ahead.is_busy
    assert pair.mx.waiting() == []
    ahead.close()


def test_a_batch_is_there_before_its_waiting_files_are_gone_and_one_that_stays_goes_with_the_next(
    tmp_path: object,
) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(b"Subject: one\r\n\r\n", b"Subject: two\r\n\r\n")
    ahead = Ahead(pair.mx.context, lambda: None)
    with Disk(fail=("unlink", 3)) as disk:
        ahead.begin(ORDER)
        assert ahead.take() is not None
        ahead.close()
    assert disk.failed
    assert (len(pair.mx.outbox()), len(pair.mx.waiting())) == (1, 1)
    pair.call()
    assert (pair.mx.waiting(), len(pair.home.dropped())) == ([], 2)


def test_the_end_of_a_call_gives_up_what_is_half_written(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(b"Subject: one\r\n\r\n")
    ledger = pair.mx.context.open_ledger()
    sealer = Sealer(pair.mx.context, ledger, lambda: True)
    with pytest.raises(SpoolError, match="nothing more is sealed"):
        sealer.seal_batch(*ORDER[:3])
    assert (pair.mx.outbox(), len(pair.mx.waiting())) == ([], 1)
    assert len(Sent(ledger).files("reserved")) == 1
    ledger.close()
    pair.call()  # the gap is filled, and the mail goes
    assert pair.mx.waiting() == []
