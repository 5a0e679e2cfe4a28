"""batchmail resend: after a lost disk or a restored backup at either side."""

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import click

from batchmail.cli import start
from batchmail.cli.config import find_peer
from batchmail.cli.tables import count_text
from batchmail.core.errors import Temporary
from batchmail.store import malformed
from batchmail.store.ledger import Ledger
from batchmail.store.line import CALLER, Line
from batchmail.store.spool import Spool
from batchmail.store.streams import Again, begin_new_stream, to_send_again

_MOST_NAMED = 20  # transactions that are lost
_FORMS = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d"]


class _Time(click.DateTime):
    """Local time, in any of the usual forms."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            time: datetime = super().convert(value, param, ctx)
            time.timestamp()  # of the year 1 it is none in some zones
            return time
        except (click.BadParameter, ValueError, OverflowError):
            self.fail(f"{value!r} is no time; give one such as 2026-11-21 or '2026-11-21 18:30'", param, ctx)


@click.command("resend", short_help="Send a peer again what is unsettled.")
@click.argument("peer")
@click.option("--since", type=_Time(_FORMS), metavar="TIME", help="Only what the peer took since then (local time).")
@click.option("--dry-run", is_flag=True, help="Say how much it is, and change nothing.")
@click.pass_obj
def command(config_file: str | None, peer: str, since: datetime | None, dry_run: bool) -> None:
    """Send a peer all that is unsettled again, under a new stream of numbers, with the next call.

    For when the peer has lost its disk, or has restored a backup: then --since gives the time of that.
    """
    site, path = start.load(config_file)
    spool = start.set_up(site)
    entry = find_peer(site, peer, path)
    resend(spool, entry.name, since, dry_run)


def resend(spool: Spool, peer: str, since: datetime | None, dry_run: bool, adopt: bool = False) -> None:
    """Say first how much it is, and what may come twice."""
    line = Line(spool, peer)
    try:
        if not line.acquire(CALLER):
            raise Temporary(f"a call with {peer} is going on: try again when it has ended")
        if adopt and (place := malformed.set_aside(spool, peer)):
            click.echo(f"{peer}: its ledger was damaged and lies in {place}: a new one is begun.")
        with closing(Ledger(spool, peer, adopt=adopt)) as ledger:
            since_ms = int(since.timestamp() * 1000) if since else 0
            again = to_send_again(spool, ledger, peer, since_ms)
            click.echo(f"{peer}: {_what(again, peer)}")
            if again.here:
                what = f"{count_text(again.here, 'transaction')} from {peer} in the inbox"
                click.echo(f"{peer}: {what}: what was delivered of them is not known, and comes twice.")
            if again.lost:
                click.echo(f"{peer}: {_what_is_lost(again.lost)}")
            if dry_run:
                return
            begin_new_stream(ledger, since_ms)
        click.echo(f"{peer}: the next call sends it, under a new stream of numbers.")
    finally:
        line.close()


def _what_is_lost(identifiers: Sequence[str]) -> str:
    named = ", ".join(identifiers[:_MOST_NAMED])
    more = f" and {len(identifiers) - _MOST_NAMED} more" if len(identifiers) > _MOST_NAMED else ""
    return (
        f"{count_text(len(identifiers), 'transaction')} cannot be sent again, as the files of their batches are gone or"
        f" damaged: {named}{more}; batchmail check --files says what to do."
    )


def _what(again: Again, peer: str) -> str:
    if not again.transactions and again.lost:
        return "nothing can be sent again but outcomes and requests that were on their way."
    if not again.transactions:
        return "nothing that was sent is unsettled; outcomes and requests that were on their way are sent again."
    twice = (
        f"; {peer} had taken, or may have taken, {again.twice} of them: those come twice which it had delivered and no"
        " longer remembers"
    )
    return f"{count_text(again.transactions, 'transaction')} to be sent again{twice if again.twice else ''}."
