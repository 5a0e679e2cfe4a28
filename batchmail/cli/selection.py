"""The commands that act upon transactions: which are meant, asking first, and telling what came of it."""

import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import click

from batchmail.cli import config, forms, start
from batchmail.cli.progress import octets_text
from batchmail.cli.tables import address_text, age_text, count_text
from batchmail.core.errors import ConfigError, UsageError
from batchmail.core.names import is_id
from batchmail.flow.choose import Chosen, Filter, by_filter, by_id, plan
from batchmail.flow.context import Context
from batchmail.flow.queue import Row
from batchmail.flow.target import close_all
from batchmail.flow.work import Busy, carry_out_plans, targets_of
from batchmail.store.bell import MAIL, ring
from batchmail.store.plans import Plan, Plans
from batchmail.store.setup import is_retired
from batchmail.wire import maillog

_SAMPLE = 5
_MOST_TOLD = 20
_FILTERS = ("sender", "recipient", "older", "larger")
_NULL_SENDER = {"sender": "; <> is the null sender"}


def _not_empty(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A variable of a script that is not set must not choose everything."""
    if value == "":
        raise click.BadParameter("it is empty, and would choose everything" + _NULL_SENDER.get(param.name or "", ""))
    return value


def _criterion(flag: str, name: str, metavar: str, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(flag, name, metavar=metavar, callback=_not_empty, help=what)


def selecting(words: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The arguments, whose place in the usage is `words`, and options by which transactions are chosen."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(
            (
                click.argument("words", nargs=-1, metavar=words),
                _criterion("--peer", "peer", "PEER", "Those on their way to this peer."),
                _criterion("--from", "sender", "TEXT", "Those whose sender holds this; <> is the null sender."),
                _criterion("--to", "recipient", "TEXT", "Those with a recipient that holds this."),
                _criterion("--older", "older", "TIME", 'Those that arrived longer ago than this, such as "3d".'),
                _criterion("--larger", "larger", "SIZE", 'Those of at least this size, such as "10M".'),
                click.option("--yes", is_flag=True, help="Do not ask."),
            )
        ):
            function = one(function)
        return function

    return decorate


class Selection:
    """The transactions that a command line means."""

    def __init__(self, config_file: str | None, words: tuple[str, ...], options: dict[str, Any]):
        if words:
            _refuse_both(options, _FILTERS)
        self.site, self.path = start.load(config_file)
        self.spool = start.set_up(self.site)
        maillog.open_log("plan")
        self._words, self._options = words, options
        peers = start.peers_of(self.site, self.spool, options["peer"], self.path)
        self.contexts = [start.context(self.site, self.spool, peer) for peer in peers]

    def choose(self, doing: str, states: tuple[str, ...] = ()) -> list[Chosen]:
        """Those that are meant; after asking, where they were not named one by one."""
        if self._words:
            return list(self._named())
        if not any(self._options[key] for key in ("peer", *_FILTERS)):
            raise UsageError("which transactions? name IDs, - for IDs on standard input, or --peer, --from, --to, ...")
        return self._filtered(doing, states)

    def _named(self) -> Iterator[Chosen]:
        for word in self._words:
            for identifier in sys.stdin.read().split() if word == "-" else [word]:
                yield self._find(identifier.upper())

    def _find(self, identifier: str) -> Chosen:
        if not is_id(identifier):
            raise UsageError(
                f"{identifier[:60]} is no ID: 26 letters and digits, as in batchmail queue and the mail log"
            )
        found = by_id(self.contexts, identifier)
        if found is None:
            raise UsageError(f"{identifier} is not on its way from here: batchmail show {identifier} may know more")
        if found.ended:
            raise UsageError(f"{identifier} has ended: {found.ended}")
        return found

    def _filtered(self, doing: str, states: tuple[str, ...]) -> list[Chosen]:
        try:
            wanted = self._filter(states)
        except ValueError:
            raise UsageError('--older wants a time such as "3d", --larger a size such as "10M"') from None
        fitting = self._fitting(wanted)
        found = [one for one in fitting if not one[1].is_only_known]
        octets = sum(row.size_octets for _, row in found)
        click.echo(f"{doing}: {count_text(len(found), 'transaction')}, {octets_text(octets)} octets", err=True)
        for context, row in islice(found, _SAMPLE):
            age = age_text(start.now_ms() - row.arrival_ms)
            to = address_text(row.envelope.recipients[0].address) if row.envelope.recipients else ""
            line = f"  {row.id} {context.peer.name} {row.state} {age} {address_text(row.envelope.sender)} -> {to}"
            click.echo(line, err=True)
        if len(found) > _SAMPLE:
            click.echo(f"  and {len(found) - _SAMPLE} more", err=True)
        if left := len(fitting) - len(found):  # nobody can say what they are, and what comes back has no text
            what = count_text(left, "transaction")
            click.echo(f"left out, as their batches are gone or damaged: {what}; name them by ID", err=True)
        if found and not self._options["yes"]:
            if not sys.stdin.isatty():
                raise UsageError("say --yes to do this without being asked")
            click.confirm("Go on?", abort=True, err=True)
        return [Chosen(context, row.id) for context, row in found]

    def choose_again(self) -> list[Chosen]:
        """Those that are meant and those that came since it was asked."""
        fitting = self._fitting(self._filter(()))
        return [Chosen(context, row.id) for context, row in fitting if not row.is_only_known]

    def _fitting(self, wanted: Filter) -> list[tuple[Context, Row]]:
        return [(context, row) for context, row in by_filter(self.contexts, wanted) if self._suits(row)]

    def _suits(self, row: Row) -> bool:
        return self._options["sender"] != "<>" or (row.is_read and not row.envelope.sender)

    def _filter(self, states: tuple[str, ...]) -> Filter:
        options = self._options
        sender = "" if options["sender"] == "<>" else options["sender"] or ""
        before_ms = start.now_ms() - forms.milliseconds(options["older"]) if options["older"] else None
        larger = forms.octets(options["larger"]) if options["larger"] else 0
        recipient = options["recipient"] or ""
        return Filter(os.fsencode(sender), os.fsencode(recipient), before_ms, larger, states)

    def find_other(self, name: str) -> str:
        """The name of the peer to which something is to be moved."""
        other = config.find_peer(self.site, name, self.path).name
        if is_retired(self.spool.root, other):
            raise UsageError(f"{other} is retired: batchmail retire --undo {other} takes mail for it again")
        return other

    def carry_out(self, chosen: list[Chosen], verb: str, peer: str = "", status: str = "", text: str = "") -> int:
        """Plan it, do what can be done now, and tell."""
        check_text(text)
        if not chosen:
            click.echo("There is nothing to do.")
            return 0
        plan(chosen, verb, peer, status, text)
        for name in sorted({one.context.peer.name for one in chosen}):
            of_one = [one for one in chosen if one.context.peer.name == name]
            self._carry_out(of_one[0].context, [one.id for one in of_one])
        return 0

    def _carry_out(self, context: Context, identifiers: list[str]) -> None:
        targets = targets_of(context)
        ledger = context.open_ledger()
        try:
            carry_out_plans(context, ledger, targets[0])
        except Busy:
            pass  # that one carries them out, or the next pass
        finally:
            close_all(targets)
            plans = [Plans(ledger).find(identifier) for identifier in identifiers]
            ledger.close()
        self._tell(context, [found for found in plans if found])

    def _tell(self, context: Context, plans: list[Plan]) -> None:
        for one in plans[:_MOST_TOLD]:
            click.echo(f"{one.tx}: {_state(one, context.peer.name)}")
        if len(plans) > _MOST_TOLD:
            done = sum(one.done_ms is not None for one in plans)
            click.echo(f"{count_text(len(plans), 'transaction')} in all, done {done}; the others follow")


def _state(plan: Plan, peer: str) -> str:
    if plan.result:  # done, or begun
        return plan.result
    if plan.request:
        return f"{peer} has it, or may have: it is asked in the next call, and batchmail show tells what came of it"
    return "it is done when the call that is going on has ended; where none is, the mail log and check --files say why"


def check_text(text: str) -> None:
    """Raises UsageError unless it can be the Diagnostic-Code of a notice, RFC 3464 §2.3.6."""
    if not (text.isascii() and text.isprintable()):
        raise UsageError("--text stands in a field of a notice that takes printable ASCII only")


def pause(peer: str, context: Context, held: bool) -> int:
    """Send a peer no mail, or mail again; reports and requests go all the while.

    A call that is open looks before it seals; what waits then goes in it when it is told to look again.
    """
    ledger = context.open_ledger()
    ledger.note("on_hold", "1" if held else "")
    ledger.close()
    ring(context.spool.root, context.peer.name, MAIL)
    what = "gets no mail until batchmail release" if held else "gets mail again; held transactions stay held:"
    click.echo(f"{peer} {what} {peer}" if held else f"{peer} {what} batchmail release --peer {peer} lets them go")
    return 0


def _refuse_both(options: dict[str, Any], filters: tuple[str, ...]) -> None:
    if any(options[key] for key in filters):
        raise UsageError("name IDs or a peer, or choose by --from and the others: not both")


def find_whole_peer(
    words: tuple[str, ...], options: dict[str, Any], config_file: str | None
) -> tuple[str, Context] | None:
    """The peer that the only word names, when it is no ID.  Raises UsageError where a part of its mail is chosen."""
    if len(words) != 1 or words[0] == "-" or is_id(words[0].upper()):
        return None
    _refuse_both(options, ("peer", *_FILTERS))
    site, path = start.load(config_file)
    spool = start.set_up(site)
    peers = start.peers_of(site, spool, words[0], path)
    if not peers:
        raise ConfigError(f"{path}: no peer {words[0]}")
    return peers[0].name, start.context(site, spool, peers[0])
