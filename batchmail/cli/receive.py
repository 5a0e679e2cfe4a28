"""batchmail-receive: the answering end of a call, started by sshd as a forced command.

Bound to one peer by its arguments; what the client asked to run is ignored.
Only frames leave on standard output.  Needs neither click nor paramiko.
"""

import os
import sys
import time

from batchmail import __version__
from batchmail.cli import memory, start
from batchmail.cli.config import find_peer
from batchmail.core.errors import BatchmailError, Temporary, UsageError
from batchmail.flow.called import note_call
from batchmail.flow.context import Context
from batchmail.flow.exchange import Call, Options
from batchmail.flow.totals import Result
from batchmail.store.bell import YIELD, ring
from batchmail.store.line import ANSWERER, CALLER, Line
from batchmail.store.owed import Owed
from batchmail.store.plans import Plans
from batchmail.store.received import Received
from batchmail.wire import maillog
from batchmail.wire.stream import PipeStream

USAGE = "usage: batchmail-receive --peer PEER [-c FILE]"
_TAKE_OVER_S = 5.0


def main(arguments: list[str]) -> int:
    """Answer one call; returns the exit code."""
    try:
        peer_name, config_file = _parse(arguments)
        if peer_name is None:
            print(USAGE if config_file is None else config_file)
            return 0
        return _answer(peer_name, config_file)
    except BatchmailError as error:
        return start.fail("batchmail-receive", error)


def _parse(arguments: list[str]) -> tuple[str | None, str | None]:
    peer = config_file = None
    words = iter(arguments)
    for word in words:
        if word in ("-h", "--help"):
            return None, None
        if word == "--version":
            return None, f"batchmail-receive {__version__}"
        name, equals, value = word.partition("=")
        if name not in ("--peer", "-c", "--config"):
            raise UsageError(f"unknown argument {word}; {USAGE}")
        value = value if equals else next(words, "")
        if not value:
            raise UsageError(f"{name} needs a value; {USAGE}")
        if name == "--peer":
            peer = value
        else:
            config_file = value
    if peer is None:
        raise UsageError(f"--peer is missing; {USAGE}")
    return peer, config_file


def _answer(peer_name: str, config_file: str | None) -> int:
    site, path = start.load(config_file)
    peer = find_peer(site, peer_name, path)
    spool = start.set_up(site, served=[peer])
    maillog.open_log("receive")
    start.stop_on_signals()
    memory.give_back_large()
    context = start.context(site, spool, peer)
    line = _take_line(context)
    stream = PipeStream(0, 1)
    result = Call(context, line, ANSWERER, Options(), _nothing, _nothing).run(stream)
    line.close()
    _note(context, result)
    if _something_is_due(context):
        _leave_to_run(peer_name, path)
    return start.fail("batchmail-receive", result.error) if result.error else 0


def _nothing(*_: object) -> None:
    """Who watches progress is at the other end."""


def _take_line(context: Context) -> Line:
    """The line with this peer: a newer call takes over from an older one; crossed calls go by the sites' names."""
    root, peer = context.spool.root, context.peer
    line = Line(context.spool, peer.name)
    ledger = context.open_ledger()
    far_site = ledger.fact("peer_site") or peer.site or peer.name
    ledger.close()
    give_up_s = time.monotonic() + _TAKE_OVER_S
    while not line.acquire(ANSWERER):
        if line.holder() == CALLER and context.site.name < far_site:
            raise Temporary(f"calls have crossed: the one from {context.site.name} goes on")
        if time.monotonic() > give_up_s:
            raise Temporary(f"another call with {peer.name} does not give way; it ends by itself in some minutes")
        ring(root, peer.name, YIELD)
        time.sleep(0.05)
    return line


def _note(context: Context, result: Result) -> None:
    ledger = context.open_ledger()
    note_call(ledger, context.now_ms(), result.error, result.totals.rate)
    ledger.close()


def _something_is_due(context: Context) -> bool:
    ledger = context.open_ledger()
    try:
        received, now_ms = Received(ledger), context.now_ms()
        lines = any(received.in_custody(kind) for kind in ("report", "request", "answer"))
        plans = [plan for plan in Plans(ledger).open() if not plan.request]  # they had to wait for the end of the call
        return bool(lines or plans or received.due_batches(now_ms) or Owed(ledger).due(now_ms))
    finally:
        ledger.close()


def _leave_to_run(peer_name: str, config_file: str) -> None:
    """Leave what is still to be replayed or settled to a process of its own: sshd may close this session."""
    program = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), "batchmail")
    options = ["-c", os.path.abspath(config_file)]  # it is started elsewhere
    try:
        os.chdir("/")
        os.posix_spawn(
            sys.executable,
            [sys.executable, program, *options, "run", "--peer", peer_name],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)],
            setsid=True,
        )
    except OSError as error:
        maillog.trouble(peer_name, f"batchmail run could not be started ({error}); its timer does what is due")
