"""Requests: the peer's are carried out here, ours are answered there.

By the holder of the peer's replay lock, so nothing of the peer's is replayed
meanwhile.  A request is known by its ID.  Order: carried out, which each kind
makes idempotent; answer in the ledger; file done, then removed.  A crash in
between repeats a step that changes nothing.

A new kind is a line in `KINDS` here and, where its answer is to cause
something at the site that asked, one in `_ANSWERED`.
"""

from collections.abc import Callable, Iterable

from batchmail.core import jsontext
from batchmail.core import request as core
from batchmail.core.errors import PeerError
from batchmail.core.names import is_id
from batchmail.core.numbered import ANSWER, REQUEST, Number
from batchmail.core.request import Answer, Request
from batchmail.flow import audit, listed, recipients
from batchmail.flow.context import Context
from batchmail.store import batchfile
from batchmail.store.boxes import Inbox
from batchmail.store.ledger import Ledger
from batchmail.store.received import Received
from batchmail.store.requests import Requests, Wishes
from batchmail.wire import maillog


def _withdraw(context: Context, ledger: Ledger, request: Request) -> Answer:
    """Not to be replayed any more; what became of each recipient stands in a report."""
    identifier = jsontext.Fields(request.payload, "withdraw").text("tx")
    if not is_id(identifier):
        raise PeerError("withdraw: malformed transaction ID")
    verdict, recipients = Received(ledger).withdraw(identifier, context.now_ms())
    return Answer(request.id, verdict, _WITHDRAWN[verdict], {"tx": identifier, "recipients": recipients})


_WITHDRAWN = {
    core.DONE: "what was not delivered yet will not be",
    core.LATE: "too late: it is delivered or refused, or may be; the report says",
    core.MISSING: "it has not come here; if it does, it is not delivered",
}

_MOST_AUDITS = 200  # whose answers wait here, of up to 60 kB each; an audit asks for some 60 at most

Kind = Callable[[Context, Ledger, Request], Answer]
Answered = Callable[[Context, Ledger, Request, Answer], None]

KINDS: dict[str, Kind] = {core.WITHDRAW: _withdraw, core.RECIPIENTS: listed.take, core.AUDIT: audit.answer}
_ANSWERED: dict[str, Answered] = {core.AUDIT: audit.follow, core.RECIPIENTS: recipients.answered}


class Desk:
    """Requests of and to one peer."""

    def __init__(self, context: Context, ledger: Ledger):
        self._context, self._ledger = context, ledger
        self._received = Received(ledger)
        self._inbox = Inbox(context.spool, context.peer.name)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Carry out what the peer wishes, and take note of its answers."""
        for kind, follow in ((REQUEST, self._carry_out), (ANSWER, self._take_note)):
            for number in self._received.in_custody(kind):
                if not stopped():
                    self._each(number, follow)

    def _each(self, number: Number, follow: Callable[[Number, Iterable[bytes]], None]) -> None:
        path = self._inbox.path(number)
        try:
            follow(number, batchfile.unpack(path)[0])
        except (PeerError, OSError) as error:
            maillog.trouble(self._context.peer.name, f"{path} is damaged; it stays until it is mended: {error}")
            return
        self._received.done(number)
        self._inbox.remove(number)

    def _carry_out(self, number: Number, lines: Iterable[bytes]) -> None:
        wishes = Wishes(self._ledger)
        audits = wishes.count(core.AUDIT)
        for request in core.read_requests(number, lines):
            if not wishes.repeat(request.id):
                if request.kind == core.AUDIT and audits >= _MOST_AUDITS:
                    answer = Answer(request.id, core.REFUSED, "too many earlier answers have not been taken yet")
                else:
                    answer = self._answer(request)
                audits += request.kind == core.AUDIT
                wishes.done(request, answer, self._context.now_ms())
                maillog.request(request.id, self._context.peer.name, request.kind, answer.verdict, answer.text)

    def _answer(self, request: Request) -> Answer:
        kind = KINDS.get(request.kind)
        if kind is None:
            return Answer(request.id, core.UNKNOWN, f"{request.kind} is not known here")
        try:
            return kind(self._context, self._ledger, request)
        except PeerError as error:  # the payload is not what that kind needs
            return Answer(request.id, core.REFUSED, str(error))

    def _take_note(self, number: Number, lines: Iterable[bytes]) -> None:
        requests = Requests(self._ledger)
        for answer in core.read_answers(number, lines):
            asked = requests.find(answer.id)
            if asked is None or asked.answered_ms is not None:
                continue
            # Acted upon first: a crash before the note repeats an action, which each kind makes idempotent.
            if asked.request.kind in _ANSWERED:
                _ANSWERED[asked.request.kind](self._context, self._ledger, asked.request, answer)
            requests.answered(answer, self._context.now_ms())
            maillog.request(answer.id, self._context.peer.name, asked.request.kind, answer.verdict, answer.text)
