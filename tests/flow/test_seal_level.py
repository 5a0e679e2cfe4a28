"""Which level of compression a batch is sealed at."""

from typing import Any

import pytest

from batchmail.flow.seal import Sealer, level_for
from batchmail.store import batchfile
from tests.sites import make_site, messages


@pytest.mark.parametrize(
    ("rate", "level"), [(0, 12), (1200, 19), (32e3, 19), (64e3, 17), (1.25e6, 12), (10e6, 12), (50e6, 3)]
)
def test_slower_lines_are_compressed_for_harder(rate: float, level: int) -> None:
    assert level_for(rate) == level


@pytest.mark.parametrize(
    ("fixed", "known", "measured", "level"),
    [(0, "", 0, 12), (0, "1200", 0, 19), (0, "1200", 5e6, 12), (5, "1200", 0, 5)],
)
def test_the_rate_is_that_of_the_last_call_then_that_of_this_one(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, fixed: int, known: str, measured: float, level: int
) -> None:
    used: list[int] = []
    real = batchfile.write_batch

    def write_batch(*args: Any) -> str:
        used.append(args[-1])
        return real(*args)

    monkeypatch.setattr(batchfile, "write_batch", write_batch)
    site = make_site(f"{tmp_path}/mx", "mx.example", "home", level=fixed)
    site.accept(*messages(1))
    ledger = site.context.open_ledger()
    ledger.note("rate", known)
    sealer = Sealer(site.context, ledger)
    sealer.rate = measured or sealer.rate
    assert sealer.seal_batch("home.example", 1 << 20, 1 << 20)
    assert used == [level]
