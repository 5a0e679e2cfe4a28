"""Requests and answers: what is written is read, what lies is refused; a payload has to fit into a line."""

import json
from typing import Any

import pytest

from batchmail.core import report, request
from batchmail.core.errors import PeerError
from batchmail.core.numbered import ANSWER, REQUEST, Number
from batchmail.core.request import Answer, Request
from tests.lies import lies

ID = "01KAHQ8M5P0123456789ABCDEF"
ASKED = Number("0123456789ABCDEF", 4, REQUEST)
TOLD = Number("0123456789ABCDEF", 5, ANSWER)
REQUESTS = [Request(request.WITHDRAW, ID, {"tx": ID}), Request("x", ID, {}), Request("y", ID, {"a": [{"b": 1}]})]
ANSWERS = [Answer(ID, request.DONE), Answer(ID, request.LATE, "too late", {"tx": ID, "n": [1, 2]})]


def written(number: Number, rows: Any) -> list[bytes]:
    return list(report.write(number, "home.example", 1795222800000, rows))


def test_what_is_written_is_read() -> None:
    assert request.read_requests(ASKED, written(ASKED, REQUESTS)) == REQUESTS
    assert request.read_answers(TOLD, written(TOLD, ANSWERS)) == ANSWERS


def test_a_text_for_people_is_cut_to_what_is_read() -> None:
    (answer,) = request.read_answers(TOLD, written(TOLD, [Answer(ID, request.DONE, "x" * 5000)]))
    assert len(answer.text) == 1000


def changed(fields: dict[str, Any], key: str, value: Any) -> bytes:
    return json.dumps({k: v for k, v in (fields | {key: value}).items() if v is not ...}).encode()


LIES: dict[str, list[Any]] = {
    "do": lies("x" * 21),
    "id": lies("", ID[:25], ID.lower(), "../" + ID),
    "with": [None, 1, [], "x", {"a": {"b": {"c": [1]}}}, {"a": 1.5}],
    "verdict": lies("x" * 21),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in LIES.items() for value in values])
def test_lies_are_refused(key: str, value: Any) -> None:
    refused = 0
    for number, rows, read in ((ASKED, REQUESTS, request.read_requests), (TOLD, ANSWERS, request.read_answers)):
        head, line = written(number, rows)[:2]
        fields = json.loads(line)
        if key in fields or key == "with":
            refused += 1
            with pytest.raises(PeerError):
                read(number, [head, changed(fields, key, value)])
    assert refused


def test_a_payload_has_to_fit() -> None:
    assert request.unpack(request.pack({"a": "x" * 59_000})) == {"a": "x" * 59_000}
    with pytest.raises(ValueError, match="at most"):
        request.pack({"a": "x" * 60_000})
    head, line = written(ASKED, REQUESTS)[:2]
    fields = json.loads(line) | {"with": {"a": "x" * 60_000}}
    with pytest.raises(PeerError, match="at most"):
        request.read_requests(ASKED, [head, json.dumps(fields).encode()])
