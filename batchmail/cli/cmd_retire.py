"""batchmail retire: take a peer out of service."""

import click

from batchmail.cli import start
from batchmail.cli.config import find_peer
from batchmail.cli.selection import Selection, check_text
from batchmail.core.errors import UsageError
from batchmail.flow.context import Context
from batchmail.flow.overview import count_files, look_at
from batchmail.store.plans import MOVE, REMOVE
from batchmail.store.setup import retire_peer


@click.command("retire", short_help="Take a peer out of service.")
@click.argument("peer")
@click.option("--move", "other", metavar="PEER", help="Give what is there to another peer.")
@click.option("--bounce", is_flag=True, help="Return what is there to its senders.")
@click.option("--text", default="this site is served no more", show_default=True, help="What the senders are told.")
@click.option("--undo", is_flag=True, help="Take mail for it again.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(
    config_file: str | None, peer: str, other: str | None, bounce: bool, text: str, undo: bool, yes: bool
) -> int:
    """Let the doors refuse mail for PEER, for now, so that the mail server keeps it; what is there goes with calls.

    With --move or --bounce it does not wait for them. When nothing is left, PEER can leave the configuration.
    """
    if (other is not None) + bounce + undo > 1:
        raise UsageError("--move, --bounce or --undo: one of them")
    check_text(text)
    site, path = start.load(config_file)
    name = find_peer(site, peer, path).name
    options = {"peer": name, "sender": None, "recipient": None, "older": None, "larger": None, "yes": yes}
    selection = Selection(config_file, (), options)
    target = "" if other is None else selection.find_other(other)
    if target == name:
        raise UsageError("it cannot be moved to itself")
    if target or bounce:  # asked before the doors refuse
        selection.choose(f"move to {target}" if target else "bounce")
    retire_peer(selection.spool, name, retired=not undo)
    start.set_up(site)
    if undo:
        click.echo(f"{name}: the doors take mail for it again")
        return 0
    click.echo(f"{name}: the doors refuse mail for it until batchmail retire --undo {name}")
    if bounce:
        return selection.carry_out(selection.choose_again(), REMOVE, "", "5.4.4", text)
    if target:
        return selection.carry_out(selection.choose_again(), MOVE, target)
    _tell_what_is_left(selection.contexts[0])
    return 0


def _tell_what_is_left(context: Context) -> None:
    state, files = look_at(context), count_files(context)
    left = state.waiting + state.held + state.sealed + state.custody + state.replay + state.notices
    if left:
        click.echo(f"still here, transactions and notices: {left}; the next calls and runs see to them")
    elif files:
        click.echo(
            f"still here, files whose end {context.peer.name} does not know: {files}; the next calls see to them"
        )
    else:
        click.echo(f"nothing is left: {context.peer.name} can leave the configuration")
