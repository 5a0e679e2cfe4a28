"""The letter that tells the postmaster of notices that nobody takes: bounded, and from the null sender."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from batchmail.core import dsn
from batchmail.core.envelope import Envelope, Parameter, Recipient

MAX_LINES = 200


class Undelivered(NamedTuple):
    """A notice that was refused, that nobody took until its time was over, or that failed on its way through here."""

    notice: str
    transaction: str
    time_ms: int  # when it was written
    text: bytes  # to whom, and what was said


def compose(
    rows: Sequence[Undelivered], *, me: str, peer: str, postmaster: str, message_id: str, now_ms: int
) -> tuple[Envelope, Iterator[bytes]]:
    """Envelope and content, CRLF lines; `rows` beyond what is shown are counted."""
    notify_never = (Parameter(b"NOTIFY", b"NEVER"),)
    envelope = Envelope(b"", (), (Recipient(postmaster.encode(), notify_never),))
    return envelope, (f"{line}\r\n".encode("ascii") for line in _lines(rows, me, peer, postmaster, message_id, now_ms))


def _lines(
    rows: Sequence[Undelivered], me: str, peer: str, postmaster: str, message_id: str, now_ms: int
) -> Iterator[str]:
    count = f"{len(rows)} notice{'' if len(rows) == 1 else 's'}"
    yield from (
        f"From: Mail Delivery System <postmaster@{me}>",
        f"To: {dsn.plain(postmaster.encode(), utf8=False)}",
        f"Date: {dsn.date(now_ms)}",
        f"Message-ID: {message_id}",
        f"Subject: {count} about mail for {peer} could not be delivered",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        f"This is batchmail at {me}. Senders were to be told what became of their mail",
        f"for {peer}, and these notices were refused, or nobody took them in time, or",
        "the message was lost here with its sender's name; or what could not be delivered",
        "there was a notice itself (from <>). Nothing more is tried.",
        "batchmail show ID tells what is known of each.",
        "",
    )
    for row in rows[:MAX_LINES]:
        yield f"{row.transaction}, notice {row.notice} of {dsn.date(row.time_ms)}"
        said = row.text.replace(b"\n", b" / ")
        yield f"    {dsn.plain(said, utf8=False)}"
    if len(rows) > MAX_LINES:
        yield f"and {len(rows) - MAX_LINES} more; the mail log has them all."
