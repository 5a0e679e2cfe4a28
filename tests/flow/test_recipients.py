"""The valid recipients of an away host: told in a call, followed by the door, forgotten when taken back."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchmail.core import request as requests
from batchmail.core import valid
from batchmail.core.errors import PeerError
from batchmail.core.request import RECIPIENTS, Answer, Request
from batchmail.core.valid import Terms
from batchmail.flow import listed, recipients
from batchmail.flow.doors import Doors
from batchmail.flow.lists import look_at_lists
from batchmail.store import view
from batchmail.store.recipients import Head, listed_path, read_head, told_path, write_list
from batchmail.store.requests import Requests
from batchmail.store.setup import set_up
from batchmail.store.spool import Door
from tests.sites import NOW_MS, Mailbox, Pair, make_pair

LISTED = ("ann@home.example", "Bob@Home.example", "@all.example")
ADDRESSES = ("ann@home.example", "carol@home.example", "x@other.example")
ALL, NOT_CAROL, NOT_ANN = [True, True, True], [True, False, True], [False, True, True]


def with_list(pair: Pair, *listed: str, path: str = "", hide: bool = True) -> Pair:
    """The pair, as its configuration is now."""
    peer = pair.home.context.peer._replace(valid_recipients=listed, valid_recipients_file=path, hide_recipients=hide)
    return pair._replace(home=pair.home._replace(context=pair.home.context._replace(peer=peer)))


def pair_with(tmp_path: object, *listed: str, path: str = "", hide: bool = True) -> Pair:
    return with_list(make_pair(tmp_path), *listed, path=path, hide=hide)


def exchange(pair: Pair) -> None:
    assert pair.call()[0].error is None


def known(site: Mailbox, *addresses: str) -> list[bool]:
    doors = Doors(site.spool)
    door = doors.of_peer("home")
    assert door
    return [not doors.refused_since(door, address.encode()) for address in addresses or ADDRESSES]


def asked(site: Mailbox) -> int:
    """How many parts were asked to be taken; all are answered."""
    ledger = site.context.open_ledger()
    count = int(ledger.rows("SELECT COUNT(*) FROM request")[0][0])
    open_ones = Requests(ledger).open()
    ledger.close()
    assert open_ones == []
    return count


def settle(pair: Pair) -> None:
    """Exchange until all that was asked is answered: which call brings an answer is the threads' affair."""
    for _ in range(6):
        exchange(pair)
        ledger = pair.home.context.open_ledger()
        is_open = Requests(ledger).open()
        ledger.close()
        if not is_open:
            return


def fact(site: Mailbox, name: str) -> str:
    ledger = site.context.open_ledger()
    found = ledger.fact(name) or ""
    ledger.close()
    return found


@pytest.mark.parametrize("hide", [True, False])
def test_a_list_travels_once(tmp_path: object, hide: bool) -> None:
    pair = pair_with(tmp_path, *LISTED, hide=hide)
    assert known(pair.mx) == ALL
    exchange(pair)
    assert known(pair.mx) == NOT_CAROL
    exchange(pair)
    assert asked(pair.home) == 1
    head = read_head(listed_path(pair.mx.root, "home"))
    assert head and (head.addresses, head.time_ms, bool(head.terms.salt)) == (3, NOW_MS, hide)


def test_only_what_changed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "list"
    names = [f"user{n}@home.example" for n in range(5000)]
    path.write_text("\n".join(names))
    pair = pair_with(tmp_path, path=str(path))
    result, _ = pair.call()
    assert result.totals.sent_octets > 5000 * valid.KEY_OCTETS
    path.write_text("\n".join([*names[5:], "carol@home.example"]))
    result, _ = pair.call()
    assert result.totals.sent_octets < 2000
    assert known(pair.mx, "user4@home.example", "user5@home.example", "carol@home.example") == NOT_ANN


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("ann@home.example\n")
    pair = pair_with(tmp_path, path=str(path))
    exchange(pair)
    path.write_text("carol@home.example\n# ann has left\n")
    exchange(pair)
    assert known(pair.mx) == NOT_ANN
    path.write_text("carol@home.example\nnonsense\n")
    exchange(pair)
    assert "'nonsense' is neither an address" in fact(pair.home, recipients.TROUBLE)
    path.unlink()
    exchange(pair)
    assert "No such file" in fact(pair.home, recipients.TROUBLE)
    assert known(pair.mx) == NOT_ANN
    assert asked(pair.home) == 2


def test_a_file_that_lies_still_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list"
    path.write_text("ann@home.example\n")
    os.utime(path, (1, 1))
    pair = pair_with(tmp_path, path=str(path))
    exchange(pair)
    monkeypatch.setattr(recipients, "read_words", lambda _: pytest.fail("read"))
    exchange(pair)
    assert fact(pair.home, recipients.TROUBLE) == ""
    assert known(pair.mx) == NOT_CAROL


def test_a_list_that_is_taken_back_is_forgotten(tmp_path: object) -> None:
    pair = pair_with(tmp_path, *LISTED)
    exchange(pair)
    pair = with_list(pair)
    exchange(pair)
    assert known(pair.mx) == ALL
    assert [os.path.exists(path) for path in (listed_path(pair.mx.root, "home"), told_path(pair.home.root, "mx"))] == [
        False,
        False,
    ]
    exchange(pair)
    assert asked(pair.home) == 2


def test_a_list_that_was_told_by_a_lost_ledger_is_taken_back_too(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    put(pair.mx, "ann@home.example")
    exchange(pair)
    assert known(pair.mx) == ALL


def test_a_site_without_a_list_says_nothing(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    exchange(pair)
    exchange(pair)
    assert (asked(pair.home), asked(pair.mx)) == (0, 0)


def put(site: Mailbox, *entries: str) -> None:
    """A list that came some time ago."""
    keys = sorted(valid.key_of(word, "") for word in valid.words_of(entry.encode() for entry in entries))
    head = Head(valid.identity_of(Terms(), keys), NOW_MS, len(entries), len(keys), Terms())
    write_list(site.spool, listed_path(site.root, "home"), head, keys)


# -- loss and damage ----------------------------------------------------------------------------------------------


def cut_off(path: str) -> None:
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 1)


def flip(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))


def scribble(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"{}")


@pytest.mark.parametrize("harm", [os.unlink, cut_off, flip, scribble, lambda path: open(path, "wb").close()])
def test_a_list_that_is_lost_or_damaged_refuses_nobody_and_is_told_again(tmp_path: object, harm: object) -> None:
    pair = pair_with(tmp_path, *LISTED)
    exchange(pair)
    harm(listed_path(pair.mx.root, "home"))  # type: ignore[operator]
    assert known(pair.mx) == ALL
    exchange(pair)
    assert known(pair.mx) == NOT_CAROL


@pytest.mark.parametrize("harm", [os.unlink, cut_off, flip, scribble])
def test_our_copy_is_not_missed(tmp_path: object, harm: object) -> None:
    pair = pair_with(tmp_path, *LISTED)
    exchange(pair)
    harm(told_path(pair.home.root, "mx"))  # type: ignore[operator]
    pair = with_list(pair, "carol@home.example")
    exchange(pair)
    assert known(pair.mx) == NOT_ANN


def test_the_door_sees_damage_to_a_list_that_it_has_read_before(tmp_path: object) -> None:
    mx = make_pair(tmp_path).mx
    put(mx, *LISTED)
    doors = Doors(mx.spool)
    door = doors.of_peer("home")
    assert door and doors.refused_since(door, b"carol@home.example") == "2026-11-21"
    flip(listed_path(mx.root, "home"))
    assert doors.refused_since(door, b"carol@home.example") == ""


def test_what_is_in_force_there_is_not_changed_by_what_is_not(tmp_path: object) -> None:
    """The list there is not the one that we told: changes to that do nothing, and the whole list goes."""
    pair = pair_with(tmp_path, *LISTED)
    exchange(pair)
    put(pair.mx, "x@other.example", "carol@home.example")
    pair = with_list(pair, *LISTED, "dora@home.example")
    exchange(pair)
    exchange(pair)
    assert known(pair.mx) == NOT_CAROL
    assert known(pair.mx, "dora@home.example", "y@other.example") == [True, True]


@pytest.mark.parametrize("cut_up", [2000, 20_000, 50_000])
def test_a_cut_line_leaves_the_old_list_and_the_next_call_ends_it(tmp_path: Path, cut_up: int) -> None:
    pair = pair_with(tmp_path, "carol@home.example")
    exchange(pair)
    path = tmp_path / "list"
    path.write_text("ann@home.example\n" + "".join(f"user{n}@home.example\n" for n in range(10_000)))
    pair = with_list(pair, path=str(path))
    pair.call(cut_up=cut_up)
    assert known(pair.mx) in (NOT_ANN, NOT_CAROL)
    exchange(pair)
    exchange(pair)
    assert known(pair.mx) == NOT_CAROL
    assert known(pair.mx, "user0@home.example", "user9999@home.example") == [True, True]
    assert asked(pair.home) < 10


def test_a_list_that_changes_while_the_first_is_on_its_way(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("carol@home.example\n" + "".join(f"user{n}@home.example\n" for n in range(20_000)))
    pair = pair_with(tmp_path, path=str(path))
    pair.call(cut_up=60_000)
    path.write_text("ann@home.example\n")
    for _ in range(3):
        exchange(pair)
    assert known(pair.mx) == NOT_CAROL


def test_a_crash_between_the_requests_and_our_copy_costs_octets_only(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pair_with(tmp_path, *LISTED)
    exchange(pair)
    pair = with_list(pair, *LISTED, "dora@home.example")
    monkeypatch.setattr(recipients, "write_list", lambda *_: (_ for _ in ()).throw(OSError("crash")))
    exchange(pair)
    monkeypatch.undo()
    pair = with_list(pair, "carol@home.example")
    exchange(pair)
    assert known(pair.mx, *ADDRESSES, "dora@home.example") == [False, True, True, False]


@pytest.mark.parametrize("step", ["write_list", "remove_list"])
def test_a_crash_while_a_list_comes_into_force_repeats_it(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    pair = pair_with(tmp_path, "carol@home.example")
    exchange(pair)
    pair = with_list(pair, *(LISTED if step == "write_list" else ()))
    real = getattr(listed, step)
    for before in (True, False):

        def crash(*arguments: object, before: bool = before) -> None:
            if not before:
                real(*arguments)
            raise OSError("crash")

        monkeypatch.setattr(listed, step, crash)
        pair.call()
        monkeypatch.undo()
        assert known(pair.mx) == (NOT_ANN if before else NOT_CAROL if step == "write_list" else ALL)
    settle(pair)
    assert known(pair.mx) == (NOT_CAROL if step == "write_list" else ALL)
    assert asked(pair.home) == 2


def test_a_ledger_that_was_lost_there_hears_the_list_anew(tmp_path: object) -> None:
    pair = pair_with(tmp_path, *LISTED)
    exchange(pair)
    ledger = pair.home.context.open_ledger()
    with ledger.transaction():  # a request of which nothing is heard any more
        ledger.database.execute("UPDATE request SET answered_ms = NULL, file = 'x'")
        ledger.set_fact(recipients.ASKED, "of-old " + (ledger.fact(recipients.ASKED) or "").partition(" ")[2])
    ledger.close()
    os.unlink(listed_path(pair.mx.root, "home"))
    exchange(pair)
    assert known(pair.mx) == NOT_CAROL


# -- peers that are mistaken, or lie ------------------------------------------------------------------------------


def test_a_list_counts_for_the_domains_of_its_peer_only(tmp_path: object) -> None:
    mx = make_pair(tmp_path).mx
    set_up(mx.root, [(Door("home", "mx.example", 1 << 30, 0, "normalize"), ["home.example"])])
    put(mx, "ann@home.example", "x@other.example")
    addresses = ("ann@home.example", "carol@home.example", "carol@other.example", "carol")
    assert known(mx, *addresses) == [True, False, True, True]


KEYS = sorted(valid.key_of(word, "") for word in valid.words_of([b"ann@home.example"]))
GOOD = {
    "list": valid.identity_of(Terms("", "+"), KEYS),
    "of": 1,
    "part": 0,
    "addresses": 1,
    "delimiters": "+",
    "names": "ann@home.example home.example",
}


@pytest.fixture
def mx(tmp_path: object) -> Iterator[Mailbox]:
    site = make_pair(tmp_path).mx
    put(site, "carol@home.example")
    yield site


def take(site: Mailbox, payload: dict[str, object]) -> Answer:
    ledger = site.context.open_ledger()
    try:
        return listed.take(site.context, ledger, Request(RECIPIENTS, site.context.new_id(), payload))
    finally:
        ledger.close()


def test_what_is_good(mx: Mailbox) -> None:
    assert known(mx) == NOT_ANN
    assert take(mx, GOOD).payload == {"list": GOOD["list"]}
    assert known(mx) == NOT_CAROL
    assert take(mx, GOOD).verdict == requests.DONE
    assert os.listdir(f"{mx.root}/out/home").count("recipients.parts") == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("list", None),
        ("list", "../x"),
        ("list", "0" * 16),
        ("list", "0" * 64),
        ("salt", "00"),
        ("salt", "zz" * 8),
        ("salt", "00" * 8),
        ("delimiters", ""),
        ("delimiters", "@"),
        ("part", 1),
        ("part", -1),
        ("of", 0),
        ("of", 10**6),
        ("addresses", 10**9),
        ("base", "x"),
        ("names", ["ann@home.example"]),
        ("names", "ann@home.example"),
        ("names", "ann@home.example home.example carol@home.example"),
        ("names", "+zz"),
        ("names", "x" * 400),
        ("keys", "!"),
        ("keys", "AAAA"),
        ("keys", "AAAAAAAA"),
        ("gone", "AAAA"),
    ],
)
def test_lies_change_nothing(mx: Mailbox, key: str, value: object) -> None:
    with pytest.raises(PeerError):
        take(mx, GOOD | {key: value})
    assert known(mx) == NOT_ANN


def test_changes_to_another_list_are_answered_with_the_one_in_force(mx: Mailbox) -> None:
    answer = take(mx, GOOD | {"base": "0" * 16})
    assert (answer.verdict, answer.payload) == (requests.MISSING, {"list": listed.in_force(mx.context)})
    assert known(mx) == NOT_ANN


@pytest.mark.parametrize("other", [{"of": 3}, {"salt": "00" * 8}, {"delimiters": ""}, {"base": "0" * 16}])
def test_parts_that_contradict_each_other_make_no_list(mx: Mailbox, other: dict[str, object]) -> None:
    first = GOOD | {"of": 2, "names": "ann@home.example"}
    second = GOOD | {"of": 2, "part": 1, "names": "home.example"}
    take(mx, first)
    take(mx, second | other)
    assert known(mx) == NOT_ANN
    assert take(mx, second).payload != {"list": GOOD["list"]}
    assert take(mx, first).payload == {"list": GOOD["list"]}
    assert known(mx) == NOT_CAROL


def test_a_list_without_end_is_refused(mx: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchmail.store.recipients.MAX_KEYS", 50)
    payload = GOOD | {"of": 900}
    with pytest.raises(PeerError, match="more than 50"):
        for number in range(900):
            take(mx, payload | {"part": number, "names": " ".join(f"{number}.{n}@a.b" for n in range(10))})
    assert sum(entry.stat().st_size for entry in os.scandir(f"{mx.root}/out/home/recipients.parts")) < 2000


def test_what_is_refused_there_is_not_told_again(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "identity_of", lambda *_: "another")
    pair = pair_with(tmp_path, *LISTED)
    for _ in range(3):
        exchange(pair)
    assert asked(pair.home) == 1
    assert "do not make the list" in fact(pair.home, recipients.REFUSED)
    seen = view.look(pair.home.spool, "mx")
    assert seen
    lists = look_at_lists(pair.home.context, seen.facts)
    [trouble] = lists.troubles
    assert trouble.startswith("the other side refused our list of valid recipients: recipients: the parts do not make")
    assert not lists.is_in_force
    pair.home.clock.now_ms += 86_400_000
    exchange(pair)
    assert asked(pair.home) == 2
    monkeypatch.undo()
    pair = with_list(pair, "ann@home.example")
    exchange(pair)
    assert known(pair.mx) == NOT_CAROL
