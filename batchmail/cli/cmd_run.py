"""batchmail run: one pass of all that is due on this side."""

import signal
import sys
from types import FrameType

import click

from batchmail.cli import start
from batchmail.cli.config import find_peer
from batchmail.cli.progress import ProgressLine
from batchmail.core.errors import BatchmailError
from batchmail.flow.context import Context
from batchmail.flow.target import close_all
from batchmail.flow.tidy import tidy
from batchmail.flow.work import Busy, targets_of, work_once
from batchmail.store import ballast
from batchmail.store.setup import sweep
from batchmail.store.view import is_untouched
from batchmail.wire import maillog

_stopped: list[bool] = []  # filled by a signal


@click.command("run", short_help="Do what is due here: replay, settle, notify, prune.")
@click.option("--peer", "names", multiple=True, metavar="PEER", help="For this peer only; may be repeated.")
@click.option("-v", "--verbose", is_flag=True, help="Say without a terminal too that a target takes nothing now.")
@click.pass_obj
def command(config_file: str | None, names: tuple[str, ...], verbose: bool) -> int:
    """One pass of all that is due: replay what came, retry, settle what was reported, notify senders, prune.

    For peers that have left the configuration only what was decided is done, and senders are notified.

    Exits with 75 when a target took nothing; it is tried again at the next pass.
    """
    told = verbose or sys.stderr.isatty()
    site, path = start.load(config_file)
    named = [find_peer(site, name, path) for name in names]
    spool = start.set_up(site, served=named or None)
    maillog.open_log("run")
    sweep(spool, start.now_ms() / 1000)
    ballast.keep(spool.root)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)  # after the transaction at hand: none is left between its dot and the reply
    worst = 0
    for peer in named or start.peers_of(site, spool, None, path):
        if is_untouched(spool, peer.name):
            continue
        try:
            worst = max(worst, _run(start.context(site, spool, peer), told))
        except BatchmailError as error:  # one peer's trouble is not the others'
            click.echo(f"batchmail: {peer.name}: {error}", err=True)
            maillog.trouble(peer.name, str(error))
            worst = max(worst, error.exit_code)
        if _stopped:
            return 75
    return worst


def _stop(_number: int, _frame: FrameType | None) -> None:
    _stopped.append(True)


def _run(context: Context, told: bool) -> int:
    """`told`: somebody reads what passes; it is in the mail log and in `status` as well."""
    shown = ProgressLine(context.peer.name)
    ledger = context.open_ledger()
    targets = targets_of(context)
    try:
        down = work_once(context, ledger, targets, shown.replay, lambda: bool(_stopped))
        if context.peer.name in context.site.peers:  # else for how long its mail is remembered is not known
            tidy(context, ledger)
    except Busy:
        return 0  # that one does it, and is asked again by the next pass
    finally:
        shown.end()
        close_all(targets)
        ledger.close()
    if down and told:
        click.echo(f"batchmail: {context.peer.name}: {down}", err=True)
    return 75 if down else 0
