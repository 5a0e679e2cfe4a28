"""batchmail setup: make the spool and what the doors read."""

import click

from batchmail.cli import start
from batchmail.cli.cmd_resend import resend
from batchmail.cli.config import find_peer
from batchmail.cli.tables import count_text
from batchmail.core.errors import Temporary
from batchmail.flow.work import replay_lock


@click.command("setup", short_help="Make the spool and the files that the doors read.")
@click.option(
    "--adopt", metavar="PEER", help="After a lost disk or a restored backup: send PEER all that is unsettled again."
)
@click.pass_obj
def command(config_file: str | None, adopt: str | None) -> None:
    """Make what is missing of the spool, and bring the small files that the doors read up to date.

    Safe to repeat, and needed after the configuration was edited; call, run and batchmail-receive do it too.
    """
    site, path = start.load(config_file)
    spool = start.set_up(site, again=True)
    if adopt:
        context = start.context(site, spool, find_peer(site, adopt, path))
        with replay_lock(context) as ours:  # who replays has the ledger open that may be set aside
            if not ours:
                raise Temporary(f"a run for {context.peer.name} is going on: try again when it has ended")
            resend(spool, context.peer.name, None, dry_run=False, adopt=True)
    click.echo(f"{site.spool} is ready for {site.name} with {count_text(len(site.peers), 'peer')}.")
