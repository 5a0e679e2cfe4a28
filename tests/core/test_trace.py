"""The Received: line, loops, and when to try again."""

from random import Random

import pytest

from batchmail.core import trace
from batchmail.core.envelope import Client
from batchmail.core.schedule import next_attempt_ms
from batchmail.core.settings import matches

ID = "01KAHQ8M5P0123456789ABCDEF"
NOW_MS = 1795222800000


def test_the_line() -> None:
    assert trace.received("mx.example", "home.example", ID, Client(), NOW_MS) == (
        b"Received: from mx.example\r\n by home.example (batchmail) id 01KAHQ8M5P0123456789ABCDEF;\r\n"
        b" Sat, 21 Nov 2026 01:00:00 +0000\r\n"
    )


@pytest.mark.parametrize("seed", range(10))
def test_nothing_a_peer_says_of_the_client_makes_a_line_of_its_own(seed: int) -> None:
    random = Random(seed)
    client = Client(*(random.randbytes(random.randint(1, 255)) + b"\r\nX: y)(\\" for _ in range(4)))
    line = trace.received("mx.example", "home.example", ID, client, NOW_MS)
    assert line.count(b"\r\n") == line.count(b"\n") == line.count(b"\r") == 3
    assert line.isascii()
    assert line.count(b"(") == line.count(b")") == 2
    assert all(len(row) < 998 for row in line.split(b"\r\n"))


def header(me: bytes, count: int) -> bytes:
    rows = b"".join(
        b"Received: from a (b [1.2.3.4])\r\n\tby %b (x) id %d;\r\n\tdate\r\n" % (me, n) for n in range(count)
    )
    return b"Subject: by home.example \r\n" + rows + b"X-Received: by home.example (x)\r\n"


@pytest.mark.parametrize(("count", "looping"), [(0, False), (4, False), (5, True), (6, True)])
def test_a_loop_is_our_name_in_five_lines(count: int, looping: bool) -> None:
    assert trace.is_looping(header(b"home.example", count), "home.example") is looping
    assert trace.is_looping(header(b"HOME.example", count), "home.example") is looping


@pytest.mark.parametrize("other", [b"home.example.org", b"my.home.example", b"homeXexample", b"xhome.example"])
def test_another_site_is_no_loop(other: bytes) -> None:
    assert not trace.is_looping(header(other, 9), "home.example")


def test_our_own_line_is_recognised_as_ours() -> None:
    lines = trace.received("mx.example", "home.example", ID, Client(), NOW_MS) * 5
    assert trace.is_looping(lines, "home.example")
    assert not trace.is_looping(lines, "mx.example")


def test_pauses_grow_and_then_stay() -> None:
    pauses = [next_attempt_ms(NOW_MS, n) - NOW_MS for n in range(50)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 60_000
    assert pauses[-1] == pauses[10] == 7_200_000


@pytest.mark.parametrize(
    ("domain", "patterns", "expected"),
    [
        ("a.example", ("a.example",), True),
        ("b.a.example", ("a.example",), False),
        ("b.a.example", (".a.example",), True),
        ("a.example", (".a.example",), False),
        ("xa.example", (".a.example",), False),
        ("anything", ("*",), True),
        ("", ("*",), True),
        ("", ("a.example",), False),
        ("a.example", (), False),
    ],
)
def test_domains(domain: str, patterns: tuple[str, ...], expected: bool) -> None:
    assert matches(domain, patterns) is expected
