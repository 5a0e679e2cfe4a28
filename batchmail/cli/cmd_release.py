"""batchmail release: let held transactions, or a held peer's mail, go on."""

import os
from contextlib import closing
from typing import Any

import click

from batchmail.cli.selection import Selection, find_whole_peer, pause, selecting
from batchmail.core.errors import UsageError
from batchmail.core.names import is_id
from batchmail.flow.choose import is_far
from batchmail.flow.context import Context
from batchmail.store.plans import REQUEUE
from batchmail.store.received import Received


@click.command("release", short_help="Let held transactions, or a held peer's mail, go on.")
@selecting("[ID | - | PEER]...")
@click.pass_obj
def command(config_file: str | None, /, words: tuple[str, ...], **options: Any) -> int:
    """Let held transactions wait again; PEER in place of IDs: send that peer mail again.

    Held transactions are chosen by --peer and the others; release PEER does not touch them. The ID of one that came
    and is held here, being too old to know whether it was delivered before, lets it be delivered.
    """
    whole = find_whole_peer(words, options, config_file)
    if whole:
        return pause(*whole, False)
    selection = Selection(config_file, words, options)
    if words and all(_release_received(selection.contexts, word.upper()) for word in words):
        return 0
    chosen = selection.choose("release", ("held",))
    for one in chosen:
        if is_far(one):
            raise UsageError(
                f"{one.id} is not held here: {one.context.peer.name} has it; batchmail requeue asks for it back"
            )
    return selection.carry_out(chosen, REQUEUE)


def _release_received(contexts: list[Context], identifier: str) -> bool:
    """Whether it is one of a peer's that was held here; the next pass replays it."""
    for context in contexts:
        if is_id(identifier) and os.path.exists(f"{context.spool.root}/ledger/{context.peer.name}"):
            with closing(context.open_ledger()) as ledger:
                if Received(ledger).release(identifier, context.now_ms()):
                    click.echo(f"{identifier}: from {context.peer.name}, delivered by the next batchmail run or call")
                    return True
    return False
