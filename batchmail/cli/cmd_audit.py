"""batchmail audit: compare the ledgers of two sites."""

import time
from contextlib import closing

import click

from batchmail.cli import start
from batchmail.cli.calling import make_call
from batchmail.cli.config import find_peer
from batchmail.cli.tables import print_anything, print_json
from batchmail.core.errors import Temporary
from batchmail.flow import audit
from batchmail.flow.audit import Result
from batchmail.flow.context import Context
from batchmail.store.audit import SENT
from batchmail.wire import maillog

_CALLS = 3  # that the answers may take


@click.command("audit", short_help="Compare ledgers with a peer: does everything balance?")
@click.argument("peer")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def command(config_file: str | None, peer: str, as_json: bool) -> int:
    """Ask a peer, in a call, what it knows of the mail in both directions, and compare that with our ledger.

    A peer that cannot be called from here is asked when it calls: run this again after that.
    Exits with 0 when everything balances, 1 when not, 75 when there is no answer yet.
    """
    site, path = start.load(config_file)
    entry = find_peer(site, peer, path)
    context = start.context(site, start.set_up(site), entry)
    maillog.open_log("call")
    print_anything()
    found = _call_and_ask(context) if entry.call else _ask_or_look(context)
    if found.refused:
        raise Temporary(f"{entry.name} does not say: {found.refused}")
    if found.open:
        raise Temporary(f"{entry.name} was asked; its answer comes with the next call, then run this again")
    if as_json:
        print_json(_json(found))
    else:
        _print(entry.name, found)
    return 1 if found.problems else 0


def _call_and_ask(context: Context) -> Result:
    with closing(context.open_ledger()) as ledger:
        name = audit.ask(context, ledger)
    for _ in range(_CALLS):
        if make_call(context):
            raise Temporary(f"{context.peer.name} was asked, and the call failed: run this again")
        with closing(context.open_ledger()) as ledger:
            found = audit.result(context, ledger, name)
        if not found.open:
            break
    return found


def _ask_or_look(context: Context) -> Result:
    """What the last audit found, unless it was shown before; else begin one."""
    with closing(context.open_ledger()) as ledger:
        name = audit.last(ledger)
        if not name or ledger.fact("audit_shown") == name:
            name = audit.ask(context, ledger)
        found = audit.result(context, ledger, name)
        if not found.open:
            ledger.note("audit_shown", name)
    return found


def _print(peer: str, found: Result) -> None:
    since, told = (
        time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ms / 1000)) for time_ms in (found.from_ms, found.told_ms)
    )
    click.echo(f"{peer}, as it answered on {told}, what arrived since {since} (what is older may be forgotten);")
    click.echo("transactions:")
    for way in found.here:
        sent, received = (found.here, found.there) if way == SENT else (found.there, found.here)
        click.echo(f"{'to' if way == SENT else 'from'} {peer}:")
        origin, far = ("here", peer) if way == SENT else (peer, "here")
        click.echo(f"  {origin:<12} {_counts(sent[way])}")
        click.echo(f"  {far:<12} {_counts(received[way])}")
    for problem in found.problems:
        click.echo(f"WRONG {problem.id} {'to' if problem.way == SENT else 'from'} {peer}: {problem.text}")
    if found.is_partial:
        click.echo("More differs than was asked for: run this again when these are mended.")
    click.echo("Everything balances." if not found.problems else f"Not balanced: {len(found.problems)}")


_ORDER = ("waiting", "held", "sealed", "custody", "lost", "settled", "notified", "done", "ended")
_NAMES = {"ended": "never handed over"}


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{_NAMES.get(key, key)} {counts[key]}" for key in _ORDER if counts.get(key)]
    return f"{sum(counts.values())}: {', '.join(shown) or 'none'}"


def _json(found: Result) -> dict[str, object]:
    return {
        "from_ms": found.from_ms,
        "told_ms": found.told_ms,
        "balanced": not found.problems,
        "partial": found.is_partial,
        "here": found.here,
        "there": found.there,
        "problems": [problem._asdict() for problem in found.problems],
    }
