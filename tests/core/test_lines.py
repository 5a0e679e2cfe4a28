"""Line ends and dots: whole, octet by octet, and split in two at each place."""

import random

import pytest

from batchmail.core.lines import CRLF, Normalizer, Stuffer, Unstuffer
from tests.spools import as_crlf, stuff

LF = b"\n"
CONTENTS = [
    b"",
    b"x\n",
    b".\n",
    b"..\n",
    b".x\n.\n\n..y\n",
    b"a.\n",
    b"\n.\n",
    b"\n\n",
    b"x",
    b".",
    b"a\n.b",
    b"\n." * 5,
]


def _pieces(data: bytes):
    yield [data]
    yield [data[n : n + 1] for n in range(len(data))]
    for n in range(1, len(data)):
        yield [data[:n], data[n:]]


@pytest.mark.parametrize("eol", [LF, CRLF], ids=["lf", "crlf"])
@pytest.mark.parametrize("content", CONTENTS)
def test_stuffed_data_comes_back(content, eol):
    content = content.replace(LF, eol)
    text = stuff(content, eol)
    expected = content if not content or content.endswith(eol) else content + eol
    for pieces in _pieces(text):
        unstuffer = Unstuffer(eol)
        out = b""
        for number, piece in enumerate(pieces, 1):
            assert not unstuffer.done
            out += unstuffer.feed(piece)
            assert unstuffer.done == (number == len(pieces))
        assert (out, unstuffer.rest) == (expected, b"")


@pytest.mark.parametrize("content", CONTENTS)
def test_what_follows_the_end_is_left_alone(content):
    for rest in (b"Q", b".\r\n", b"\r\n.\r\n", b"MAIL FROM:<>\r\n"):
        unstuffer = Unstuffer(CRLF)
        unstuffer.feed(stuff(content.replace(LF, CRLF), CRLF) + rest)
        assert unstuffer.done
        assert unstuffer.rest == rest


@pytest.mark.parametrize(
    "odd", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r.\r", b"\r\n.\r", b"\r\n\0.\r\n", b"\r\n. \r\n"]
)
def test_nothing_else_ends_crlf_data(odd):
    for pieces in _pieces(b"a" + odd + b"b\r\n"):
        unstuffer = Unstuffer(CRLF)
        for piece in pieces:
            unstuffer.feed(piece)
        assert not unstuffer.done


@pytest.mark.parametrize("odd", [b"\r\n.\r\n", b"\n.\r\n", b"\r.\r\n", b"\r.\r", b"\n.\r", b"\n. \n"])
def test_nothing_else_ends_lf_data(odd):
    for pieces in _pieces(b"a" + odd + b"b\n"):
        unstuffer = Unstuffer(LF)
        for piece in pieces:
            unstuffer.feed(piece)
        assert not unstuffer.done


def test_data_may_end_without_its_dot():
    for text, content in [(b"", b""), (b"a\n", b"a\n"), (b"a", b"a"), (b"..\n..x", b".\n.x"), (b"a\n\n", b"a\n\n")]:
        unstuffer = Unstuffer(LF)
        assert unstuffer.feed(text) + unstuffer.end() == content
    unstuffer = Unstuffer(CRLF)
    assert unstuffer.feed(b"a\r\nb\r") + unstuffer.end() == b"a\r\nb\r"


@pytest.mark.parametrize("text", [b"a\n.", b"."])
def test_but_not_behind_a_lone_dot(text):
    unstuffer = Unstuffer(LF)
    unstuffer.feed(text)
    with pytest.raises(ValueError, match="dot"):
        unstuffer.end()


@pytest.mark.parametrize("seed", range(30))
def test_normalizer(seed):
    rng = random.Random(seed)
    data = b"".join(rng.choice([b"\r", b"\n", b"\r\n", b"x", b"."]) for _ in range(rng.randrange(25)))
    lone_cr = data.replace(CRLF, b"").count(b"\r")
    lone_lf = data.replace(CRLF, b"").count(b"\n")
    for pieces in _pieces(data):
        normalizer = Normalizer()
        out = b"".join(map(normalizer.feed, pieces)) + normalizer.end()
        assert out == as_crlf(data) or out + CRLF == as_crlf(data)
        assert (normalizer.bare_cr, normalizer.bare_lf) == (lone_cr, lone_lf)


@pytest.mark.parametrize("seed", range(30))
def test_stuffer_and_unstuffer_are_inverse(seed):
    rng = random.Random(seed)
    content = b"".join(rng.choice([b"\r\n", b".", b"x"]) for _ in range(rng.randrange(25)))
    for pieces in _pieces(content):
        stuffer = Stuffer()
        text = b"".join(map(stuffer.feed, pieces)) + stuffer.end()
        assert text == stuff(content, CRLF)
        assert ((CRLF + text).count(b"\r\n.\r\n"), text[-3:]) == (1, b".\r\n")
