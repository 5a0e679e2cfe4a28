"""batchmail inspect: what a batch holds, and whether it is whole."""

import os
from email.utils import formatdate

import click

from batchmail.cli import files, start
from batchmail.cli.progress import octets_text
from batchmail.cli.tables import (
    Column,
    Table,
    address_text,
    age_text,
    count_text,
    end_with_reader,
    field_lines,
    json_text,
    print_json,
)
from batchmail.core.envelope import Envelope
from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.manifest import Item
from batchmail.flow.reading import Inspected, envelopes, inspect_batch, is_batch, read_lines

_COLUMNS = (
    Column("ID", 26),
    Column("AGE", 5, True),
    Column("SIZE", 5, True),
    Column("RCPTS", 5, True),
    Column("SENDER", 35),
)


@click.command("inspect", short_help="Check a batch and list what it holds.")
@click.argument("batch")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line: the batch, then its transactions.")
@click.pass_obj
def command(config_file: str | None, batch: str, as_json: bool) -> int:
    """Check BATCH, a path or a name as in the mail log, and list what it holds.

    All of it is read: framing, the digest of every transaction, and the identity. Exits with 75 when it is damaged.
    """
    path = files.find(config_file, batch)
    end_with_reader()
    try:
        if is_batch(path):
            return _inspect(path, as_json)
        lines, identity = read_lines(path)
    except OSError as error:
        raise SpoolError(f"{path}: {error.strerror}") from None
    click.echo("".join(line.decode("ascii", "replace") for line in lines), nl=False)
    if not as_json:
        click.echo(f"identity {identity}: whole")
    return 0


def _inspect(path: str, as_json: bool) -> int:
    found = inspect_batch(path)
    shown: list[tuple[Item, Envelope | None]] = [(item, None) for item in found.items]
    if not found.problem:
        shown = list(envelopes(path))
    if as_json:
        _print_json(found, shown)
    else:
        _print(path, found, shown)
    if found.problem:
        why = found.problem.removeprefix(f"{path} is damaged: ")
        raise PeerError(f"{path} is damaged: {why}")
    return 0


def _print(path: str, found: Inspected, shown: list[tuple[Item, Envelope | None]]) -> None:
    head = found.head
    octets = os.stat(path).st_size
    fields = (
        ("batch", f"{head.stream}.{head.seq}"),
        ("from", head.origin),
        ("to", head.destination),
        ("sealed", formatdate(head.sealed_ms / 1000, localtime=True)),
        ("holds", f"{count_text(head.transactions, 'transaction')}, {head.text_octets} octets of text in {octets}"),
        ("identity", f"{found.identity}  (of manifest and text: whole)" if found.identity else "not checked: damaged"),
    )
    for line in field_lines(fields):
        click.echo(line)
    click.echo()
    table = Table(*_COLUMNS)
    now_ms = start.now_ms()
    for item, envelope in shown:
        entry = item.entry
        age, size = age_text(now_ms - entry.arrival_ms), octets_text(entry.size_octets)
        table.row(entry.id, age, size, entry.recipients, address_text(envelope.sender) if envelope else "?")


def _print_json(found: Inspected, shown: list[tuple[Item, Envelope | None]]) -> None:
    whole = {"identity": found.identity} if found.identity else {"problem": found.problem}
    print_json(found.head._asdict() | whole)
    for item, envelope in shown:
        entry = item.entry
        value = {
            "id": entry.id,
            "arrival_ms": entry.arrival_ms,
            "lifetime_ms": item.lifetime_ms,
            "octets": entry.size_octets,
            "recipients": entry.recipients,
            "sha256": entry.sha256,
        }
        print_json(value | ({"sender": json_text(envelope.sender)} if envelope else {}))
