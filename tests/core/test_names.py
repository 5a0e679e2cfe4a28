"""IDs sort by time, follow each other, and have one form; so have peers, streams and sites."""

import random

import pytest

from batchmail.core import names, xtext


def test_ids():
    rng = random.Random(1)
    made = [names.make_id(now, rng.randbytes(10)) for now in (0, 1, 31, 32, 1795222800000, 1795222800001, 2**47)]
    assert made == sorted(made)
    assert all(map(names.is_id, made))
    assert names.make_id(1795222800000, b"\0" * 10).endswith("0" * 16)


def test_the_next_ids():
    first = names.make_id(7, b"\xff" * 10)
    following = [names.next_id(first, step) for step in range(100)]
    assert following[0] == first
    assert following == sorted(set(following))
    assert all(map(names.is_id, following))
    assert names.next_id("0" * 26, 33) == "0" * 24 + "11"


@pytest.mark.parametrize(
    "bad", ["", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "U", "0" * 25 + "l", "0" * 26 + "\n", "../" + "0" * 23]
)
def test_not_an_id(bad):
    assert not names.is_id(bad)


def test_peers_streams_sites():
    assert all(map(names.is_peer, ["home", "a", "mx.example.net", "a_b-c", "0"]))
    assert not any(map(names.is_peer, ["", ".", "..", "-a", "Home", "a/b", "a\n", "a" * 101, "a b", "é"]))
    assert names.is_stream(names.make_stream(b"\x12" * 10))
    assert not any(map(names.is_stream, ["", "0" * 15, "0" * 17, "0" * 15 + "\n"]))
    assert all(map(names.is_site, ["mx", "mx.example.net", "MX-1.example"]))
    assert not any(map(names.is_site, ["", "-mx", "mx-", "a..b", "a b", "a\n", "a." * 128 + "a"]))


@pytest.mark.parametrize("seed", range(10))
def test_xtext(seed):
    octets = random.Random(seed).randbytes(300)
    text = xtext.encode(octets)
    assert xtext.decode(text) == octets
    assert not set(text) - set(range(33, 127)) - set(b"=")


@pytest.mark.parametrize("bad", [b"a b", b"a=b", b"+", b"+2", b"+2b", b"+zz", b"\xff", b"a\n"])
def test_not_xtext(bad):
    with pytest.raises(ValueError, match="not xtext"):
        xtext.decode(bad)
