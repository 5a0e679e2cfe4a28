"""Ends of data that are none (SMTP smuggling), and sizes of BDAT that are not true: text or an error, never commands.

The sequences are those by which one mail server was made to see the end of a message where another saw text; here they
are cut and sent in every way.
"""

import pytest

from batchmail.store.setup import set_up
from batchmail.store.spool import Door
from batchmail.store.waiting import WaitingRoom, read_entry
from tests.flow.test_door import Visit
from tests.spools import as_crlf, read_text

BARE = (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r.\r", b"\r\n.\r", b"\r\n\r.\r\n", b"\n.\r", b"\r.\n")
BLANK = (b"\r\n. \r\n", b"\r\n.\t\r\n", b"\r\n..\r\n", b"\r\n.x\r\n")
NUL = (b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\0\n")
SMUGGLED = b"MAIL FROM:<eve@a.example>\r\nRCPT TO:<eve@home.example>\r\nDATA\r\nSubject: two\r\n\r\nsmuggled\r\n"
BEFORE = b"MAIL FROM:<ann@a.example>\r\nRCPT TO:<bob@home.example>\r\nDATA\r\n"


def visit(path: object, rule: str) -> Visit:
    made = Visit(path, peers=["home"])
    set_up(str(path), [(Door("home", "mx.example", 1 << 20, 0, rule), ["home.example"])])
    made.again()
    made.say(b"EHLO me\r\n")
    return made


def stream(sequence: bytes) -> tuple[bytes, bytes]:
    """A message with such a sequence and commands behind it, as it crosses the wire; and what it says."""
    content = b"Subject: one\r\n\r\ntext" + sequence + SMUGGLED
    said = content.replace(b"\r\n.", b"\r\n")
    return BEFORE + content + b".\r\n", said


@pytest.mark.parametrize("sequence", BARE + BLANK, ids=repr)
def test_normalized_it_is_text(tmp_path: object, sequence: bytes) -> None:
    door = visit(tmp_path, "normalize")
    sent, said = stream(sequence)
    door.say(sent + b"QUIT\r\n")
    assert [reply[:3] for reply in door.commit()] == [b"250", b"221"]
    (waiting,) = WaitingRoom(door.spool, "home").scan()
    text = b"".join(read_entry(waiting)[1]())
    assert text.count(b"\r\n.\r\n") == 1 and text.endswith(b"\r\n.\r\n")
    assert text.count(b"\r") == text.count(b"\n") == text.count(b"\r\n")
    envelope, content = read_text(text)
    assert (envelope.sender, content) == (b"ann@a.example", as_crlf(said))


@pytest.mark.parametrize("sequence", BARE, ids=repr)
def test_refused_it_is_an_error_and_the_session_goes_on(tmp_path: object, sequence: bytes) -> None:
    door = visit(tmp_path, "refuse")
    replies = door.say(stream(sequence)[0] + b"NOOP\r\n")
    assert [reply[:9] for reply in replies[-2:]] == [b"554 5.6.0", b"250 2.0.0"]
    assert not door.units and not list(WaitingRoom(door.spool, "home").scan())


@pytest.mark.parametrize("sequence", NUL, ids=repr)
@pytest.mark.parametrize("rule", ["normalize", "refuse"])
def test_nul_is_an_error(tmp_path: object, rule: str, sequence: bytes) -> None:
    door = visit(tmp_path, rule)
    replies = door.say(stream(sequence)[0] + b"NOOP\r\n")
    assert [reply[:9] for reply in replies[-2:]] == [b"554 5.6.0", b"250 2.0.0"]
    assert not door.units


@pytest.mark.parametrize("sequence", BARE + BLANK, ids=repr)
def test_cut_anywhere_it_is_the_same(tmp_path: object, sequence: bytes) -> None:
    """In two pieces, cut at each octet, and octet by octet."""
    door = visit(tmp_path, "normalize")
    sent, said = stream(sequence)
    sizes = set()
    for cut in range(len(sent) + 1):
        pieces = [sent[:cut], sent[cut:]] if cut else [sent[n : n + 1] for n in range(len(sent))]
        for piece in filter(None, pieces):
            assert not door.units
            door.say(piece)
        ((put,),) = door.units
        sizes.add(put.draft.size_octets)
        assert put.name.endswith(".bsmtp")
        assert door.commit(OSError(5, "not now"))[0].startswith(b"451 4.3.0")
    assert len(sizes) == 1, said


CHUNKED = BEFORE.removesuffix(b"DATA\r\n")


def test_a_chunk_that_says_more_than_comes_is_no_message(tmp_path: object) -> None:
    door = visit(tmp_path, "normalize")
    sent = CHUNKED + b"BDAT 4000 LAST\r\nSubject: one\r\n\r\n.\r\n" + SMUGGLED + b".\r\nQUIT\r\n"
    assert len(door.say(sent)) == 2  # those of MAIL and RCPT: the rest is content, of which more is to come
    door.session.receive(b"")
    assert not door.units and not list(WaitingRoom(door.spool, "home").scan())


def test_what_follows_a_chunk_that_says_less_is_no_second_message(tmp_path: object) -> None:
    """Its octets are commands, as the client said; what is no command is refused, and nothing of it is kept."""
    door = visit(tmp_path, "normalize")
    door.say(CHUNKED + b"BDAT 3 LAST\r\nabcdef\r\nmore of it\r\nDATA\r\n.\r\n")
    replies = door.commit()
    assert [reply[:3] for reply in replies] == [b"250", b"500", b"500", b"503", b"500"]
    (waiting,) = WaitingRoom(door.spool, "home").scan()
    assert read_text(b"".join(read_entry(waiting)[1]()))[1] == b"abc\r\n"


@pytest.mark.parametrize("octets", [1 << 40, 10**20 - 1])
def test_a_chunk_without_end_is_thrown_away_as_it_comes(tmp_path: object, octets: int) -> None:
    door = visit(tmp_path, "normalize")
    door.say(CHUNKED + b"BDAT %d LAST\r\n" % octets)
    for _ in range(200):
        assert door.say(b"x" * 65_000) == []
    assert door.session.wants_input and not door.units
