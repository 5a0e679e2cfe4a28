"""batchmail setup: make the spool and what the doors read."""

import click

from batchmail.cli import start
from batchmail.cli.config import find_peer
from batchmail.store.ledger import Ledger


@click.command("setup", short_help="Make the spool and the files that the doors read.")
@click.option(
    "--adopt", metavar="PEER", help="Begin a new ledger or stream with PEER after a loss or a restored backup."
)
@click.pass_obj
def command(config_file: str | None, adopt: str | None) -> None:
    """Make what is missing of the spool, and bring the small files that the doors read up to date.

    Safe to repeat, and needed after the configuration was edited; call, run and lmtpd do it too.
    """
    site, path = start.load(config_file)
    spool = start.set_up(site, again=True)
    if adopt:
        peer = find_peer(site, adopt, path)
        Ledger(spool, peer.name, adopt=True).close()
        click.echo(f"The ledger of {peer.name} belongs to {site.spool} now; what is unsettled goes on.")
    click.echo(f"{site.spool} is ready for {site.name} with {len(site.peers)} peers.")
