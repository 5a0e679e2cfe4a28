"""batchmail show: all that is known here of one transaction."""

import sys
from collections.abc import Iterator
from email.utils import formatdate

import click

from batchmail.cli import start
from batchmail.cli.tables import address_text, age_text, end_with_reader, field_lines, json_text, print_json, reply_text
from batchmail.core.entry import Entry
from batchmail.core.envelope import Parameters
from batchmail.core.errors import BatchmailError, Permanent, UsageError
from batchmail.core.names import is_id
from batchmail.flow.context import Context
from batchmail.flow.overview import Record, find, quarantined
from batchmail.store.spool import Spool
from batchmail.store.view import NoticeRow, ReceivedTransaction, SentTransaction, Told
from batchmail.wire.peer_text import printable


@click.command("show", short_help="Show all that is known of a transaction.")
@click.argument("identifier", metavar="ID")
@click.option("--peer", metavar="PEER", help="Look with this peer only.")
@click.option("--text", "as_text", is_flag=True, help="Print the transaction itself, as BSMTP.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def command(config_file: str | None, identifier: str, peer: str | None, as_text: bool, as_json: bool) -> int:
    """Show envelope, state, outcomes and notices of the transaction ID, which stands in logs, replies and Received:.

    Found are transactions on their way to a peer, those of a peer that are to be replayed, and finished ones as long
    as they are remembered; the ID of a notice finds the transaction that it tells of. When all of its batch is
    settled, text and addresses are not kept: recipients are numbers then, and the mail log has the addresses.
    """
    wanted = identifier.upper()
    if not is_id(wanted):
        raise UsageError(f"{identifier} is no ID: 26 letters and digits, as in batchmail queue and the mail log")
    site, path = start.load(config_file)
    spool = start.open_spool(site)
    end_with_reader()
    contexts = [start.context(site, spool, one) for one in start.peers_of(site, spool, peer, path)]
    record = _look_everywhere(spool, contexts, wanted)
    if as_text:
        _print_text(record)
    elif as_json:
        print_json(_json(record))
    else:
        for line in _lines(record, wanted, start.now_ms()):
            click.echo(line)
    return 0


def _look_everywhere(spool: Spool, contexts: list[Context], identifier: str) -> Record:
    problem: BatchmailError | None = None
    for context in contexts:
        try:
            record = find(context, identifier)
        except BatchmailError as error:  # a ledger that cannot be used keeps nobody from looking into the others
            problem = error
            continue
        if record is not None:
            return record
    raise (
        problem
        or quarantined(spool, identifier)
        or UsageError(
            f"no transaction {identifier} is here: it may be settled and forgotten, see `remember`, and the mail log"
        )
    )


def _print_text(record: Record) -> None:
    if record.text is None:
        raise Permanent(f"{record.id} is {record.state}: its text is not here any more")
    for octets in record.text():
        sys.stdout.buffer.write(octets)
    sys.stdout.buffer.flush()


# -- for people -------------------------------------------------------------------------------------------------


def _lines(record: Record, wanted: str, now_ms: int) -> Iterator[str]:
    if wanted != record.id:
        yield f"{wanted} is a notice about this transaction:"
    yield from field_lines(_fields(record, now_ms))
    yield from _envelope_lines(record)
    yield from _notice_lines(record.notices)


def _fields(record: Record, now_ms: int) -> Iterator[tuple[str, str]]:
    def when(time_ms: int | None) -> str:
        return _time(time_ms, now_ms)

    entry, sent, received = record.entry, record.sent, record.received
    origin = entry or sent or received
    arrival_ms = origin.arrival_ms if origin else None
    yield "id", record.id
    yield ("from peer" if received else "to peer"), record.peer
    yield "state", record.state
    yield "arrival", when(arrival_ms)
    if record.lifetime_ms and arrival_ms is not None:
        yield "expires", when(arrival_ms + record.lifetime_ms)
    if entry:
        yield "content", f"{entry.size_octets} octets, {'8 bit' if entry.bits == 8 else '7 bit'}"
        yield "priority", str(entry.priority) if entry.priority else ""
        yield "queue id", f"{entry.queue_id} of the MTA that handed it over" if entry.queue_id else ""
        yield "client", " ".join(f"{key}={printable(value)}" for key, value in entry.client._asdict().items() if value)
        yield "SHA-256", f"{entry.sha256}  (of its text)"
    if sent:
        yield "batch", sent.number.file_name if sent.number.stream else ""
        yield "sealed", when(sent.sealed_ms)
        yield "custody", f"{when(sent.custody_ms)}, by the far side" if sent.custody_ms else ""
        yield "settled", when(sent.settled_ms)
    if received:
        yield "batch", received.number.file_name
        yield "custody", f"{when(received.custody_ms)}, ours"
        yield "attempts", str(received.attempts)
        yield "next", when(received.next_ms) if received.state != "done" else ""
        yield (
            "in doubt",
            f"{received.doubtful} times it was not known whether it had been delivered" if received.doubtful else "",
        )
    yield "plan", record.plan
    yield "file", record.path


def _time(time_ms: int | None, now_ms: int) -> str:
    if time_ms is None:
        return ""
    distance_ms = now_ms - time_ms
    relative = f"{age_text(distance_ms)} ago" if distance_ms >= 0 else f"in {age_text(-distance_ms)}"
    return f"{formatdate(time_ms / 1000, localtime=True)} ({relative})"


def _envelope_lines(record: Record) -> Iterator[str]:
    outcomes = {told.outcome.recipient: told for told in record.outcomes}
    yield ""
    if record.envelope is None:
        yield "Its text is not here any more, nor are its addresses: the mail log has them; recipients by number:"
        for number in range(len(outcomes)):
            yield f"  {number + 1}"
            yield from _outcome_lines(outcomes.get(number))
        return
    yield f"sender        {address_text(record.envelope.sender)}{_parameters(record.envelope.parameters)}"
    for number, recipient in enumerate(record.envelope.recipients):
        yield f"recipient     {address_text(recipient.address)}{_parameters(recipient.parameters)}"
        if day := record.unlisted.get(recipient.address):
            yield f"    not on the list of valid recipients that {record.peer} has told on {day}"
        yield from _outcome_lines(outcomes.get(number))


def _parameters(parameters: Parameters) -> str:
    return "".join(f" {printable(bytes(parameter))}" for parameter in parameters)


def _outcome_lines(told: Told | None) -> Iterator[str]:
    if told is None:
        return
    outcome = told.outcome
    by = f", {printable(outcome.mta)}" if outcome.mta else ""
    yield f"    {outcome.action}: {reply_text(outcome)}"
    time = formatdate(outcome.time_ms / 1000, localtime=True)
    acknowledged = " and acknowledged" if told.acknowledged_ms else ""
    what = ("notice " if is_id(told.where) else "in report ") + told.where + acknowledged if told.where else ""
    yield f"    {time}{by}{'; ' + what if what else ''}"


def _notice_lines(notices: list[NoticeRow]) -> Iterator[str]:
    for notice in notices:
        made = formatdate(notice.made_ms / 1000, localtime=True)
        reply = f": {printable(notice.text)}" if notice.text else ""
        yield ""
        yield f"notice        {notice.id}, written {made}, {notice.state}{reply}"


# -- JSON -------------------------------------------------------------------------------------------------------


def _json(record: Record) -> dict[str, object]:
    value: dict[str, object] = {"id": record.id, "peer": record.peer, "state": record.state}
    for part in (record.entry, record.sent, record.received):
        if part:
            value |= _json_values(part)
    if record.envelope:
        value["sender"] = json_text(record.envelope.sender)
        value["parameters"] = _json_parameters(record.envelope.parameters)
        value["to"] = [
            {"address": json_text(one.address), "parameters": _json_parameters(one.parameters)}
            | ({"listed": False} if one.address in record.unlisted else {})
            for one in record.envelope.recipients
        ]
    value["outcomes"] = [_json_outcome(told) for told in record.outcomes]
    value["notices"] = [{"id": one.id, "state": one.state, "made_ms": one.made_ms} for one in record.notices]
    return value | {"state": record.state} | ({"plan": record.plan} if record.plan else {})


def _json_values(part: Entry | SentTransaction | ReceivedTransaction) -> dict[str, object]:
    value: dict[str, object] = {
        key: found for key, found in part._asdict().items() if found is not None and key != "number"
    }
    if isinstance(part, Entry):
        # JSON integers are never negative in batchmail: as in the manifest, 9 is the normal priority.
        client = {key: json_text(octets) for key, octets in part.client._asdict().items() if octets}
        return value | {"priority": part.priority + 9, "client": client}
    return value | ({"batch": part.number.file_name} if part.number.stream else {})


def _json_parameters(parameters: Parameters) -> list[str]:
    return [json_text(bytes(parameter)) for parameter in parameters]


def _json_outcome(told: Told) -> dict[str, object]:
    outcome = told.outcome
    return {
        "recipient": outcome.recipient + 1,
        "action": outcome.action,
        "code": outcome.code,
        "status": outcome.status,
        "text": json_text(outcome.text),
        "mta": json_text(outcome.mta),
        "time_ms": outcome.time_ms,
        "in": told.where,
    }
