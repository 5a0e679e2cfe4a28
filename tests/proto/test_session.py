"""The session machine: two of them back to back, and one against whatever a line or a peer may say."""

import struct
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest

from batchmail.core import jsontext
from batchmail.core.errors import PeerError
from batchmail.core.numbered import BATCH, REPORT, Number
from batchmail.proto import session as frames
from batchmail.proto.hello import Have, Hello, Limits
from batchmail.proto.session import Bye, Custody, Data, Done, Event, Note, Open, Ping, Received, Refuse, Session

STREAM = "0123456789ABCDEF"
DIGEST = "0123456789abcdef" * 4


def hello(site: str = "mx.example", versions: tuple[int, ...] = (1,)) -> Hello:
    return Hello(site, versions, 1795222800000, "ab", Limits(1, 2, 3), (Have(STREAM, 1, DIGEST, ()),), ())


def opened(seq: int = 1, octets: int = 10, offset: int = 0, kind: str = BATCH) -> Open:
    return Open(Number(STREAM, seq, kind), DIGEST, "zst", octets, offset)


def data(octets: bytes, offset: int = 0, seq: int = 1) -> Data:
    return Data(STREAM, seq, offset, octets)


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BI", kind, len(payload)) + payload


def events_of(machine: Session) -> list[Event]:
    return list(iter(machine.next_event, None))


def joined(events: Iterable[Event]) -> list[Event]:
    """Pieces of one file that follow each other, put together: how they were cut is nobody's business."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if (
            isinstance(event, Data)
            and isinstance(last, Data)
            and (event.stream, event.seq, event.offset) == (last.stream, last.seq, last.offset + len(last.octets))
        ):
            found[-1] = last._replace(octets=last.octets + event.octets)
        else:
            found.append(event)
    return found


class ConnectionPair:
    """Two machines; what one says, the other hears."""

    def __init__(self, *versions: int) -> None:
        self.caller, self.answerer = Session(), Session()
        ours, theirs = hello("home.example", versions or (1,)), hello(versions=versions or (1,))
        self.answerer.receive(self.caller.start(ours))
        self.caller.receive(self.answerer.start(theirs))
        assert events_of(self.answerer) == [ours]
        assert events_of(self.caller) == [theirs]

    def say(self, *events: Event, back: bool = False) -> list[Event]:
        """Events of the caller (`back`: of the answerer), as the other side has them."""
        ours, theirs = (self.answerer, self.caller) if back else (self.caller, self.answerer)
        for event in events:
            theirs.receive(ours.send(event))
        return joined(events_of(theirs))


def started() -> Session:
    """A machine that has said HELLO and heard one."""
    return ConnectionPair().answerer


SCRIPT: list[Event] = [
    opened(1, 10),
    data(b"01234"),
    opened(2, 3, kind=REPORT),
    data(b"abc", 0, 2),
    data(b"56789", 5),
    Received(8, 0),
    Received(2**53 - 1, 2**64 - 1),
    Custody(STREAM, 7),
    Refuse(STREAM, 8, True, "no \\xff room"),
    Refuse(STREAM, 9, False, ""),
    Ping(),
    opened(3, 100, 60),
    data(bytes(range(40)), 60, 3),
    opened(4, 100, 100),
    Done(0),
    Custody(STREAM, 9),
    Note("nothing is sent: this spool has gone back"),
    Ping(),
    Received(9, 1),
    opened(5, 1),
    data(b"x", 0, 5),
    Done(0),
    Bye("done", "so long"),
]


def script() -> bytes:
    machine = Session()
    return machine.start(hello()) + b"".join(machine.send(event) for event in SCRIPT)


@pytest.mark.parametrize("junk", [b"", b"Welcome\r\n", b"\0\xff\n", b"motd\n" * 800, b"BATCHMAIL\n"])
def test_whole(junk: bytes) -> None:
    machine = Session()
    machine.receive(junk + script())
    assert joined(events_of(machine)) == joined([hello(), *SCRIPT])


def test_each_octet_alone() -> None:
    machine, found = Session(), []
    for octet in b"Last login: never\r\n" + script():
        machine.receive(bytes([octet]))
        found += events_of(machine)
    assert joined(found) == joined([hello(), *SCRIPT])


@pytest.mark.parametrize("seed", range(50))
def test_random_splits(seed: int) -> None:
    random, text = Random(seed), b"Last login: never\r\n" + script()
    machine, found = Session(), []
    while text:
        count = random.choice((1, 2, 7, 40, 1000))
        machine.receive(text[:count])
        text = text[count:]
        if random.random() < 0.7:
            found += events_of(machine)
    found += events_of(machine)
    assert joined(found) == joined([hello(), *SCRIPT])


def test_every_prefix_gives_what_it_holds_and_wishes_for_more() -> None:
    text, whole = script(), joined([hello(), *SCRIPT])
    for end in range(0, len(text), 3):
        machine = Session()
        machine.receive(text[:end])
        found = joined(events_of(machine))
        *before, last = found or [None]
        assert before == whole[: len(before)]
        expected = whole[len(before)]
        if isinstance(last, Data) and isinstance(expected, Data):
            assert expected.octets.startswith(last.octets)
        else:
            assert last in (None, expected)


def test_a_data_frame_is_given_before_all_of_it_is_here() -> None:
    pair = ConnectionPair()
    pair.say(opened(1, 10))
    octets = pair.caller.send(data(b"0123456789"))
    pair.answerer.receive(octets[:-4])
    assert events_of(pair.answerer) == [data(b"012345")]
    pair.answerer.receive(octets[-4:])
    assert events_of(pair.answerer) == [data(b"6789", 6)]


# The greeting


@pytest.mark.parametrize("step", [1, 100, 1 << 20])
@pytest.mark.parametrize(("junk", "taken"), [(4096, True), (4097, False), (60_000, False)])
def test_at_most_four_kib_stand_before_the_greeting(junk: int, taken: bool, step: int) -> None:
    text = b"x" * junk + b"\n" + script()
    machine, error = Session(), ""
    for start in range(0, len(text), step):
        machine.receive(text[start : start + step])
        try:
            events_of(machine)
        except PeerError as problem:
            error = str(problem)
            break
    assert (machine.theirs == frames.CLOSED) is taken
    assert bool(error) is not taken
    if error:
        assert error.startswith("the other side is not batchmail; it said: xxx")


@pytest.mark.parametrize("line", [b"batchmail 1 x\n", b"XBATCHMAIL 1 x\n", b"BATCHMAIL one x\n", b"BATCHMAIL 1 \n"])
def test_what_is_no_greeting(line: bytes) -> None:
    machine = Session()
    machine.receive(line + b"\n" * 5000)
    with pytest.raises(PeerError, match="is not batchmail"):
        machine.next_event()


def test_what_stood_before_the_greeting_is_shown_printable() -> None:
    machine = Session()
    machine.receive(b"\x1b[2Jno such user\xff\r\nor host\n")
    assert machine.next_event() is None
    assert machine.preamble() == r"\x1b[2Jno such user\xff / or host"


@pytest.mark.parametrize(
    "event",
    [
        make("\x1b]0;x\x07\ny")
        for make in (lambda text: Bye("error", text), lambda text: Refuse(STREAM, 1, True, text), Note)
    ],
)
def test_what_the_other_side_says_is_shown_printable(event: Bye | Refuse | Note) -> None:
    (heard,) = ConnectionPair().say(event)
    assert isinstance(heard, Bye | Refuse | Note)
    assert heard.text == r"\x1b]0;x\x07\x0ay"


# Frames


@pytest.mark.parametrize("kind", [129, 200, 255])
def test_unknown_frames_that_may_be_ignored_are(kind: int) -> None:
    pair = ConnectionPair()
    pair.answerer.receive(frame(kind, b"\0{junk" * 100) + pair.caller.send(Ping()) + frame(kind))
    assert events_of(pair.answerer) == [Ping()]


@pytest.mark.parametrize("kind", [0, 20, 64, 127])
def test_unknown_frames_that_must_be_known_end_the_call(kind: int) -> None:
    machine = started()
    machine.receive(frame(kind))
    with pytest.raises(PeerError, match=f"unknown type {kind}"):
        machine.next_event()


@pytest.mark.parametrize("kind", [1, 3, 4, 9, 200])
def test_a_frame_is_bounded_before_it_is_read(kind: int) -> None:
    machine = started()
    machine.receive(struct.pack(">BI", kind, frames.MAX_PAYLOAD_OCTETS + 1))
    with pytest.raises(PeerError, match="a frame of"):
        machine.next_event()


def test_the_largest_frame_is_taken() -> None:
    pair = ConnectionPair()
    octets = bytes(frames.MAX_PAYLOAD_OCTETS - 32)
    assert pair.say(opened(1, len(octets)), data(octets))[1] == data(octets)


DATA = struct.Struct(">16sQQ")
BAD_FRAMES: list[tuple[str, bytes]] = [
    ("no json", frame(2, b"x")),
    ("no open", frame(2)),
    ("hello again", frame(1, b"{}")),
    ("data without data", frame(3, DATA.pack(STREAM.encode(), 1, 0))),
    ("short data head", frame(3, b"x" * 31) + b"y" * 64),
    ("not opened", frame(3, DATA.pack(STREAM.encode(), 2, 0) + b"x")),
    ("another stream", frame(3, DATA.pack(b"\xff" * 16, 1, 0) + b"x")),
    ("out of order", frame(3, DATA.pack(STREAM.encode(), 1, 1) + b"x")),
    ("too much", frame(3, DATA.pack(STREAM.encode(), 1, 0) + b"x" * 11)),
    ("received", frame(4, b"1234567")),
    ("done", frame(7)),
    ("custody", frame(5, b'{"stream":"x"}')),
    ("custody of zero", frame(5, b'{"stream":"x","seq":0}')),
    ("refuse", frame(6, b'{"stream":"x","seq":1,"good":2,"text":""}')),
    ("refuse text", frame(6, b'{"stream":"x","seq":1,"good":1,"text":"a b"}')),
    ("bye", frame(9, b'{"reason":"x"}')),
    ("bye with control", frame(9, b'{"reason":"a\\nb","text":""}')),
    ("bye with surrogate", frame(9, b'{"reason":"\\ud800","text":""}')),
]


@pytest.mark.parametrize(("name", "octets"), BAD_FRAMES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_frame_that_is_wrong_ends_the_call_for_good(name: str, octets: bytes) -> None:
    pair = ConnectionPair()
    pair.say(opened(1, 10))
    pair.answerer.receive(octets + pair.caller.send(Ping()))
    for _ in range(3):
        with pytest.raises(PeerError):
            pair.answerer.next_event()
    assert pair.answerer.theirs == frames.ERROR


BAD_OPENS: list[dict[str, Any]] = [
    {"stream": "../../etc/passwd"},
    {"stream": STREAM + "\n"},
    {"seq": 0},
    {"seq": 2**53},
    {"kind": "exe"},
    {"kind": "../batch"},
    {"octets": 0},
    {"octets": -1},
    {"offset": 11},
    {"identity": "x"},
    {"identity": "../" + DIGEST},
    {"encoding": "x" * 21},
    {"encoding": None},
]


@pytest.mark.parametrize("lie", BAD_OPENS, ids=repr)
def test_an_open_that_lies(lie: dict[str, Any]) -> None:
    good = {"stream": STREAM, "seq": 1, "kind": BATCH, "identity": DIGEST, "encoding": "zst", "octets": 10, "offset": 0}
    machine = started()
    machine.receive(frame(2, jsontext.write(good)))
    assert machine.next_event() == opened()
    machine.receive(frame(2, jsontext.write(good | lie)))
    with pytest.raises(PeerError):
        machine.next_event()


def test_data_before_hello() -> None:
    machine = Session()
    machine.receive(b"BATCHMAIL 1 x\n" + frame(3, DATA.pack(STREAM.encode(), 1, 0) + b"x"))
    with pytest.raises(PeerError):
        machine.next_event()


@pytest.mark.parametrize(
    "event", [opened(), Ping(), Received(1, 1), Custody(STREAM, 1), Done(0)], ids=lambda e: type(e).__name__
)
def test_nothing_but_hello_comes_first_and_nothing_after_bye(event: Event) -> None:
    octets = ConnectionPair().caller.send(event)
    machine = Session()
    machine.receive(b"BATCHMAIL 1 x\n" + octets)
    with pytest.raises(PeerError, match="came in state hello"):
        machine.next_event()
    pair = ConnectionPair()
    pair.say(Bye("done", ""))
    pair.answerer.receive(octets)
    with pytest.raises(PeerError, match="came in state closed"):
        pair.answerer.next_event()


def test_what_may_not_be_said_is_not_said() -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        Session().send(Ping())
    pair = ConnectionPair()
    with pytest.raises(ValueError, match="cannot be sent"):
        pair.caller.send(hello())
    pair.say(Bye("done", ""))
    with pytest.raises(ValueError, match="cannot be sent"):
        pair.caller.send(Ping())


def test_done_is_undone_by_an_open_and_not_by_data() -> None:
    pair = ConnectionPair()
    pair.say(opened(1, 10), data(b"01234"), Done(0))
    assert pair.answerer.theirs == frames.DONE
    pair.answerer.receive(frame(3, DATA.pack(STREAM.encode(), 1, 5) + b"56789"))
    with pytest.raises(PeerError):
        pair.answerer.next_event()
    pair = ConnectionPair()
    pair.say(Done(0), opened(1, 10))
    assert pair.answerer.theirs == frames.READY
    assert pair.say(data(b"0123456789")) == [data(b"0123456789")]


def test_a_done_that_crossed_with_an_open_does_not_count() -> None:
    pair = ConnectionPair()
    crossing = pair.caller.send(Done(pair.caller.opens_received))
    assert pair.say(opened(), back=True) == [opened()]
    assert (pair.caller.ours, pair.answerer.theirs) == (frames.READY, frames.READY)
    pair.answerer.receive(crossing)
    assert events_of(pair.answerer) == [Done(0)]
    assert pair.answerer.theirs == frames.READY
    pair.say(Done(pair.caller.opens_received))
    assert pair.answerer.theirs == frames.DONE
    pair.say(data(b"0123456789"), Done(0), back=True)
    assert (pair.answerer.ours, pair.caller.theirs) == (frames.DONE, frames.DONE)


# Short forms


def short_script() -> tuple[bytes, list[Event]]:
    """What a machine says to one that reads version 2, and the events of it."""
    machine, other = Session(), Session()
    start = machine.start(hello(versions=(1, 2)))
    machine.receive(other.start(hello(versions=(1, 2))) + other.send(opened(7)))
    assert len(events_of(machine)) == 2
    return start + b"".join(machine.send(event) for event in SCRIPT), [hello(versions=(1, 2)), *SCRIPT]


def listener() -> Session:
    """Has opened a file of which custody may be told."""
    machine, other = Session(), Session()
    machine.start(hello())
    machine.receive(other.start(hello()))
    events_of(machine)
    machine.send(opened(7))
    machine.theirs = frames.GREETING
    return machine


def test_short_forms_say_the_same_in_fewer_octets() -> None:
    octets, events = short_script()
    assert len(octets) < len(script()) - 800
    machine = listener()
    machine.receive(octets)
    assert joined(events_of(machine)) == joined(events)


@pytest.mark.parametrize("seed", range(20))
def test_short_forms_in_pieces(seed: int) -> None:
    random, (text, events) = Random(seed), short_script()
    machine, found = listener(), []
    while text:
        count = random.choice((1, 2, 7, 40))
        machine.receive(text[:count])
        text = text[count:]
        found += events_of(machine)
    assert joined(found) == joined(events)


def test_who_reads_only_version_1_gets_no_short_forms() -> None:
    pair = ConnectionPair()
    assert {pair.caller.send(event)[0] for event in (opened(), data(b"x"), Received(1, 1), Custody(STREAM, 1))} <= {
        *range(10)
    }


def test_pieces_of_other_files_than_the_last_name_theirs() -> None:
    pair = ConnectionPair(1, 2)
    files = [opened(1, 10), opened(2, 10)]
    assert pair.say(*files) == files
    pieces = [data(b"ab", 0, 2), data(b"cd", 0, 1), data(b"ef", 2, 2), data(b"gh", 2, 1)]
    assert [pair.caller.send(piece)[0] for piece in pieces] == [11, 3, 11, 3]
    pair = ConnectionPair(1, 2)
    assert pair.say(*files, *pieces) == [*files, *pieces]


def test_custody_of_another_stream_than_the_first_names_it() -> None:
    pair = ConnectionPair(1, 2)
    other = opened()._replace(number=Number("Z" * 16, 5, BATCH))
    pair.say(opened(9), other, back=True)
    answers = [Custody(STREAM, 9), Custody("Z" * 16, 5)]
    assert pair.say(*answers) == answers


SHORT_HEAD = b"\0" + STREAM.encode() + bytes.fromhex(DIGEST)
BAD_SHORT: list[tuple[str, bytes]] = [
    ("no open", frame(10)),
    ("half an open", frame(10, SHORT_HEAD[:-1])),
    ("open without numbers", frame(10, SHORT_HEAD)),
    ("open of zero", frame(10, SHORT_HEAD + b"\0\1\1\0zst")),
    ("open of no octets", frame(10, SHORT_HEAD + b"\1\1\0\0zst")),
    ("open beyond the end", frame(10, SHORT_HEAD + b"\1\1\1\1\1\2zst")),
    ("open beyond numbers", frame(10, SHORT_HEAD + b"\7\xff\xff\xff\xff\xff\xff\xff\1\1\0zst")),
    ("open of a long number", frame(10, SHORT_HEAD + b"\x09123456789\1\1\0zst")),
    ("open of an unknown kind", frame(10, b"\5" + SHORT_HEAD[1:] + b"\1\1\1\1\0zst")),
    ("open of a bad stream", frame(10, b"\0../" + SHORT_HEAD[4:] + b"\1\1\1\1\0zst")),
    ("open of a long encoding", frame(10, SHORT_HEAD + b"\1\1\1\1\0" + b"x" * 21)),
    ("open of an odd encoding", frame(10, SHORT_HEAD + b"\1\1\1\1\0\xff")),
    ("data without data", frame(11)),
    ("too much", frame(11, b"x" * 11)),
    ("custody of nothing", frame(12)),
    ("custody of zero", frame(12, b"\0")),
    ("custody with more", frame(12, b"\1\1x")),
    ("received", frame(13, b"\1\1")),
    ("done", frame(14, b"\2\1")),
]


@pytest.mark.parametrize(("name", "octets"), BAD_SHORT, ids=lambda v: v if isinstance(v, str) else "")
def test_a_short_frame_that_is_wrong_ends_the_call_for_good(name: str, octets: bytes) -> None:
    pair = ConnectionPair(1, 2)
    pair.say(opened(9), back=True)
    pair.say(opened(1, 10))
    pair.answerer.receive(octets + pair.caller.send(Ping()))
    for _ in range(3):
        with pytest.raises(PeerError):
            pair.answerer.next_event()
    assert pair.answerer.theirs == frames.ERROR


@pytest.mark.parametrize("octets", [frame(11, b"x"), frame(12, b"\1\1")])
def test_short_frames_of_files_that_nobody_opened(octets: bytes) -> None:
    machine = started()
    machine.receive(octets)
    with pytest.raises(PeerError, match=r"not? .*opened"):
        machine.next_event()


# Files that were refused


def test_what_comes_of_a_refused_file_is_still_told_so_that_it_is_acknowledged() -> None:
    pair = ConnectionPair()
    pair.say(opened(1, 10), data(b"01234"))
    on_its_way = pair.caller.send(data(b"567", 5))
    pair.say(Refuse(STREAM, 1, True, "no"), back=True)
    pair.answerer.receive(on_its_way)
    assert events_of(pair.answerer) == [data(b"567", 5)]
    void = opened(1, 4, kind="void")
    assert pair.say(void, data(b"void")) == [void, data(b"void")]


def test_many_files_may_be_refused_in_a_call_but_few_are_open_at_once() -> None:
    pair = ConnectionPair()
    for seq in range(1, 300):
        pair.say(opened(seq), data(b"x", 0, seq))
        pair.say(Refuse(STREAM, seq, False, ""), back=True)
    for seq in range(300, 364):
        pair.say(opened(seq))
    with pytest.raises(PeerError, match="open at once"):
        pair.say(opened(364))


def test_a_file_may_be_opened_anew_where_it_stood() -> None:
    pair = ConnectionPair()
    pair.say(opened(1, 10), data(b"01234"))
    assert pair.say(opened(1, 10, 3), data(b"3456789", 3)) == [opened(1, 10, 3), data(b"3456789", 3)]
    with pytest.raises(PeerError):
        pair.say(data(b"x", 9))


# Whatever may come


@pytest.mark.parametrize("seed", range(60))
def test_nothing_but_peer_errors_escapes(seed: int) -> None:
    random = Random(seed)
    text = bytearray(script() if seed % 2 else short_script()[0])
    for _ in range(random.randint(1, 6)):
        place = random.randrange(len(text))
        if random.random() < 0.5:
            text[place] = random.randrange(256)
        elif random.random() < 0.5:
            del text[place : place + random.randint(1, 9)]
        else:
            text[place:place] = random.randbytes(random.randint(1, 9))
    machine = Session()
    try:
        for start in range(0, len(text), 100):
            machine.receive(bytes(text[start : start + 100]))
            events_of(machine)
    except PeerError:
        assert machine.theirs == frames.ERROR


@pytest.mark.parametrize("seed", range(20))
def test_frames_of_noise(seed: int) -> None:
    random = Random(seed)
    machine = started()
    try:
        for _ in range(300):
            machine.receive(
                frame(random.choice((2, 3, 4, 5, 6, 7, 8, 9, 130)), random.randbytes(random.randint(0, 60)))
            )
            events_of(machine)
    except PeerError:
        assert machine.theirs == frames.ERROR
