"""Failures that no sender can be told of: they are lines in the postmaster's summary, so that a person is.

Mail from the null sender is one kind: notices, about which there is no notice
(RFC 3461 §5.2, RFC 5321 §6.1).  The other are transactions whose text is gone,
lost with a damaged batch in the outbox although the far side had it: nobody
knows the sender, nor what was to be told.  Of those what went well is settled
all the same, and either way the report is of no further use.
"""

from collections.abc import Iterable

from batchmail.core import dsn
from batchmail.core.envelope import Envelope
from batchmail.core.numbered import Number
from batchmail.core.outcome import FAILED, Outcome
from batchmail.core.report import Reported
from batchmail.flow.context import Context
from batchmail.store.owed import Untold
from batchmail.wire import maillog


def lost(context: Context, batch: Number, rows: list[Reported]) -> list[Untold]:
    """What the postmaster is to be told of transactions without their text; the rows are settled with it."""
    found = []
    for row in rows:
        outcome = row.outcome
        text = f"recipient {outcome.recipient + 1} {outcome.action}"
        if outcome.action == FAILED:
            text += f" {_reason(outcome)}; {batch.file_name} has lost the message and its sender's name"
            found.append(Untold(context.new_id(), row.id, text.encode()))
        maillog.untold(row.id, context.peer.name, outcome.action, text)
    return found


def from_nobody(context: Context, identifier: str, envelope: Envelope, outcomes: Iterable[Outcome]) -> list[Untold]:
    """What the postmaster is to be told of a transaction whose sender is the null one."""
    if envelope.sender:
        return []
    return [
        Untold(context.new_id(), identifier, f"from <> to <{_address(envelope, one)}>: {_reason(one)}".encode())
        for one in outcomes
        if one.action == FAILED
    ]


def _address(envelope: Envelope, outcome: Outcome) -> str:
    return dsn.address(envelope.recipients[outcome.recipient].address, utf8=False)


def _reason(outcome: Outcome) -> str:
    mta = f" by {dsn.host(outcome.mta)}" if outcome.mta else ""
    return f"{dsn.status(outcome)}{mta}: {' / '.join(dsn.reply_lines(outcome, utf8=False))}"
