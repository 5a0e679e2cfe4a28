"""batchmail trace: the life of a transaction."""

import os
from email.utils import formatdate

import click

from batchmail.cli import start
from batchmail.cli.tables import end_with_reader, print_json
from batchmail.core.errors import BatchmailError, UsageError
from batchmail.core.names import is_id
from batchmail.flow.life import MOST_READ, Life, lives
from batchmail.flow.overview import quarantined
from batchmail.wire.peer_text import printable


@click.command("trace", short_help="Show the life of a transaction, with times and replies.")
@click.argument("word", metavar="ID|MESSAGE-ID|QUEUE-ID")
@click.option("--peer", metavar="PEER", help="Look with this peer only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per transaction and line.")
@click.pass_obj
def command(config_file: str | None, word: str, peer: str | None, as_json: bool) -> int:
    """Show what happened to a transaction and when, as far as this side knows: both sides know its ID."""
    site, path = start.load(config_file)
    spool = start.open_spool(site)
    end_with_reader()
    problem: BatchmailError | None = None
    found = 0
    for one in start.peers_of(site, spool, peer, path):
        try:
            for life in lives(start.context(site, spool, one), word):
                if found and not as_json:
                    click.echo()
                found += 1
                _print(life, as_json)
        except BatchmailError as error:  # a ledger that cannot be used keeps nobody from looking into the others
            problem = error
    if problem and not found:
        raise problem
    if not found and is_id(word.upper()) and (lost := quarantined(spool, word.upper())):
        raise lost
    if not found:
        named = printable(os.fsencode(word[:300])) or "an empty word"
        raise UsageError(
            f"nothing is known here of {named}: it may be forgotten, see `remember`, and the mail log;"
            f" of what waits {MOST_READ:,} files per peer are searched for queue ids and Message-IDs"
        )
    return 0


def _print(life: Life, as_json: bool) -> None:
    record = life.record
    if as_json:
        events = [{"time_ms": one.time_ms, "what": one.what, "text": one.text} for one in life.events]
        print_json({"id": record.id, "peer": record.peer, "state": record.state, "events": events})
        return
    way = "from" if record.received else "to"
    click.echo(f"{record.id} {way} {record.peer}: {record.state}")
    for one in life.events:
        time = formatdate(one.time_ms / 1000, localtime=True)
        click.echo(f"  {time}  {one.what:<9} {printable(one.text.encode('ascii', 'backslashreplace'))}".rstrip())
