"""One pass of all that is due for a peer: requests, settle, plans, time, replay."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from batchmail.core.errors import LineError, Temporary
from batchmail.flow import clock
from batchmail.flow.context import Context
from batchmail.flow.delivery import Target
from batchmail.flow.expire import Expirer
from batchmail.flow.plans import Planner
from batchmail.flow.postmaster import Postmaster
from batchmail.flow.recipients import Publisher
from batchmail.flow.replay import Replayer
from batchmail.flow.requests import Desk
from batchmail.flow.settle import Settler
from batchmail.flow.target import open_targets, parse_target
from batchmail.flow.totals import Replayed
from batchmail.store.ledger import Ledger
from batchmail.store.lock import Lock
from batchmail.store.owed import Owed
from batchmail.store.received import Received
from batchmail.wire import maillog


class Busy(Temporary):
    """Another process replays and settles for this peer."""


@contextlib.contextmanager
def replay_lock(context: Context) -> Iterator[bool]:
    """One at a time talks to the target for a peer; whether it is us."""
    lock = Lock(f"{context.spool.root}/lock/{context.peer.name}.replay")
    try:
        yield lock.acquire()
    finally:
        lock.close()


def targets_of(context: Context) -> list[Target]:
    """The peer's target, once for each session that may be held at a time; nothing is opened yet."""
    return open_targets(parse_target(context.peer.target), context.site.name, context.now_ms, context.spool.tmp)


def work_once(
    context: Context, ledger: Ledger, targets: Sequence[Target], progress: Replayed, stopped: Callable[[], bool]
) -> LineError | None:
    """Settle and replay what is due; returns why the target took nothing, if so.

    For a peer that has left the configuration: what was decided, and the notices.  Where else what came from it
    should go, and for how long its mail may wait, is not known.
    When another process is at it, that one does it; Busy tells that it may not have seen the newest.
    """
    with replay_lock(context) as ours:
        if not ours:
            raise Busy(f"another process replays what came from {context.peer.name}")
        replayer = Replayer(context, ledger, targets, progress)
        settler = Settler(context, ledger, targets[0])
        settler.sweep()
        now_ms = context.now_ms()
        Received(ledger).bring_forward(now_ms)
        Owed(ledger).bring_forward(now_ms)
        ledger.note("clock", clock.doubt(ledger, now_ms))
        planner = Planner(context, ledger, settler)
        expirer = Expirer(context, ledger, settler, planner)
        down = None
        postmaster = Postmaster(context, ledger)
        steps: Sequence[Callable[[Callable[[], bool]], None]] = (
            *(Desk(context, ledger).run, Publisher(context, ledger).run, settler.run),
            *(planner.run, expirer.run, postmaster.run, settler.hand_over, replayer.run),
        )
        if context.peer.name not in context.site.peers:
            steps = (settler.run, planner.run, postmaster.run, settler.hand_over)
        for step in steps:
            try:
                step(stopped)
            except LineError as error:
                down = error
                maillog.target_down(context.peer.name, str(error))
            except Exception as error:  # noqa: BLE001  the other step goes on, and the next pass comes
                maillog.trouble(context.peer.name, f"{type(error).__name__}: {error}")
        replayer.let_go()
        ledger.note("target_down", str(down or ""))
        for offers in {target.offers for target in targets if target.offers}:
            ledger.note("target_offers", offers)
        return down


def carry_out_plans(context: Context, ledger: Ledger, target: Target) -> None:
    """Only what was just planned.  Raises Busy when another process is at work for this peer."""
    with replay_lock(context) as ours:
        if not ours:
            raise Busy(f"another process replays what came from {context.peer.name}")
        Planner(context, ledger, Settler(context, ledger, target)).run(lambda: False)
