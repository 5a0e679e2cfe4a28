"""HELLO: what is written is read; what lies is refused, and only ever with PeerError."""

import contextlib
import json
from random import Random
from typing import Any

import pytest

from batchmail.core.errors import PeerError
from batchmail.core.numbered import BATCH, REPORT, Number
from batchmail.proto import hello
from batchmail.proto.hello import Have, Hello, Limits, PartialFile
from tests.lies import lies

STREAM, OTHER = "0123456789ABCDEF", "FEDCBA9876543210"
DIGEST = "0123456789abcdef" * 4
HELLO = Hello(
    "mx.example",
    (1, 7),
    1795222800000,
    "ab" * 16,
    Limits(1 << 30, 1 << 29, 0),
    (Have(STREAM, 4, DIGEST, ((6, 6), (8, 2**53 - 1))), Have(OTHER, 0, "", ())),
    (
        PartialFile(Number(STREAM, 5, BATCH), DIGEST, "zst", 1000, DIGEST),
        PartialFile(Number(OTHER, 1, REPORT), DIGEST, "zst", 0, DIGEST),
    ),
    ("withdraw", "x"),
)


def test_what_is_written_is_read() -> None:
    assert hello.read(hello.write(HELLO)) == HELLO


def test_what_it_has() -> None:
    have = HELLO.of_stream(STREAM)
    assert [n for n in range(1, 10) if have.holds(n)] == [1, 2, 3, 4, 6, 8, 9]
    assert (have.last, HELLO.of_stream(OTHER).last) == (2**53 - 1, 0)
    assert HELLO.of_stream("A" * 16) == Have("A" * 16, 0, "", ())


def test_the_largest_that_is_written_fits_a_frame_and_is_read() -> None:
    ranges = tuple((10_000_000 + 2 * n, 10_000_000 + 2 * n) for n in range(1000))
    partial = tuple(
        PartialFile(Number(STREAM, 10_000_000 + n, BATCH), DIGEST, "zst", 1 << 30, DIGEST) for n in range(99)
    )
    payload = hello.write(
        HELLO._replace(have=(Have(STREAM, 9_000_000, DIGEST, ranges),) * 2, partial=partial, offers=("X" * 32,) * 99)
    )
    assert len(payload) < 65_500
    assert len(hello.read(payload).partial) == hello.MAX_PARTIALS


LIES: list[tuple[tuple[str | int, ...], list[Any]]] = [
    (("site",), lies("", "a/b", "..", "mx.example\n")),
    (("versions",), [None, 1, {}, [], [3], ["1"], [True], [1] * 101]),
    (("clock",), lies()),
    (("memory",), lies("x" * 65)),
    (("limits",), [None, 1, [], "x", {}]),
    (("limits", "file"), lies()),
    (("limits", "transaction"), lies()),
    (("limits", "room"), lies()),
    (("have",), [None, 1, {}, [1], [{}] * 11]),
    (("have", 0, "stream"), lies("../x", STREAM + "\n")),
    (("have", 0, "up_to"), lies()),
    (("have", 0, "identity"), lies("", DIGEST.upper())),
    (("have", 0, "beyond"), [None, 1, {}, [1], [2, 1], [1, "2"], [True, 2], [1, None], [[1], [2]], [1] * 2002]),
    (("partial",), [None, 1, {}, [1], [{}] * 65]),
    (("partial", 0, "file"), lies("", "../x", f"{STREAM}.1", f"{STREAM}.0.batch", f"{STREAM}.1.batch/..")),
    (("partial", 0, "identity"), lies("")),
    (("partial", 0, "encoding"), lies("x" * 21)),
    (("partial", 0, "octets"), lies()),
    (("partial", 0, "digest"), lies("")),
]


@pytest.mark.parametrize(("path", "lie"), [(path, lie) for path, values in LIES for lie in values], ids=repr)
def test_a_hello_that_lies(path: tuple[str | int, ...], lie: Any) -> None:
    value = json.loads(hello.write(HELLO))
    place = value
    for key in path[:-1]:
        place = place[key]
    if lie is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = lie
    with pytest.raises(PeerError):
        hello.read(json.dumps(value).encode())


def test_no_version_in_common_says_what_to_do() -> None:
    with pytest.raises(PeerError, match=r"mx\.example speaks versions \(3, 4\).*install a newer"):
        hello.read(hello.write(HELLO._replace(versions=(3, 4))))


def test_unknown_keys_are_passed_over() -> None:
    value = json.loads(hello.write(HELLO)) | {"later": [1, {"x": 2}]}
    assert hello.read(json.dumps(value).encode()) == HELLO


@pytest.mark.parametrize("seed", range(20))
def test_nothing_but_peer_errors_escapes(seed: int) -> None:
    random = Random(seed)
    for _ in range(100):
        payload = bytearray(hello.write(HELLO))
        for _ in range(random.randint(1, 4)):
            payload[random.randrange(len(payload))] = random.choice(b'{}[]",:\\u0d8+-.e019aZ\xff\0 ')
        with contextlib.suppress(PeerError):
            hello.read(bytes(payload))


def test_what_the_target_offers() -> None:
    """Optional: who has heard nothing of its target says nothing, and an older site never does."""
    full = HELLO._replace(offers=("8BITMIME", "SMTPUTF8"))
    assert hello.read(hello.write(full)) == full
    assert b"offers" not in hello.write(HELLO)
    assert hello.read(hello.write(full).replace(b'"SMTPUTF8"', b"7")).offers == ("8BITMIME",)
    many = tuple(f"X-{n:05}" for n in range(1000))
    assert hello.read(hello.write(HELLO._replace(offers=("A" * 99, *many)))).offers == many[: hello.MAX_OFFERS]


def test_which_list_of_recipients_is_in_force() -> None:
    """Optional too."""
    full = HELLO._replace(recipients="0123456789abcdef")
    assert hello.read(hello.write(full)) == full
    assert b"recipients" not in hello.write(HELLO)
    lies_of_it: list[Any] = [None, 1, [], {}, "x", "0" * 15, "0" * 64, "0123456789ABCDEF", "../../../../etc/"]
    for lie in lies_of_it:
        with pytest.raises(PeerError):
            hello.read(json.dumps(json.loads(hello.write(HELLO)) | {"recipients": lie}).encode())
