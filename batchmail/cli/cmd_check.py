"""batchmail check: what is wrong with this site, and what to do about it."""

from collections.abc import Iterator
from contextlib import closing

import click

from batchmail.cli import start
from batchmail.cli.progress import ProgressLine
from batchmail.cli.tables import count_text, print_anything, print_json
from batchmail.core.errors import BatchmailError
from batchmail.flow import checkup
from batchmail.flow.context import Context
from batchmail.flow.damage import Damage, Finding
from batchmail.flow.plans import line_of
from batchmail.flow.repair import Repairer
from batchmail.flow.work import replay_lock


@click.command("check", short_help="Look for what is wrong, and say what to do.")
@click.option("--files", is_flag=True, help="Read every file in the spool and compare it with its digests.")
@click.option("--repair", is_flag=True, help="With --files: set what is damaged aside, and let go on what is intact.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per finding.")
@click.pass_obj
def command(config_file: str | None, files: bool, repair: bool, as_json: bool) -> int:
    """Check configuration, spool, ledgers, targets, keys and host keys. Nothing is changed, no peer is called.

    With --repair what is damaged is moved to the spool's quarantine, never removed, and intact mail beside it goes on.
    Exits with 0 when nothing is wrong, else 1.
    """
    print_anything()
    wrong = 0
    for finding in _findings(config_file, files or repair, repair):
        wrong += bool(finding.problem)
        if as_json:
            value = {"subject": finding.subject, "ok": not finding.problem, "problem": finding.problem}
            print_json(value | ({"repaired": finding.repaired} if finding.repaired else {}))
        elif finding.problem:
            click.echo(f"WRONG  {finding.subject}: {finding.problem}")
            if finding.repaired:
                click.echo(f"MENDED {finding.subject}: {finding.repaired}")
        else:
            click.echo(f"ok     {finding.subject}")
    return 1 if wrong else 0


def _findings(config_file: str | None, files: bool, repair: bool) -> Iterator[Finding]:
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
        if files:
            yield from checkup.check_strays(spool)
        contexts = [start.context(site, spool, peer) for peer in start.peers_of(site, spool, None, path)]
        yield from _of_peers(contexts, files, repair)
    except OSError as error:
        yield Finding(f"spool {spool.root}", f"cannot read {error.filename}: {error.strerror}")
    yield from checkup.check_targets(site)


def _of_peers(contexts: list[Context], files: bool, repair: bool) -> Iterator[Finding]:
    if contexts:
        yield checkup.check_room(contexts[0])
    for context in contexts:
        yield from checkup.check_state(context)
        yield from checkup.check_line(context.peer)
        yield from checkup.check_list(context.peer)
        if files:
            yield from _of_files(context, repair)


def _of_files(context: Context, repair: bool) -> Iterator[Finding]:
    shown = ProgressLine(context.peer.name)
    try:
        if not repair:
            yield from Damage(context, None, shown.checked).findings()
            return
        with line_of(context) as has_line, replay_lock(context) as may_replay:
            if not (has_line and may_replay):
                problem = "a call or a run is going on: nothing is repaired; try again when it has ended"
                yield Finding(f"files of {context.peer.name}", problem)
                return
            with closing(context.open_ledger()) as ledger:
                yield from Damage(context, Repairer(context, ledger), shown.checked).findings()
    except BatchmailError as error:
        yield Finding(f"files of {context.peer.name}", str(error))
    except OSError as error:
        yield Finding(f"files of {context.peer.name}", f"cannot read {error.filename}: {error.strerror}")
    finally:
        shown.end()
