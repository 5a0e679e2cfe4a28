"""What a call would send."""

from batchmail.flow.forecast import Load, forecast
from batchmail.flow.seal import Sealer
from batchmail.store.sent import Sent
from tests.sites import make_pair, messages


def test_in_the_order_of_the_call(tmp_path: object) -> None:
    site = make_pair(tmp_path).mx
    ledger = site.context.open_ledger()
    site.accept(*messages(3))
    Sealer(site.context, ledger).seal_batch("home.example", 1 << 20, 1 << 20)
    site.accept(*messages(2))
    found = forecast(site.context, ledger)
    assert found.lines == Load(0, 0)
    assert found.batches == Load(1, Sent(ledger).files("sealed")[0].octets)
    ((priority, load),) = found.waiting
    assert (priority, load.number) == (0, 2)
    assert load.octets > 600
    assert found.batches.octets < found.line_octets
    assert found.seconds is None


def test_seconds_are_those_of_the_last_rate(tmp_path: object) -> None:
    site = make_pair(tmp_path).mx
    ledger = site.context.open_ledger()
    ledger.note("rate", "1000")
    found = forecast(site.context, ledger)
    assert found.seconds == found.line_octets / 1000
    assert (found.waiting, found.batches.number) == ((), 0)
