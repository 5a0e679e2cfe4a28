"""What a door makes of its input: the three forms, smuggling, limits, all or nothing."""

import io
import os
import random
from contextlib import nullcontext

import pytest

from batchmail.core.beside import from_options
from batchmail.core.envelope import Envelope, Parameter, Parameters, Recipient, format_mail, format_rcpt
from batchmail.core.errors import BadAddress, BadContent, MalformedInput, SpoolError, TooLarge
from batchmail.core.names import make_id, next_id
from batchmail.flow.accept import Intake, Message, Origin, read_message
from batchmail.flow.accept_batch import read_batch
from batchmail.flow.body import MAX_HELD_OCTETS
from batchmail.store.deadlines import Deadline, Deadlines
from batchmail.store.waiting import WaitingRoom
from tests.spools import as_crlf, door_of, drafts, make_spool, read_waiting, stuff

NOW_MS = 1_795_222_800_000
FIRST = make_id(NOW_MS, b"0" * 10)
LF, CRLF = b"\n", b"\r\n"
ONE = Message(b"a@b", (b"c@d",))
PLAIN = Envelope(b"a@b", (), (Recipient(b"c@d"),))
UNKNOWN = Origin()


@pytest.fixture
def spool(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # test_durable is about that
    return make_spool(tmp_path)


def _accept(spool, source, message=None, origin=UNKNOWN, first=FIRST, **door):
    """Accept an input, octets or a reading function; what waits now."""
    read = io.BytesIO(source).read if isinstance(source, bytes) else source
    intake = Intake(spool, door_of(spool, **door), origin, first, NOW_MS)
    try:
        if message is None:
            read_batch(read, intake)
        else:
            read_message(read, intake, message)
        intake.commit()
    finally:
        intake.discard()
        assert drafts(spool) == []
    return read_waiting(spool)


def _in_pieces(*pieces):
    """A reading function that gives the input piece by piece."""
    left = iter([piece for piece in pieces if piece])
    return lambda limit: next(left, b"")


def _splits(text):
    yield _in_pieces(text)
    yield _in_pieces(*(text[n : n + 1] for n in range(len(text))))
    for n in range(1, len(text)):
        yield _in_pieces(text[:n], text[n:])


def _clear(spool):
    for folder, _, names in os.walk(f"{spool.root}/out/home/waiting"):
        for name in names:
            os.unlink(f"{folder}/{name}")


def _batch(content, eol=LF, envelope=PLAIN):
    commands = [format_mail(envelope.sender, envelope.parameters), *map(format_rcpt, envelope.recipients), b"DATA", b""]
    return eol.join(commands) + stuff(content, eol)


CONTENTS = [
    b"",
    b"x",
    b"Subject: x\n\nbody\n",
    b".\n..\n.x\n\n.",
    b"From here on\n>From there\n",
    b"a\r\nb\rc\nd\r",
    b"\r\n.\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n",
    b"\xc3\xa6" * 10,
    b"L" * 5000,
]


@pytest.mark.parametrize("eol", [LF, CRLF], ids=["lf", "crlf"])
@pytest.mark.parametrize("content", CONTENTS)
def test_every_form_gives_the_same(spool, content, eol):
    content = content and b"Received: by the MTA" + eol + content  # its own first line shows the line end
    text = stuff(content, eol)
    expected = as_crlf(content if not content or content.endswith(eol) else content + eol)
    top = b"From z@y  Fri Nov 20 23:42:41 2026" + eol
    dotted = ONE._replace(dot_stuffed=True)
    forms = [
        (_batch(content, eol), None),
        (text, dotted),
        (text[: -len(b"." + eol)], dotted),  # Postfix's flag `.` writes no last dot
        (top + text, dotted._replace(from_line=True)),
        (top + text, dotted._replace(from_lines=True)),
        (content, ONE),
    ]
    for number, (source, message) in enumerate(forms):
        _clear(spool)
        (mail,) = _accept(spool, source, message)
        assert mail.content == (as_crlf(content) if message == ONE else expected), number
        assert (mail.envelope.sender, mail.envelope.recipients) == (b"a@b", (Recipient(b"c@d"),))
        assert mail.envelope.parameters == (() if content.isascii() else (Parameter(b"BODY", b"8BITMIME"),))


# An unsafe reader or server takes one of these for the end of the data, and what follows for commands.
ODD = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r\n.\r\n",
    b"\r.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r\n. \r\n",
    b"\n\n.\n\r.\r\n",
]


@pytest.mark.parametrize("eol", [LF, CRLF], ids=["lf", "crlf"])
@pytest.mark.parametrize("odd", ODD)
def test_smuggling(spool, odd, eol):
    """Stuffed by a writer of this line end: one transaction, and nothing in it that ends a message anywhere."""
    content = (
        b"Received: by the MTA"
        + eol
        + b"x"
        + odd
        + b"MAIL FROM:<evil@x>\r\nRCPT TO:<c@d>\r\nDATA\r\ny"
        + odd
        + b"z"
        + eol
    )
    for source, message in ((_batch(content, eol), None), (stuff(content, eol), ONE._replace(dot_stuffed=True))):
        for read in _splits(source):
            _clear(spool)
            (mail,) = _accept(spool, read, message)
            assert mail.content == as_crlf(content)
    for read in _splits(content):
        _clear(spool)
        (mail,) = _accept(spool, read, ONE)
        assert mail.content == as_crlf(content)


@pytest.mark.parametrize("odd", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r.\r", b"\r\n.\r"])
def test_smuggling_past_a_writer_that_does_not_stuff_it(spool, odd):
    text = (
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx"
        + odd
        + b"MAIL FROM:<evil@x>\r\nRCPT TO:<c@d>\r\nDATA\r\ny\r\n.\r\n"
    )
    for read in _splits(text):
        _clear(spool)
        (mail,) = _accept(spool, read)
        assert mail.envelope.sender == b"a@b"
        assert b"MAIL FROM:<evil@x>" in mail.content


def test_odd_octets_are_counted_or_refused(spool):
    for text, eol, counted in [
        (b"a\nb\rc\n", LF, (1, 0)),
        (b"a\nb\r\nc\n", LF, (0, 0)),
        (b"a\r\nb\nc\rd\r\n", CRLF, (1, 1)),
        (b"a\r\nb\r", CRLF, (1, 0)),
    ]:
        _clear(spool)
        intake = Intake(spool, door_of(spool), Origin(), FIRST, NOW_MS)
        read_message(io.BytesIO(text).read, intake, ONE)
        (accepted,) = intake.commit()
        assert (accepted.bare_cr, accepted.bare_lf) == counted
        _clear(spool)
        if any(counted):
            with pytest.raises(BadContent, match="stand alone"):
                _accept(spool, text, ONE, odd_octets="refuse")
        else:
            assert _accept(spool, text, ONE, odd_octets="refuse")
        with pytest.raises(BadContent, match="NUL"):
            _accept(spool, text + b"\0", ONE)
        with pytest.raises(BadContent, match="NUL"):
            _accept(spool, _batch(text + b"\0" + eol, eol))
    assert eol == CRLF


@pytest.mark.parametrize("size", [MAX_HELD_OCTETS - 2, MAX_HELD_OCTETS, 3 * MAX_HELD_OCTETS + 7])
def test_large_ones_spill(spool, size):
    line = b"0123456789.......\n"
    content = (line * (size // len(line) + 1))[: size - 2] + b"\xff\n"
    for source, message in ((_batch(content), None), (content, ONE), (content.replace(LF, CRLF), ONE)):
        _clear(spool)
        (mail,) = _accept(spool, source, message)
        assert mail.content == as_crlf(content)
        assert mail.envelope.parameters == (Parameter(b"BODY", b"8BITMIME"),)


def test_too_large(spool):
    for size in (10, MAX_HELD_OCTETS + 1000):
        content = b"x" * (size - 1) + b"\n"
        assert _accept(spool, content, ONE, max_message_octets=size + 1)  # with CRLF
        _clear(spool)
        with pytest.raises(TooLarge, match=f"larger than home takes .{size} octets"):
            _accept(spool, content, ONE, max_message_octets=size)
        with pytest.raises(TooLarge):
            _accept(spool, _batch(b"y\n") + _batch(content), max_message_octets=size)
        assert read_waiting(spool) == []


def test_several_transactions_all_or_nothing(spool):
    good = [_batch(b"%d\n" % n) for n in range(4)]
    for bad in (b"FOO\n", b"MAIL FROM:<x@y>\n", _batch(b"\0"), good[0][:-1], good[0][:-2], b"x", b"QUIT\nx\n"):
        with pytest.raises((MalformedInput, BadContent)):
            _accept(spool, b"".join(good) + bad)
        assert read_waiting(spool) == []
    found = _accept(spool, b"HELO x\n" + b"".join(good) + b"QUIT\n")
    assert [(mail.entry.id, mail.content) for mail in found] == [(next_id(FIRST, n), b"%d\r\n" % n) for n in range(4)]


@pytest.mark.parametrize("text", [b"", b"QUIT\r\n", b"HELO x\n", b"NOOP\nRSET\n"])
def test_no_transaction_at_all(spool, text):
    with pytest.raises(MalformedInput, match="holds no message"):
        _accept(spool, text)


def test_an_input_cut_anywhere(spool):
    text = _batch(b"Subject: x\n\n..\nbody\n") * 2
    whole = {len(text) // 2}
    for n in range(1, len(text)):
        _clear(spool)
        if n in whole:
            continue
        with pytest.raises(MalformedInput):
            _accept(spool, text[:n])
        assert read_waiting(spool) == []


def test_a_last_dot_ends_a_dot_stuffed_message(spool):
    dotted = ONE._replace(dot_stuffed=True)
    for rest in (b"x", b"\n", b".\n", b"MAIL FROM:<>\n"):
        for read in _splits(b"text\n.\n" + rest):
            with pytest.raises(MalformedInput, match="after the final dot"):
                _accept(spool, read, dotted)
    with pytest.raises(MalformedInput, match="ends behind a dot"):
        _accept(spool, b"text\n.", dotted)
    assert read_waiting(spool) == []


def test_a_message_without_its_from_line(spool):
    rmail = Message(None, (b"c@d",), from_lines=True)
    for text in (b"", b"Subject: x\n\n", b"from x\n"):
        with pytest.raises(MalformedInput, match="From_ line"):
            _accept(spool, text, rmail)
    top = b"From x Fri Nov 20 09:15:02 2026 remote from gamma\n>From ann Fri remote from alpha\n"
    for read in _splits(top + b"Subject: x\n\n>From y\nFrom z\n"):
        _clear(spool)
        (mail,) = _accept(spool, read, rmail)
        assert (mail.envelope.sender, mail.content) == (b"gamma!alpha!ann", b"Subject: x\r\n\r\n>From y\r\nFrom z\r\n")


def test_one_from_line_and_no_more(spool):
    message = ONE._replace(from_line=True)
    for read in _splits(b"From z@y  Fri\nFrom x@y\n>From w\n"):
        _clear(spool)
        (mail,) = _accept(spool, read, message)
        assert (mail.envelope.sender, mail.content) == (b"a@b", b"From x@y\r\n>From w\r\n")
    _clear(spool)
    assert _accept(spool, b"Subject: x\n", message)[0].content == b"Subject: x\r\n"


def test_what_is_implied(spool):
    utf8 = Envelope(b"a@b", (), (Recipient(b"c@d"), Recipient(b"j\xc3\xb8rgen@\xc3\xb8.example")))
    (mail,) = _accept(spool, _batch(b"\xc3\xb8\n", envelope=utf8))
    assert mail.envelope.parameters == (Parameter(b"BODY", b"8BITMIME"), Parameter(b"SMTPUTF8", None))
    _clear(spool)
    said = Envelope(b"\xc3\xb8@b", (Parameter(b"body", b"7BIT"), Parameter(b"smtputf8", None)), (Recipient(b"c@d"),))
    (mail,) = _accept(spool, _batch(b"\xc3\xb8\n", envelope=said))
    assert mail.envelope == said


@pytest.mark.parametrize("parameters", [(), (Parameter(b"SMTPUTF8", None),)])
def test_an_address_that_no_server_takes(spool, parameters):
    for sender, recipient in ((b"j\xf8rgen@b", b"c@d"), (b"a@b", b"c@\xe6.d")):
        envelope = Envelope(sender, parameters, (Recipient(recipient),))
        with pytest.raises(BadAddress, match=r"the address .* is neither ASCII nor UTF-8"):
            _accept(spool, _batch(b"x\n", envelope=envelope))
    assert read_waiting(spool) == []
    assert drafts(spool) == []


def test_priority(spool):
    def urgency(parameters: Parameters, grade: int) -> list[int]:
        _clear(spool)
        envelope = Envelope(b"a@b", parameters, (Recipient(b"c@d"),))
        found = _accept(spool, _batch(b"x\n", envelope=envelope), origin=Origin(priority=grade))
        return [mail.entry.priority for mail in found]

    assert urgency((), 0) == [0]
    assert urgency((), -4) == [-4]
    assert urgency((Parameter(b"MT-PRIORITY", b"6"),), -4) == [6]
    assert urgency((Parameter(b"MT-PRIORITY", b"0"),), 4) == [0]
    _clear(spool)
    high = Envelope(b"a@b", (Parameter(b"MT-PRIORITY", b"3"),), (Recipient(b"c@d"),))
    _accept(spool, _batch(b"x\n") + _batch(b"y\n", envelope=high))
    assert [waiting.urgency for waiting in WaitingRoom(spool, "home").scan()] == ["06", "06"]  # they stay together


def test_deliver_by(spool):
    def by(value: bytes) -> bytes:
        return _batch(b"x\n", envelope=Envelope(b"a@b", (Parameter(b"By", value),), (Recipient(b"c@d"),)))

    _accept(spool, by(b"+5;rT") + by(b"-7;N") + _batch(b"y\n"), origin=Origin(queue_id="4A1"))
    _accept(spool, by(b"+5;rT") + by(b"-7;N") + _batch(b"y\n"), origin=Origin(queue_id="4A1"))
    first, second, third = WaitingRoom(spool, "home").scan()
    found = Deadlines(spool, "home")
    assert [found.find(one.id) for one in (first, second, third)] == [Deadline(NOW_MS + 5000, True), None, None]
    with open(first.path, "rb") as file:
        assert b"MAIL FROM:<a@b> By=+5;rT\r\n" in file.read()
    with pytest.raises(MalformedInput):
        _accept(spool, by(b"0;R"))


def test_the_same_queue_id_again(spool):
    origin, second = Origin(queue_id="4A1"), make_id(NOW_MS + 5, b"1" * 10)
    for _ in range(2):
        assert len(_accept(spool, b"x\n", ONE, origin)) == 1
    assert len(_accept(spool, b"x\n", ONE, origin, first=second)) == 1
    assert len(_accept(spool, b"y\n", ONE, origin, first=second)) == 2  # other content
    assert len(_accept(spool, b"x\n", ONE._replace(sender=b"z@b"), origin, first=next_id(second, 1))) == 3
    assert len(_accept(spool, b"x\n", ONE, Origin(queue_id="4A2"), first=next_id(second, 2))) == 4
    assert len(_accept(spool, b"x\n", ONE, Origin(), first=next_id(second, 3))) == 5  # without one nobody can tell


def test_the_same_again_with_less_time_left(spool):
    """Who offers it again counts BY's seconds down."""

    def offer(value: bytes, content: bytes = b"x\n") -> int:
        parameters = (Parameter(b"BY", value), Parameter(b"RET", b"HDRS"))
        text = _batch(content, envelope=Envelope(b"a@b", parameters, (Recipient(b"c@d"),)))
        return len(_accept(spool, text, origin=Origin(queue_id="4A1"), first=next(names)))

    names = (next_id(FIRST, 10 * number) for number in range(10))
    assert [offer(value) for value in (b"100;R", b"095;r", b"+96;R")] == [1, 1, 1]
    assert offer(b"095;N") == 2
    assert offer(b"095;R", b"y\n") == 3
    (waiting, *_) = WaitingRoom(spool, "home").scan()
    WaitingRoom(spool, "home").remove([waiting.path])
    assert offer(b"101;R") == 3  # a leftover of the first one's name, or what takes the place of one taken back


def test_beside_the_text(spool):
    origin = Origin(beside=from_options(b"HDRS", b"id one", b"SUCCESS", b""))
    (mail,) = _accept(spool, b"x\n", ONE, origin)
    assert mail.envelope == Envelope(
        b"a@b",
        (Parameter(b"RET", b"HDRS"), Parameter(b"ENVID", b"id+20one")),
        (Recipient(b"c@d", (Parameter(b"NOTIFY", b"NEVER"),)),),
    )


def test_room(spool):
    with pytest.raises(SpoolError, match="less than the reserve"):
        _accept(spool, b"x\n", ONE, reserve_octets=1 << 62)
    real = os.statvfs(spool.root)
    full, left = [False], [10]

    def statvfs(path):
        return os.statvfs_result((*real[:4], 0, *real[5:])) if full[0] else real

    def read(limit):  # the disk fills up while the message comes in
        left[0] -= 1
        full[0] = left[0] < 3
        return b"x" * 60_000 if left[0] > 0 else b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", statvfs)
        with pytest.raises(SpoolError, match="less than the reserve"):
            _accept(spool, read, ONE, reserve_octets=1)
    assert read_waiting(spool) == []


@pytest.mark.parametrize(("free", "is_taken"), [(9_602, True), (9_601, False)])
def test_room_for_the_copy_below_the_envelope(spool, free, is_taken, monkeypatch):
    """The content is in memory, or on the disk once already, when its length is known."""
    monkeypatch.setattr("batchmail.store.room.free_octets", lambda _: free)
    with nullcontext() if is_taken else pytest.raises(SpoolError, match="less than the reserve"):
        _accept(spool, b"x" * 9_000 + b"\n", ONE, reserve_octets=600)
    assert len(read_waiting(spool)) == is_taken
    assert drafts(spool) == []


@pytest.mark.parametrize("length", [4071, 4080])
def test_what_a_door_adds_to_the_longest_line_can_be_read_again(spool, length):
    """Also where the line is longer than a door takes by then."""
    mail = b"MAIL FROM:<" + b"a" * (length - 14) + b"@b>"
    text = mail + b"\nRCPT TO:<c@d>\nDATA\nSubject: x\n\n\xc3\xbc\n.\n"
    (accepted,) = _accept(spool, text, origin=UNKNOWN._replace(beside=from_options(b"HDRS", b"e" * 100, b"", b"")))
    assert format_mail(accepted.envelope.sender, accepted.envelope.parameters).startswith(mail + b" ")
    assert {p.name for p in accepted.envelope.parameters} == {b"RET", b"ENVID", b"BODY"}


def _random_envelope(rng):
    def some(*choices):
        return tuple(Parameter(keyword, rng.choice(values)) for keyword, values in choices if rng.random() < 0.5)

    sender = rng.choice([b"", b"a@b.example", b'"a b> c"@d.example', b"x!y!z", b"-f@x.example", b"a+b=c@d.example"])
    mail = some(
        (b"RET", [b"FULL", b"hdrs"]),
        (b"ENVID", [b"a+2Bb", b"+3D+3D", b"x" * 100]),
        (b"BODY", [b"8BITMIME", b"7bit"]),
        (b"SMTPUTF8", [None]),
        (b"SIZE", [b"0", b"12345"]),
        (b"AUTH", [b"<>", b"a+40b"]),
    )
    recipients = tuple(
        Recipient(
            b"u%d@far.example" % n,
            some(
                (b"NOTIFY", [b"NEVER", b"SUCCESS", b"success,Failure,DELAY"]),
                (b"ORCPT", [b"rfc822;a+2Bb@c.example", b"x-y;z", b"utf-8;\xc3\xb8@x", b"rfc822;<a>"]),
            ),
        )
        for n in range(rng.choice([1, 1, 2, 100]))
    )
    return Envelope(sender, mail, recipients)


@pytest.mark.parametrize("seed", range(20))
def test_envelopes_are_kept_as_they_are(spool, seed):
    rng = random.Random(seed)
    envelopes = [_random_envelope(rng) for _ in range(20)]
    found = _accept(spool, b"".join(_batch(b"x\n", rng.choice([CRLF]), envelope) for envelope in envelopes))
    assert [mail.envelope for mail in found] == envelopes


def test_collected_messages(spool, corpus):
    """Every message through all forms: below the envelope it comes out as it went in, but for CRLF line ends."""
    paths = [f"{folder}/{name}" for folder, _, names in os.walk(corpus) for name in names if name.endswith(".eml")]
    assert len(paths) > 1000
    refused = 0
    for path in paths:
        with open(path, "rb") as file:
            raw = file.read()
        if b"\0" in raw:
            with pytest.raises(BadContent):
                _accept(spool, raw, ONE)
            refused += 1
            continue
        for eol in (LF, CRLF):
            ended = raw if not raw or raw.endswith(eol) else raw + eol
            top = b"From z@y  Fri Nov 20 23:42:41 2026" + eol
            rmail = Message(None, (b"c@d",), from_lines=True)
            forms = [
                (_batch(raw, eol), None, ended),
                (raw, ONE, raw),
                (top + stuff(raw, eol), ONE._replace(dot_stuffed=True, from_line=True), ended),
            ]
            if not raw.startswith((b"From ", b">From ")):  # there rmail's convention has two readings
                forms.append((top + raw, rmail, raw))
            for source, message, content in forms:
                _clear(spool)
                (mail,) = _accept(spool, source, message)
                assert mail.content == as_crlf(content), path
    assert refused < 50
