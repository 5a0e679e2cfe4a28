"""What both sides remember: the same text, or a word that differs."""

import os

import pytest

from batchmail.core.errors import PeerError
from batchmail.core.numbered import BATCH, Number
from batchmail.store import batchfile, remembered
from batchmail.store.durable import Draft
from batchmail.store.ledger import Ledger
from batchmail.store.remembered import Remembered, Text, is_word
from tests import batches
from tests.spools import PEER, make_spool

STREAM, OTHER = "0123456789ABCDEF", "FEDCBA9876543210"


@pytest.fixture
def ledger(tmp_path: object) -> Ledger:
    return Ledger(make_spool(f"{tmp_path}/spool"), PEER)


def fill(ledger: Ledger, *seqs: int, direction: str = "in", stream: str = STREAM) -> Remembered:
    made = Remembered(ledger, direction)
    for seq in seqs:
        made.add(Number(stream, seq, BATCH), b"text of %d." % seq)
    return made


def test_the_same_files_in_another_order_are_the_same_text(ledger: Ledger) -> None:
    here, there = fill(ledger, 1, 2, 3), fill(ledger, 3, 1, 2, direction="out")
    assert here.up_to(STREAM, 3) == there.up_to(STREAM, 3)
    assert here.up_to(STREAM, 3).octets == b"text of 1.text of 2.text of 3."
    assert here.up_to(STREAM, 2).octets == b"text of 1.text of 2."


def test_it_goes_back_to_what_is_missing(ledger: Ledger) -> None:
    here = fill(ledger, 1, 3, 4)
    assert here.up_to(STREAM, 4).octets == b"text of 3.text of 4."
    assert here.up_to(STREAM, 2) == Text("", b"")
    assert here.up_to(OTHER, 4) == Text("", b"")


@pytest.mark.parametrize("damage", ["x'0011'", "x''", "'text'", "7"])
def test_what_is_damaged_is_not_remembered(ledger: Ledger, damage: str) -> None:
    here = fill(ledger, 1, 2, 3)
    ledger.rows(f"UPDATE remembered SET packed = {damage} WHERE seq = 2")
    assert here.up_to(STREAM, 3) == Text("", b"")
    assert here.up_to(STREAM, 1).octets == b"text of 1."


def test_at_most_so_much_of_it_counts(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "TEXT_OCTETS", 25)
    here, gap = fill(ledger, 1, 2, 3, 4), fill(ledger, 2, 3, 4, direction="out")
    assert here.up_to(STREAM, 4).octets == b" of 2.text of 3.text of 4."[-25:]
    assert here.up_to(STREAM, 4) == gap.up_to(STREAM, 4)


def test_a_word_is_of_use_where_the_text_is_the_same(ledger: Ledger) -> None:
    here, less = fill(ledger, 1, 2, 3), fill(ledger, 2, 3, direction="out")
    word = here.up_to(STREAM, 2).word
    assert is_word(word)
    assert here.by_word(STREAM, word).octets == b"text of 1.text of 2."
    for wrong in ("", "zst", word.replace(".2", ".3"), "r00000000.2", word + "0", "r" + word):
        assert here.by_word(STREAM, wrong) == Text("", b"")
    assert less.by_word(STREAM, word) == Text("", b"")


def test_the_newest_is_the_last_before_a_gap(ledger: Ledger) -> None:
    here = fill(ledger, 1, 2, 3, 5)
    assert [here.newest(STREAM, seq) for seq in (1, 2, 3, 4, 9)] == [3, 3, 3, 5, 9]


def test_old_pieces_go(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_KEPT_OCTETS", 120)
    other = fill(ledger, 1, direction="out")
    fill(ledger, *range(1, 33))
    rows = ledger.rows("SELECT seq FROM remembered WHERE direction = 'in' ORDER BY seq")
    assert [row[0] for row in rows] == list(range(23, 33))
    assert other.up_to(STREAM, 1).octets == b"text of 1."


# Encoded files

REMEMBERED = b"MAIL FROM:<s@mx.example>\r\n" * 20 + batches.PARAMETERS * 3


def restored(tmp_path: object, encoded: bytes, is_batch: bool, text: bytes = REMEMBERED) -> str:
    path = f"{tmp_path}/restored"
    with Draft(str(tmp_path)) as draft:
        batchfile.restore(draft, encoded, is_batch, text, "it")
        draft.publish(path)
    return path


@pytest.mark.parametrize("is_bare", [True, False])
def test_a_batch_is_restored_with_its_identity(tmp_path: object, is_bare: bool) -> None:
    path = f"{tmp_path}/batch"
    identity = batches.write(path, str(tmp_path))
    encoded = batchfile.encode(path, True, REMEMBERED, 12, is_bare)
    assert encoded and len(encoded) < os.path.getsize(path)
    assert encoded == batchfile.encode(path, True, REMEMBERED, 12, is_bare)
    assert batchfile.check_batch(restored(tmp_path, encoded, True))[2] == identity


def test_lines_are_restored(tmp_path: object) -> None:
    path = f"{tmp_path}/lines"
    packed, identity = batchfile.pack([b'{"a":1}\n', b'{"b":2}\n'])
    with open(path, "wb") as file:
        file.write(packed)
    encoded = batchfile.encode(path, False, REMEMBERED, 12, True)
    assert encoded
    assert batchfile.unpack(restored(tmp_path, encoded, False))[1] == identity


def test_a_large_file_is_left_as_it_is(tmp_path: object) -> None:
    path = f"{tmp_path}/batch"
    batches.write(path, str(tmp_path), batches.make([batches.PLAIN.replace(b"one", b"one" * 400_000)]))
    assert batchfile.encode(path, True, REMEMBERED, 3, True) is None


@pytest.mark.parametrize("change", ["cut", "longer", "other text", "other kind", "nothing", "bomb"])
def test_what_is_not_an_encoded_file_is_refused(tmp_path: object, change: str) -> None:
    path = f"{tmp_path}/batch"
    batches.write(path, str(tmp_path))
    encoded = batchfile.encode(path, True, REMEMBERED, 12, True) or b""
    lies = {
        "cut": encoded[:-1],
        "longer": encoded + b"x",
        "nothing": b"",
        "bomb": batchfile.pack([bytes(4) + bytes(9 << 20)])[0],
    }
    text = REMEMBERED[::-1] if change == "other text" else REMEMBERED
    with pytest.raises(PeerError):
        batchfile.check_batch(restored(tmp_path, lies.get(change, encoded), change != "other kind", text))


def test_the_end_of_a_text_is_that_of_what_the_identity_is_over(tmp_path: object) -> None:
    made = batches.make()
    batches.write(f"{tmp_path}/batch", str(tmp_path), made)
    whole = batchfile.tail(f"{tmp_path}/batch", True, 1 << 20)
    assert whole.endswith(batches.text_of(made))
    assert whole.startswith(b'{"batchmail":1,')
    assert batchfile.tail(f"{tmp_path}/batch", True, 10) == whole[-10:]
    with open(f"{tmp_path}/lines", "wb") as file:
        file.write(batchfile.pack([b"1\n", b"2\n"])[0])
    assert batchfile.tail(f"{tmp_path}/lines", False, 3) == b"\n2\n"
