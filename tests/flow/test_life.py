"""The life of a transaction, found by any of its names, at both sides."""

from contextlib import closing

import pytest

from batchmail.core import messageid
from batchmail.core.names import make_id
from batchmail.core.settings import DAY_MS
from batchmail.flow.life import Life, lives
from batchmail.flow.tidy import tidy
from batchmail.store.aliases import Aliases, find_alias
from batchmail.store.received import Received
from tests.sites import Mailbox, Pair, make_pair

MESSAGE = b"Subject: x\r\nMessage-ID: <a%b@x.example>\r\n\r\nMessage-ID: <no@x.example>\r\n\r\nbody\r\n"


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path)


def found(site: Mailbox, word: str) -> list[Life]:
    return list(lives(site.context, word))


def whats(site: Mailbox, word: str) -> list[str]:
    (life,) = found(site, word)
    return [event.what for event in life.events]


def test_the_whole_life_at_both_sides(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    (identifier,) = pair.mx.accept(MESSAGE)
    for word in (identifier, identifier.lower(), "a%b@x.example", "<a%b@x.example>"):
        assert whats(pair.mx, word) == ["accepted"]
        assert found(pair.home, word) == []
    monkeypatch.setattr(Received, "due_batches", lambda *_: [])
    pair.call()
    monkeypatch.undo()
    for word in (identifier, "a%b@x.example"):
        assert whats(pair.mx, word) == ["accepted", "sealed", "custody"]
        assert whats(pair.home, word) == ["accepted", "custody"]
    for _ in range(2):
        pair.call()
    for word in (identifier, "a%b@x.example"):
        (life,) = found(pair.mx, word)
        assert life.record.state == "settled"
        assert [event.what for event in life.events] == ["accepted", "sealed", "custody", "passed", "settled"]
        assert whats(pair.home, word) == ["accepted", "custody", "passed", "reported"]
    assert found(pair.mx, "no@x.example") == found(pair.home, "no@x.example") == []


def test_one_word_may_mean_several(pair: Pair) -> None:
    ids = pair.mx.accept(MESSAGE, MESSAGE)
    pair.call()
    more = pair.mx.accept(MESSAGE)
    assert {life.record.id for life in found(pair.mx, "a%b@x.example")} == {*ids, *more}
    assert {life.record.id for life in found(pair.home, "a%b@x.example")} == set(ids)


def test_a_refusal_is_told_with_its_words(tmp_path: object) -> None:
    pair = make_pair(tmp_path, senders=("other.example",))
    (identifier,) = pair.mx.accept(MESSAGE)
    for _ in range(2):
        pair.call()
    (life,) = found(pair.mx, identifier)
    (failed,) = [event for event in life.events if event.what == "failed"]
    assert "5.7.1 the sender's domain is neither in domains nor in senders of peers." in failed.text
    assert [event.text.split()[1] for event in life.events if event.what == "notice"] == ["sent:"]


def test_what_is_forgotten_has_no_names_left(pair: Pair) -> None:
    pair.mx.accept(MESSAGE)
    for _ in range(3):
        pair.call()
    pair.mx.clock.now_ms += pair.mx.context.peer.remember_ms + DAY_MS
    for site in pair:
        with closing(site.context.open_ledger()) as ledger:
            tidy(site.context, ledger)
            assert ledger.rows("SELECT * FROM alias") == []
        assert found(site, "a%b@x.example") == []


def test_queue_ids_and_long_words(pair: Pair) -> None:
    with closing(pair.mx.context.open_ledger()) as ledger:
        assert find_alias(ledger, "4A1") == [], "nothing was noted yet, not even the table is there"
        names = [make_id(n, bytes(10)) for n in range(3)]
        Aliases(ledger).add([("4A1", names[0]), ("4A1", names[0]), ("", names[1]), ("x" * 999, names[2])])
        assert find_alias(ledger, "4A1") == [names[0]]
        assert find_alias(ledger, "") == []
        assert find_alias(ledger, "x" * 999) == [names[2]]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Message-ID: <1@x>\r\n", "1@x"),
        (b"Subject: a\r\nmessage-id:<1@x>\r\nMessage-ID: <2@x>\r\n", "1@x"),
        (b"Message-ID:\r\n <1@x>\r\n", "1@x"),
        (b"Message-ID: <\xff@x>\r\n", r"\xff@x"),
        (b"X-Message-ID: <1@x>\r\n", ""),
        (b"Message-ID: 1@x\r\n", ""),
        (b"Message-ID: <" + b"1" * 251 + b">\r\n", ""),
        (b"Message-ID: <1\n2@x>\r\n", ""),
        (b"", ""),
    ],
)
def test_message_ids(header: bytes, expected: str) -> None:
    assert messageid.of_header(header) == expected
    text = b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n"
    assert messageid.of_text(text + header + b"\r\nMessage-ID: <body@x>\r\n.\r\n") == expected


def test_one_that_ended_here_was_in_no_batch(pair: Pair) -> None:
    (identifier,) = pair.mx.accept(MESSAGE)
    pair.mx.clock.now_ms += 40 * DAY_MS  # past its lifetime, and nobody has called
    pair.mx.run()
    (life,) = found(pair.mx, identifier)
    assert "sealed" not in [event.what for event in life.events]
    assert life.events[0].what == "accepted"
