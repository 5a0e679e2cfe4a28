"""batchmail run: one pass of all that is due on this side."""

import signal
from types import FrameType

import click

from batchmail.cli import start
from batchmail.cli.config import find_peer
from batchmail.cli.progress import ProgressLine
from batchmail.core.errors import BatchmailError
from batchmail.flow.context import Context
from batchmail.flow.target import open_target, parse_target
from batchmail.flow.work import Busy, work_once
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from batchmail.store.waiting import WaitingRoom
from batchmail.wire import maillog

_stopped: list[bool] = []  # filled by a signal


@click.command("run", short_help="Do what is due here: replay, settle, notify, prune.")
@click.option("--peer", "names", multiple=True, metavar="PEER", help="For this peer only; may be repeated.")
@click.pass_obj
def command(config_file: str | None, names: tuple[str, ...]) -> int:
    """One pass of all that is due: replay what came, retry, settle what was reported, notify senders, prune.

    Exits with 75 when a target took nothing; it is tried again at the next pass.
    """
    site, path = start.load(config_file)
    peers = [find_peer(site, name, path) for name in names] or list(site.peers.values())
    spool = start.set_up(site)
    maillog.open_log("run")
    spool.sweep(start.now_ms() / 1000)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)  # after the transaction at hand: none is left between its dot and the reply
    worst = 0
    for peer in peers:
        try:
            worst = max(worst, _run(start.context(site, spool, peer)))
        except BatchmailError as error:  # one peer's trouble is not the others'
            click.echo(f"batchmail: {peer.name}: {error}", err=True)
            maillog.trouble(peer.name, str(error))
            worst = max(worst, error.exit_code)
        if _stopped:
            return 75
    return worst


def _stop(_number: int, _frame: FrameType | None) -> None:
    _stopped.append(True)


def _run(context: Context) -> int:
    shown = ProgressLine(context.peer.name)
    ledger = context.open_ledger()
    target = open_target(parse_target(context.peer.target), context.site.name, context.now_ms, context.spool.tmp)
    try:
        down = work_once(context, ledger, target, shown.replay, lambda: bool(_stopped))
        before_ms = context.now_ms() - context.peer.remember_ms
        Sent(ledger).prune(before_ms)
        Received(ledger).prune(before_ms)
        WaitingRoom(context.spool, context.peer.name).tidy(context.now_ms())
    except Busy:
        return 0  # that one does it, and is asked again by the next pass
    finally:
        shown.end()
        target.close()
        ledger.close()
    if down:
        click.echo(f"batchmail: {context.peer.name}: {down}", err=True)
    return 75 if down else 0
