"""batchmail check: what is wrong with this site, and what to do about it."""

from collections.abc import Iterator

import click

from batchmail.cli import start
from batchmail.cli.tables import count_text, print_anything, print_json
from batchmail.core.errors import BatchmailError
from batchmail.flow import checkup
from batchmail.flow.checkup import Finding
from batchmail.flow.context import Context


@click.command("check", short_help="Look for what is wrong, and say what to do.")
@click.option("--files", is_flag=True, help="Read every file in the spool and compare it with its digests.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per finding.")
@click.pass_obj
def command(config_file: str | None, files: bool, as_json: bool) -> int:
    """Check configuration, spool, ledgers, targets, keys and host keys. Nothing is changed, no peer is called.

    Exits with 0 when nothing is wrong, else 1.
    """
    print_anything()
    wrong = 0
    for finding in _findings(config_file, files):
        wrong += bool(finding.problem)
        if as_json:
            print_json({"subject": finding.subject, "ok": not finding.problem, "problem": finding.problem})
        elif finding.problem:
            click.echo(f"WRONG  {finding.subject}: {finding.problem}")
        else:
            click.echo(f"ok     {finding.subject}")
    return 1 if wrong else 0


def _findings(config_file: str | None, files: bool) -> Iterator[Finding]:
    try:
        site, path = start.load(config_file)
        yield Finding(f"configuration {path}: {site.name}, {count_text(len(site.peers), 'peer')}")
    except BatchmailError as error:
        yield Finding("configuration", str(error))
        return
    try:
        spool = start.open_spool(site)
        yield Finding(f"spool {spool.root}")
    except BatchmailError as error:
        yield Finding(f"spool {site.spool}", str(error))
        return
    yield from checkup.check_spool(spool, start.doors(site))
    try:
        contexts = [start.context(site, spool, peer) for peer in start.peers_of(site, spool, None, path)]
        yield from _of_peers(contexts, files)
    except OSError as error:
        yield Finding(f"spool {spool.root}", f"cannot read {error.filename}: {error.strerror}")
    yield from checkup.check_targets(site)


def _of_peers(contexts: list[Context], files: bool) -> Iterator[Finding]:
    if contexts:
        yield checkup.check_room(contexts[0])
    for context in contexts:
        yield from checkup.check_state(context)
        yield from checkup.check_line(context.peer)
        if files:
            yield from checkup.check_files(context)
