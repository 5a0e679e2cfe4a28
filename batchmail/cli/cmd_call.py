"""batchmail call: call peers and exchange what waits, in both directions."""

import importlib
import sys
from typing import Any

import click

from batchmail.cli import forms, start
from batchmail.cli.ahead import begin
from batchmail.cli.config import find_peer
from batchmail.core.errors import BatchmailError, ConfigError, UsageError
from batchmail.wire import maillog


def _octets(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """A size as the configuration has it."""
    try:
        return None if value is None else forms.octets(value)
    except ValueError:
        raise click.BadParameter(f'{value!r} is no size; give octets, or such as "10M"') from None


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
    callback=_octets,
    metavar="SIZE",
    help='End the call after so much was sent and received, such as "10M".',
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
    chosen = list({peer.name: peer for peer in (find_peer(site, name, path) for name in peers)}.values())
    if everyone:
        chosen += [peer for peer in site.peers.values() if peer.call and peer not in chosen]
    if not chosen:
        raise UsageError(f"{path}: no peer has a call entry" if everyone else "no peer to call: name one, or say --all")
    if stay and len(chosen) > 1:
        raise UsageError("--stay keeps one call open: start one for each peer")
    spool = start.set_up(site, served=chosen)
    maillog.open_log("call")
    start.stop_on_signals()
    told = verbose or sys.stderr.isatty()
    worst = 0
    for peer in chosen:
        context = start.context(site, spool, peer)
        try:
            if not peer.call and not dry_run:  # no call that failed: nothing is noted of it
                raise ConfigError(f"peers.{peer.name} in {path} has no call entry: it calls us")
            begun = None if dry_run or only_if_waiting else begin(context)
            calling = _load_calling()
            options = calling.Options(stay, max_time, max_bytes)
            if dry_run:
                calling.say_what_waits(context)
                continue
            if only_if_waiting:
                if not calling.has_waiting(context):
                    continue
                begun = begin(context)
            one = calling.call_and_again if stay else calling.call
            worst = max(worst, one(context, options, told, begun))
        except BatchmailError as error:  # one peer's trouble is not the others'
            worst = max(worst, _load_calling().explain(peer, error, None, told))
    return worst


def _load_calling() -> Any:
    """The module that makes calls: loaded when the host is being dialled."""
    return importlib.import_module("batchmail.cli.calling")
