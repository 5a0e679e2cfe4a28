"""Calls in which files are compressed against what both sides remember."""

import itertools

import pytest

from batchmail.flow.seal import Sealer
from batchmail.proto.frames import Open
from batchmail.store import batchfile
from batchmail.store.boxes import ENCODING
from batchmail.store.remembered import Remembered
from tests.crash import test_steps as steps
from tests.sites import Mailbox, Pair, make_pair, messages, payload

# Three messages that hardly compress alone, each with much of the one before.
WORDS = b"".join(messages(1, seed=7, octets=6000))
FIRST, SECOND, THIRD = (b"Subject: %d\r\n\r\n" % n + WORDS + b"and %d more\r\n" % n for n in range(3))


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[Open]:
    """What is opened from here on, by either side."""
    found: list[Open] = []
    real = Open.__new__

    def noted(*args: object, **kwargs: object) -> Open:
        made: Open = real(*args, **kwargs)  # type: ignore[arg-type]
        found.append(made)
        return made

    monkeypatch.setattr(Open, "__new__", noted)
    return found


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    """Two sites after their first call, and a second in which the report of the first was taken."""
    made = make_pair(tmp_path)
    made.mx.accept(FIRST)
    made.call()
    return made


def forget(site: Mailbox, direction: str) -> None:
    ledger = site.context.open_ledger()
    ledger.rows("DELETE FROM remembered WHERE direction = ?", direction)
    ledger.close()


def delivered(pair: Pair) -> list[bytes]:
    return sorted(payload(text) for text in pair.home.dropped().values())


def encodings(opens: list[Open]) -> dict[str, set[bool]]:
    """By kind: whether files were sent as they are."""
    kinds: dict[str, set[bool]] = {}
    for one in opens:
        kinds.setdefault(one.number.kind, set()).add(one.encoding == ENCODING)
    return kinds


def test_the_second_message_is_a_fraction_of_the_first(pair: Pair, opens: list[Open]) -> None:
    pair.mx.accept(SECOND)
    pair.call()
    assert delivered(pair) == sorted([FIRST, SECOND])
    assert encodings(opens) == {"batch": {False}, "report": {False}}
    assert all(one.octets < 350 for one in opens)
    assert pair.mx.outbox() == pair.home.inbox() == pair.home.partial() == []


def test_the_next_is_compressed_against_the_last(pair: Pair, opens: list[Open]) -> None:
    """A batch behind another is compressed against that one, once it is known to have come."""
    ids = pair.mx.accept(SECOND)
    pair.call()
    pair.mx.accept(THIRD)
    pair.call()
    assert len(ids) == 1
    assert delivered(pair) == sorted([FIRST, SECOND, THIRD])
    words = [one.encoding for one in opens if one.number.kind == "batch"]
    assert len(set(words)) == 2


@pytest.mark.parametrize("site", ["mx", "home"])
def test_who_has_forgotten_gets_and_sends_files_as_they_are(pair: Pair, opens: list[Open], site: str) -> None:
    forget(getattr(pair, site), "in" if site == "home" else "out")
    pair.mx.accept(SECOND)
    pair.call()
    assert delivered(pair) == sorted([FIRST, SECOND])
    assert encodings(opens) == {"batch": {True}, "report": {False}}


def test_where_one_remembers_something_else_the_file_comes_as_it_is(pair: Pair, opens: list[Open]) -> None:
    ledger = pair.mx.context.open_ledger()
    ledger.rows("UPDATE remembered SET packed = (SELECT packed FROM remembered WHERE direction = 'in')")
    ledger.close()
    pair.mx.accept(SECOND)
    pair.call()
    assert delivered(pair) == sorted([FIRST, SECOND])
    assert encodings(opens)["batch"] == {True}


def test_what_cannot_be_restored_comes_as_it_is_in_the_same_call(
    pair: Pair, opens: list[Open], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batchfile.encode
    monkeypatch.setattr(batchfile, "encode", lambda *args: real(*args)[:-3] + b"odd")  # type: ignore[index]
    pair.mx.accept(SECOND)
    pair.call()
    assert delivered(pair) == sorted([FIRST, SECOND])
    assert encodings(opens)["batch"] == {True, False}
    assert pair.mx.outbox() == pair.home.inbox() == pair.home.partial() == []


def test_so_does_each_that_was_queued_behind_it(pair: Pair, opens: list[Open], monkeypatch: pytest.MonkeyPatch) -> None:
    real = batchfile.encode
    monkeypatch.setattr(batchfile, "encode", lambda *args: real(*args)[:-3] + b"odd")  # type: ignore[index]
    for message in (SECOND, THIRD):
        pair.mx.accept(message)
        steps.seal(pair.mx)
    at_mx, at_home = pair.call()
    assert (at_mx.error, at_home.error) == (None, None)
    assert delivered(pair) == sorted([FIRST, SECOND, THIRD])
    assert encodings(opens)["batch"] == {True, False}


@pytest.mark.parametrize("levels", [(12,), (19, 3)])
def test_a_cut_file_goes_on_where_it_stood(
    pair: Pair, opens: list[Open], monkeypatch: pytest.MonkeyPatch, levels: tuple[int, ...]
) -> None:
    """Cut at every hundredth octet; what had come compressed is not sent again, though the line's rate changed."""
    wanted = itertools.cycle(levels)
    monkeypatch.setattr(Sealer, "level", lambda _: next(wanted))
    pair.mx.accept(b"Subject: new\r\n\r\n" + b"".join(messages(1, seed=8, octets=3000)) + WORDS)
    cut, resumed = 300, 0
    while pair.mx.outbox() or pair.mx.waiting():
        pair.call(cut_down=cut)
        cut += 100
        resumed += any(one.offset and one.number.kind == "batch" for one in opens)
        assert cut < 5000
    assert resumed
    assert encodings(opens)["batch"] == {False}
    assert len(delivered(pair)) == 2


def test_the_file_lies_there_as_if_it_had_come_so(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = Remembered.add

    def add(self: Remembered, number: object, piece: bytes) -> None:
        if self._direction == "in":
            seen.append((batchfile.check_batch(f"{pair.home.root}/in/mx/inbox/{number.file_name}")[0], piece))  # type: ignore[attr-defined]
        real(self, number, piece)  # type: ignore[arg-type]

    pair.mx.accept(SECOND)
    with monkeypatch.context() as patch:
        patch.setattr(Remembered, "add", add)
        pair.call()
    assert [head.seq for head, _ in seen][:1] == [2]
    assert SECOND in seen[0][1]
