"""A call as `batchmail call` makes it: connect, exchange, say how it went; what has to be loaded for that is dear."""

import contextlib
import sys
import time

import click

from batchmail.cli import memory
from batchmail.cli.ahead import CONNECT_S, Begun, begin
from batchmail.cli.progress import ProgressLine, duration_text, octets_text
from batchmail.cli.tables import count_text
from batchmail.core.errors import BatchmailError, ConfigError, KeyRefused, LineError, SpoolError
from batchmail.core.settings import Peer
from batchmail.flow.called import note_call
from batchmail.flow.context import Context
from batchmail.flow.exchange import Call, Options
from batchmail.flow.forecast import forecast
from batchmail.flow.seal import Sealer
from batchmail.flow.totals import Mail, Totals
from batchmail.store.line import CALLER
from batchmail.store.requests import Requests
from batchmail.store.sent import Sent
from batchmail.wire import maillog
from batchmail.wire.command import connect_command
from batchmail.wire.dial import Dialing
from batchmail.wire.peer_text import name_peer
from batchmail.wire.ssh import connect_ssh
from batchmail.wire.ssh_address import parse_address
from batchmail.wire.stream import Stream

_RECONNECT_S = (5, 10, 30, 60, 120, 300)
_SHORT_TRIP_S = 0.005  # on a shorter way it is our own work that is waited for


def has_waiting(context: Context) -> bool:
    ledger = context.open_ledger()
    try:
        requests = Requests(ledger).unsent(None, 1)
        return Sealer(context, ledger).has_waiting() or bool(Sent(ledger).files("sealed") or requests)
    finally:
        ledger.close()


def say_what_waits(context: Context) -> None:
    """What a call would send, in its order."""
    with contextlib.closing(context.open_ledger()) as ledger:
        found, rate = forecast(context, ledger), ledger.fact("rate")
    steps = [
        (found.lines, "sealed report or request", "octets"),
        (found.batches, "sealed batch", "octets"),
        *((load, f"transaction of priority {n}" if n else "transaction", "of text") for n, load in found.waiting),
    ]
    told = [f"{load.number} x {what} ({octets_text(load.octets)} {unit})" for load, what, unit in steps if load.number]
    click.echo(f"{context.peer.name}: {', then '.join(told) or 'nothing waits here'}")
    if found.seconds is None:
        time_text = "no rate of the line is known yet"
    else:
        time_text = f"{duration_text(found.seconds)} at the {octets_text(float(rate or 0))}/s of the last call"
    click.echo(f"{context.peer.name}: about {octets_text(found.line_octets)} octets, {time_text}")


def call_and_again(context: Context, options: Options, told: bool, begun: Begun | None) -> int:
    """Keep a call open; after a cut call again, with growing pauses.  Ends when a person has to act."""
    failures = 0
    while True:
        began_s = time.monotonic()
        code = call(context, options, told, begun)
        if code not in (0, 75):
            return code
        failures = 0 if time.monotonic() - began_s > _RECONNECT_S[-1] else failures + 1
        time.sleep(_RECONNECT_S[min(failures, len(_RECONNECT_S) - 1)])
        begun = begin(context)


def make_call(context: Context) -> int:
    """One call, for another command, which has standard output for itself; returns the exit code."""
    return call(context, Options(), True, begin(context), to_stderr=True)


def call(context: Context, options: Options, told: bool, begun: Begun | None, to_stderr: bool = False) -> int:
    """One call; returns the exit code.  `told`: somebody reads what we say of a call that did not come about."""
    peer = context.peer
    if begun is None:
        if told:
            click.echo(f"{peer.name}: a call is going on; it was told that there is more to do", err=True)
        return 0
    memory.give_back_large()
    shown = ProgressLine(peer.name)
    try:
        held = Call(context, begun.line, CALLER, options, shown.call, shown.replay)
        try:
            stream, left = _connect(peer, held.opening(), begun.dialing)
        except BatchmailError:
            held.abandon()
            raise
        result = held.run(stream, left)
        shown.end()
        _note(context, result.error, result.totals.rate)
        if result.note:
            click.echo(f"{peer.name}: the other side says: {result.note}", err=True)
        if result.error:
            return explain(peer, result.error, stream, told)
        if told or sys.stdout.isatty() or result.totals.files_sent or result.totals.files_received:
            click.echo(_summary(peer, result.totals, result.text), err=to_stderr)
        return 0
    except BatchmailError as error:
        _note(context, error, None)
        return explain(peer, error, None, told)
    finally:
        shown.end()
        begun.give_up()


def _note(context: Context, error: BatchmailError | None, rate: float | None) -> None:
    with contextlib.suppress(SpoolError), contextlib.closing(context.open_ledger()) as ledger:
        note_call(ledger, context.now_ms(), error, rate)


def _connect(peer: Peer, opening: bytes, dialing: Dialing | None) -> tuple[Stream, bytes]:
    """Reach the peer by the first of its ways that works; also what that has not taken along of our first octets.

    A refused key ends it only when none works: at an address of another network there may be a stranger by now.
    """
    problems: list[BatchmailError] = []
    for way in peer.call:
        try:
            return _connect_by(peer, way, opening, dialing)
        except (LineError, KeyRefused) as error:
            problems.append(error)
        dialing = None
    raise _joined(problems, peer.name)


def _connect_by(peer: Peer, way: str, opening: bytes, dialing: Dialing | None) -> tuple[Stream, bytes]:
    if way.startswith("command:"):
        return connect_command(way.removeprefix("command:").strip()), opening
    stream = connect_ssh(
        parse_address(way),
        identities=peer.identity,
        known_hosts=peer.known_hosts,
        use_agent=peer.use_agent,
        config_file=peer.ssh_config or None,
        connect_timeout_s=CONNECT_S,
        first=opening,
        dialing=dialing,
    )
    return stream, b""


def _joined(problems: list[BatchmailError], peer: str) -> BatchmailError:
    """What each way came to, as one error; a person has to act where a key was refused on all of them."""
    if not problems:
        return ConfigError(f"peers.{peer} has no call entry: it calls us")
    kind = KeyRefused if all(isinstance(error, KeyRefused) for error in problems) else LineError
    said = dict.fromkeys(name_peer(str(error), peer) for error in problems)  # what logs in does not know its name
    return kind("; ".join(said))


def explain(peer: Peer, error: BatchmailError, stream: Stream | None, told: bool) -> int:
    """Say why a call failed; no line is silent without a terminal, for cron."""
    diagnostics = getattr(stream, "diagnostics", lambda: "")().strip()
    said = f"; it said: {diagnostics}" if diagnostics and diagnostics not in str(error) else ""
    if told or said or not isinstance(error, LineError):  # a program at the far end that complains wants a person
        click.echo(f"batchmail: {peer.name}: {error}{said}", err=True)
    maillog.trouble(peer.name, f"{error}{said}")
    return error.exit_code


def _summary(peer: Peer, totals: Totals, text: str) -> str:
    return (
        f"{peer.name}: sent {_mail_text(totals.sent, totals.sent_octets)},"
        f" received {_mail_text(totals.received, totals.received_octets)},"
        f" {totals.seconds:.1f} s{_waiting_text(totals)}{'; ' + text if text else ''}"
    )


def _mail_text(mail: Mail, octets: int) -> str:
    """As "2 transactions in 1 batch (12k as 4.2k)"; the second figure is all that crossed the line."""
    if not mail.batches:
        return f"no mail ({octets_text(octets)})"
    batches = "1 batch" if mail.batches == 1 else f"{mail.batches} batches"
    text = f"{octets_text(mail.text_octets)} as {octets_text(octets)}"
    return f"{count_text(mail.transactions, 'transaction')} in {batches} ({text})"


def _waiting_text(totals: Totals) -> str:
    """How many round trips the time would be in which the line carried nothing of ours."""
    if not totals.rate or not totals.round_trip_s or totals.round_trip_s < _SHORT_TRIP_S:
        return ""
    idle_s = max(0.0, totals.seconds - max(totals.sent_octets, totals.received_octets) / totals.rate)
    return f", {idle_s / totals.round_trip_s:.1f} round trips waited"
