"""Seal: from the waiting room, or from outcomes, to numbered files in the outbox.

Done within a call, just ahead of the line, by the holder of the peer's line.
The order of each sealing, and what a crash after each step costs (nothing):
number reserved, a gap that `recover` fills with a void; file published, its
row is made again from the file; row written, the waiting files are known for
leftovers; waiting files removed.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from batchmail.core import jsontext, manifest, messageid, report
from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.manifest import Head, Item
from batchmail.core.numbered import ANSWER, BATCH, REPORT, REQUEST, VOID, Number
from batchmail.core.report import Row
from batchmail.core.request import Answer, Request, pack, read_answers, read_requests
from batchmail.flow.context import Context
from batchmail.flow.transaction import check_text
from batchmail.store import batchfile
from batchmail.store.aliases import Aliases
from batchmail.store.batchfile import Text
from batchmail.store.boxes import Outbox
from batchmail.store.durable import Draft
from batchmail.store.ledger import Ledger
from batchmail.store.received import Received
from batchmail.store.requests import Requests, Wishes
from batchmail.store.sent import Sent, SentFile
from batchmail.store.shelf import Shelf
from batchmail.store.waiting import Waiting, WaitingRoom, read_entry
from batchmail.wire import maillog

_LOOK_AHEAD = 1000  # names looked at, to put small ones first: the first batch of many is soon sealed
_LOOK_FURTHER = 2500  # where octets count more than that
_HARD_LEVEL = 17
_FIRST_OCTETS = 96 << 10  # of text in the first batch of a call: the line soon has work, and the target
_GROWTH = 3  # the next has so much of what was in those before it
_MAX_REPORT = 2000  # outcomes in one report
_MAX_WISHES = 500  # requests or answers in one file
_MAX_WISHES_OCTETS = 512 << 10  # of their payloads; a file of this kind is to have less than 1 MiB


_Wish = TypeVar("_Wish", Request, Answer, report.Reported)


# Octets per second of the line: the level at which sealing is faster still, by several times on a usual processor.
_LEVELS = ((32e3, 19), (400e3, 17), (10e6, 12))
_FASTEST_LEVEL = 3
_UNKNOWN_LEVEL = 12


def level_for(rate: float) -> int:
    """How hard to compress for a line; 0: nothing is known of it."""
    if not rate:
        return _UNKNOWN_LEVEL
    return next((level for most, level in _LEVELS if rate <= most), _FASTEST_LEVEL)


class _Loaded(NamedTuple):
    waiting: Waiting
    item: Item
    text: Text
    words: tuple[str, str]  # what it is also called


class Sealer:
    """Seals for one peer; no batch is written to its end once it is `stopped`."""

    def __init__(self, context: Context, ledger: Ledger, stopped: Callable[[], bool] = lambda: False):
        self._context, self._ledger, self._stopped = context, ledger, stopped
        self._room = WaitingRoom(context.spool, context.peer.name)
        self._outbox = Outbox(context.spool, context.peer.name)
        self._shelf = Shelf(context.spool, context.peer.name)
        self.rate = float(ledger.fact("rate") or 0)  # octets per second of the line, as far as known
        self._sent, self._aliases = Sent(ledger), Aliases(ledger)
        self._received = Received(ledger)
        self._requests, self._wishes = Requests(ledger), Wishes(ledger)
        self._unreadable: set[str] = set()  # in this call; the disk may be better in the next
        self._sealed_octets = 0  # of text, since nothing waited

    def level(self) -> int:
        """Of compression, for the line as it is now."""
        return self._context.peer.level or level_for(self.rate)

    @property
    def on_hold(self) -> bool:
        """The peer gets no mail for now; a person may decide that, or end it, while a call is open."""
        return bool(self._ledger.fact("on_hold"))

    def has_waiting(self) -> bool:
        return not self.on_hold and not self._room.is_empty()

    def seal_batch(
        self,
        far_site: str,
        largest_octets: int,
        room_octets: int,
        sealed: Callable[[Number], object] = lambda number: None,
        file_octets: int = 1 << 40,
    ) -> Number | None:
        """The next batch, or None when nothing waits that fits into `room_octets`.

        A transaction above `largest_octets` is held.  `sealed` hears of the batch before the waiting files are removed.
        """
        while not self.on_hold and (chosen := self._choose(largest_octets, room_octets, file_octets)):
            loaded = list(self._load(chosen))
            if not loaded:
                continue
            items = batchfile.place((one.item for one in loaded), self._context.site.name)
            number = self._write_batch(far_site, items, (self._read(one.text) for one in loaded))
            self._aliases.add((word, one.item.entry.id) for one in loaded for word in one.words)
            self._sealed_octets += sum(item.entry.text_octets for item in items)
            sealed(number)
            self._room.remove([one.waiting.path for one in loaded])
            return number
        self._sealed_octets = 0
        return None

    def _choose(self, largest_octets: int, room_octets: int, file_octets: int) -> list[Waiting]:
        """Most urgent and oldest first, small first within what was looked at; leftovers are removed."""
        fits = file_octets // 4 * 3  # text may not compress, and there is the manifest
        most = min(self._most_octets(), manifest.MAX_TEXT_OCTETS - manifest.MAX_BETWEEN_OCTETS, room_octets, fits)
        fresh = sorted(
            (
                waiting
                for waiting in self._look(largest_octets)
                if waiting.text_octets <= room_octets and waiting.id not in self._unreadable
            ),
            key=lambda waiting: (waiting.urgency, waiting.text_octets > most, waiting.id),
        )
        chosen: list[Waiting] = []
        total = 0
        for waiting in fresh:
            total += waiting.text_octets
            if chosen and (total > most or waiting.urgency != chosen[0].urgency):
                break
            chosen.append(waiting)
        return chosen

    def _most_octets(self) -> int:
        """Of text in the next batch: it is sealed and sent while those before it are on their way, and replayed.

        Where octets count more than that, what compresses well together is not cut apart.
        """
        most = self._context.peer.batch_octets
        return most if self.level() >= _HARD_LEVEL else min(most, max(_FIRST_OCTETS, _GROWTH * self._sealed_octets))

    def _look(self, largest_octets: int) -> list[Waiting]:
        """The first that wait, leftovers removed and what is too large held."""
        most = _LOOK_AHEAD if self.level() < _HARD_LEVEL else _LOOK_FURTHER
        while True:
            seen: list[Waiting] = []
            for waiting in self._room.scan():
                if waiting.text_octets > largest_octets:
                    self._hold(waiting, f"{waiting.text_octets} octets, the peer takes {largest_octets}")
                    continue
                seen.append(waiting)
                if len(seen) == most:
                    break
            leftovers = self._sent.sealed_ids([waiting.id for waiting in seen])
            self._room.remove([waiting.path for waiting in seen if waiting.id in leftovers])
            fresh = [waiting for waiting in seen if waiting.id not in leftovers]
            if fresh or not leftovers:
                return fresh

    def _load(self, chosen: list[Waiting]) -> Iterator[_Loaded]:
        """As many of them as one batch may hold by their recipients; what is left waits for the next."""
        recipients = 0
        for waiting in chosen:
            try:
                entry, text = read_entry(waiting)
                first = check_text(text())  # what is damaged must not be found when half of the batch is written
            except SpoolError as error:
                self._hold(waiting, str(error))
                continue
            except OSError as error:
                maillog.trouble(self._context.peer.name, f"{waiting.path} cannot be read and is left out: {error}")
                self._unreadable.add(waiting.id)
                continue
            recipients += entry.recipients
            if recipients > manifest.MAX_RECIPIENTS_IN_ALL:
                return
            item = Item(entry, 0, self._context.peer.lifetime.at(entry.priority))
            yield _Loaded(waiting, item, text, (entry.queue_id, messageid.of_text(first)))

    def _read(self, text: Text) -> Iterator[bytes]:
        for octets in text():
            if self._stopped():  # a gap, and all that was to be in the batch still waits
                raise SpoolError("the call is over: nothing more is sealed in it")
            yield octets

    def _hold(self, waiting: Waiting, why: str) -> None:
        self._room.hold(waiting)
        maillog.held(waiting.id, self._context.peer.name, why)

    def _write_batch(self, far_site: str, items: list[Item], texts: Iterable[Iterable[bytes]]) -> Number:
        now_ms = self._context.now_ms()
        number = self._sent.reserve(BATCH, now_ms)
        length = items[-1].offset + items[-1].entry.text_octets + len(batchfile.CLOSING)
        origin, reads = self._context.site.name, (manifest.VERSION,)
        head = Head(number.stream, number.seq, origin, far_site, reads, now_ms, len(items), length)
        with Draft(self._context.spool.tmp) as draft:
            identity = batchfile.write_batch(draft, head, items, texts, self.level())
            self._outbox.publish(draft, number)
        self._sent.seal(number, identity, draft.size_octets, items)
        maillog.sealed(number.file_name, self._context.peer.name, len(items), length, draft.size_octets)
        for item in items:
            maillog.in_batch(item.entry.id, self._context.peer.name, number.file_name)
        return number

    def seal_report(self) -> Number | None:
        """The outcomes that no report carries yet, or None."""
        rows = _as_fit(self._received.unreported(_MAX_REPORT), lambda row: len(jsontext.write(row.line())))
        if not rows:
            return None
        number = self._write_lines(self._sent.reserve(REPORT, self._context.now_ms()), rows)
        self._received.reported(number, rows)
        self._seal_lines(number)
        return number

    def seal_answer(self) -> Number | None:
        """The answers that no file carries yet, or None."""
        rows = _as_fit(self._wishes.unsent(_MAX_WISHES))
        if not rows:
            return None
        number = self._write_lines(self._sent.reserve(ANSWER, self._context.now_ms()), rows)
        self._wishes.carried(number, rows)
        self._seal_lines(number)
        return number

    def seal_request(self, kinds: Iterable[str]) -> Number | None:
        """The requests, of the kinds that the peer understands, that no file carries yet, or None."""
        rows = _as_fit(self._requests.unsent(kinds, _MAX_WISHES))
        if not rows:
            return None
        number = self._write_lines(self._sent.reserve(REQUEST, self._context.now_ms()), rows)
        self._requests.carried(number, rows)
        self._seal_lines(number)
        return number

    def _write_lines(self, number: Number, rows: Iterable[Row]) -> Number:
        lines = report.write(number, self._context.site.name, self._context.now_ms(), rows)
        packed, _ = batchfile.pack(lines)
        with Draft(self._context.spool.tmp) as draft:
            draft.write(packed)
            self._outbox.publish(draft, number)
        return number

    def _seal_lines(self, number: Number) -> None:
        path = self._outbox.path(number)
        _, identity = batchfile.unpack(path)
        self._sent.seal(number, identity, batchfile.size_octets(path))

    # -- after a crash, and after a refusal ---------------------------------------------------------------------

    def recover(self) -> None:
        """Bring ledger and outbox together, by the holder of the line, before anything is sent."""
        there = {(number.stream, number.seq): number for number in self._outbox.numbers()}
        reserved = self._sent.files("reserved")
        if reserved:
            self._outbox.sync()
        for file in reserved:
            number = there.get((file.number.stream, file.number.seq))
            if number is None or number.kind != file.number.kind:
                self._fill_gap(file.number, number)
            else:
                self._seal_again(number)
        live = {file.number for file in self._sent.files("sealed", "custody")}
        for number in self._outbox.numbers():
            if number not in live and not self._sent.is_over(*number[:2]):
                self._adopt(number)
            elif number not in live:
                self._outbox.remove(number)

    def _adopt(self, number: Number) -> None:
        """A file that the ledger does not know, being new or of a new stream: what it holds is sealed again.

        Requests and answers are, if the ledger knows them, from there.  The far side may have it under its old number.
        A crash before the removal: it is sealed once more by the next call, and the far side knows the IDs.
        """
        path = self._outbox.path(number)
        try:
            if number.kind == BATCH:
                head, items, _ = batchfile.check_batch(path)
                settled = self._sent.settled_ids([item.entry.id for item in items])
                left = [item for item in items if item.entry.id not in settled]
                if left:
                    anew = self._write_batch(head.destination, *batchfile.excerpt(path, left, self._context.site.name))
                    self._sent.whole(anew, self._context.now_ms())
            elif number.kind == REPORT:
                known = report.read_report(number, batchfile.unpack(path)[0])
                rows = [row for row in known if not self._received.finished(row.id)]  # else it is reported anew anyway
                if rows:
                    self._seal_lines(self._write_lines(self._sent.reserve(REPORT, self._context.now_ms()), rows))
        except PeerError as error:
            maillog.trouble(self._context.peer.name, f"{path} is left as it is: {error}")
            return
        self._outbox.remove(number)

    def _seal_again(self, number: Number) -> None:
        path = self._outbox.path(number)
        if number.kind == BATCH:
            _, items, identity = batchfile.check_batch(path)
            self._sent.seal(number, identity, batchfile.size_octets(path), items)
            return
        lines, _ = batchfile.unpack(path)
        if number.kind == REPORT:
            self._received.reported(number, report.read_report(number, lines))
        elif number.kind == ANSWER:
            self._wishes.carried(number, read_answers(number, lines))
        elif number.kind == REQUEST:
            self._requests.carried(number, read_requests(number, lines))
        self._seal_lines(number)

    def seal_anew(self, far_site: str, items: list[Item], texts: Iterable[Iterable[bytes]]) -> None:
        """Transactions of a batch that the far side may have; it knows them by their IDs."""
        self._sent.whole(self._write_batch(far_site, items, texts), self._context.now_ms())

    def fill(self, number: Number) -> None:
        """A number whose file was taken away."""
        self._fill_gap(number, None)

    def _fill_gap(self, number: Number, leftover: Number | None) -> None:
        """A number whose file will never come gets a void; what it had been to carry is sealed under another."""
        if leftover is not None and leftover.kind != VOID:
            self._outbox.remove(leftover)
        if leftover is None or leftover.kind != VOID:
            self._write_lines(self._sent.void(number), [])
        self._seal_lines(number._replace(kind=VOID))

    def reseal(self, file: SentFile, far_site: str, why: str) -> None:
        """The peer refused a batch for good: seal its transactions in halves; hold the one that is refused alone.

        The new batches are whole before the old number is voided, so a crash in between leaves every
        transaction in a batch; the ledger says in which.  Raises PeerError, and does nothing, when the fault
        is ours: the file is damaged.
        """
        path = self._outbox.path(file.number)
        try:
            _, items, _ = batchfile.check_batch(path)
        except OSError as error:
            raise PeerError(f"{path} is damaged: it cannot be read: {error.strerror}") from None
        middle = len(items) // 2
        if not middle:
            self._hold_from_batch(path, file.number, items[0], why)
            return
        # Until it is voided this batch is sent too: what is in a half may be at the far side, and does not end here.
        self._sent.whole(file.number, self._context.now_ms())
        for part in (items[:middle], items[middle:]):
            self._write_batch(far_site, *batchfile.excerpt(path, part, self._context.site.name))
        self._fill_gap(self._sent.void(file.number), file.number)

    def unseal(self, number: Number) -> None:
        """A batch whose last octet was never given to a call: what it holds waits again.  Raises PeerError.

        Files first: while the ledger has them in the batch, they are leftovers that the next sealing removes.
        """
        path = self._outbox.path(number)
        _, items, _ = batchfile.check_batch(path)
        entries = {item.entry.id: item.entry for item in items}
        for item, text in batchfile.read_transactions(path):
            self._shelf.put_text(entries[item.entry.id], text, held=False)
        self._fill_gap(self._sent.void(number), number)

    def _hold_from_batch(self, path: str, number: Number, item: Item, why: str) -> None:
        """A crash before the commit leaves it in the batch, and held too: it is done again, or has ended by then."""
        transactions = batchfile.read_transactions(path)  # it closes the file when nobody holds it any more
        self._shelf.put_text(item.entry, next(transactions).text, held=True)
        with self._ledger.transaction():
            self._sent.forget([item.entry.id])
            void = self._sent.void(number)
        maillog.held(item.entry.id, self._context.peer.name, why)
        self._fill_gap(void, number)


def _as_fit(rows: list[_Wish], octets_of: Callable[[_Wish], int] = lambda row: len(pack(row.payload))) -> list[_Wish]:
    """The first of them, at least one, that one file can hold."""
    octets = 0
    for count, row in enumerate(rows):
        octets += octets_of(row)
        if count and octets > _MAX_WISHES_OCTETS:
            return rows[:count]
    return rows
