"""Replies: whole, octet by octet, with more behind them, and hostile."""

import pytest

from batchmail.core.errors import PeerError
from batchmail.core.reply import MAX_TEXT_OCTETS, Reply, ReplyReader, show

CASES = [
    (b"250 ok\r\n", Reply(250, "2.0.0", False, b"ok")),
    (b"250\r\n", Reply(250, "2.0.0", False, b"")),
    (b"250 \n", Reply(250, "2.0.0", False, b"")),
    (b"550 5.1.1 no such user\r\n", Reply(550, "5.1.1", True, b"no such user")),
    (b"550 5.1.1\r\n", Reply(550, "5.1.1", True, b"")),
    (b"550 5.1.1x\r\n", Reply(550, "5.0.0", False, b"5.1.1x")),
    (b"550 5.1.1000 x\r\n", Reply(550, "5.0.0", False, b"5.1.1000 x")),
    (b"550 4.1.1 odd\r\n", Reply(550, "5.0.0", False, b"4.1.1 odd")),
    (b"451-4.2.0 a\r\n451-4.2.0 b\r\n451 4.2.0 c\r\n", Reply(451, "4.2.0", True, b"a\nb\nc")),
    (b"451-4.2.0 a\r\n451 4.3.0 c\r\n", Reply(451, "4.2.0", True, b"a\n4.3.0 c")),
    (b"250-a\r\n250\r\n", Reply(250, "2.0.0", False, b"a\n")),
    (b"554 a\x00\x1b[31mb\tc\x7f\xe4\r\n", Reply(554, "5.0.0", False, b"a??[31mb?c?\xe4")),
]


@pytest.mark.parametrize(("octets", "reply"), CASES)
def test_whole_octet_by_octet_and_with_more_behind(octets: bytes, reply: Reply) -> None:
    whole = ReplyReader()
    whole.receive(octets)
    assert whole.next_reply() == reply
    assert whole.next_reply() is None
    assert whole.is_empty

    slow = ReplyReader()
    for i in range(len(octets) - 1):
        slow.receive(octets[i : i + 1])
        assert slow.next_reply() is None
        assert not slow.is_empty
    slow.receive(octets[-1:])
    assert slow.next_reply() == reply

    twice = ReplyReader()
    twice.receive(octets + octets + b"2")
    assert [twice.next_reply(), twice.next_reply(), twice.next_reply()] == [reply, reply, None]
    assert not twice.is_empty


@pytest.mark.parametrize(
    "octets",
    [
        b"hello\r\n",
        b"\r\n",
        b"25\r\n",
        b"150 go on\r\n",
        b"650 what\r\n",
        b"2500 x\r\n",
        b"250_x\r\n",
        b"250-a\r\n550 b\r\n",
        b"250-x\r\n" * 513,
        b"250 " + b"x" * 70_000,
        b"250-" + b"x" * 60_000 + b"\r\n250-" + b"x" * 10_000,
    ],
)
def test_what_is_no_reply(octets: bytes) -> None:
    reader = ReplyReader()
    reader.receive(octets)
    with pytest.raises(PeerError) as caught:
        reader.next_reply()
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_long_text_is_kept_in_part() -> None:
    reader = ReplyReader()
    reader.receive(b"".join(b"550-%04d %b\r\n" % (n, b"x" * 95) for n in range(100)) + b"550 end\r\n")
    reply = reader.next_reply()
    assert reply is not None
    assert len(reply.text) <= MAX_TEXT_OCTETS
    assert all(len(line) == 100 for line in reply.lines), "whole lines"
    reader.receive(b"550 " + b"y" * 9000 + b"\r\n")
    assert reader.next_reply() == Reply(550, "5.0.0", False, b"y" * MAX_TEXT_OCTETS)


def test_show_is_one_line() -> None:
    assert show(Reply(550, "5.1.1", True, b"a\nb\xe4")) == "550 5.1.1 a / b\\xe4"
    assert show(Reply(550, "5.0.0", False, b"a")) == "550 a"
