"""The figures of a call."""

from collections.abc import Callable
from typing import NamedTuple

from batchmail.core.errors import BatchmailError

Replayed = Callable[[int, int], None]  # is told of transactions that were replayed, and octets of them


class Mail(NamedTuple):
    """What the receiver took custody of."""

    batches: int
    transactions: int
    text_octets: int  # before compression


class Totals(NamedTuple):
    """A call's figures so far, for progress and for the line at its end."""

    sent_octets: int
    received_octets: int
    left_octets: int  # of the files that are on their way, in both directions
    files_sent: int
    files_received: int
    seconds: float
    rate: float | None  # octets per second, of what we send
    round_trip_s: float | None
    sent: Mail
    received: Mail


class Result(NamedTuple):
    """How a call ended."""

    totals: Totals
    error: BatchmailError | None
    text: str  # what the other side said at the end, if anything
    note: str = ""  # what it said for people
