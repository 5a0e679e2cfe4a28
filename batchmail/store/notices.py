"""Notices that are owed: spool files of one transaction each, until they are with an MTA.

file  row "notice"   means                                  after a crash
 +       -           written, its outcomes not committed    `keep_only` removes it
 +      owed         to be handed over                      handed over
 +      sent         handed over                            `keep_only` removes it
"""

import os
from collections.abc import Iterable, Iterator

from batchmail.core import entry_lines
from batchmail.core.envelope import Client, Envelope
from batchmail.core.errors import SpoolError
from batchmail.core.names import is_id
from batchmail.store.durable import Draft, retire
from batchmail.store.spool import Spool
from batchmail.store.waiting import Waiting, read_entry
from batchmail.store.writer import Writer


class Notices:
    """The notices that one peer's outcomes have caused."""

    def __init__(self, spool: Spool, peer: str):
        self._tmp = spool.tmp
        self._dir = f"{spool.root}/in/{peer}/notices"

    def path(self, identifier: str) -> str:
        return f"{self._dir}/{identifier}.bsmtp"

    def write(self, identifier: str, now_ms: int, envelope: Envelope, content: Iterable[bytes]) -> None:
        """Write a notice whole and synced; what it costs when the next step never comes is a stray."""
        with Draft(self._tmp) as draft:
            writer = Writer(draft, identifier, entry_lines.head(now_ms, 0, "", Client()), envelope)
            for octets in content:
                writer.content(octets)
            writer.end()
            draft.publish(self.path(identifier))

    def read(self, identifier: str) -> Iterator[bytes]:
        """Its text from MAIL to the final dot."""
        _, text = read_entry(Waiting(identifier, 0, self.path(identifier), ""))
        return text()

    def problem(self, identifier: str) -> str:
        """What is wrong with its file; empty: nothing."""
        try:
            for _ in self.read(identifier):
                pass
        except FileNotFoundError:
            return f"{self.path(identifier)} is missing"
        except (OSError, SpoolError) as error:
            return str(error)
        return ""

    def remove(self, identifier: str) -> None:
        retire(self.path(identifier))

    def keep_only(self, owed: set[str]) -> None:
        """Remove the others."""
        for name in os.listdir(self._dir):
            identifier = name[:26]
            if is_id(identifier) and identifier not in owed:
                retire(f"{self._dir}/{name}")
