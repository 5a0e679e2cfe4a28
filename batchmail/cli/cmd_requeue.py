"""batchmail requeue: send transactions anew."""

from typing import Any

import click

from batchmail.cli.selection import Selection, selecting
from batchmail.store.plans import REQUEUE


@click.command("requeue", short_help="Send transactions anew.")
@selecting("[ID | -]...")
@click.pass_obj
def command(config_file: str | None, /, words: tuple[str, ...], **options: Any) -> int:
    """Let transactions wait again, whatever became of them: held ones, those in a batch, those at the far side.

    What the far side has is asked back first, and sent under a new ID: never twice.
    """
    selection = Selection(config_file, words, options)
    return selection.carry_out(selection.choose("requeue"), REQUEUE)
