"""How hard a batch is compressed, and how much is put into it."""

from contextlib import closing
from typing import Any

import pytest

from batchmail.core.envelope import Client, Envelope, Recipient
from batchmail.core.names import make_id
from batchmail.flow.seal import Sealer, level_for
from batchmail.store import batchfile
from batchmail.store.waiting import WaitingRoom
from tests.sites import Mailbox, make_site, messages


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


def batches(site: Mailbox, rate: float, sealer: Sealer) -> list[list[int]]:
    """Seal all that waits, over a line of that rate; the octets of each transaction in each batch."""
    sealer.rate = rate
    found = []
    while number := sealer.seal_batch("home.example", 1 << 30, 1 << 30):
        _, items, _ = batchfile.check_batch(f"{site.root}/out/home/outbox/{number.file_name}")
        found.append([item.entry.text_octets for item in items])
    return found


@pytest.mark.parametrize("rate", [0, 1.25e6, 50e6])
def test_each_batch_has_three_times_as_much_as_those_before_it(tmp_path: object, rate: float) -> None:
    site = make_site(f"{tmp_path}/mx", "mx.example", "home", batch_octets=600_000)
    site.accept(*messages(130, octets=12_000))
    with closing(site.context.open_ledger()) as ledger:
        sealer = Sealer(site.context, ledger)
        texts = batches(site, rate, sealer)
        assert sum(len(text) for text in texts) == 130
        sizes = [sum(text) for text in texts]
        most = [min(600_000, max(96 << 10, 3 * sum(sizes[:n]))) for n in range(len(sizes))]
        assert all(size <= limit for size, limit in zip(sizes, most, strict=True))
        assert all(size > limit - 13_000 for size, limit in zip(sizes[:-1], most[:-1], strict=True)), "full"
        site.accept(*messages(20, octets=12_000))
        assert sum(batches(site, rate, sealer)[0]) <= 96 << 10, "nothing waited in between"


@pytest.mark.parametrize(("rate", "level"), [(64e3, 0), (0, 17), (50e6, 19)])
def test_where_octets_count_nothing_is_cut_apart(tmp_path: object, rate: float, level: int) -> None:
    site = make_site(f"{tmp_path}/mx", "mx.example", "home", level=level)
    site.accept(*messages(130, octets=12_000))
    with closing(site.context.open_ledger()) as ledger:
        assert [len(text) for text in batches(site, rate, Sealer(site.context, ledger))] == [130]


def test_a_large_message_waits_for_the_small_ones(tmp_path: object) -> None:
    site = make_site(f"{tmp_path}/mx", "mx.example", "home")
    site.accept(*messages(1, octets=300_000), *messages(3, octets=2_000))
    with closing(site.context.open_ledger()) as ledger:
        assert [len(text) for text in batches(site, 0, Sealer(site.context, ledger))] == [3, 1]


def test_what_the_far_side_could_not_read_is_held_and_the_others_go(tmp_path: object) -> None:
    site = make_site(f"{tmp_path}/mx", "mx.example", "home")
    room, now_ms = WaitingRoom(site.spool, "home"), site.clock.now_ms
    unreadable = make_id(now_ms, bytes(10))
    draft, writer = room.write(unreadable, now_ms, 0, "", Client(), Envelope(b"", (), (Recipient(b"@b.example:"),)))
    writer.content(b"Subject: x\r\n\r\n")
    name, _ = writer.end()
    room.put(draft, name, 0, "", now_ms)
    (good,) = site.accept(*messages(1))
    with closing(site.context.open_ledger()) as ledger:
        number = Sealer(site.context, ledger).seal_batch("home.example", 1 << 20, 1 << 20)
    assert number
    _, items, _ = batchfile.check_batch(f"{site.root}/out/home/outbox/{number.file_name}")
    assert [item.entry.id for item in items] == [good]
    assert site.held() == [unreadable]
