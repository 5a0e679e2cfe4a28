"""Whole calls between two sites: both ways, cut anywhere, with peers that lie or flood, and after losses."""

import contextlib
import errno
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from batchmail.core.errors import ConfigError, LineError, PeerError, Temporary
from batchmail.core.numbered import BATCH, REPORT, Number
from batchmail.flow import incoming, outgoing
from batchmail.flow.exchange import Options
from batchmail.flow.incoming import Arrivals
from batchmail.flow.seal import Sealer
from batchmail.flow.totals import Result
from batchmail.proto import watch
from batchmail.proto.hello import Have, Hello, Limits, PartialFile
from batchmail.proto.session import Bye, Custody, Data, Done, Event, Open, Ping, Received, Refuse, Session
from batchmail.store.bell import YIELD, ring
from batchmail.store.boxes import digest_of
from batchmail.store.ledger import Ledger
from batchmail.store.line import ANSWERER, CALLER, Line
from batchmail.store.sent import Sent
from batchmail.wire.stream import SocketStream
from tests import batches
from tests.sites import HANG_S, NOW_MS, Mailbox, Pair, hold, line, make_pair, make_site, messages, payload


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path, batch_octets=3000)


def arrived(site: Mailbox) -> list[bytes]:
    return sorted(map(payload, site.dropped().values()))


def ok(results: tuple[Result, Result]) -> tuple[Result, Result]:
    assert [result.error for result in results] == [None, None]
    return results


def nothing_left(pair: Pair) -> None:
    """Everything is settled on both sides, and nothing is left of it."""
    for site in pair:
        assert (site.outbox(), site.inbox(), site.partial(), site.waiting(), site.held()) == ([], [], [], [], [])
        assert os.listdir(f"{site.root}/in/{site.context.peer.name}/notices") == []
        assert os.listdir(site.spool.tmp) == []


# What crosses


def test_an_idle_call(pair: Pair) -> None:
    for _ in range(2):
        caller, answerer = ok(pair.call())
        assert (caller.totals.sent_octets, caller.totals.received_octets) == (0, 0)
        assert (answerer.totals.sent_octets, answerer.totals.received_octets) == (0, 0)
    nothing_left(pair)


def test_both_directions_with_many_batches(pair: Pair) -> None:
    down, up = messages(40), messages(30, seed=1)
    pair.mx.accept(*down)
    pair.home.accept(*up)
    caller, answerer = ok(pair.call())
    assert (arrived(pair.home), arrived(pair.mx)) == (sorted(down), sorted(up))
    assert (caller.totals.sent.transactions, answerer.totals.sent.transactions) == (30, 40)
    assert caller.totals.files_received > 5
    for _ in range(2):
        ok(pair.call())
    nothing_left(pair)
    assert len(arrived(pair.home)) == 40


def test_outcomes_come_back_in_the_same_call(pair: Pair) -> None:
    pair.mx.accept(*messages(3))
    ok(pair.call())
    assert (pair.mx.outbox(), pair.home.inbox()) == ([], [])


def test_a_refusal_becomes_a_notice_at_the_origin(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    entry = pair.home.context.peer._replace(recipients=("home.example",))
    pair = pair._replace(home=pair.home._replace(context=pair.home.context._replace(peer=entry)))
    (good,) = pair.mx.accept(b"Subject: good\r\n\r\n")
    pair.mx.accept(b"Subject: bad\r\n\r\nx\r\n", rcpts=("<r@elsewhere.example>",))
    pair.mx.accept(b"Subject: worse\r\n\r\nx\r\n", sender="<>", rcpts=("<r@elsewhere.example>",))
    ok(pair.call())
    pair.mx.run()
    ok(pair.call())
    assert list(pair.home.dropped()) == [good]
    letters = sorted(pair.mx.dropped().values(), key=lambda letter: b"RCPT TO:<postmaster@" in letter)
    assert [letter.count(b"\r\nMAIL FROM:<>") for letter in letters] == [1, 1]
    notice, summary = letters
    assert b"RCPT TO:<s@mx.example>" in notice
    assert b"5.7.1" in notice
    assert b"RCPT TO:<postmaster@mx.example>" in summary  # nobody else may be told of mail from <>
    nothing_left(pair)


def test_who_may_send_is_asked_by_the_name_in_the_dns(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    entry = pair.home.context.peer._replace(senders=("xn--bcher-kva.example",), recipients=("xn--bcher-kva.example",))
    pair = pair._replace(home=pair.home._replace(context=pair.home.context._replace(peer=entry)))
    address = "<j\u00f8@b\u00fccher.example>"
    (good,) = pair.mx.accept(b"Subject: good\r\n\r\n", sender=f"{address} SMTPUTF8", rcpts=(address,))
    ok(pair.call())
    assert list(pair.home.dropped()) == [good]


def test_a_transaction_as_large_as_several_windows(pair: Pair) -> None:
    (message,) = messages(1, octets=3_000_000)
    pair.mx.accept(message, *messages(3))
    ok(pair.call())
    assert message in arrived(pair.home)
    assert len(arrived(pair.home)) == 4


# Cuts


def until_done(pair: Pair, cuts: Iterator[tuple[int | None, int | None]]) -> int:
    """Call until a call is not cut; how many were."""
    for count, (up, down) in enumerate(cuts):
        results = pair.call(up, down)
        if results[0].error is None and results[1].error is None:
            return count
        assert all(result.error is None or isinstance(result.error, LineError) for result in results), results
    raise AssertionError("every call was cut")


@pytest.mark.parametrize("direction", ["up", "down"])
def test_cut_once_anywhere(tmp_path: object, direction: str) -> None:
    down, up = messages(6), messages(4, seed=1)
    octets, stop = 0, False
    while not stop:
        pair = make_pair(f"{tmp_path}/{octets}", batch_octets=700)
        pair.mx.accept(*down)
        pair.home.accept(*up)
        cut = (octets, None) if direction == "up" else (None, octets)
        stop = not until_done(pair, iter([cut, *[(None, None)] * 3]))
        for _ in range(2):
            ok(pair.call())
        assert (arrived(pair.home), arrived(pair.mx)) == (sorted(down), sorted(up))
        nothing_left(pair)
        octets += 173
    assert octets > 3000


@pytest.mark.parametrize("step", [900, 1500, 2200])
def test_every_call_is_cut_after_a_little_more(pair: Pair, step: int) -> None:
    down, up = messages(12, octets=1500), messages(9, seed=1, octets=1500)
    pair.mx.accept(*down)
    pair.home.accept(*up)
    cuts = until_done(pair, ((n, n) for n in range(step, 100_000, step)))
    assert cuts >= 3
    ok(pair.call())
    assert (arrived(pair.home), arrived(pair.mx)) == (sorted(down), sorted(up))
    ok(pair.call())
    nothing_left(pair)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_what_arrived_before_a_cut_is_not_sent_again(tmp_path: object, share: float) -> None:
    pair = make_pair(tmp_path)
    (message,) = messages(1, octets=2_000_000)
    pair.mx.accept(message)
    size = 900_000  # of the file: hexadecimal digits compress to half
    _, answerer = pair.call(None, int(size * share))
    assert answerer.error
    (name,) = pair.home.partial()
    have = os.path.getsize(f"{pair.home.root}/in/mx/partial/{name}")
    assert have > size * share - 150_000
    whole = os.path.getsize(f"{pair.mx.root}/out/home/outbox/{pair.mx.outbox()[0]}")
    _, answerer = ok(pair.call())
    assert answerer.totals.sent_octets <= whole - have + 1000
    assert arrived(pair.home) == [message]


# Peers that are not as they should be


class Stranger:
    """The other end of a call, in the hands of the test."""

    def __init__(self, sock: socket.socket, site: str = "home.example"):
        self._socket, self._session, self._site = sock, Session(), site
        sock.settimeout(HANG_S)
        self.heard: list[Event] = []

    def say(self, *events: Event) -> None:
        for event in events:
            self.raw(self._session.send(event))

    def raw(self, octets: bytes) -> bool:
        """Whether the other side still takes them."""
        try:
            self._socket.sendall(octets)
        except OSError:
            return False
        return True

    def greet(self, have: tuple[Have, ...] = (), partial: tuple[PartialFile, ...] = (), room: int = 1 << 40) -> Hello:
        limits = Limits(1 << 30, 1 << 30, room)
        self.raw(self._session.start(Hello(self._site, (1,), NOW_MS, "ab", limits, have, partial)))
        hello = self.wait_for(Hello)
        assert isinstance(hello, Hello)
        return hello

    def wait_for(self, kind: type) -> Event:
        while True:
            while (event := self._session.next_event()) is not None:
                self.heard.append(event)
                if isinstance(event, kind):
                    return event
            data = self._socket.recv(65536)
            assert data, f"the line ended before a {kind.__name__}: {self.heard[-3:]}"
            self._session.receive(data)

    def hear_to_the_end(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                self._session.receive(data)
                with contextlib.suppress(PeerError):
                    self.heard += iter(self._session.next_event, None)


def meet(
    site: Mailbox, behave: Callable[[Stranger], object], name: str = "home.example", role: str = ANSWERER
) -> Result:
    """A call of the site with a stranger; the site's result."""
    ends = socket.socketpair()
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(hold(site, SocketStream(ends[0]), ANSWERER)), daemon=True)
    thread.start()
    behave(Stranger(ends[1], name))
    ends[1].close()
    thread.join(HANG_S)
    assert results, "the call hangs"
    return results[0]


STREAM = batches.STREAM


def offer(path: str, tmp: str, made: batches.Made | None = None) -> tuple[Open, Data]:
    """A batch as a stranger sends it."""
    made = made or batches.make(origin="home.example")
    made = made._replace(head=made.head._replace(destination="mx.example"))
    identity = batches.write(path, tmp, made, 1)
    with open(path, "rb") as file:
        octets = file.read()
    number = Number(STREAM, made.head.seq, BATCH)
    return Open(number, identity, "zst", len(octets), 0), Data(STREAM, made.head.seq, 0, octets)


@pytest.fixture
def mx(tmp_path: object) -> Mailbox:
    return make_site(f"{tmp_path}/mx", "mx.example", "home")


def test_an_honest_stranger(mx: Mailbox, tmp_path: object) -> None:
    opened, data = offer(f"{tmp_path}/x", str(tmp_path))

    def behave(stranger: Stranger) -> None:
        stranger.greet()
        stranger.say(opened, data)
        assert stranger.wait_for(Custody) == Custody(STREAM, 1)
        stranger.say(Bye("done", ""))

    assert meet(mx, behave).error is None
    mx.run()  # an answerer leaves what is not replayed at the end of the call to `batchmail run`
    assert sorted(mx.dropped()) == sorted(item.entry.id for item in batches.make().items)


def lie(opened: Open, data: Data) -> dict[str, list[Event]]:
    octets = data.octets
    flipped = octets[:-9] + bytes([octets[-9] ^ 1]) + octets[-8:]
    more = opened._replace(octets=opened.octets + 3)
    return {
        "identity": [opened._replace(identity="0" * 64), data],
        "content": [opened, data._replace(octets=flipped)],
        "another number": [opened._replace(number=Number(STREAM, 2, BATCH)), data._replace(seq=2)],
        "another stream": [opened._replace(number=Number("A" * 16, 1, BATCH)), data._replace(stream="A" * 16)],
        "another kind": [opened._replace(number=Number(STREAM, 1, REPORT)), data],
        "more": [more, data._replace(octets=octets + b"xyz")],
        "noise": [opened, data._replace(octets=os.urandom(len(octets)))],
        "too large": [opened._replace(octets=1 << 50)],
    }


LIES = ["identity", "content", "another number", "another stream", "another kind", "more", "noise", "too large"]


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_is_not_what_it_says_is_refused_and_nothing_else(mx: Mailbox, tmp_path: object, name: str) -> None:
    opened, data = offer(f"{tmp_path}/x", str(tmp_path))
    good, more = offer(f"{tmp_path}/y", str(tmp_path), batches.make([batches.PLAIN], seq=7, origin="home.example"))

    def behave(stranger: Stranger) -> None:
        stranger.greet()
        stranger.say(*lie(opened, data)[name])
        refusal = stranger.wait_for(Refuse)
        assert isinstance(refusal, Refuse)
        assert refusal.for_good
        stranger.say(good, more)
        assert stranger.wait_for(Custody) == Custody(STREAM, 7)
        stranger.say(Bye("done", ""))

    assert meet(mx, behave).error is None
    mx.run()
    assert len(mx.dropped()) == 1
    assert mx.partial() == []


@pytest.mark.parametrize(("origin", "destination"), [("evil.example", "mx.example"), ("home.example", "evil.example")])
def test_a_batch_of_or_for_another_site_is_refused_at_its_manifest(
    mx: Mailbox, tmp_path: object, origin: str, destination: str
) -> None:
    made = batches.make([batches.PLAIN], origin=origin)
    made = made._replace(head=made.head._replace(destination=destination))
    identity = batches.write(f"{tmp_path}/x", str(tmp_path), made)
    with open(f"{tmp_path}/x", "rb") as file:
        octets = file.read()

    def behave(stranger: Stranger) -> None:
        stranger.greet()
        stranger.say(Open(Number(STREAM, 1, BATCH), identity, "zst", len(octets), 0))
        stranger.say(Data(STREAM, 1, 0, octets[:-10]))
        refusal = stranger.wait_for(Refuse)
        assert isinstance(refusal, Refuse)
        assert refusal.for_good
        # What was on its way counts, so that the sender is not left waiting for room.
        stranger.say(Data(STREAM, 1, len(octets) - 10, octets[-10:]))
        while stranger.wait_for(Received).octets != len(octets):
            pass
        stranger.say(Bye("done", ""))

    assert meet(mx, behave).error is None
    assert (mx.dropped(), mx.inbox(), mx.partial()) == ({}, [], [])


BROKEN: dict[str, bytes] = {
    "not batchmail": b"SSH-2.0-OpenSSH_9.2\r\n" * 300,
    "no hello": b"BATCHMAIL 1 x\n\x08\0\0\0\0",
    "noise": bytes(range(256)) * 40,
    "a login": b"login: \r\npassword: \r\n" * 300,
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_batchmail(mx: Mailbox, name: str) -> None:
    mx.accept(*messages(1))

    def behave(stranger: Stranger) -> None:
        stranger.raw(BROKEN[name])
        stranger.hear_to_the_end()

    result = meet(mx, behave)
    assert isinstance(result.error, PeerError)
    assert len(mx.waiting()) == 1


def test_a_line_that_says_why_it_ends(mx: Mailbox) -> None:
    result = meet(mx, lambda stranger: stranger.raw(b"This account is not available.\r\n\x1b[2J"))
    assert isinstance(result.error, LineError)
    assert str(result.error) == r"the other side closed the line; it said: This account is not available. / \x1b[2J"


def test_the_wrong_site(mx: Mailbox) -> None:
    def behave(stranger: Stranger) -> None:
        stranger.greet()
        stranger.hear_to_the_end()

    def leave(stranger: Stranger) -> None:
        stranger.greet()
        stranger.say(Bye("done", ""))

    assert meet(mx, leave).error is None
    result = meet(mx, behave, "other.example")
    assert isinstance(result.error, ConfigError)
    assert "peer home was home.example until now and says it is other.example" in str(result.error)
    result = meet(mx, behave, "mx.example")
    assert isinstance(result.error, ConfigError)
    assert "both sides are called mx.example" in str(result.error)


def test_the_peer_takes_leave_with_an_error(mx: Mailbox) -> None:
    def behave(stranger: Stranger) -> None:
        stranger.greet()
        stranger.say(Bye("error", "\x1b[2Jyour batch makes me ill"))

    result = meet(mx, behave)
    assert isinstance(result.error, PeerError)
    assert r"\x1b[2Jyour batch makes me ill" in str(result.error)


@pytest.mark.parametrize("greeted", [False, True])
def test_a_peer_that_never_answers(mx: Mailbox, monkeypatch: pytest.MonkeyPatch, greeted: bool) -> None:
    monkeypatch.setattr(watch, "SILENCE_S", 0.3)
    mx.accept(*messages(1))

    def behave(stranger: Stranger) -> None:
        if greeted:
            stranger.greet()
        stranger.hear_to_the_end()

    result = meet(mx, behave)
    assert isinstance(result.error, LineError)
    assert "nothing was heard" in str(result.error)


def test_a_peer_that_asks_and_does_not_read(mx: Mailbox) -> None:
    other = Session()
    other.start(Hello("x", (1,), 0, "", Limits(0, 0, 0), (), ()))
    octets = other.send(Ping()) * 10_000

    def behave(stranger: Stranger) -> None:
        stranger.greet()
        sent = 0
        while stranger.raw(octets):
            sent += len(octets)
            assert sent < 100 << 20, "nobody stops it"

    result = meet(mx, behave)
    assert isinstance(result.error, PeerError)
    assert "does not read" in str(result.error)


def test_a_peer_that_opens_one_file_after_the_other(mx: Mailbox) -> None:
    def behave(stranger: Stranger) -> None:
        stranger.greet()
        for seq in range(1, 200):
            stranger.say(Open(Number(STREAM, seq, BATCH), "0" * 64, "zst", 100, 0), Data(STREAM, seq, 0, b"x"))
        stranger.hear_to_the_end()

    result = meet(mx, behave)
    assert isinstance(result.error, PeerError)
    assert "open at once" in str(result.error)
    assert len(mx.partial()) <= 64


def test_names_from_the_peer_stay_in_their_place(mx: Mailbox, tmp_path: object) -> None:
    before = sorted(os.listdir(str(tmp_path)))

    def behave(stranger: Stranger) -> None:
        stranger.greet()
        name = b'{"stream":"../../../../../../tmp/x","seq":1,"kind":"batch","identity":"%b"' % (b"0" * 64)
        payload = name + b',"encoding":"zst","octets":5,"offset":0}'
        stranger.raw(b"\x02" + len(payload).to_bytes(4, "big") + payload)
        stranger.hear_to_the_end()

    assert isinstance(meet(mx, behave).error, PeerError)
    assert sorted(os.listdir(str(tmp_path))) == before


def test_custody_of_what_was_never_sent_changes_nothing(mx: Mailbox) -> None:
    mx.accept(*messages(1))

    def behave(stranger: Stranger) -> None:
        stranger.greet()
        opened = stranger.wait_for(Open)
        assert isinstance(opened, Open)
        stream = opened.number.stream
        stranger.say(Custody(stream, 99), Custody("A" * 16, 1), Refuse(stream, 98, True, "x"), Received(1 << 60, 0))
        stranger.say(Custody(stream, 1), Custody(stream, 1), Refuse(stream, 1, True, "changed my mind"))
        stranger.say(Done(1), Bye("done", ""))

    assert meet(mx, behave).error is None
    assert len(mx.outbox()) == 1
    ledger = mx.context.open_ledger()
    assert [file.state for file in Sent(ledger).files("custody", "sealed")] == ["custody"]
    ledger.close()


# Refused, and later


def judge(bad: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = incoming.Arrivals._judge_manifest

    def refuse(self: incoming.Arrivals, number: Number, head: object, items: list[batches.Item]) -> None:
        if self._context.site.name == "home.example" and bad & {item.entry.id for item in items}:
            raise PeerError("something in it cannot be taken")
        real(self, number, head, items)  # type: ignore[arg-type]

    monkeypatch.setattr(incoming.Arrivals, "_judge_manifest", refuse)


def test_a_batch_that_is_refused_is_sealed_in_halves_and_one_is_held(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = messages(9, octets=100)
    ids = pair.mx.accept(*down)
    judge({ids[4]}, monkeypatch)
    ok(pair.call())
    ok(pair.call())
    assert pair.mx.held() == [ids[4]]
    assert sorted(pair.home.dropped()) == sorted(set(ids) - {ids[4]})
    assert pair.mx.outbox() == []
    assert pair.home.partial() == []


def test_no_room_is_later_and_then_it_comes(tmp_path: object) -> None:
    pair = make_pair(tmp_path, batch_octets=8000)
    full = pair.home.context._replace(peer=pair.home.context.peer._replace(quota_octets=100))
    narrow = pair._replace(home=pair.home._replace(context=full))
    down, up = messages(30, octets=12_000), messages(2, seed=1)
    pair.mx.accept(*down)
    pair.home.accept(*up)
    caller, answerer = narrow.call()
    assert (caller.error, "no room" in str(answerer.error)) == (None, True)
    assert arrived(pair.home) == []
    assert arrived(pair.mx) == sorted(up)
    assert len(pair.mx.waiting()) > 15, "mail was sealed that nobody takes"
    ok(pair.call())
    assert arrived(pair.home) == sorted(down)


def test_recipients_take_room_too(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few octets on the line name many, and the ledger keeps an outcome of each."""
    monkeypatch.setattr(incoming, "_LEDGER_OCTETS", 0)
    pair = make_pair(tmp_path)
    first, more = messages(1), messages(2, seed=1)
    pair.mx.accept(*first)
    ok(pair.call())
    ledger = pair.home.context.open_ledger()
    room = ledger.octets() + 32 * 1024
    full = pair.home.context._replace(peer=pair.home.context.peer._replace(quota_octets=room))
    narrow = pair._replace(home=pair.home._replace(context=full))
    pair.mx.accept(more[0], rcpts=tuple(f"<r{n}@home.example>" for n in range(500)))
    assert "cannot be stored here now" in str(narrow.call()[1].error)
    assert arrived(pair.home) == first
    ok(pair.call())
    assert arrived(pair.home) == sorted([*first, more[0]])
    assert ledger.octets() > room, "what it remembers is more than its quota"
    ledger.close()
    pair.mx.accept(more[1])
    pair.home.accept(*messages(1, seed=2))
    caller, answerer = narrow.call()
    assert (caller.error, "no room" in str(answerer.error)) == (None, True)
    assert arrived(pair.mx) == messages(1, seed=2)


def test_mail_that_comes_behind_the_last_look_goes_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A door adds a file between the sealer's look, which finds nothing, and the question whether anything waits."""
    real, waits, late = Sealer.seal_batch, Sealer.has_waiting, list(messages(1))

    def is_late(sealer: Sealer) -> bool:
        return bool(late) and sealer._context.site.name == "mx.example"

    def seal_batch(sealer: Sealer, *arguments: object) -> object:
        number = real(sealer, *arguments)  # type: ignore[arg-type]
        if number is None and is_late(sealer):
            pair.mx.accept(late.pop())
        return number

    monkeypatch.setattr(Sealer, "seal_batch", seal_batch)
    monkeypatch.setattr(Sealer, "has_waiting", lambda sealer: is_late(sealer) or waits(sealer))
    pair.mx.accept(*messages(1))
    ok(pair.call())
    assert len(arrived(pair.home)) == 2


def test_what_is_there_already_needs_no_room(tmp_path: object) -> None:
    pair = make_pair(tmp_path)
    (message,) = messages(1, octets=400_000)
    pair.mx.accept(message)
    pair.call(None, 150_000)
    (name,) = pair.mx.outbox()
    whole = os.path.getsize(f"{pair.mx.root}/out/home/outbox/{name}")
    full = pair.home.context._replace(peer=pair.home.context.peer._replace(quota_octets=whole))
    ok(pair._replace(home=pair.home._replace(context=full)).call())
    assert arrived(pair.home) == [message]


# The end of a call


def test_no_more_octets_than_allowed(pair: Pair) -> None:
    pair.mx.accept(*messages(1, octets=600_000))
    caller, _ = ok(pair.call(options=Options(max_octets=50_000)))
    assert 50_000 < caller.totals.received_octets < 200_000
    assert "as were allowed" in caller.text
    ok(pair.call())
    assert len(arrived(pair.home)) == 1


@pytest.mark.parametrize("octets", [50_000, 300_000])
def test_what_is_under_way_arrives_when_as_much_as_was_allowed_has_been_sent(pair: Pair, octets: int) -> None:
    pair.home.accept(*messages(1, octets=600_000))
    caller, answerer = ok(pair.call(options=Options(max_octets=octets)))
    assert "as were allowed" in caller.text
    assert answerer.totals.received_octets == caller.totals.sent_octets >= octets


def test_no_more_time_than_allowed(pair: Pair) -> None:
    caller, _ = ok(pair.call(options=Options(stay=True, max_time_s=0.05)))
    assert "time is up" in caller.text


def test_a_newer_call_takes_over_and_the_older_one_keeps_what_it_has(pair: Pair) -> None:
    pair.mx.accept(*messages(1, octets=400_000))
    with line() as (up, down):
        results: list[Result] = []
        older = threading.Thread(target=lambda: results.append(hold(pair.mx, down, ANSWERER)), daemon=True)
        older.start()
        up.read(1)
        assert ring(pair.mx.root, "home", YIELD)
        older.join(HANG_S)
    assert isinstance(results[0].error, LineError)
    assert "took over" in str(results[0].error)
    ok(pair.call())
    assert len(arrived(pair.home)) == 1


def test_one_call_at_a_time(pair: Pair) -> None:
    first, second = Line(pair.mx.spool, "home"), Line(pair.mx.spool, "home")
    assert not ring(pair.mx.root, "home", YIELD)
    assert first.acquire(CALLER)
    assert not second.acquire(ANSWERER)
    assert second.holder() == CALLER
    assert ring(pair.mx.root, "home", YIELD)
    assert first.wait(HANG_S) == [YIELD]
    assert first.wait(0) == []
    ring(pair.mx.root, "home", YIELD)
    first.close()
    assert second.acquire(ANSWERER)
    assert second.wait(0) == []
    second.close()


# Memory


def other_direction_goes_on(pair: Pair, expected: str, stopped: Mailbox, going: Mailbox) -> None:
    """What `stopped` has to send stays where it is; what the other one has arrives."""
    before, had = len(going.dropped()), len(stopped.dropped())
    stopped.accept(*messages(1, seed=5))
    going.accept(*messages(2, seed=6))
    for _ in range(2):
        caller, answerer = pair.call()
        told, untroubled = (caller, answerer) if stopped is pair.home else (answerer, caller)
        assert untroubled.error is None
        assert expected in str(told.error)
        assert str(told.error) in TROUBLE
    assert (len(stopped.dropped()), len(going.dropped())) == (had + 2, before)
    assert len(stopped.waiting()) == 1


TROUBLE: list[str] = []


@pytest.fixture(autouse=True)
def trouble(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    TROUBLE.clear()
    monkeypatch.setattr("batchmail.wire.maillog.trouble", lambda _peer, text: TROUBLE.append(text))
    yield


def copy_ledger(site: Mailbox, path: str, back: bool = False) -> None:
    ledger = f"{site.root}/ledger/{site.context.peer.name}"
    for suffix in ("", "-wal", "-shm"):
        source, target = (path, ledger) if back else (ledger, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target + suffix)
        if os.path.exists(source + suffix):
            shutil.copyfile(source + suffix, target + suffix)


def test_our_ledger_went_back(pair: Pair, tmp_path: object) -> None:
    ok(pair.call())
    copy_ledger(pair.mx, f"{tmp_path}/old")
    pair.mx.accept(*messages(2))
    ok(pair.call())
    copy_ledger(pair.mx, f"{tmp_path}/old", back=True)
    caller, answerer = pair.call()
    assert "this spool has gone back" in str(answerer.error)
    assert "no longer has files that it took" in str(caller.error), "its reports are lost with the ledger that had them"


def test_our_ledger_went_back_and_on_another_way(pair: Pair, tmp_path: object) -> None:
    pair.mx.accept(*messages(1))
    ok(pair.call())
    ledger = pair.home.context.open_ledger()
    with ledger.transaction():
        ledger.database.execute("UPDATE received SET identity = ? WHERE stream <> ''", ("0" * 64,))
    ledger.close()
    other_direction_goes_on(pair, "has another file", pair.mx, pair.home)


def test_the_far_spool_was_lost(pair: Pair, tmp_path: object) -> None:
    pair.mx.accept(*messages(1))
    away = pair.home.context._replace(peer=pair.home.context.peer._replace(target="smtp://127.0.0.1:1"))
    ok(pair._replace(home=pair.home._replace(context=away)).call())
    assert len(pair.mx.outbox()) == 1
    lost = make_site(f"{tmp_path}/lost", "home.example", "mx")
    other_direction_goes_on(pair._replace(home=lost), "no longer has files that it took", pair.mx, lost)
    assert len(pair.mx.outbox()) == 1


def test_a_new_far_ledger_when_all_was_settled_is_no_trouble(pair: Pair, tmp_path: object) -> None:
    pair.mx.accept(*messages(2))
    ok(pair.call())
    ok(pair.call())
    fresh = pair._replace(home=make_site(f"{tmp_path}/fresh", "home.example", "mx"))
    down = messages(2, seed=3)
    fresh.mx.accept(*down)
    ok(fresh.call())
    assert arrived(fresh.home) == sorted(down)
    assert TROUBLE == []


def test_a_ledger_that_is_lost_stops_the_call_before_it_begins(pair: Pair) -> None:
    pair.mx.accept(*messages(1))
    away = pair.home.context._replace(peer=pair.home.context.peer._replace(target="smtp://127.0.0.1:1"))
    ok(pair._replace(home=pair.home._replace(context=away)).call())
    for name in os.listdir(f"{pair.mx.root}/ledger"):
        os.unlink(f"{pair.mx.root}/ledger/{name}")
    with pytest.raises(Exception, match="is missing, but out/home/outbox holds files"):
        Ledger(pair.mx.spool, "home")


# A disk that fails


def test_a_name_that_cannot_be_made_stops_one_direction_only(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a quota allows no more files."""
    real = os.open

    def no_more_partials(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_CREAT and "/partial/" in path and path.startswith(pair.home.root):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), path)
        return real(path, flags, *rest)

    down, up = messages(2), messages(2, seed=1)
    pair.mx.accept(*down)
    pair.home.accept(*up, sender="<u@home.example>", rcpts=("<r@mx.example>",))
    monkeypatch.setattr(os, "open", no_more_partials)
    at_home, at_mx = pair.call()
    assert at_home.error is None
    assert "home.example does not take" in str(at_mx.error)
    assert (arrived(pair.mx), arrived(pair.home)) == (sorted(up), [])
    monkeypatch.undo()
    ok(pair.call())
    assert arrived(pair.home) == sorted(down)


def test_a_batch_that_cannot_be_read_holds_up_the_others_for_one_call(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = messages(2, octets=200_000)
    with closing(pair.mx.context.open_ledger()) as ledger:
        sealer = Sealer(pair.mx.context, ledger)
        for message in (bad, good):
            pair.mx.accept(message)
            number = sealer.seal_batch("home.example", 1 << 30, 1 << 40)
    assert number
    real = os.pread

    def is_bad(path: object) -> bool:
        return str(path).endswith(".1.batch") and "/outbox/" in str(path)

    def pread(fd: int, octets: int, offset: int) -> bytes:
        if is_bad(os.readlink(f"/proc/self/fd/{fd}")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, octets, offset)

    def fails(path: str, octets: int) -> str:
        if is_bad(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return digest_of(path, octets)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(outgoing, "digest_of", fails)
    assert "Input/output error" in str(pair.call()[1].error)
    for _ in range(4):
        assert "1.batch cannot be read: Input/output error" in str(pair.call()[1].error)
    assert arrived(pair.home) == [good]
    monkeypatch.undo()
    ok(pair.call())
    assert arrived(pair.home) == sorted([bad, good])


# Custody


def test_a_file_that_is_being_checked_is_not_changed_any_more(
    mx: Mailbox, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, data = offer(f"{tmp_path}/x", str(tmp_path))
    real, again = incoming._check, threading.Event()

    def check(number: Number, path: str) -> object:
        found = real(number, path)
        again.wait(HANG_S)
        return found

    monkeypatch.setattr(incoming, "_check", check)

    def behave(stranger: Stranger) -> None:
        stranger.greet()
        stranger.say(opened, data, opened, data._replace(octets=b"evil"))
        stranger.wait_for(Bye)
        again.set()

    result = meet(mx, behave)
    assert "opened again before it was answered" in str(result.error)
    mx.run()
    assert len(mx.dropped()) == 3


def test_a_disk_that_fails_while_a_file_is_checked_means_later(
    mx: Mailbox, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, data = offer(f"{tmp_path}/x", str(tmp_path))

    def check(_number: Number, _path: str) -> object:
        raise OSError(5, "Input/output error")

    def behave(stranger: Stranger) -> None:
        stranger.greet()
        stranger.say(opened, data)
        refusal = stranger.wait_for(Refuse)
        assert isinstance(refusal, Refuse)
        assert not refusal.for_good
        stranger.say(Bye("done", ""))

    with monkeypatch.context() as patched:
        patched.setattr(incoming, "_check", check)
        assert meet(mx, behave).error is None
    assert len(mx.partial()) == 1


def test_files_that_are_open_at_once_share_the_room(tmp_path: object) -> None:
    mx = make_site(f"{tmp_path}/mx", "mx.example", "home", quota_octets=1000)

    def behave(stranger: Stranger) -> None:
        assert stranger.greet().limits.room_octets == 1000
        for seq in (1, 2, 3):
            stranger.say(Open(Number(STREAM, seq, BATCH), "0" * 64, "zst", 600, 0))
        assert [stranger.wait_for(Refuse), stranger.wait_for(Refuse)] == [
            Refuse(STREAM, 2, False, "no room here now"),
            Refuse(STREAM, 3, False, "no room here now"),
        ]
        stranger.say(Bye("done", ""))

    assert meet(mx, behave).error is None


def test_no_more_partial_files_are_kept_than_can_be_told(mx: Mailbox) -> None:
    for call in range(3):

        def behave(stranger: Stranger, call: int = call) -> None:
            hello = stranger.greet()
            assert len(hello.partial) <= 64
            for seq in range(call * 50 + 1, call * 50 + 51):
                stranger.say(Open(Number(STREAM, seq, BATCH), "0" * 64, "zst", 600, 0), Data(STREAM, seq, 0, b"x"))
            stranger.say(Ping(), Bye("done", ""))
            stranger.wait_for(Received)

        assert meet(mx, behave).error is None
    assert len(mx.partial()) <= 64 + 50


def test_a_side_that_cannot_begin_says_so_in_words(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def recover(arrivals: Arrivals) -> None:
        if arrivals._context.site.name == "mx.example":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Arrivals, "recover", recover)
    caller, answerer = pair.call()
    assert isinstance(answerer.error, Temporary)
    assert str(caller.error).startswith("the other side ended the call: the spool cannot be used: [Errno 5]")
