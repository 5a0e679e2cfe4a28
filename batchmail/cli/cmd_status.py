"""batchmail status: how it stands with the peers; exit codes as monitoring wants them."""

import click

from batchmail.cli import start
from batchmail.cli.progress import octets_text
from batchmail.cli.tables import Column, Table, age_text, end_with_reader, field_lines, print_json
from batchmail.core.errors import BatchmailError, ConfigError, UsageError
from batchmail.flow.lists import Lists
from batchmail.flow.overview import CRITICAL, WARNING, PeerState, Trouble, look_at, room_trouble
from batchmail.store.looks import Looks
from batchmail.store.recipients import Head

_CODES = {"OK": 0, WARNING: 1, CRITICAL: 2}
_UNKNOWN = 3
_NAMED = 3  # peers, in the first line
_COLUMNS = (
    Column("PEER", 16),
    Column("WAITING", 7, True),
    Column("SIZE", 5, True),
    Column("OLDEST", 6, True),
    Column("HELD", 5, True),
    Column("SEALED", 6, True),
    Column("THERE", 5, True),
    Column("HERE", 5, True),
    Column("LAST CALL", 18),
)


@click.command("status", short_help="Say how it stands with the peers; for people and monitoring.")
@click.argument("peer", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per peer and line.")
@click.pass_obj
def command(config_file: str | None, peer: str | None, as_json: bool) -> int:
    """Say how it stands with each peer, or all about one.

    WAITING, HELD, SEALED and THERE (in the far side's custody) count transactions on their way to the peer,
    HERE those that came from it and are still to be replayed.

    Exits with 0 when all is well, 1 with a warning, 2 when something needs you, 3 when it cannot be known.
    """
    try:
        return _show(config_file, peer, as_json)
    except (ConfigError, UsageError) as error:
        _tell("UNKNOWN", str(error), as_json)
        return _UNKNOWN
    except BatchmailError as error:
        _tell(CRITICAL, str(error), as_json)
        return _CODES[CRITICAL]


def _tell(level: str, text: str, as_json: bool) -> None:
    if as_json:
        print_json({"level": level, "text": text})
    else:
        click.echo(f"{level}: {text}")


def _show(config_file: str | None, name: str | None, as_json: bool) -> int:
    site, path = start.load(config_file)
    spool = start.open_spool(site)
    end_with_reader()
    contexts = [start.context(site, spool, peer) for peer in start.peers_of(site, spool, name, path)]
    looks = Looks(spool, start.now_ms() * 1_000_000)
    states = [look_at(context, looks.look) for context in contexts]
    looks.keep()
    full = room_trouble(contexts[0]) if contexts else None
    troubles = ([("", full)] if full else []) + [(state.peer, one) for state in states for one in state.troubles]
    level = max((one.level for _, one in troubles), key=_CODES.__getitem__, default="OK")
    if as_json:
        for state in states:
            print_json(_json(state, full))
        return _CODES[level]
    click.echo(f"{level}: {_summary(states, troubles)}")
    now_ms = start.now_ms()
    if name:
        _print_one(states[0], now_ms)
    else:
        table = Table(*_COLUMNS)
        for state in states:
            table.row(*_row(state, now_ms))
    for peer, one in troubles:
        click.echo(f"{one.level}: {peer + ': ' if peer else ''}{one.text}")
    return _CODES[level]


def _summary(states: list[PeerState], troubles: list[tuple[str, Trouble]]) -> str:
    waiting = sum(state.waiting for state in states)
    there = sum(state.custody for state in states)
    here = sum(state.replay for state in states)
    found = f"{waiting} waiting, {there} there, {here} here; peers: {len(states)}"
    if failed := [state.peer for state in states if state.call_code]:  # as it may, where a line comes and goes
        found += f"; last call failed: {', '.join(failed[:_NAMED])}{' and others' if failed[_NAMED:] else ''}"
    return f"{found}; troubles: {len(troubles)}" if troubles else found


def _row(state: PeerState, now_ms: int) -> tuple[object, ...]:
    oldest = age_text(now_ms - state.oldest_ms) if state.oldest_ms is not None else "-"
    open_for = _open_for(state, now_ms)
    return (
        state.peer,
        _count(state),
        octets_text(state.waiting_octets),
        oldest,
        state.held,
        state.sealed,
        state.custody,
        state.replay,
        f"open {open_for}" if open_for else _last_call(state, now_ms),
    )


def _count(state: PeerState) -> str:
    return f"{state.waiting}{'+' if state.has_more else ''}"


def _open_for(state: PeerState, now_ms: int) -> str:
    return f"for {age_text(now_ms - state.open_ms)}" if state.open_ms is not None else ""


def _last_call(state: PeerState, now_ms: int) -> str:
    if state.call_ms is None:
        return "never"
    return f"{age_text(now_ms - state.call_ms)} ago, {'failed' if state.call_code else 'done'}"


def _print_one(state: PeerState, now_ms: int) -> None:
    def ago(time_ms: int | None) -> str:
        return f"{age_text(now_ms - time_ms)} ago" if time_ms is not None else ""

    replay = f"{state.replay}"
    if state.replay and state.next_replay_ms is not None:
        wait_ms = state.next_replay_ms - now_ms
        replay += f", the next {'now' if wait_ms <= 0 else 'in ' + age_text(wait_ms)}"
    fields = (
        ("peer", state.peer),
        ("waiting", f"{_count(state)}, {octets_text(state.waiting_octets)} octets"),
        ("held", str(state.held)),
        ("sealed", str(state.sealed)),
        ("in custody", f"{state.custody} there"),
        ("oldest", ago(state.oldest_ms)),
        ("to replay", replay),
        ("notices owed", str(state.notices)),
        ("last contact", ago(state.contact_ms) or "never"),
        ("call open", _open_for(state, now_ms)),
        ("last call", _last_call(state, now_ms)),
        ("it ended", state.call_text),
        ("next call", f"expected in {age_text(state.expected_ms - now_ms)}" if state.expected_ms is not None else ""),
        ("rate", f"{octets_text(state.rate)}/s" if state.rate else ""),
        ("recipients", _list_text(state.lists)),
        ("told it", _told_text(state.lists)),
    )
    for line in field_lines(fields):
        click.echo(line)


def _list_text(lists: Lists) -> str:
    return f"{lists.theirs.addresses} valid addresses, its list of {lists.theirs.day}" if lists.theirs else ""


def _told_text(lists: Lists) -> str:
    if lists.ours is None:
        return ""
    state = "in force there" if lists.is_in_force else "not in force there"
    return f"{lists.ours.addresses} valid addresses, our list of {lists.ours.day}, {state}"


def _json_list(head: Head) -> dict[str, object]:
    return {"list": head.identity, "addresses": head.addresses, "time_ms": head.time_ms}


def _json(state: PeerState, full: Trouble | None) -> dict[str, object]:
    value = {key: found for key, found in state._asdict().items() if found is not None}
    del value["lists"]
    if state.lists.theirs:
        value["recipients"] = _json_list(state.lists.theirs)
    if state.lists.ours:
        value["told_recipients"] = _json_list(state.lists.ours) | {"in_force": state.lists.is_in_force}
    troubles = ((full,) if full else ()) + state.troubles
    return value | {"troubles": [{"level": one.level, "text": one.text} for one in troubles]}
