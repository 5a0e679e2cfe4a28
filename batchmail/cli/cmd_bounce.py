"""batchmail bounce: return transactions to their senders."""

from typing import Any

import click

from batchmail.cli.selection import Selection, selecting
from batchmail.store.plans import REMOVE


@click.command("bounce", short_help="Return transactions to their senders.")
@selecting("[ID | -]...")
@click.option("--text", default="returned by the administrator", show_default=True, help="What the sender is told.")
@click.pass_obj
def command(config_file: str | None, /, words: tuple[str, ...], text: str, **options: Any) -> int:
    """End transactions: each sender is told, as NOTIFY allows, that they were not delivered.

    What the far side has already is asked for in the next call; what was delivered meanwhile is not returned.
    """
    selection = Selection(config_file, words, options)
    return selection.carry_out(selection.choose("bounce"), REMOVE, "", "5.7.1", text)
