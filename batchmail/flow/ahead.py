"""Sealing ahead: a thread of its own makes the next batch while the line is busy with the one before.

One batch at a time, with a ledger and a Sealer that belong to the thread, so
that the order of each sealing is the Sealer's; a batch is on its way while the
waiting files that are in it are removed.  The call takes what was
sealed when it is told to look; it keeps the right to the line until `close`
has returned, for the next holder fills numbers without a file.
"""

import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from batchmail.core.numbered import Number
from batchmail.flow.context import Context
from batchmail.flow.seal import Sealer
from batchmail.wire import maillog


class Order(NamedTuple):
    """What the batch is to be like."""

    far_site: str
    largest_octets: int  # of a transaction
    room_octets: int
    rate: float  # of the line, octets per second; 0: not known
    file_octets: int = 1 << 40  # of the batch


class Ahead:
    """Seals batches for one call; `sealed` is called, by the thread, when there is something to `take`."""

    def __init__(self, context: Context, sealed: Callable[[], None]):
        self._context, self._sealed = context, sealed
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[Number | Exception | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None  # an idle call needs none
        self._stopped = self._is_answered = False
        self.is_busy = False  # from an order until what came of it is taken

    def begin(self, order: Order) -> None:
        """Seal the next batch; not while one `is_busy`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="batchmail-seal", daemon=True)
            self._thread.start()
        self.is_busy = True
        self._orders.put(order)

    def has_sealed(self) -> bool:
        return not self._found.empty()

    def take(self) -> Number | None:
        """What came of the order: a batch, or None when nothing waits that fits.  Raises OSError and SpoolError."""
        found = self._found.get()
        self.is_busy = False
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the thread; a batch that is only half written is given up, and its number is a gap."""
        self._stopped = True
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()

    def _work(self) -> None:
        sealer: Sealer | None = None
        ledger = None
        try:
            while (order := self._orders.get()) is not None and not self._stopped:
                self._is_answered, problem = False, None
                try:
                    if sealer is None:
                        ledger = self._context.open_ledger()
                        sealer = Sealer(self._context, ledger, lambda: self._stopped)
                    sealer.rate = order.rate
                    sealer.seal_batch(*order[:3], self._answer, order.file_octets)
                except Exception as error:  # noqa: BLE001  the call raises it
                    problem = error
                if not self._is_answered:
                    self._answer(problem)
                elif problem:  # waiting files are left, which the next sealing removes
                    maillog.trouble(self._context.peer.name, f"after a batch was sealed: {problem}")
        finally:
            if ledger:
                ledger.close()

    def _answer(self, found: Number | Exception | None) -> None:
        self._is_answered = True
        self._found.put(found)
        self._sealed()
