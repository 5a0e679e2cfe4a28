"""Numbered files: what a call carries.

Batches, reports, requests, answers and voids share one stream of numbers per
direction, and with it having, custody and resuming.  The identity of a file
is the SHA-256 of its text before compression; it never changes.
"""

import re
from typing import NamedTuple

from batchmail.core.names import SEQ_MAX, is_stream

BATCH, REPORT, REQUEST, ANSWER, VOID = "batch", "report", "request", "answer", "void"
KINDS = (BATCH, REPORT, REQUEST, ANSWER, VOID)

_NAME = re.compile(r"([0-9A-Z]{16})\.([1-9][0-9]{0,15})\.(batch|report|request|answer|void)\Z")


class Number(NamedTuple):
    """Names a file for ever: the origin's stream, its place in it from 1, and its kind."""

    stream: str
    seq: int
    kind: str

    @property
    def file_name(self) -> str:
        return f"{self.stream}.{self.seq}.{self.kind}"


def parse(name: str) -> Number | None:
    """The number that a file name tells, or None."""
    match = _NAME.match(name)
    if not match or not is_stream(match[1]) or int(match[2]) > SEQ_MAX:
        return None
    return Number(match[1], int(match[2]), match[3])
