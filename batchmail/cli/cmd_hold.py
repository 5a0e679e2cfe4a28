"""batchmail hold: set transactions aside, or a whole peer's mail."""

from typing import Any

import click

from batchmail.cli.selection import Selection, find_whole_peer, pause, selecting
from batchmail.store.plans import HOLD


@click.command("hold", short_help="Set transactions aside, or a whole peer's mail.")
@selecting("[ID | - | PEER]...")
@click.pass_obj
def command(config_file: str | None, /, words: tuple[str, ...], **options: Any) -> int:
    """Set transactions aside until they are released; PEER in place of IDs: send that peer no mail at all for now.

    What the far side has already is asked for in the next call; what it gives back is held under a new ID.
    """
    whole = find_whole_peer(words, options, config_file)
    if whole:
        return pause(*whole, True)
    selection = Selection(config_file, words, options)
    return selection.carry_out(selection.choose("hold"), HOLD)
