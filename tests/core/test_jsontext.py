"""JSON of peers: bounded, strict, and nothing but PeerError."""

import contextlib
import json
from random import Random

import pytest

from batchmail.core import jsontext
from batchmail.core.errors import PeerError
from batchmail.core.jsontext import INT_MAX

GOOD = [{}, {"a": 0}, {"a": INT_MAX}, {"a": {"b": [[1]]}}, {"": ""}, {"a": None, "b": True, "c": "x"}]
REFUSED = [
    b"",
    b"\n",
    b"[]",
    b"1",
    b'"x"',
    b"null",
    b'{"a":1,"a":1}',
    b'{"a":{"b":1,"b":2}}',
    b'{"a":1.0}',
    b'{"a":1e2}',
    b'{"a":-1}',
    b'{"a":9007199254740992}',
    b'{"a":' + b"9" * 5000 + b"}",
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":-Infinity}',
    b'{"a":[[[[1]]]]}',
    b'{"a":{"a":{"a":{"a":{}}}}}',
    b'{"a":"\xc3\xa4"}',
    b'{"a":"\xff"}',
    b'{"a":1}{"a":1}',
    b'{"a":1} x',
    b'{"a":"x',
    b"{'a':1}",
    b"[" * 30000 + b"]" * 30000,
    b'{"a":' * 10000 + b"1" + b"}" * 10000,
    b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"a":' + b"[" * 480 + b"]" * 480 + b"}",
    b'{"a":"' + b"x" * 65536 + b'"}',
]


@pytest.mark.parametrize("value", GOOD)
def test_what_is_written_is_read(value: dict[str, object]) -> None:
    line = jsontext.write(value)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert jsontext.read(line, "x").value == value


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: repr(line[:24]))
def test_refused(line: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        jsontext.read(line, "the file")
    assert str(caught.value).startswith("the file: ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("length", [7, 8])
def test_the_bound_of_a_line(length: int) -> None:
    line = b'{"a":1}' + b" " * (length - 7)
    if length <= 7:
        jsontext.read(line, "x", 7)
    else:
        with pytest.raises(PeerError):
            jsontext.read(line, "x", 7)


@pytest.mark.parametrize("octets", [b"", b"a b", b"\xff\0\r\n", b"+=", bytes(range(256))[:255]])
def test_octets_travel_as_xtext(octets: bytes) -> None:
    line = jsontext.write({"a": jsontext.octets(octets)})
    assert line.isascii()
    assert jsontext.read(line, "x").octets("a") == octets


BAD_FIELDS = [
    ("integer", True),
    ("integer", "1"),
    ("integer", None),
    ("integer", 11),
    ("text", 1),
    ("text", None),
    ("text", "x" * 11),
    ("text", "a\nb"),
    ("text", "\x7f"),
    ("text", "\u00e4"),
    ("text", "\ud800"),
    ("text", "\u2028"),
    ("octets", 1),
    ("octets", "a b"),
    ("octets", "+"),
    ("octets", "+0"),
    ("octets", "+aa"),
    ("octets", "a=b"),
    ("octets", "\ud800"),
    ("octets", "x" * 11),
    ("digest", "0" * 63),
    ("digest", "A" * 64),
    ("digest", "0" * 63 + "\n"),
    ("digest", 0),
    ("items", {}),
    ("items", "x"),
    ("items", [1] * 11),
    ("object", []),
    ("objects", [1]),
    ("objects", {}),
    ("objects", [{}] * 11),
]


@pytest.mark.parametrize(("form", "value"), BAD_FIELDS)
def test_a_field_that_is_not_what_it_should_be(form: str, value: object) -> None:
    fields = jsontext.read(json.dumps({"k": value}).encode(), "where")
    bound = {"integer": (0, 10), "text": (10,), "octets": (10,), "items": (10,), "objects": (10,)}.get(form, ())
    with pytest.raises(PeerError, match="where: 'k'"):
        getattr(fields, form)("k", *bound)


@pytest.mark.parametrize("form", ["integer", "text", "octets", "digest"])
def test_a_field_that_is_missing(form: str) -> None:
    with pytest.raises(PeerError):
        getattr(jsontext.read(b"{}", "where"), form)("k")


def test_defaults_and_absent_lists() -> None:
    fields = jsontext.read(b"{}", "x")
    assert (fields.integer("k", default=3), fields.text("k", default="x"), fields.octets("k", default=b"y")) == (
        3,
        "x",
        b"y",
    )
    assert (fields.items("k", 1), fields.objects("k", 1), fields.object("k").value, fields.has("k")) == (
        [],
        [],
        {},
        False,
    )


@pytest.mark.parametrize("seed", range(20))
def test_nothing_but_peer_errors_escapes(seed: int) -> None:
    random = Random(seed)
    line = bytearray(b'{"a":[1,{"b":"+FF"}],"c":9007199254740991,"d":"\\ud800","e":null}')
    for _ in range(200):
        for _ in range(random.randint(1, 4)):
            line[random.randrange(len(line))] = random.choice(b'{}[]",:\\u0d8+-.eE019Na\xff\0 ')
        try:
            fields = jsontext.read(bytes(line), "x")
        except PeerError:
            continue
        for form in ("integer", "text", "octets", "digest", "object"):
            for key in fields.value:
                with contextlib.suppress(PeerError):
                    getattr(fields, form)(key)
