"""Settle: from reports to notices, then letting go of the transactions.

At the origin, by the holder of the peer's replay lock.  Order, and what a
crash after each step costs (nothing): notices written whole to disk, strays
that `sweep` removes; outcomes and owed notices committed together; report
done, then removed; notice handed over, the same notice again with the same
Message-ID, as RFC 1047 has it; row sent, then file; batch settled, then file.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

from batchmail.core import dsn, report
from batchmail.core.entry import Entry
from batchmail.core.envelope import Client, without
from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.manifest import Item
from batchmail.core.numbered import REPORT, VOID, Number
from batchmail.core.outcome import DELAYED, FAILED, Outcome
from batchmail.core.report import Reported
from batchmail.core.schedule import next_attempt_ms
from batchmail.core.sevenbit import sevenbit
from batchmail.flow import untold
from batchmail.flow.context import Context
from batchmail.flow.delivery import Delivery, Target
from batchmail.flow.notify import Teller
from batchmail.flow.returned import Returned
from batchmail.flow.transaction import Transaction
from batchmail.store import batchfile
from batchmail.store.aging import Aging
from batchmail.store.boxes import Inbox, Outbox
from batchmail.store.deadlines import told_key
from batchmail.store.ledger import Ledger
from batchmail.store.notices import Notices
from batchmail.store.owed import POSTMASTER, Noticed, Owed, OwedNotice, Untold
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from batchmail.store.shelf import Shelf
from batchmail.wire import maillog

_NOT_8BIT = ("5.6.3", "5.6.7", "5.6.9")  # what `proto.smtp_offer` says of a letter that a server has no extension for


class _Resolved:
    """What the outcomes of one batch come to here."""

    def __init__(self) -> None:
        self.rows: list[Reported] = []
        self.noticed: Noticed = {}
        self.from_nobody: list[Untold] = []  # what no sender can be told
        self.read: set[str] = set()  # the transactions that could be read
        self.is_whole = True  # all of these could be settled


class Settler:
    """Settles what one peer has reported."""

    def __init__(self, context: Context, ledger: Ledger, target: Target):
        self._context, self._ledger, self._target = context, ledger, target
        self._sent, self._received, self._owed = Sent(ledger), Received(ledger), Owed(ledger)
        self._aging = Aging(ledger)
        self._inbox = Inbox(context.spool, context.peer.name)
        self._outbox = Outbox(context.spool, context.peer.name)
        self._notices = Notices(context.spool, context.peer.name)
        self._shelf = Shelf(context.spool, context.peer.name)
        self._teller = Teller(context, ledger)
        self._returned = Returned(context, ledger)

    def run(self, stopped: Callable[[], bool]) -> None:
        """One pass: reports, notices, letting go.  Raises TargetDown when the target takes no notices now."""
        for number in self._received.in_custody(REPORT):
            self._settle_report(number)
        for number in self._received.in_custody(VOID):
            self._close(number)
        self.hand_over(stopped)

    def hand_over(self, stopped: Callable[[], bool]) -> None:
        """Give the notices that are due to the target.  Raises TargetDown when it takes none now."""
        try:
            for owed in self._owed.due(self._context.now_ms()):
                if stopped():
                    break
                self._hand_over(owed)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Remove what is settled: row, then file."""
        for number in self._sent.let_go(self._context.now_ms()):
            self._outbox.remove(number)
            maillog.settled(number.file_name, self._context.peer.name)
        ended = self._shelf.ended()
        settled = self._sent.settled_ids([one.id for one in ended])
        for one in ended:
            if one.id in settled:
                self._shelf.remove(one)

    def sweep(self) -> None:
        """Remove notices that were written and never owed, or handed over already."""
        self._notices.keep_only(self._owed.ids())

    def _close(self, number: Number) -> None:
        self._received.done(number)
        self._inbox.remove(number)

    def _settle_report(self, number: Number) -> None:
        path = self._inbox.path(number)
        try:
            lines, _ = batchfile.unpack(path)
            reported = report.read_report(number, lines)
        except (PeerError, OSError) as error:
            maillog.trouble(self._context.peer.name, f"{path} is damaged; it stays until it is mended: {error}")
            return
        ignored, whole = self.take(reported, path)
        if ignored:
            maillog.ignored(number.file_name, self._context.peer.name, ignored)
        if whole:
            self._close(number)

    def take(self, reported: list[Reported], where: str, *, is_fate_unknown: bool = False) -> tuple[int, bool]:
        """Settle these outcomes; how many were of no use, and whether all others could be settled.

        `is_fate_unknown`: they are not the far side's, which has told nothing.
        """
        found = self._sent.new_outcomes(reported)
        whole = True
        for batch in sorted({place for _, place in found}):
            rows = [row for row, place in found if place == batch]
            try:
                found_out = self._resolve(batch, rows, is_fate_unknown)
                lost = self._lost(batch, rows, found_out.read)
                to_postmaster = [*found_out.from_nobody, *untold.lost(self._context, batch, lost)]
                self._sent.settle([*found_out.rows, *lost], found_out.noticed, self._context.now_ms(), to_postmaster)
                whole = whole and found_out.is_whole
            except (PeerError, SpoolError, OSError) as error:  # sealed anew just now, or the disk does not read it
                maillog.trouble(self._context.peer.name, f"{where}: {batch.file_name} cannot be settled yet: {error}")
                whole = False
        return len(reported) - len(found), whole

    def _resolve(self, batch: Number, rows: list[Reported], is_fate_unknown: bool) -> _Resolved:
        """What the outcomes of one batch come to, notices written; its originals are read once."""
        by_id: dict[str, list[Reported]] = {}
        for row in rows:
            by_id.setdefault(row.id, []).append(row)
        found = _Resolved()
        for item, original in self._originals(batch, by_id.keys()):
            found.read.add(item.entry.id)
            try:
                of_one, noticed, from_nobody = self._resolve_one(item, original, by_id[item.entry.id], is_fate_unknown)
            except (PeerError, SpoolError, OSError):
                raise
            except Exception as error:  # noqa: BLE001  a fault of ours with one message: the others do not wait for it
                why = f"{type(error).__name__}: {error}"
                maillog.trouble(self._context.peer.name, f"transaction {item.entry.id} cannot be settled: {why}")
                found.is_whole = False
                continue
            found.rows += of_one
            found.noticed |= noticed
            found.from_nobody += from_nobody
        return found

    def _resolve_one(
        self, item: Item, original: Transaction, reported: list[Reported], is_fate_unknown: bool
    ) -> tuple[list[Reported], Noticed, list[Untold]]:
        """Of one transaction: its outcomes as they count here, the notices written, what no sender can be told."""
        entry = item.entry
        of_one = self._returned.resolve(entry, original, reported)
        outcomes = [row.outcome for row in of_one]
        self._log(item, original, outcomes)
        said = [row.outcome for row in reported] if not is_fate_unknown else []
        final = [outcome for outcome in outcomes if outcome.action != DELAYED]  # `flow.expire` tells those
        theirs, ours = ([one for one in final if (one in said) is by_them] for by_them in (True, False))
        noticed = self._teller.tell(entry, original, theirs, site=self._teller.peer_site)
        noticed |= self._teller.tell(
            entry, original, ours, site=self._context.site.name, is_fate_unknown=is_fate_unknown
        )
        noticed |= self._tell_overdue(entry, original, theirs)
        return of_one, noticed, untold.from_nobody(self._context, entry.id, original.envelope, final)

    def _originals(self, batch: Number, ids: Collection[str]) -> Iterator[tuple[Item, Transaction]]:
        """Those that are still what they were; the disk's errors go up."""
        if self._outbox.octets(batch) is None:  # moved to quarantine, or sealed anew
            return
        with suppress(PeerError):  # a torn file ends where nothing behind can be read
            for item, text in batchfile.read_transactions(self._outbox.path(batch)):
                if item.entry.id in ids:
                    with suppress(PeerError, SpoolError), Transaction(text, self._context.spool.tmp) as original:
                        yield item, original

    def _lost(self, batch: Number, rows: list[Reported], read: set[str]) -> list[Reported]:
        """The outcomes whose transactions could not be read.  Raises PeerError where they are in another batch now.

        Who seals anew tells the ledger of the new batch before the old one goes, so the ledger is asked again.
        """
        lost = [row for row in rows if row.id not in read]
        if [place for _, place in self._sent.new_outcomes(lost)] != [batch] * len(lost):
            raise PeerError("it was sealed anew just now")
        by_id: dict[str, list[Reported]] = {}
        for row in lost:
            by_id.setdefault(row.id, []).append(row)
        return [row for one, of_one in by_id.items() for row in self._returned.resolve_lost(one, of_one)]

    def _tell_overdue(self, entry: Entry, original: Transaction, final: list[Outcome]) -> Noticed:
        """What was served after the time of BY: a delay, where `flow.overdue` has not told of it before."""
        late = [dsn.overdue(original.envelope, outcome, entry.arrival_ms) for outcome in final]
        told = [outcome for outcome in late if outcome is not None]
        if not told or not self._aging.untold([told_key(entry.id)]):
            return {}
        return self._teller.tell(entry, original, told, site=self._teller.peer_site)

    def _log(self, item: Item, original: Transaction, outcomes: list[Outcome]) -> None:
        for one in outcomes:
            if one.recipient < len(original.envelope.recipients):
                address = original.envelope.recipients[one.recipient].address
                peer = self._context.peer.name
                maillog.outcome(item.entry.id, peer, address, one.action, one.status, one.text, one.mta)

    def _hand_over(self, owed: OwedNotice) -> None:
        now_ms = self._context.now_ms()
        try:
            letter = Transaction(self._notices.read(owed.id), self._context.spool.tmp)
        except (SpoolError, OSError) as error:  # one that the disk cannot read holds up no other
            maillog.trouble(self._context.peer.name, f"notice {owed.id} for {owed.tx} cannot be read: {error}")
            if self._is_young(owed, now_ms):  # it may be mended
                self._owed.postpone(owed.id, next_attempt_ms(now_ms, owed.attempts))
            else:
                self._owed.lost(owed.id)
            return
        with letter:
            answer = self._give(owed, letter)
            if answer.action == FAILED and answer.status in _NOT_8BIT and not answer.code:  # the server saw nothing
                octets = sevenbit(b"".join(letter.content()))
                answer = self._give(owed, letter, octets) if octets.isascii() else answer
            recipient = letter.envelope.recipients[0].address
        if answer.action == DELAYED and self._is_young(owed, now_ms):
            self._owed.postpone(owed.id, next_attempt_ms(now_ms, owed.attempts))
            return
        state = "refused" if answer.action in (FAILED, DELAYED) else "sent"
        if owed.tx == POSTMASTER and state == "refused":
            state = "shown"  # nobody is told of that but the log
        said = answer.text if state == "sent" else b"<%b>: %b" % (recipient, answer.text)
        self._owed.done(owed.id, state, said)
        self._notices.remove(owed.id)
        maillog.notice(owed.id, state, owed.tx, recipient, answer.text)

    def _is_young(self, owed: OwedNotice, now_ms: int) -> bool:
        """A clock that cannot be believed makes nothing old."""
        return bool(self._ledger.fact("clock")) or now_ms - owed.made_ms < self._context.peer.lifetime_ms

    def _give(self, owed: OwedNotice, letter: Transaction, ascii_form: bytes | None = None) -> Outcome:
        """What the target says of a notice, or of its 7-bit form."""
        numbers = tuple(range(len(letter.envelope.recipients)))
        answers: list[Outcome] = []
        if ascii_form is None:
            is_utf8 = not letter.header.isascii()
            size, eightbit, content = letter.size_octets, letter.eightbit, letter.content
            one = Delivery(owed.id, letter.envelope, numbers, size, eightbit, is_utf8, content, Client())
        else:
            plain = letter.envelope._replace(parameters=without(letter.envelope.parameters, b"BODY", b"SMTPUTF8"))
            octets = ascii_form
            one = Delivery(owed.id, plain, numbers, len(octets), False, False, lambda: iter((octets,)), Client())
        self._target.deliver(one, _nothing, answers.append)
        return answers[0]


def _nothing() -> None:
    """A notice carries its Message-ID; in doubt it is handed over again."""
