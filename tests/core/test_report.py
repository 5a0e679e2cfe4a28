"""Reports and voids: what is written is read, what lies is refused."""

import contextlib
import json
from random import Random
from typing import Any

import pytest

from batchmail.core import report
from batchmail.core.errors import PeerError
from batchmail.core.numbered import REPORT, VOID, Number, parse
from batchmail.core.outcome import ACTIONS, Outcome
from batchmail.core.report import Reported
from batchmail.core.request import read_answers, read_requests
from tests.lies import lies

STREAM = "0123456789ABCDEF"
ID = "01KAHQ8M5P0123456789ABCDEF"
NUMBER = Number(STREAM, 3, REPORT)
OUTCOME = Outcome(0, "failed", 550, "5.1.1", b"no such user\nsorry \xff+=", b"mta.example", 1795222800000)
ROWS = [
    Reported(ID, OUTCOME, False),
    Reported(ID, OUTCOME._replace(recipient=9999, code=0, text=b"", mta=b""), True),
    *(Reported(ID, OUTCOME._replace(recipient=n + 1, action=action), False) for n, action in enumerate(ACTIONS)),
]


def written(number: Number = NUMBER, rows: Any = ROWS) -> list[bytes]:
    return list(report.write(number, "home.example", 1795222800000, rows))


def changed(line: bytes, **fields: Any) -> bytes:
    value = json.loads(line) | fields
    return json.dumps({k: v for k, v in value.items() if v is not ...}).encode()


def test_a_report_is_read_as_it_was_written() -> None:
    assert report.read_report(NUMBER, written()) == ROWS


def test_a_void() -> None:
    void = Number(STREAM, 5, VOID)
    report.read_void(void, written(void, []))
    with pytest.raises(PeerError, match="a void holds nothing"):
        report.read_void(void, written(void, ROWS))


def test_what_a_server_says_at_length_does_not_make_a_report_that_nobody_reads() -> None:
    rows = [Reported(ID, OUTCOME._replace(text=b"\xff" * 9000, mta=b"m" * 300), False)]
    (row,) = report.read_report(NUMBER, written(rows=rows))
    assert (row.outcome.text, row.outcome.mta) == (b"\xff" * 8192, b"m" * 255)


HEAD_LIES: dict[str, list[Any]] = {
    "batchmail": lies(0, 2),
    "kind": lies("batch", "void", ""),
    "stream": lies("0123456789ABCDEG", "../x"),
    "seq": lies(0, 2, 4),
}
ROW_LIES: dict[str, list[Any]] = {
    "id": lies("", ID.lower(), ID + "0"),
    "n": lies(10_000),
    "action": lies("", "Failed", "bounced"),
    "code": lies(1000, "550"),
    "status": lies("", "5.1", "5.1.1.1", "5.1.1000", "5.1.x", "a.b.c", "5.1.1 ", "\u0665.1.1", "5..1"),
    "text": lies("a b", "x" * 8193),
    "mta": lies("+", "x" * 256),
    "time": lies("1"),
    "doubt": [2, -1, True, "1", None],
}


@pytest.mark.parametrize(("key", "lie"), [(k, v) for k, vs in HEAD_LIES.items() for v in vs], ids=repr)
def test_a_head_that_lies(key: str, lie: Any) -> None:
    head, *rows = written()
    with pytest.raises(PeerError):
        report.read_report(NUMBER, [changed(head, **{key: lie}), *rows])


@pytest.mark.parametrize(("key", "lie"), [(k, v) for k, vs in ROW_LIES.items() for v in vs], ids=repr)
def test_an_outcome_that_lies(key: str, lie: Any) -> None:
    head, row, *_ = written()
    with pytest.raises(PeerError):
        report.read_report(NUMBER, [head, changed(row, **{key: lie})])


def test_no_more_lines_are_read_than_a_report_may_have() -> None:
    head, row, *_ = written()
    with pytest.raises(PeerError, match="more than"):
        report.read_report(NUMBER, [head, *[row] * (report.MAX_OUTCOMES + 1)])


@pytest.mark.parametrize("lines", [[], [b""], [b"\n"]])
def test_an_empty_file_is_no_report(lines: list[bytes]) -> None:
    with pytest.raises(PeerError):
        report.read_report(NUMBER, lines)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_but_peer_errors_escapes(seed: int) -> None:
    random = Random(seed)
    for _ in range(100):
        rows = [bytearray(row) for row in written()]
        for _ in range(random.randint(1, 4)):
            row = random.choice(rows)
            row[random.randrange(len(row))] = random.choice(b'{}[]",:\\u0d8+-.e019aZ\xff\0 ')
        for read in (report.read_report, read_requests, read_answers, report.read_void):
            with contextlib.suppress(PeerError):
                read(NUMBER, (bytes(row) for row in rows))


@pytest.mark.parametrize("number", [NUMBER, Number(STREAM, 2**53 - 1, VOID)])
def test_a_number_and_its_file_name(number: Number) -> None:
    assert parse(number.file_name) == number


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        f"{STREAM}.0.batch",
        f"{STREAM}.01.batch",
        f"{STREAM}.9007199254740992.batch",
        f"{STREAM}.1.zst",
        f"{STREAM}.1.batch\n",
        f"{STREAM.lower()}.1.batch",
        f"/{STREAM}.1.batch",
        "0123456789ABCDEI.1.batch",
        f"{STREAM}.1.batch.x",
        STREAM + ".\u0661.batch",
    ],
)
def test_a_file_name_that_is_no_number(name: str) -> None:
    assert parse(name) is None
