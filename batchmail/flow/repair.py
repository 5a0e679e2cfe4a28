"""Repair of what `check --files` names: the damaged goes to quarantine, what is intact beside it goes on.

By the holder of the peer's line and replay lock.  Of a damaged batch in the
outbox the intact transactions are sealed anew, before the damaged file is
moved; the far side knows them by their IDs if it has them.  A batch in the
inbox stays where it is: the replay takes what is intact in it.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from batchmail.core.errors import BatchmailError, PeerError
from batchmail.core.manifest import Item
from batchmail.core.numbered import BATCH, Number
from batchmail.flow.context import Context
from batchmail.flow.seal import Sealer
from batchmail.store import batchfile
from batchmail.store.boxes import Inbox, Outbox
from batchmail.store.durable import Draft
from batchmail.store.ledger import Ledger
from batchmail.store.notices import Notices
from batchmail.store.owed import Owed, Untold, owe
from batchmail.store.quarantine import quarantine
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from batchmail.wire import maillog


class Repairer:
    """Repairs what belongs to one peer; each step returns what was done, for people."""

    def __init__(self, context: Context, ledger: Ledger):
        self._context, self._ledger = context, ledger
        self._sent, self._received = Sent(ledger), Received(ledger)
        self._sealer = Sealer(context, ledger)
        self._outbox = Outbox(context.spool, context.peer.name)
        self._inbox = Inbox(context.spool, context.peer.name)
        self._notices, self._owed = Notices(context.spool, context.peer.name), Owed(ledger)

    def set_aside(self, path: str, why: str) -> str:
        """A stray."""
        return f"moved to {quarantine(self._context.spool, path, why)}"

    def waiting_file(self, identifier: str, path: str, why: str) -> str:
        """One that waits, is held or ended here, and cannot be read any more."""
        is_left = identifier in self._sent.sealed_ids([identifier])  # a leftover, of one that is safe elsewhere
        return self._lose([] if is_left else [identifier], path, why)

    def _lose(self, identifiers: list[str], path: str, why: str) -> str:
        """Move a file away that holds these, which go nowhere.  A crash in between: the postmaster is told twice."""
        context, now_ms = self._context, self._context.now_ms()
        text = f"lost here: its file was damaged ({why}) and lies in quarantine"
        with self._ledger.transaction():
            owe(self._ledger, {}, now_ms, [Untold(context.new_id(), one, text.encode()) for one in identifiers])
        place = quarantine(context.spool, path, "; ".join([why, *identifiers]))
        for identifier in identifiers:
            maillog.quarantined(identifier, context.peer.name, place, why)
        return f"moved to {place}" + ("; the postmaster is told of it" if identifiers else "")

    def notice(self, identifier: str, why: str) -> str:
        """An owed one that is damaged, or missing.  A crash in between leaves it missing: it is done again."""
        path = self._notices.path(identifier)
        done = [self.set_aside(path, why)] if os.path.exists(path) else []
        self._owed.lost(identifier)
        return "; ".join([*done, "the postmaster is told of it"])

    def outbox_file(self, number: Number, why: str) -> str:
        """A damaged numbered file of ours.  A crash after the new batch and before the move: it is done again."""
        path, done = self._outbox.path(number), []
        file = self._sent.file(*number[:2])
        is_here = file is not None and file.state == "sealed"  # else the far side has it, and its number is in order
        if number.kind == BATCH:
            done.append(self._seal_intact(path))
        is_lost = is_here or file is None  # the ledger forgot the number when its mail was to be sent again
        done.append(self._lose(self._sent.open_ids(number) if is_lost else [], path, why))
        if is_here:
            self._sent.unreport(number)
            self._sealer.fill(number)
        return "; ".join(done)

    def _seal_intact(self, path: str) -> str:
        with Draft(self._context.spool.tmp) as draft:
            intact, lost = self._read(path, draft)
            settled = self._sent.settled_ids([item.entry.id for item in (*intact, *lost)])
            left = [item for item in intact if item.entry.id not in settled]
            if left:
                items = batchfile.place(left, self._context.site.name)
                far_site = self._ledger.fact("peer_site") or self._context.peer.name
                texts = (text for item, text in _texts(draft.path, intact) if item.entry.id not in settled)
                self._sealer.seal_anew(far_site, items, texts)
        damaged = ", ".join(item.entry.id for item in lost if item.entry.id not in settled)
        return f"intact and sent in a new batch: {len(left)}" + (
            f"; damaged beyond reading: {damaged}" if damaged else ""
        )

    def _read(self, path: str, draft: Draft) -> tuple[list[Item], list[Item]]:
        """The transactions that can be read, their texts one behind the other in the draft; and the others."""
        intact: list[Item] = []
        items: list[Item] = []
        with suppress(BatchmailError, OSError):  # where the compressed form is torn, what follows cannot be read
            items = batchfile.read_manifest(path)[1]
            for item, text in batchfile.read_transactions(path):
                with suppress(PeerError):
                    octets = b"".join(text)
                    draft.write(octets)
                    intact.append(item)
        return intact, [item for item in items if item not in intact]

    def inbox_file(self, number: Number, why: str) -> str:
        """A damaged numbered file of the peer."""
        again = f"at {self._context.peer.name}, batchmail resend sends it again"
        if number.kind == BATCH:
            return f"left there: what is intact in it is replayed; {again}"
        self._received.done(number)
        return f"{self.set_aside(self._inbox.path(number), why)}; {again}"


def _texts(path: str, items: list[Item]) -> Iterator[tuple[Item, Iterator[bytes]]]:
    """The texts that lie in a file one behind the other."""
    with open(path, "rb") as file:
        for item in items:
            yield item, _pieces(file, item.entry.text_octets)


def _pieces(file: IO[bytes], octets: int) -> Iterator[bytes]:
    while octets and (data := file.read(min(octets, 1 << 18))):
        octets -= len(data)
        yield data
