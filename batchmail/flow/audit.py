"""Audit: two ledgers compared in a call, by requests of the kind `audit`.

First counts and digests by time, some hours each; where those differ, the
same for shorter times, and at last the IDs: agreement costs a few KiB,
whatever the number of transactions.  What one side may have forgotten is left
out: both remember what arrived within `remember`.

A request is {audit, way, from, prefix}; `way` is the asker's: what it sent, or
received.  The answers stay with the requests, and `result` judges them.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from batchmail.core import jsontext
from batchmail.core.names import is_id, make_id, next_id
from batchmail.core.request import AUDIT, DONE, Answer, Request
from batchmail.flow.context import Context
from batchmail.store import census
from batchmail.store.audit import ID_LENGTH, RECEIVED, SENT, Line, buckets, counts, lines
from batchmail.store.ledger import Ledger
from batchmail.store.requests import Asked, Requests
from batchmail.store.streams import lost_ids
from batchmail.store.waiting import WaitingRoom

_OTHER = {SENT: RECEIVED, RECEIVED: SENT}
_LENGTHS = {0: 5, 5: 7, 7: 9, 9: 11, 11: ID_LENGTH}  # of the IDs' beginnings: 9 hours, 33 s, 33 ms, then all
_MOST_LINES = 600  # of one answer, some 70 octets each
_MOST_BUCKETS = 1000
_MOST_REQUESTS = 60  # of one audit
_LOST = "lost here, as the file of its batch is gone or damaged: batchmail check --files says more"
_LAST = "8"  # above every ID


class Problem(NamedTuple):
    """A transaction that does not balance."""

    id: str
    way: str
    text: str


class Result(NamedTuple):
    """What an audit has found so far."""

    from_ms: int  # what arrived earlier may be forgotten
    told_ms: int  # when the other side's answer came
    here: dict[str, dict[str, int]]  # by way, then by state
    there: dict[str, dict[str, int]]
    problems: list[Problem]
    open: int  # requests without an answer
    refused: str  # why it cannot be
    is_partial: bool  # more differs than was asked for


def ask(context: Context, ledger: Ledger) -> str:
    """Begin an audit; its name.  The next call carries it."""
    name, now_ms = context.new_id(), context.now_ms()
    for step, way in enumerate((SENT, RECEIVED)):
        payload = {"audit": name, "way": way, "from": max(0, now_ms - context.peer.remember_ms), "prefix": ""}
        Requests(ledger).ask(Request(AUDIT, next_id(name, 1 + step), payload), now_ms)
    return name


# -- at the site that is asked --------------------------------------------------------------------------------------


def answer(context: Context, ledger: Ledger, request: Request) -> Answer:
    """What we know of a span of time.  Raises PeerError."""
    fields = jsontext.Fields(request.payload, AUDIT)
    prefix, asked_way = _prefix(fields), fields.text("way", 10)
    side = _OTHER.get(asked_way, RECEIVED)
    from_ms = max(fields.integer("from"), context.now_ms() - context.peer.remember_ms)
    low, high = _span(prefix, from_ms)
    found = list(islice(lines(ledger, side, low, high), _MOST_LINES + 1)) if prefix else []
    payload: dict[str, Any] = {"from": from_ms}
    if prefix and len(found) <= _MOST_LINES:
        payload["lines"] = [line.text for line in found]
    else:
        length = _LENGTHS[len(prefix)]
        payload["buckets"] = [
            f"{name} {number} {digest}"
            for name, number, digest in islice(buckets(ledger, side, low, high, length), _MOST_BUCKETS)
        ]
    if not prefix:
        payload["counts"] = _counts(context, ledger, side, low, high)
    return Answer(request.id, DONE, "", payload)


def _prefix(fields: jsontext.Fields) -> str:
    prefix = fields.text("prefix", ID_LENGTH)
    if len(prefix) not in _LENGTHS or not is_id(prefix + "0" * (ID_LENGTH - len(prefix))):
        fields.digest("prefix")  # which it is not: raises
    return prefix


def _span(prefix: str, from_ms: int) -> tuple[str, str]:
    """The IDs that begin so and are not older."""
    return max(prefix, make_id(from_ms, bytes(10))), f"{prefix}~" if prefix else _LAST


def _counts(context: Context, ledger: Ledger, side: str, low: str, high: str) -> dict[str, int]:
    found = counts(ledger, side, low, high)
    if side == SENT:
        room = WaitingRoom(context.spool, context.peer.name)
        waiting = census.count(context.spool, context.peer.name, context.now_ms() * 1_000_000, None)
        found |= {"waiting": waiting.number, "held": sum(1 for _ in room.scan_held())}
        if lost := [one for one in lost_ids(context.spool, ledger, context.peer.name) if low <= one < high]:
            found |= {"lost": len(lost), "sealed": found["sealed"] - len(lost)}
    return found


# -- at the site that asks ------------------------------------------------------------------------------------------


def follow(context: Context, ledger: Ledger, asked: Request, said: Answer) -> None:
    """An answer has come: where it differs from what we know, ask on.  Repeated after a crash, it asks the same."""
    fields = jsontext.Fields(asked.payload, AUDIT)
    if said.verdict != DONE or "buckets" not in said.payload:
        return
    name, way = fields.text("audit"), fields.text("way")
    from_ms = jsontext.Fields(said.payload, AUDIT).integer("from")
    requests = Requests(ledger)
    known = {one.request.payload["prefix"] + one.request.payload["way"] for one in _of(requests, name)}
    for prefix in _differing(ledger, way, fields.text("prefix"), from_ms, said):
        if prefix + way in known or len(known) >= _MOST_REQUESTS:
            continue
        known.add(prefix + way)
        payload = {"audit": name, "way": way, "from": from_ms, "prefix": prefix}
        requests.ask(Request(AUDIT, context.new_id(), payload), context.now_ms())


def _differing(ledger: Ledger, way: str, prefix: str, from_ms: int, said: Answer) -> list[str]:
    """The beginnings of IDs of which the two sides do not say the same."""
    length = _LENGTHS[len(prefix)]
    ours = {
        name: f"{number} {digest}" for name, number, digest in buckets(ledger, way, *_span(prefix, from_ms), length)
    }
    theirs = {}
    for row in jsontext.Fields(said.payload, AUDIT).items("buckets", _MOST_BUCKETS):
        name, _, rest = str(row).partition(" ")
        if len(name) == length and is_id(name + "0" * (ID_LENGTH - length)):
            theirs[name] = rest
    if len(theirs) == _MOST_BUCKETS:  # there are more: ours behind their last are not known there or not told
        ours = {name: rest for name, rest in ours.items() if name <= max(theirs)}
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def _of(requests: Requests, name: str) -> list[Asked]:
    return [one for one in requests.of_kind(AUDIT) if one.request.payload.get("audit") == name]


def last(ledger: Ledger) -> str:
    """The newest audit that was asked for; empty when there is none."""
    return max((str(one.request.payload.get("audit", "")) for one in Requests(ledger).of_kind(AUDIT)), default="")


def result(context: Context, ledger: Ledger, name: str) -> Result:
    """What the answers of an audit say, compared with what we know now of what had arrived when we asked."""
    asked = _of(Requests(ledger), name)
    here, there = {}, {}
    problems: list[Problem] = []
    from_ms, told_ms, refused, is_partial = 0, 0, "", len(asked) >= _MOST_REQUESTS
    for one in asked:
        said, fields = one.answer, jsontext.Fields(one.request.payload, AUDIT)
        if said is None:
            continue
        if said.verdict != DONE:
            refused = said.text or said.verdict
            continue
        told = jsontext.Fields(said.payload, AUDIT)
        way, from_ms = fields.text("way"), told.integer("from")
        if told.has("counts"):
            here[way] = _counts(context, ledger, way, _span("", from_ms)[0], make_id(one.made_ms, bytes(10)))
            told_ms = max(told_ms, one.answered_ms or 0)
            there[way] = {key: value for key, value in told.object("counts").value.items() if type(value) is int}
        if told.has("lines"):
            span = _span(fields.text("prefix"), from_ms)
            theirs = {line.id: line for line in map(_line, told.items("lines", _MOST_LINES)) if line.id}
            ours = {line.id: line for line in islice(lines(ledger, way, *span), 1 << 16)}
            problems += _judge(way, ours, theirs, one.made_ms)
    if here:
        lost = lost_ids(context.spool, ledger, context.peer.name)
        problems += [Problem(one, SENT, _LOST) for one in sorted(lost)[:_MOST_LINES]]
    unanswered = sum(one.answer is None for one in asked)
    return Result(from_ms, told_ms, here, there, sorted(problems), unanswered, refused, is_partial)


def _line(text: object) -> Line:
    identifier, state, *outcomes = [*str(text).split(" "), ""][:40]
    return Line(identifier if is_id(identifier) else "", state, 0, " ".join(outcomes).strip())


def _judge(way: str, ours: dict[str, Line], theirs: dict[str, Line], asked_ms: int) -> Iterator[Problem]:
    """What came or went after we asked is no contradiction."""
    for identifier in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(identifier), theirs.get(identifier)
        if mine is not None and mine.time_ms >= asked_ms:
            continue
        sent, received = (mine, other) if way == SENT else (other, mine)
        text = _contradiction(sent, received, "there" if way == SENT else "here", "here" if way == SENT else "there")
        if text:
            yield Problem(identifier, way, text)


def _contradiction(sent: Line | None, received: Line | None, far: str, origin: str) -> str:
    if sent is None:
        return f"known {far}, but not as sent {origin}"
    if received is None:
        if sent.state == "l" and origin == "there":  # here, our files tell it
            return "lost there, as the file of its batch is gone or damaged"
        if sent.state == "c":
            return f"in custody {far} as known {origin}, and not known {far}: lost"
        return f"settled {origin}, and not known {far}" if sent.state == "s" else ""
    if sent.state == "s" and received.state != "s":
        return f"settled {origin}, and not finished {far}"
    if sent.state == received.state == "s" and sent.outcomes != received.outcomes:
        return f"its outcomes differ: {sent.outcomes or 'none'} {origin}, {received.outcomes or 'none'} {far}"
    return ""
