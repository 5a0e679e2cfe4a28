"""The receiving half of a call: partial files, custody, and what is refused.

A thread of its own checks whole files and takes them into custody, so that
the call goes on meanwhile.  Order: file checked, synced and renamed into the
inbox, then its rows, then the answer; a crash before the answer costs nothing,
for the next HELLO gives it.
"""

import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from batchmail.core import report, request
from batchmail.core.errors import BatchmailError, PeerError, SpoolError
from batchmail.core.manifest import Head, Item
from batchmail.core.numbered import ANSWER, BATCH, REPORT, REQUEST, VOID, Number
from batchmail.flow import clock
from batchmail.flow.context import Context
from batchmail.proto.frames import Custody, Data, Open, Refuse
from batchmail.proto.hello import MAX_PARTIALS, Have, Hello, Limits, PartialFile
from batchmail.store import batchfile
from batchmail.store.boxes import ENCODING, Inbox, Incoming, Partial
from batchmail.store.durable import Draft
from batchmail.store.ledger import Ledger
from batchmail.store.received import Received
from batchmail.store.remembered import PIECE_OCTETS, Remembered, is_word
from batchmail.store.requests import Wishes
from batchmail.store.room import check_room, free_octets
from batchmail.wire import maillog

_SLACK_OCTETS = 1 << 20  # manifest and envelope of one transaction, above its content
_ALLOWANCE_OCTETS = 16 << 20  # of small files beyond the quota
_SMALL_OCTETS = 1 << 20  # reports, requests and answers, which are taken below the reserve too
_LEDGER_OCTETS = 1 << 30  # of the ledger, where the quota is less: months of settled mail are no offence
_OUTCOME_OCTETS = 256  # of a recipient in the ledger
_MAX_WISHES = 100_000  # requests of the peer that are remembered


class Answer(NamedTuple):
    """The custody thread has decided about a file."""

    event: Custody | Refuse
    number: Number


class Arrivals:
    """What comes from the peer in one call."""

    def __init__(self, context: Context, ledger: Ledger, post: Callable[[Answer], None]):
        self._context, self._post = context, post
        self._inbox = Inbox(context.spool, context.peer.name)
        self._received, self._wishes = Received(ledger), Wishes(ledger)
        self._ledger, self._remembered = ledger, Remembered(ledger, "in")
        self._coming: dict[tuple[str, int], Incoming] = {}
        self._manifest_octets: dict[tuple[str, int], int] = {}  # of batches not judged yet
        self._jobs: queue.SimpleQueue[Incoming | None] = queue.SimpleQueue()
        self._checking: set[tuple[str, int]] = set()
        self._thread = threading.Thread(target=self._work, name="batchmail-custody", daemon=True)
        self._recipients: int | None = None  # of all that is not done; for the custody thread
        self._far_site = ""
        self._ahead_ms = 0
        self.octets = 0  # of data in this call
        self.files = 0  # taken into custody
        self.batches = self.transactions = self.text_octets = 0  # of these

    def recover(self) -> None:
        """After a crash: rows for files that lie in the inbox, and no files that are done."""
        for number in self._inbox.numbers():
            state = self._received.state(number)  # asked for after its file was seen: an older call may be at it
            if state is None:
                self._inbox.sync()
                self._take_again(number)
            elif state == "done":
                self._inbox.remove(number)

    def _take_again(self, number: Number) -> None:
        """A crash came between file and row; the peer has not been told, so what is damaged may go."""
        try:
            _, items, identity = _check(number, self._inbox.path(number))
            self._custody(self._ledger, number, identity, items, 0)
        except PeerError as error:
            maillog.refused_file(number.file_name, self._context.peer.name, False, str(error))
            self._inbox.remove(number)

    def have(self) -> tuple[tuple[Have, ...], tuple[PartialFile, ...]]:
        """For our HELLO."""
        have = tuple(
            Have(h.stream, h.up_to, h.identity, tuple(h.beyond), self._remembered.up_to(h.stream, h.up_to).word)
            for h in self._received.having()
        )
        partial: list[PartialFile] = []
        for part in self._inbox.partials():
            digest = "" if len(partial) == MAX_PARTIALS else self._digest(part)
            if digest:
                partial.append(PartialFile(part.number, part.identity, part.encoding, part.octets, digest))
            else:  # it cannot be told, so it would be sent from its start
                self._inbox.drop(part.path)
        return have, tuple(partial)

    def _digest(self, part: Partial) -> str:
        """Empty when it is of no use: the file has come whole since, its stream was given up, or it is damaged."""
        peer = self._context.peer
        try:
            is_old = self._context.now_ms() - part.touched_ms() > peer.lifetime_ms + peer.give_up_ms
            is_known = self._received.identity(*part.number[:2]) is not None
            return "" if is_old or is_known else part.digest()
        except OSError as error:
            maillog.trouble(peer.name, f"{part.path} cannot be read: {error.strerror}")
            return ""

    def held_text(self) -> str:
        """For the people at the other side."""
        held = self._received.held()
        return (
            f"{held} of your transactions are held here: they are too old to know whether they came before"
            if held
            else ""
        )

    def limits(self) -> Limits:
        return Limits(self._largest_octets, self._largest_octets, max(0, self._room_octets()))

    @property
    def _largest_octets(self) -> int:
        return self._context.peer.max_message_octets + _SLACK_OCTETS

    def _room_octets(self) -> int:
        free = free_octets(self._context.spool.root) - self._context.site.reserve_octets
        in_inbox = self._context.peer.quota_octets - self._inbox.octets()
        return min(free, in_inbox, self._ledger_room_octets(self._ledger))

    def _ledger_room_octets(self, ledger: Ledger) -> int:
        return max(self._context.peer.quota_octets, _LEDGER_OCTETS) - ledger.octets()

    def greet(self, hello: Hello) -> None:
        """The peer's HELLO has come; its files may."""
        self._far_site = hello.site
        self._ahead_ms = self._context.now_ms() - hello.clock_ms
        clock.compare(self._ledger, self._context.now_ms(), hello.clock_ms)
        self._thread.start()

    @property
    def left_octets(self) -> int:
        return sum(incoming.expected_octets - incoming.octets for incoming in self._coming.values())

    @property
    def is_idle(self) -> bool:
        return not self._coming and not self._checking

    def open(self, event: Open) -> Custody | Refuse | None:
        """A file is announced: the answer, when there is one already."""
        number, key = event.number, event.number[:2]
        had = self._received.identity(*key)
        if had is not None:
            if had not in ("", event.identity) and number.kind != VOID:  # else it came to an older call just in time
                raise PeerError(f"{number.file_name} is not the file of that number that we have: see batchmail status")
            return Custody(*key)
        if key in self._checking:  # it would be another file by the time it is in our custody
            raise PeerError(f"{number.file_name} was opened again before it was answered")
        refusal = self._refuse_now(event)
        if refusal:
            return refusal
        if key in self._coming:
            self._coming.pop(key).close()
        try:
            incoming = self._inbox.begin(number, event.identity, event.offset, event.encoding)
        except OSError as error:  # no room for a name, as with a quota of files: this direction stops
            return self._cannot_store(number, error)
        self._coming[key] = incoming
        incoming.expected_octets = event.octets
        if number.kind == BATCH and event.encoding == ENCODING:
            self._manifest_octets[key] = 0
        if event.offset == event.octets:
            self._check_later(incoming)
        return None

    def _refuse_now(self, event: Open) -> Refuse | None:
        number = event.number
        if number.kind == REQUEST and self._wishes.count() > _MAX_WISHES:
            return Refuse(*number[:2], False, "too many requests are remembered here")
        if event.encoding != ENCODING and not is_word(event.encoding):
            return Refuse(*number[:2], False, f"encoding {event.encoding} is not known here")
        is_large = number.kind == BATCH and event.encoding == ENCODING
        if event.octets > (self._largest_octets if is_large else _SMALL_OCTETS):
            return Refuse(*number[:2], True, f"{event.octets} octets are more than is taken here")
        coming = sum(other.expected_octets - other.octets for other in self._coming.values())
        if number.kind != BATCH and self._inbox.octets() > self._context.peer.quota_octets + _ALLOWANCE_OCTETS:
            return Refuse(*number[:2], False, "reports have to be settled here first")
        if number.kind == BATCH and event.octets - event.offset > self._room_octets() - coming:
            maillog.trouble(self._context.peer.name, f"no room for {number.file_name} of {event.octets} octets")
            return Refuse(*number[:2], False, "no room here now")
        return None

    def data(self, event: Data) -> Refuse | None:
        """A piece of an open file."""
        key = (event.stream, event.seq)
        incoming = self._coming.get(key)
        self.octets += len(event.octets)
        if incoming is None:
            return None
        try:
            incoming.append(event.octets)
        except OSError as error:  # the disk is full: this direction stops, the other goes on
            self._coming.pop(key).close()
            self._manifest_octets.pop(key, None)
            return self._cannot_store(incoming.number, error)
        if key in self._manifest_octets:
            try:
                self._judge(incoming)
            except PeerError as error:
                return self._give_up(incoming, str(error))
        if incoming.octets == incoming.expected_octets:
            self._check_later(incoming)
        return None

    def _cannot_store(self, number: Number, error: OSError) -> Refuse:
        maillog.trouble(self._context.peer.name, f"{number.file_name} cannot be written: {error.strerror}")
        return Refuse(*number[:2], False, "it cannot be stored here now")

    def _give_up(self, incoming: Incoming, why: str) -> Refuse:
        key = incoming.number[:2]
        del self._coming[key]
        self._manifest_octets.pop(key, None)
        incoming.close()
        self._inbox.drop(incoming.path)
        maillog.refused_file(incoming.number.file_name, self._context.peer.name, True, why)
        return Refuse(*key, True, why)

    def _judge(self, incoming: Incoming) -> None:
        """Look at the manifest as soon as it is here: the sender is stopped early."""
        key = incoming.number[:2]
        needed = self._manifest_octets[key]
        if not needed and incoming.octets >= 8:
            needed = batchfile.manifest_octets(incoming.first_octets(8)) or 8
            self._manifest_octets[key] = needed
        if needed and incoming.octets >= needed:
            head, items = batchfile.read_manifest(incoming.path)
            self._judge_manifest(incoming.number, head, items)
            del self._manifest_octets[key]

    def _judge_manifest(self, number: Number, head: Head, items: list[Item]) -> None:
        me, largest = self._context.site.name, self._largest_octets
        if (head.stream, head.seq) != number[:2]:
            raise PeerError(f"the batch sent as {number.file_name} says it is {head.stream}.{head.seq}")
        if (head.origin, head.destination) != (self._far_site, me):
            raise PeerError(
                f"the batch goes from {head.origin} to {head.destination}, not from {self._far_site} to {me}"
            )
        for item in items:
            if item.entry.text_octets > largest:
                raise PeerError(f"transaction {item.entry.id} of {item.entry.text_octets} octets is too large here")

    def _check_later(self, incoming: Incoming) -> None:
        del self._coming[incoming.number[:2]]
        self._manifest_octets.pop(incoming.number[:2], None)
        incoming.close()
        self._checking.add(incoming.number[:2])
        self._jobs.put(incoming)

    def answered(self, answer: Answer) -> None:
        """The custody thread's answer has been seen by the call."""
        self._checking.discard(answer.number[:2])
        if isinstance(answer.event, Custody):
            self.files += 1

    # -- the custody thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        ledger: Ledger | None = None
        while (incoming := self._jobs.get()) is not None:
            try:
                ledger = ledger or self._context.open_ledger()
                answer = self._take(incoming, ledger)
            except Exception as error:  # noqa: BLE001  the sender keeps it; without an answer the call would wait
                maillog.trouble(self._context.peer.name, f"{incoming.path}: {type(error).__name__}: {error}")
                answer = Refuse(*incoming.number[:2], False, "it cannot be stored here now")
            self._post(Answer(answer, incoming.number))
        if ledger:
            ledger.close()

    def _take(self, incoming: Incoming, ledger: Ledger) -> Custody | Refuse:
        if incoming.encoding == ENCODING:
            return self._take_file(incoming, incoming.path, lambda: self._inbox.take(incoming), ledger)
        number = incoming.number
        try:
            draft = self._restore(incoming, Remembered(ledger, "in"))
        except PeerError as error:  # the sender falls back on the file as it is
            self._inbox.drop(incoming.path)
            maillog.refused_file(number.file_name, self._context.peer.name, False, str(error))
            return Refuse(*number[:2], False, str(error))
        with draft:
            answer = self._take_file(incoming, draft.path, lambda: self._inbox.take_restored(draft, number), ledger)
        self._inbox.drop(incoming.path)
        return Refuse(*number[:2], False, answer.text) if isinstance(answer, Refuse) else answer

    def _restore(self, incoming: Incoming, remembered: Remembered) -> Draft:
        """A draft of the file as it is to lie here, out of what came compressed against remembered text."""
        number = incoming.number
        text = remembered.by_word(number.stream, incoming.encoding)
        if not text.word:
            raise PeerError(f"what {number.file_name} was compressed against is not remembered here")
        draft = Draft(self._context.spool.tmp)
        try:
            with open(incoming.path, "rb") as file:
                encoded = file.read(_SMALL_OCTETS)
            batchfile.restore(draft, encoded, number.kind == BATCH, text.octets, incoming.path)
        except BaseException:
            draft.discard()
            raise
        return draft

    def _take_file(self, incoming: Incoming, path: str, take: Callable[[], None], ledger: Ledger) -> Custody | Refuse:
        number, peer = incoming.number, self._context.peer.name
        try:
            head, items, identity = _check(number, path)
            if identity != incoming.identity:
                raise PeerError(f"{number.file_name} is not what was announced: its identity differs")
            if head is not None:
                self._judge_manifest(number, head, items)
        except PeerError as error:
            self._inbox.drop(incoming.path)
            maillog.refused_file(number.file_name, peer, True, str(error))
            return Refuse(*number[:2], True, str(error))
        except OSError as error:
            maillog.trouble(peer, f"{number.file_name} cannot be read: {error}")
            return Refuse(*number[:2], False, "it cannot be checked here now")
        try:
            if number.kind == BATCH:
                check_room(self._context.spool.root, self._context.site.reserve_octets)
                self._check_quota(ledger, items)
            take()
            self._custody(ledger, number, identity, items, self._ahead_ms)
        except PeerError as error:  # what it says of a transaction contradicts what came before
            self._inbox.remove(number)
            maillog.refused_file(number.file_name, peer, True, str(error))
            return Refuse(*number[:2], True, str(error))
        except (OSError, BatchmailError) as error:
            # A sync that failed is not tried again: what it was to write may be lost although it still reads well.
            self._inbox.drop(incoming.path)
            maillog.refused_file(number.file_name, peer, False, str(error))
            return Refuse(*number[:2], False, "it cannot be stored here now")
        if head is not None:
            self.batches, self.transactions = self.batches + 1, self.transactions + len(items)
            self.text_octets += head.text_octets
        maillog.custody(number.file_name, peer, incoming.octets)
        return Custody(*number[:2])

    def _check_quota(self, ledger: Ledger, items: list[Item]) -> None:
        """What becomes of a batch in the ledger is not told by its octets: a few name thousands of recipients."""
        new = sum(item.entry.recipients for item in items)
        room_octets = self._ledger_room_octets(ledger)
        if self._recipients is None or self._recipients + new > room_octets // _OUTCOME_OCTETS:  # some are done since
            self._recipients = Received(ledger).count_recipients()
        self._recipients += new
        if self._recipients > room_octets // _OUTCOME_OCTETS:
            raise SpoolError(f"{self._recipients} recipients, and what the ledger remembers, are more than fits")

    def _custody(self, ledger: Ledger, number: Number, identity: str, items: list[Item], ahead_ms: int) -> None:
        """The rows of a file that lies in the inbox, and its text for those that come after it."""
        piece = batchfile.tail(self._inbox.path(number), number.kind == BATCH, PIECE_OCTETS)
        with ledger.transaction():
            Received(ledger).custody(number, identity, items, self._context.now_ms(), ahead_ms)
            Remembered(ledger, "in").add(number, piece)

    def sync(self) -> None:
        """The call is over: partial files stay as they are, synced."""
        for incoming in self._coming.values():
            try:
                incoming.sync()
            except OSError:  # what did not reach the disk is not to be counted on, whatever the cache says
                self._inbox.drop(incoming.path)
            incoming.close()
        self._coming.clear()

    def close(self) -> None:
        """What is being checked is taken into custody still; the next HELLO says so."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()


def _check(number: Number, path: str) -> tuple[Head | None, list[Item], str]:
    """Check a whole file; its identity, and of a batch head and transactions.  Raises PeerError."""
    if number.kind == BATCH:
        return batchfile.check_batch(path)
    lines, identity = batchfile.unpack(path)
    if number.kind == REPORT:
        report.read_report(number, lines)
    elif number.kind == REQUEST:
        request.read_requests(number, lines)
    elif number.kind == ANSWER:
        request.read_answers(number, lines)
    else:
        report.read_void(number, lines)
    return None, [], identity
