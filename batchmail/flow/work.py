"""One pass of all that is due for a peer on this side: settle, replay; and a thread that does it during a call."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from batchmail.core.errors import BatchmailError, LineError, Temporary
from batchmail.flow.context import Context
from batchmail.flow.delivery import Target
from batchmail.flow.replay import Progress, Replayer
from batchmail.flow.settle import Settler
from batchmail.flow.target import open_target, parse_target
from batchmail.store.durable import Lock
from batchmail.store.ledger import Ledger
from batchmail.wire import maillog

_BUSY_S = 1.0


class Busy(Temporary):
    """Another process replays and settles for this peer."""


@contextlib.contextmanager
def _replay_lock(context: Context) -> Iterator[bool]:
    """One at a time talks to the target for a peer; whether it is us."""
    lock = Lock(f"{context.spool.root}/lock/{context.peer.name}.replay")
    try:
        yield lock.acquire()
    finally:
        lock.close()


def work_once(
    context: Context, ledger: Ledger, target: Target, progress: Progress, stopped: Callable[[], bool]
) -> LineError | None:
    """Settle and replay what is due; returns why the target took nothing, if so.

    When another process is at it, that one does it; Busy tells that it may not have seen the newest.
    """
    with _replay_lock(context) as ours:
        if not ours:
            raise Busy(f"another process replays what came from {context.peer.name}")
        replayer = Replayer(context, ledger, target, progress)
        settler = Settler(context, ledger, target)
        settler.sweep()
        down = None
        for step in (settler.run, replayer.run):
            try:
                step(stopped)
            except LineError as error:
                down = error
                maillog.target_down(context.peer.name, str(error))
            except Exception as error:  # noqa: BLE001  the other step goes on, and the next pass comes
                maillog.trouble(context.peer.name, f"{type(error).__name__}: {error}")
        replayer.let_go()
        ledger.note("target_down", str(down or ""))
        return down


class Worker:
    """Works in a thread while a call goes on; `changed` is called when there may be outcomes to report."""

    def __init__(self, context: Context, progress: Progress, changed: Callable[[], None]):
        self._context, self._progress, self._changed = context, progress, changed
        self._condition = threading.Condition()  # guards the three below
        self._wanted = self._busy = False  # a pass is to be made; it is being made
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="batchmail-replay", daemon=True)
        self.error: BatchmailError | None = None

    def start(self) -> None:
        self._thread.start()

    def kick(self) -> None:
        """Something is due: files have come."""
        with self._condition:
            self._wanted = True
            self._condition.notify_all()

    @property
    def is_idle(self) -> bool:
        return self._stopped or not (self._wanted or self._busy) or not self._thread.is_alive()

    def stop(self, wait: bool) -> None:
        """End the thread; when not told to wait for what is due, after the transaction at hand."""
        with self._condition:
            if wait:
                self._condition.wait_for(lambda: self.is_idle)
            self._stopped = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _is_stopped(self) -> bool:
        return self._stopped

    def _run(self) -> None:
        try:
            self._work()
        except BatchmailError as error:
            self.error = error
        except OSError as error:
            self.error = Temporary(f"the spool cannot be used: {error}")
        finally:
            self._stopped = True
            self._rest()
        if self.error:
            maillog.trouble(self._context.peer.name, str(self.error))

    def _work(self) -> None:
        context = self._context
        ledger = context.open_ledger()
        target = open_target(parse_target(context.peer.target), context.site.name, context.now_ms, context.spool.tmp)
        try:
            while self._next():
                try:
                    work_once(context, ledger, target, self._progress, self._is_stopped)
                except Busy:
                    self._wanted = not self._pause(_BUSY_S)
                if not self._wanted:
                    target.close()
                self._rest()
        finally:
            target.close()
            ledger.close()

    def _pause(self, seconds: float) -> bool:
        """Wait for so long, or until the end is near; whether it is."""
        with self._condition:
            return self._condition.wait_for(self._is_stopped, seconds)

    def _next(self) -> bool:
        """Wait until a pass is to be made; False: no more."""
        with self._condition:
            self._condition.wait_for(lambda: self._wanted or self._stopped)
            self._busy, self._wanted = not self._stopped, False
            return self._busy

    def _rest(self) -> None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()
        self._changed()
