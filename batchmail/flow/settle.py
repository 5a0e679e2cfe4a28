"""Settle: from reports to notices, then letting go of the transactions.

At the origin, by the holder of the peer's replay lock.  Order, and what a
crash after each step costs (nothing): notices written whole to disk, strays
that `sweep` removes; outcomes and owed notices committed together; report
done, then removed; notice handed over, the same notice again with the same
Message-ID, as RFC 1047 has it; row sent, then file; batch settled, then file.
"""

from collections.abc import Callable

from batchmail.core import dsn, notice, report
from batchmail.core.envelope import Client
from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.manifest import Item
from batchmail.core.numbered import REPORT, VOID, Number
from batchmail.core.outcome import DELAYED, FAILED, Outcome
from batchmail.core.report import Reported
from batchmail.core.schedule import next_attempt_ms
from batchmail.flow.context import Context
from batchmail.flow.delivery import Delivery, Target
from batchmail.flow.transaction import Transaction
from batchmail.store import batchfile
from batchmail.store.boxes import Inbox, Outbox
from batchmail.store.ledger import Ledger
from batchmail.store.notices import Notices
from batchmail.store.received import Received
from batchmail.store.sent import OwedNotice, Sent
from batchmail.wire import maillog

_Noticed = dict[tuple[str, int], str]  # (transaction, recipient) -> notice


class Settler:
    """Settles what one peer has reported."""

    def __init__(self, context: Context, ledger: Ledger, target: Target):
        self._context, self._target = context, target
        self._sent, self._received = Sent(ledger), Received(ledger)
        self._inbox = Inbox(context.spool, context.peer.name)
        self._outbox = Outbox(context.spool, context.peer.name)
        self._notices = Notices(context.spool, context.peer.name)
        self._peer_site = ledger.fact("peer_site") or context.peer.name

    def run(self, stopped: Callable[[], bool]) -> None:
        """One pass: reports, notices, letting go.  Raises TargetDown when the target takes no notices now."""
        for number in self._received.in_custody(REPORT):
            self._settle_report(number)
        for number in self._received.in_custody(VOID):
            self._close(number)
        try:
            for owed in self._sent.owed_notices(self._context.now_ms()):
                if stopped():
                    break
                self._hand_over(owed)
        finally:
            for number in self._sent.let_go(self._context.now_ms()):
                self._outbox.remove(number)
                maillog.settled(number.file_name, self._context.peer.name)

    def sweep(self) -> None:
        """Remove notices that were written and never owed, or handed over already."""
        self._notices.keep_only(self._sent.notice_ids())

    def _close(self, number: Number) -> None:
        self._received.done(number)
        self._inbox.remove(number)

    def _settle_report(self, number: Number) -> None:
        path = self._inbox.path(number)
        try:
            lines, _ = batchfile.unpack(path)
            reported = report.read_report(number, lines)
            found = self._sent.new_outcomes(reported)
        except (PeerError, OSError) as error:
            maillog.trouble(self._context.peer.name, f"{path} is damaged; it stays until it is mended: {error}")
            return
        if len(found) < len(reported):
            maillog.ignored(number.file_name, self._context.peer.name, len(reported) - len(found))
        whole = True
        for batch in sorted({place for _, place in found}):
            rows = [row for row, place in found if place == batch]
            try:
                self._sent.settle(rows, self._write_notices(batch, rows), self._context.now_ms())
            except (PeerError, SpoolError, OSError) as error:  # sealed anew just now, or damaged
                maillog.trouble(self._context.peer.name, f"{path}: {batch.file_name} cannot be settled yet: {error}")
                whole = False
        if whole:
            self._close(number)

    def _write_notices(self, batch: Number, rows: list[Reported]) -> _Noticed:
        """Write what is owed for the outcomes of one batch; the originals are read from it once."""
        by_id: dict[str, list[Outcome]] = {}
        for row in rows:
            by_id.setdefault(row.id, []).append(row.outcome)
        noticed: _Noticed = {}
        for item, text in batchfile.read_transactions(self._outbox.path(batch)):
            outcomes = by_id.get(item.entry.id)
            if outcomes:
                with Transaction(text, self._context.spool.tmp) as original:
                    noticed |= self._write_notice(item, original, outcomes)
        return noticed

    def _write_notice(self, item: Item, original: Transaction, outcomes: list[Outcome]) -> _Noticed:
        self._log(item, original, outcomes)
        told = [outcome for outcome in outcomes if outcome.action != DELAYED and dsn.owed(original.envelope, outcome)]
        if not told:
            return {}
        context, identifier = self._context, self._context.new_id()
        envelope, content = notice.compose(
            dsn.Notice(
                original.envelope, tuple(told), item.entry.id, item.entry.arrival_ms, self._peer_site, self._peer_site
            ),
            original.content,
            me=context.site.name,
            message_id=f"<{identifier}@{context.site.name}>",
            boundary=notice.make_boundary(context.random(12)),
            now_ms=context.now_ms(),
        )
        self._notices.write(identifier, context.now_ms(), envelope, content)
        maillog.notice(identifier, "owed", item.entry.id, original.envelope.sender)
        return {(item.entry.id, outcome.recipient): identifier for outcome in told}

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
        except (SpoolError, FileNotFoundError) as error:
            maillog.trouble(self._context.peer.name, f"notice {owed.id} for {owed.tx} cannot be read: {error}")
            self._sent.postpone_notice(owed.id, next_attempt_ms(now_ms, owed.attempts))
            return
        with letter:
            answers: list[Outcome] = []
            self._target.deliver(self._delivery(owed, letter), _nothing, answers.append)
            answer = answers[0]
            recipient = letter.envelope.recipients[0].address
        if answer.action == DELAYED and now_ms - owed.made_ms < self._context.peer.lifetime_ms:
            self._sent.postpone_notice(owed.id, next_attempt_ms(now_ms, owed.attempts))
            return
        state = "refused" if answer.action in (FAILED, DELAYED) else "sent"
        self._sent.notice_done(owed.id, state, answer)
        self._notices.remove(owed.id)
        maillog.notice(owed.id, state, owed.tx, recipient, answer.text)

    def _delivery(self, owed: OwedNotice, letter: Transaction) -> Delivery:
        return Delivery(
            owed.id,
            letter.envelope,
            tuple(range(len(letter.envelope.recipients))),
            letter.size_octets,
            letter.eightbit,
            not letter.header.isascii(),
            letter.content,
            Client(),
        )


def _nothing() -> None:
    """A notice carries its Message-ID; in doubt it is handed over again."""
