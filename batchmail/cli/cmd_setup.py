"""batchmail setup: make the spool and what the doors read."""

import click

from batchmail.cli import start
from batchmail.cli.config import find_peer
from batchmail.cli.tables import count_text
from batchmail.core.errors import Temporary
from batchmail.store.ledger import Ledger
from batchmail.store.line import CALLER, Line
from batchmail.store.spool import Spool


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
        peer = find_peer(site, adopt, path)
        _adopt(spool, peer.name)
        click.echo(f"{peer.name}: what is unsettled is sent again in the next call, under a new stream of numbers.")
    click.echo(f"{site.spool} is ready for {site.name} with {count_text(len(site.peers), 'peer')}.")


def _adopt(spool: Spool, peer: str) -> None:
    line = Line(spool, peer)
    try:
        if not line.acquire(CALLER):
            raise Temporary(f"a call with {peer} is going on: try again when it has ended")
        ledger = Ledger(spool, peer, adopt=True)
        ledger.begin_new_stream()
        ledger.close()
    finally:
        line.close()
