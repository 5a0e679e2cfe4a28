"""batchmail move: give transactions to another peer."""

from typing import Any

import click

from batchmail.cli.selection import Selection, selecting
from batchmail.core.errors import UsageError
from batchmail.core.names import is_id
from batchmail.store.plans import MOVE


@click.command("move", short_help="Give transactions to another peer.")
@selecting("[ID | -]... PEER")
@click.pass_obj
def command(config_file: str | None, /, words: tuple[str, ...], **options: Any) -> int:
    """Let transactions wait for another peer, whose name stands last.

    What the far side has already is asked for in the next call; what it gives back waits for the other one.
    """
    if not words or is_id(words[-1].upper()):
        raise UsageError("to which peer? its name stands last")
    selection = Selection(config_file, words[:-1], options)
    other = selection.find_other(words[-1])
    chosen = [one for one in selection.choose(f"move to {other}") if one.context.peer.name != other]
    return selection.carry_out(chosen, MOVE, other)
