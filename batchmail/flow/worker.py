"""A thread that settles and replays while a call goes on.

What that takes is loaded by the thread, at the first pass: it is more than a
round trip's worth, and a call that has nothing to replay goes on without it.
"""

import threading
from collections.abc import Callable

from batchmail.core.errors import BatchmailError, Temporary
from batchmail.flow.context import Context
from batchmail.flow.totals import Replayed
from batchmail.wire import maillog

_BUSY_S = 1.0


class Worker:
    """Works in a thread while a call goes on; `changed` is called when there may be outcomes to report."""

    def __init__(self, context: Context, progress: Replayed, changed: Callable[[], None]):
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

    def stop(self, wait: bool, most_s: float | None = None) -> None:
        """End the thread after the transaction at hand; if told to wait, only when what is due is done, or so late."""
        with self._condition:
            if wait:
                self._condition.wait_for(lambda: self.is_idle, most_s)
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
        except ImportError as error:  # an upgrade is under way
            self.error = Temporary(f"what replays and settles cannot be loaded: {error}")
        finally:
            self._stopped = True
            self._rest()
        if self.error:
            maillog.trouble(self._context.peer.name, str(self.error))

    def _work(self) -> None:
        if not self._await_kick():
            return
        from batchmail.flow import target, work

        context = self._context
        ledger = context.open_ledger()
        targets = work.targets_of(context)
        try:
            while self._next():
                try:
                    work.work_once(context, ledger, targets, self._progress, self._is_stopped)
                except work.Busy:
                    self._wanted = not self._pause(_BUSY_S)
                if not self._wanted:
                    target.close_all(targets)
                self._rest()
        finally:
            target.close_all(targets)
            ledger.close()

    def _pause(self, seconds: float) -> bool:
        """Wait for so long, or until the end is near; whether it is."""
        with self._condition:
            return self._condition.wait_for(self._is_stopped, seconds)

    def _await_kick(self) -> bool:
        """Wait until a pass is to be made; False: none will be."""
        with self._condition:
            self._condition.wait_for(lambda: self._wanted or self._stopped)
            return not self._stopped

    def _next(self) -> bool:
        """Wait until a pass is to be made, and begin it; False: no more."""
        with self._condition:
            self._condition.wait_for(lambda: self._wanted or self._stopped)
            self._busy, self._wanted = not self._stopped, False
            return self._busy

    def _rest(self) -> None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()
        self._changed()
