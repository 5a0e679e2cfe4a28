"""batchmail queue: what is on its way to the peers, and what came from them and is not replayed yet."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

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
    reply_text,
    shorten,
)
from batchmail.core.envelope import Recipient
from batchmail.flow.context import Context
from batchmail.flow.here import HereRow, list_here
from batchmail.flow.overview import look_at
from batchmail.flow.queue import Row, list_queue
from batchmail.store.looks import Looks
from batchmail.store.received import NEVER_MS

_LIMIT = 1000
_MOST = 1_000_000_000
_R = TypeVar("_R")


@click.command("queue", short_help="List what is on its way to the peers, or is to be replayed here.")
@click.argument("peer", required=False)
@click.option("--here", is_flag=True, help="What came from the peers, and is to be replayed here.")
@click.option("--limit", type=click.IntRange(0, _MOST), default=_LIMIT, show_default=True, help="Rows at most; 0: all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def command(config_file: str | None, peer: str | None, here: bool, limit: int, as_json: bool) -> int:
    """List the transactions that are not settled, peer by peer, in the order in which they go, the newest last.

    Their STATE: "custody", the far side has it, and its outcome is awaited; "sealed", in a batch that has not
    crossed yet, or goes again after batchmail resend; "held", set aside; "waiting"; "lost", "damaged" and "unknown",
    see batchmail check --files.

    With --here: what came from the peers and is still to be replayed, how often that was TRIED, when it is NEXT,
    the recipients that are left, and below each what was said of them the last time.
    """
    site, path = start.load(config_file)
    spool = start.open_spool(site)
    end_with_reader()
    contexts = [start.context(site, spool, one) for one in start.peers_of(site, spool, peer, path)]
    names = [one.peer.name for one in contexts]
    looks = Looks(spool, start.now_ms() * 1_000_000)
    if here:
        show_here = _show_here_json if as_json else _HereRows(names).row
        is_empty = not _show(chain.from_iterable(map(list_here, contexts)), show_here, limit)
    else:
        show = _show_json if as_json else _Rows(names).row
        is_empty = not _show(chain.from_iterable(list_queue(one, looks.look) for one in contexts), show, limit)
    if is_empty and not as_json:
        click.echo(
            "Nothing is to be replayed." if here else f"Nothing is on its way{_to_be_replayed(looks, contexts)}."
        )
    looks.keep()
    return 0


def _show(rows: Iterator[_R], show: Callable[[_R], None], limit: int) -> int:
    """How many there are to see."""
    count = 0
    for row in islice(rows, limit or None):
        show(row)
        count += 1
    if next(rows, None) is not None:
        click.echo(f"{limit} are shown, there are more: --limit 0 lists all, batchmail status counts them", err=True)
    return count


def _to_be_replayed(looks: Looks, contexts: Iterable[Context]) -> str:
    """What came from the peers and waits here; it is not on its way, and is yet what one may look for."""
    counts = [(context.peer.name, look_at(context, looks.look).replay) for context in contexts]
    found = [f"; {count} from {name} {'is' if count == 1 else 'are'} to be replayed" for name, count in counts if count]
    return "".join(found) + (" (--here lists them)" if found else "")


# -- on its way -------------------------------------------------------------------------------------------------


def _show_json(row: Row) -> None:
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


class _Columns:
    """A table of transactions: the peer has a column when there are several, the addresses what is left."""

    def __init__(self, peers: list[str], *own: Column):
        self._several = len(peers) > 1
        peer = [Column("PEER", min(12, max(4, *map(len, peers))))] if self._several else []
        fixed = [*peer, Column("ID", 26), Column("AGE", 5, True), Column("SIZE", 5, True), *own]
        left = max(20, line_width() - sum(column.width + 1 for column in fixed))
        sender = min(40, (left - 1) * 9 // 20)
        self._table = Table(*fixed, Column("SENDER", sender), Column("RECIPIENTS", left - 1 - sender))
        self._recipients = left - 1 - sender

    def _line(
        self, peer: str, identifier: str, arrival_ms: int, octets: int, own: Iterable[str], sender: str, to: str
    ) -> None:
        first = [peer] if self._several else []
        age = age_text(start.now_ms() - arrival_ms)
        self._table.row(*first, identifier, age, octets_text(octets), *own, sender, to)

    def _recipients_text(self, recipients: Sequence[Recipient]) -> str:
        """The first, and how many more, which is not to be cut off."""
        if not recipients:
            return ""
        more = f" +{len(recipients) - 1}" if len(recipients) > 1 else ""
        return shorten(address_text(recipients[0].address), self._recipients - len(more)) + more


class _Rows(_Columns):
    def __init__(self, peers: list[str]):
        super().__init__(peers, Column("STATE", 7))

    def row(self, row: Row) -> None:
        sender = address_text(row.envelope.sender) if row.is_read else ""
        to = self._recipients_text(row.envelope.recipients)
        self._line(row.peer, row.id, row.arrival_ms, row.size_octets, [row.state], sender, to)


# -- here -------------------------------------------------------------------------------------------------------


def _show_here_json(row: HereRow) -> None:
    received = row.received
    value: dict[str, object] = {
        "peer": row.peer,
        "id": row.id,
        "state": received.state if row.is_read else "damaged",
        "arrival_ms": received.arrival_ms,
        "octets": row.size_octets,
        "sender": json_text(row.sender),
        "recipients": [json_text(recipient.address) for recipient in row.recipients],
        "batch": received.number.file_name,
        "attempts": received.attempts,
        "expire_ms": received.expire_ms,
        "delays": [
            {
                "recipient": json_text(recipient.address),
                "code": outcome.code,
                "status": outcome.status,
                "text": json_text(outcome.text),
                "time_ms": outcome.time_ms,
            }
            for recipient, outcome in row.delays
        ],
    }
    print_json(value | ({"next_ms": received.next_ms} if received.next_ms != NEVER_MS else {}))


class _HereRows(_Columns):
    def __init__(self, peers: list[str]):
        super().__init__(peers, Column("TRIED", 5, True), Column("NEXT", 5, True))

    def row(self, row: HereRow) -> None:
        received = row.received
        wait_ms = received.next_ms - start.now_ms()
        due = "held" if received.next_ms == NEVER_MS else "now" if wait_ms <= 0 else age_text(wait_ms)
        to = self._recipients_text(row.recipients)
        own = [str(received.attempts), due]
        sender = address_text(row.sender) if row.is_read else ""
        self._line(row.peer, row.id, received.arrival_ms, row.size_octets, own, sender, to)
        if not row.is_read:
            click.echo("    its batch is gone or damaged: batchmail check --files says more")
        for said in dict.fromkeys(reply_text(outcome) for _, outcome in row.delays):  # the same of several is said once
            click.echo(f"    {shorten(said, line_width() - 4)}")
