"""Processes that do the same work: started, watched, replaced and ended by one that does nothing else.

The parent has no threads, so it may fork at any time, and hears signals only where it waits for them.  Each worker
has the end of a pipe whose other end only the parent holds: it is closed when the parent is gone, however it went.
"""

import os
import signal
from collections.abc import Callable
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGINT)
_HEARD = (*ENDING, signal.SIGCHLD)
_PAUSE_S = 1.0  # before one is replaced: one that cannot live is not to keep the host busy
_LOOK_S = 60.0  # where a replacement could not be started


class Workers:
    """`count` processes; each calls `work` with its number and its end of the pipe, and then ends.

    ENDING and SIGCHLD are blocked in them.
    """

    def __init__(self, count: int, work: Callable[[int, int], None], trouble: Callable[[str], None]):
        """`trouble` hears of a worker that ended without being told to."""
        self._count, self._work, self._trouble = count, work, trouble
        self._lifeline, self._held = os.pipe2(os.O_CLOEXEC)
        self._running: dict[int, int] = {}  # the numbers of processes

    def start(self) -> None:
        """Raises OSError."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us may have it ignored: then none is heard of
        self._start_missing()

    def watch(self) -> None:
        """Replace those that end, until a signal tells to end."""
        while (heard := signal.sigtimedwait(_HEARD, _LOOK_S)) is None or heard.si_signo == signal.SIGCHLD:
            self._bury(os.WNOHANG)
            if len(self._running) < self._count:
                if signal.sigtimedwait(ENDING, _PAUSE_S):
                    break
                try:
                    self._start_missing()
                except OSError as error:
                    self._trouble(f"no worker can be started: {error.strerror}")

    def end(self) -> None:
        """Tell all to end, and wait until they have."""
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)  # it may be dead, but is not buried, so the number is no other's
        self._count = 0
        self._bury(0)

    def _start_missing(self) -> None:
        for number in sorted(set(range(self._count)) - set(self._running.values())):
            pid = os.fork()
            if not pid:
                self._be(number)
            self._running[pid] = number

    def _bury(self, options: int) -> None:
        while self._running:
            pid, status = os.waitpid(-1, options)
            if not pid:
                return
            self._running.pop(pid, None)
            code = os.waitstatus_to_exitcode(status)
            if code or self._count:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
                self._trouble(f"worker {pid} {how}")

    def _be(self, number: int) -> NoReturn:
        """Never returns into what the parent was doing."""
        code = 1
        try:
            os.close(self._held)
            self._work(number, self._lifeline)
            code = 0
        except Exception as error:  # noqa: BLE001  it ends here, and is replaced
            self._trouble(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
