"""batchmail remove: remove transactions."""

from typing import Any

import click

from batchmail.cli.selection import Selection, selecting
from batchmail.store.plans import REMOVE


@click.command("remove", short_help="Remove transactions.")
@selecting("[ID | -]...")
@click.option("--notice", is_flag=True, help="Tell the senders.")
@click.option("--text", default="removed by the administrator", show_default=True, help="What they are told.")
@click.pass_obj
def command(config_file: str | None, /, words: tuple[str, ...], notice: bool, text: str, **options: Any) -> int:
    """End transactions without a word to their senders, unless --notice is said.

    What the far side has already is asked for in the next call; what was delivered meanwhile is not removed.
    """
    selection = Selection(config_file, words, options)
    return selection.carry_out(selection.choose("remove"), REMOVE, "", "5.7.1" if notice else "", text)
