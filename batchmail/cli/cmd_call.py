"""batchmail call: call peers and exchange what waits, in both directions."""

import contextlib
import sys
import time

import click

from batchmail.cli import start
from batchmail.cli.config import find_peer
from batchmail.cli.progress import ProgressLine, octets_text
from batchmail.cli.tables import count_text
from batchmail.core.errors import BatchmailError, ConfigError, LineError, SpoolError, UsageError
from batchmail.core.settings import Peer
from batchmail.flow.context import Context
from batchmail.flow.exchange import Call, Options, Totals
from batchmail.flow.overview import note_call
from batchmail.flow.seal import Sealer
from batchmail.store.bell import WAKE, ring
from batchmail.store.line import CALLER, Line
from batchmail.store.sent import Sent
from batchmail.store.waiting import WaitingRoom
from batchmail.wire import maillog
from batchmail.wire.command import connect_command
from batchmail.wire.ssh import connect_ssh
from batchmail.wire.ssh_address import parse_address
from batchmail.wire.stream import Stream

_CONNECT_S = 60.0
_WOKEN_WAIT_S = 5.0  # longer than a running call takes to find out that its line is dead
_RECONNECT_S = (5, 10, 30, 60, 120, 300)


@click.command("call", short_help="Call peers and exchange what waits, both ways.")
@click.argument("peers", nargs=-1, metavar="[PEER]...")
@click.option("--all", "everyone", is_flag=True, help="Call every peer that has a call entry.")
@click.option(
    "--stay", is_flag=True, help="Keep the call open; new mail goes at once. Calls again when the line is cut."
)
@click.option("--only-if-waiting", is_flag=True, help="Call only peers for whom something waits.")
@click.option(
    "--max-time",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="End the call after this time; the rest resumes later.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(min=0),
    metavar="OCTETS",
    help="End the call after so much was sent and received.",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Say what happened without a terminal too, such as that there was no line."
)
@click.option("--dry-run", is_flag=True, help="Say what waits, and do not call.")
@click.pass_obj
def command(
    config_file: str | None,
    peers: tuple[str, ...],
    everyone: bool,
    stay: bool,
    only_if_waiting: bool,
    max_time: float | None,
    max_bytes: int | None,
    verbose: bool,
    dry_run: bool,
) -> int:
    """Call PEERs: send what waits for them, take what they have, replay it here, bring outcomes back.

    Exits with 0 when all is done, 75 when there was no line or it was cut, 77 when a key is refused,
    78 when the configuration is wrong.
    """
    site, path = start.load(config_file)
    chosen = [find_peer(site, name, path) for name in peers]
    if everyone:
        chosen += [peer for peer in site.peers.values() if peer.call and peer not in chosen]
    if not chosen:
        raise ConfigError("no peer to call: name one, or say --all")
    if stay and len(chosen) > 1:
        raise UsageError("--stay keeps one call open: start one for each peer")
    spool = start.set_up(site)
    maillog.open_log("call")
    start.stop_on_signals()
    options = Options(stay, max_time, max_bytes)
    told = verbose or sys.stderr.isatty()
    worst = 0
    for peer in chosen:
        context = start.context(site, spool, peer)
        try:
            if dry_run:
                _say_what_waits(context)
            elif not only_if_waiting or _has_waiting(context):
                worst = max(worst, _call_and_again(context, options, told) if stay else _call(context, options, told))
        except BatchmailError as error:  # one peer's trouble is not the others'
            worst = max(worst, _explain(peer, error, None, told))
    return worst


def _has_waiting(context: Context) -> bool:
    ledger = context.open_ledger()
    try:
        return Sealer(context, ledger).has_waiting() or bool(Sent(ledger).files("sealed"))
    finally:
        ledger.close()


def _say_what_waits(context: Context) -> None:
    ledger = context.open_ledger()
    sealed = Sent(ledger).files("sealed")
    ledger.close()
    room = WaitingRoom(context.spool, context.peer.name)
    sizes = [waiting.text_octets for waiting in room.scan()]
    click.echo(
        f"{context.peer.name}: waiting {count_text(len(sizes), 'transaction')} ({octets_text(sum(sizes))} octets),"
        f" sealed {count_text(len(sealed), 'file')} ({octets_text(sum(file.octets for file in sealed))} octets)"
    )


def _call_and_again(context: Context, options: Options, told: bool) -> int:
    """Keep a call open; after a cut call again, with growing pauses.  Ends when a person has to act."""
    failures = 0
    while True:
        began_s = time.monotonic()
        code = _call(context, options, told)
        if code not in (0, 75):
            return code
        failures = 0 if time.monotonic() - began_s > _RECONNECT_S[-1] else failures + 1
        time.sleep(_RECONNECT_S[min(failures, len(_RECONNECT_S) - 1)])


def _call(context: Context, options: Options, told: bool) -> int:
    """One call; returns the exit code.  `told`: somebody reads what we say of a call that did not come about."""
    peer = context.peer
    line = _take_line(context)
    if line is None:
        if told:
            click.echo(f"{peer.name}: a call is going on; it was told that there is more to do", err=True)
        return 0
    shown = ProgressLine(peer.name)
    try:
        stream = _connect(peer)
        result = Call(context, stream, line, CALLER, options, shown.call, shown.replay).run()
        shown.end()
        _note(context, result.error, result.totals.rate)
        if result.error:
            return _explain(peer, result.error, stream, told)
        _summarize(peer, result.totals, result.text)
        return 0
    except BatchmailError as error:
        _note(context, error, None)
        return _explain(peer, error, None, told)
    finally:
        shown.end()
        line.close()


def _note(context: Context, error: BatchmailError | None, rate: float | None) -> None:
    with contextlib.suppress(SpoolError), contextlib.closing(context.open_ledger()) as ledger:
        note_call(ledger, context.now_ms(), error, rate)


def _take_line(context: Context) -> Line | None:
    """The line with the peer, or None when a running call is alive and was woken."""
    line = Line(context.spool, context.peer.name)
    give_up_s = time.monotonic() + _WOKEN_WAIT_S
    woken = False
    while not line.acquire(CALLER):
        woken = woken or ring(context.spool.root, context.peer.name, WAKE)
        if time.monotonic() > give_up_s:
            line.close()
            return None
        time.sleep(0.05)
    return line


def _connect(peer: Peer) -> Stream:
    """Reach the peer by the first of its ways that works."""
    problem: BatchmailError = ConfigError(f"peers.{peer.name} has no call entry: it calls us")
    for way in peer.call:
        try:
            if way.startswith("command:"):
                return connect_command(way.removeprefix("command:").strip())
            return connect_ssh(
                parse_address(way),
                identities=peer.identity,
                known_hosts=peer.known_hosts,
                use_agent=peer.use_agent,
                config_file=peer.ssh_config or None,
                connect_timeout_s=_CONNECT_S,
            )
        except LineError as error:
            problem = error
    raise problem


def _explain(peer: Peer, error: BatchmailError, stream: Stream | None, told: bool) -> int:
    """Say why a call failed; no line is silent without a terminal, for cron."""
    diagnostics = getattr(stream, "diagnostics", lambda: "")().strip()
    said = f"; it said: {diagnostics}" if diagnostics and diagnostics not in str(error) else ""
    if told or said or not isinstance(error, LineError):  # a program at the far end that complains wants a person
        click.echo(f"batchmail: {peer.name}: {error}{said}", err=True)
    maillog.trouble(peer.name, f"{error}{said}")
    return error.exit_code


def _summarize(peer: Peer, totals: Totals, text: str) -> None:
    if not sys.stdout.isatty() and not (totals.files_sent or totals.files_received):
        return
    click.echo(
        f"{peer.name}: sent {count_text(totals.transactions_sent, 'transaction')}"
        f" ({octets_text(totals.sent_octets)} octets), received {count_text(totals.files_received, 'file')}"
        f" ({octets_text(totals.received_octets)} octets), {totals.seconds:.1f} s{'; ' + text if text else ''}"
    )
