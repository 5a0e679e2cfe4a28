"""batchmail queue: what is on its way to the peers."""

from itertools import chain, islice

import click

from batchmail.cli import start
from batchmail.cli.progress import octets_text
from batchmail.cli.tables import (
    Column,
    Table,
    address_text,
    age_text,
    end_with_reader,
    json_text,
    line_width,
    print_json,
    shorten,
)
from batchmail.core.settings import Peer, Site
from batchmail.flow.overview import Row, list_queue, look_at
from batchmail.store.looks import Looks
from batchmail.store.spool import Spool

_LIMIT = 1000


@click.command("queue", short_help="List what is on its way to the peers.")
@click.argument("peer", required=False)
@click.option("--limit", type=click.IntRange(0), default=_LIMIT, show_default=True, help="Rows at most; 0: all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def command(config_file: str | None, peer: str | None, limit: int, as_json: bool) -> int:
    """List the transactions that are not settled, peer by peer, in the order in which they go, the newest last.

    Their STATE: "custody", the far side has it, and its outcome is awaited; "sealed", in a batch that has not
    crossed yet, or goes again after batchmail resend; "held", set aside; "waiting"; "damaged" and "unknown", see
    batchmail check --files.
    """
    site, path = start.load(config_file)
    spool = start.open_spool(site)
    end_with_reader()
    peers = start.peers_of(site, spool, peer, path)
    rows = chain.from_iterable(list_queue(start.context(site, spool, one)) for one in peers)
    show = _JsonRows() if as_json else _Rows([one.name for one in peers])
    for row in islice(rows, limit or None):
        show.row(row)
    if next(rows, None) is not None:
        click.echo(f"{limit} are shown, there are more: --limit 0 lists all, batchmail status counts them", err=True)
    elif not as_json and not show.count:
        click.echo(f"Nothing is on its way{_to_be_replayed(site, spool, peers)}.")
    return 0


def _to_be_replayed(site: Site, spool: Spool, peers: list[Peer]) -> str:
    """What came from the peers and waits here; it is not on its way, and is yet what one may look for."""
    looks = Looks(spool, start.now_ms() * 1_000_000)
    counts = [(peer.name, look_at(start.context(site, spool, peer), looks.look).replay) for peer in peers]
    looks.keep()
    return "".join(
        f"; {count} from {name} {'is' if count == 1 else 'are'} to be replayed" for name, count in counts if count
    )


class _JsonRows:
    count = 0

    def row(self, row: Row) -> None:
        self.count += 1
        value: dict[str, object] = {
            "peer": row.peer,
            "id": row.id,
            "state": row.state,
            "arrival_ms": row.arrival_ms,
            "octets": row.size_octets,
            "sender": json_text(row.envelope.sender),
            "recipients": [json_text(recipient.address) for recipient in row.envelope.recipients],
        }
        print_json(value | ({"batch": row.batch} if row.batch else {}))


class _Rows:
    """The peer has a column when there are several."""

    def __init__(self, peers: list[str]):
        self._several = len(peers) > 1
        peer = [Column("PEER", min(12, max(4, *map(len, peers))))] if self._several else []
        fixed = [*peer, Column("ID", 26), Column("AGE", 5, True), Column("SIZE", 5, True), Column("STATE", 7)]
        left = max(20, line_width() - sum(column.width + 1 for column in fixed))
        sender = min(40, (left - 1) * 9 // 20)
        self._table = Table(*fixed, Column("SENDER", sender), Column("RECIPIENTS", left - 1 - sender))
        self._recipients = left - 1 - sender
        self.count = 0

    def row(self, row: Row) -> None:
        self.count += 1
        peer = [row.peer] if self._several else []
        age = age_text(start.now_ms() - row.arrival_ms)
        damaged = row.state == "damaged"
        sender = "" if damaged else address_text(row.envelope.sender)
        size = octets_text(row.size_octets)
        self._table.row(*peer, row.id, age, size, row.state, sender, self._recipients_text(row))

    def _recipients_text(self, row: Row) -> str:
        """The first, and how many more, which is not to be cut off."""
        recipients = row.envelope.recipients
        if not recipients:
            return ""
        more = f" +{len(recipients) - 1}" if len(recipients) > 1 else ""
        return shorten(address_text(recipients[0].address), self._recipients - len(more)) + more
