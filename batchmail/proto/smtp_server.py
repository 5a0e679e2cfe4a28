"""The server's side of SMTP and LMTP: octets in, events and replies out.

One machine for both (RFC 5321, 2033): LHLO or EHLO decides for the session.  The
driver's loop, for every octets that come:

    machine.receive(octets)
    while True:
        while event := machine.next_event():
            ...                                  # Rcpt, Start and End want an answer, now or later
        if not (octets := machine.output()):     # machine and output are dry: read on if `wants_input`,
            break                                # close if `is_over`, else an answer is due
        write(octets)

While an answer is due nothing more is parsed.  Only CRLF ends a command, only
CRLF.CRLF the content; what a message is kept in, and when it is safe, is the driver's.
"""

import re
from collections import deque
from collections.abc import Callable

from batchmail.core.path import CommandError
from batchmail.proto import xforward
from batchmail.proto.smtp_events import Aborted, Answer, Content, End, Event, Rcpt, Start, check, format_reply
from batchmail.proto.smtp_lines import CommandLines
from batchmail.proto.smtp_terms import Terms
from batchmail.proto.smtp_transaction import Chunk, Dotted, Transaction
from batchmail.proto.xforward import Forwarded

MAX_WAITING_OCTETS = 1 << 16  # of input that waits behind an answer; then `wants_input` turns false
MAX_ERRORS = 20  # between two messages; then the client is no mail server
MAX_IDLE_COMMANDS = 1000  # likewise, beside those of one transaction
MAX_RCPT_OCTETS = 1 << 21  # of the RCPT commands of a transaction, which is held in memory until its end
_MAX_OUTPUT_OCTETS = 1 << 14  # of replies; then they are to be taken before more is parsed

_HELLO = re.compile(rb"[!-~]{1,255}\Z")
_BDAT = re.compile(rb"BDAT +([0-9]{1,20})( +LAST)? *\Z", re.IGNORECASE)
_GROUPED = (b"RCPT", b"DATA", b"BDAT")  # sent behind a MAIL before its answer is known: refusing them blames nobody


class SmtpServer:
    """One session.  The greeting is its first output.  Nothing that a client sends makes it raise."""

    def __init__(self, terms: Terms):
        self.is_over = False  # after QUIT, 421 or a hang-up: send the output, take the last events, close
        self.is_lmtp = False
        self.helo = b""  # what the client called itself; for the log
        self._terms = terms
        self._extended = False  # EHLO or LHLO, so that parameters may come
        self._buffer = bytearray()
        self._output = bytearray()
        self._events: deque[Event] = deque()
        self._due: Rcpt | Start | End | None = None  # the event whose answer is awaited
        self._hung_up = False
        self._parting: Answer | None = None  # said as soon as the awaited answer is given
        self._lines = CommandLines()
        self._transaction: Transaction | None = None
        self._content: Dotted | Chunk | None = None  # that is coming
        self._forwarded = Forwarded()
        self._mails = 0  # MAIL commands in this session
        self._commands = self._errors = 0  # since the last message
        self._reply(220, "", f"{terms.host} ESMTP batchmail")

    @property
    def wants_input(self) -> bool:
        """Whether more may be read from the client now."""
        return not self.is_over and not self._hung_up and len(self._buffer) < MAX_WAITING_OCTETS

    def receive(self, data: bytes) -> None:
        """Octets from the client; b"" when it hung up."""
        if not data:
            self._hung_up = True
        elif not self.is_over:
            self._buffer += data

    def output(self) -> bytes:
        """The replies since the last call."""
        octets = bytes(self._output)
        self._output.clear()
        return octets

    def next_event(self) -> Event | None:
        """The next event; None: take the output, then more input or the answer to the last event is needed."""
        while not (self._events or self._due or self.is_over or len(self._output) > _MAX_OUTPUT_OCTETS):
            if self._advance():
                continue
            if self._hung_up:
                self._abort()
                self.is_over = True
            break
        return self._events.popleft() if self._events else None

    def accept(self) -> None:
        """The answer to Rcpt or Start.  Ignored, as all answers, once the session is over."""
        due, transaction = self._take_due(Rcpt, Start)
        if transaction is None:
            return
        if isinstance(due, Rcpt):
            transaction.recipients.append(due.recipient)
            self._reply(250, "2.1.5", "recipient taken")
            return
        transaction.started = True
        if not transaction.chunked:
            self._content = Dotted()
            self._reply(354, "", "go on, and end with a dot on a line of its own")

    def refuse(self, answer: Answer) -> None:
        """The answer to Rcpt or Start, and between Start and End: the rest of the content is read and thrown away.

        Then no End comes (the client hears `answer` where it expects an answer to the content), nor Aborted: the
        driver has discarded what it held.
        """
        check(answer)
        transaction = self._transaction
        if self._due is None and transaction and transaction.started:
            transaction.failure = transaction.failure or answer
            return
        due, transaction = self._take_due(Rcpt, Start)
        if transaction is None:
            return
        if isinstance(due, Start):
            if transaction.chunked:  # its octets are on their way
                transaction.failure = answer
                return
            self._close()
        self._reply(*answer)

    def finish(self, *answers: Answer) -> None:
        """The answer to End: one for all, or one each."""
        due, _ = self._take_due(End)
        if not isinstance(due, End):
            return
        if len(answers) not in (1, due.answers):
            raise ValueError(f"{len(answers)} answers where {due.answers} are due")
        for answer in answers if len(answers) == due.answers else answers * due.answers:
            check(answer)
            self._reply(*answer)
        self._close()
        if self._parting:
            self._leave(self._parting.status, self._parting.text)

    def shutdown(self) -> None:
        """421 4.3.2 and over: at once, aborting an unfinished transaction, but after the answer that End waits for."""
        self._leave("4.3.2", "going down; come again later")

    def timeout(self) -> None:
        """421 4.4.2 and over, in the same way."""
        self._leave("4.4.2", "nothing came for too long (commands end with CR LF)")

    def _reply(self, code: int, status: str, text: str) -> None:
        self._output += format_reply(code, status, text)

    def _ask(self, event: Rcpt | Start | End) -> None:
        if self._transaction:
            self._transaction.told = True
        self._due = event
        self._events.append(event)

    def _take_due(self, *kinds: type) -> tuple[Rcpt | Start | End | None, Transaction | None]:
        """The event that an answer is for, and its transaction; none once the session is over."""
        if self.is_over:
            return None, None
        if not isinstance(self._due, kinds):
            raise ValueError(f"no such answer is due; it is for {self._due}")
        due, self._due = self._due, None
        return due, self._transaction

    def _abort(self) -> None:
        """The transaction, if any, ends without its message."""
        if self._transaction and self._transaction.told and not self._transaction.failure:
            self._events.append(Aborted())
        self._transaction = self._content = None
        self._forwarded = Forwarded()

    def _close(self) -> None:
        """The transaction has had its answer."""
        self._transaction = None
        self._forwarded = Forwarded()
        self._commands = self._errors = 0

    def _fail(self, transaction: Transaction, answer: Answer) -> None:
        """The content cannot be taken: what comes of it is thrown away."""
        if transaction.failure is None:
            if transaction.told:
                self._events.append(Aborted())
            transaction.failure = answer

    def _leave(self, status: str, text: str) -> None:
        if self.is_over:
            return
        if isinstance(self._due, End):  # it may be safe already: the client is to hear so
            self._parting = Answer(421, status, text)
            return
        self._abort()
        self._reply(421, status, f"{self._terms.host} {text}")
        self.is_over = True

    def _advance(self) -> bool:
        """Take a line or a piece of content from the buffer; whether there was one."""
        return self._read_content(self._content) if self._content else self._read_line()

    def _read_content(self, content: Dotted | Chunk) -> bool:
        transaction = self._transaction
        if content.is_done:
            self._content = None
            if transaction is None:
                self._reply(503, "5.5.1", "BDAT without MAIL")
            elif isinstance(content, Dotted) or content.is_last:
                self._end_content(transaction)
            else:
                self._reply(*(transaction.failure or Answer(250, "2.0.0", f"{content.octets} octets taken")))
            return True
        if not self._buffer:
            return False
        octets = content.take(self._buffer)
        if octets and transaction and not transaction.failure:
            transaction.octets += len(octets)
            if transaction.octets > self._terms.max_message_octets:
                self._fail(transaction, self._terms.too_large)
            else:
                self._events.append(Content(octets))
        return True

    def _end_content(self, transaction: Transaction) -> None:
        """RFC 2033 §4.2, §4.3: LMTP answers for each accepted recipient, so perhaps not at all."""
        answers = len(transaction.recipients) if self.is_lmtp else 1
        if transaction.failure is None:
            self._ask(End(answers))
            return
        for _ in range(answers):
            self._reply(*transaction.failure)
        self._close()

    def _read_line(self) -> bool:
        try:
            line = self._lines.take(self._buffer)
        except CommandError as error:
            if self._lines.begun.upper() == b"BDAT":
                self._lose_count()
                return True
            self._reply(error.code, error.status, error.text)
            self._count_error()
            return True
        if line is not None:
            self._command(line.rstrip(b" "))
        return line is not None

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            self._leave("4.7.0", "too many errors")

    def _command(self, line: bytes) -> None:
        verb = line.partition(b" ")[0].upper()
        verb = b"BDAT" if verb.startswith(b"BDAT") else verb
        self._commands += verb != b"BDAT"  # large messages come in thousands of chunks
        if self._commands > MAX_IDLE_COMMANDS + self._terms.max_recipients:
            self._leave("4.7.0", "too many commands without a message")
            return
        try:
            if verb in _COMMANDS:
                _COMMANDS[verb](self, line)
            elif verb in _ALWAYS:
                self._reply(*_ALWAYS[verb])
            else:
                raise CommandError(502 if verb in _NOT_HERE else 500, "5.5.1", "no such command here")
        except CommandError as error:
            self._reply(error.code, error.status, error.text)
            if error.code in (500, 501, 502, 503) and verb not in _GROUPED:
                self._count_error()

    def _hello(self, line: bytes) -> None:
        verb, _, name = line.partition(b" ")
        lmtp = verb.upper() == b"LHLO"
        if self.helo and lmtp != self.is_lmtp:  # RFC 2033 §4.1; how answers are counted must not change
            raise CommandError(500, "", f"this session speaks {'LMTP' if self.is_lmtp else 'SMTP'}")
        if not _HELLO.match(name.strip(b" ")):
            raise CommandError(501, "", f"{verb.upper().decode()} wants one name")
        self._abort()  # RFC 5321 §4.1.4
        self.helo, self.is_lmtp, self._extended = name.strip(b" "), lmtp, verb.upper() != b"HELO"
        host = self._terms.host
        lines = [host, *(keyword.decode() for keyword in self._terms.keywords)] if self._extended else [host]
        for number, text in enumerate(lines, 1):
            self._output += format_reply(250, "", text, is_last=number == len(lines))

    def _mail(self, line: bytes) -> None:
        if not self.helo:
            raise CommandError(503, "5.5.1", "say EHLO or LHLO first")
        if self._transaction:
            raise CommandError(503, "5.5.1", "MAIL within a transaction")
        self._mails += 1
        if self._terms.max_transactions and self._mails > self._terms.max_transactions:
            self._leave("4.7.0", "so many messages in one session; call again for more (MAILMAX)")
            return
        self._transaction = Transaction(*self._terms.parse_mail(line, self._extended))
        self._reply(250, "2.1.0", "sender taken")

    def _rcpt(self, line: bytes) -> None:
        transaction = self._open_transaction()
        transaction.tried += 1
        transaction.tried_octets += len(line)
        if transaction.tried > self._terms.max_recipients or transaction.tried_octets > MAX_RCPT_OCTETS:
            # RFC 5321 §4.5.3.1.10: the client sends the rest anew
            raise CommandError(452, "4.5.3", "too many recipients")
        recipient = self._terms.parse_rcpt(line, transaction.parameters, self._extended)
        self._ask(Rcpt(recipient, transaction.sender, transaction.parameters))

    def _data(self, line: bytes) -> None:
        _want_nothing(line)
        transaction = self._open_transaction()
        if not transaction.recipients:
            # RFC 2033 §4.2: in LMTP no answers could follow the content
            raise CommandError(503 if self.is_lmtp else 554, "5.5.1", "no valid recipients")
        self._ask(Start(transaction.envelope, *self._forwarded))

    def _bdat(self, line: bytes) -> None:
        match = _BDAT.match(line)
        if not match:
            self._lose_count()
            return
        self._content = chunk = Chunk(int(match[1]), match[2] is not None)
        transaction = self._transaction
        if transaction is None:
            return
        transaction.chunked = True
        if not transaction.recipients:
            self._fail(transaction, Answer(503 if self.is_lmtp else 554, "5.5.1", "no valid recipients"))
        elif transaction.octets + chunk.octets > self._terms.max_message_octets:
            self._fail(transaction, self._terms.too_large)
        elif not transaction.started and not transaction.failure:
            self._ask(Start(transaction.envelope, *self._forwarded))

    def _lose_count(self) -> None:
        """What follows a BDAT that cannot be read may be content, and must not be read as commands."""
        self._leave("4.5.4", "BDAT wants a number of octets, and LAST or nothing")

    def _xforward(self, line: bytes) -> None:
        if not self._terms.xforward:
            raise CommandError(502, "5.5.1", "XFORWARD is not offered here")
        if self._transaction:
            raise CommandError(503, "5.5.1", "XFORWARD within a transaction")
        self._forwarded = xforward.parse(line.partition(b" ")[2], self._forwarded)
        self._reply(250, "2.0.0", "noted")

    def _rset(self, line: bytes) -> None:
        _want_nothing(line)
        self._abort()
        self._reply(250, "2.0.0", "reset")

    def _quit(self, line: bytes) -> None:
        _want_nothing(line)
        self._abort()
        self._reply(221, "2.0.0", f"{self._terms.host} closes")
        self.is_over = True

    def _web(self, line: bytes) -> None:
        """A browser that was sent here; the body of its request could hold commands."""
        self._leave("4.7.0", "this is a mail server")

    def _open_transaction(self) -> Transaction:
        """The transaction, where recipients and DATA may come."""
        if self._transaction is None:
            raise CommandError(503, "5.5.1", "say MAIL first")
        if self._transaction.chunked:  # RFC 3030 §2
            raise CommandError(503, "5.5.1", "only BDAT or RSET may follow BDAT")
        return self._transaction


_COMMANDS: dict[bytes, Callable[[SmtpServer, bytes], None]] = {
    b"HELO": SmtpServer._hello,
    b"EHLO": SmtpServer._hello,
    b"LHLO": SmtpServer._hello,
    b"MAIL": SmtpServer._mail,
    b"RCPT": SmtpServer._rcpt,
    b"DATA": SmtpServer._data,
    b"BDAT": SmtpServer._bdat,
    b"XFORWARD": SmtpServer._xforward,
    b"RSET": SmtpServer._rset,
    b"QUIT": SmtpServer._quit,
    b"GET": SmtpServer._web,
    b"HEAD": SmtpServer._web,
    b"POST": SmtpServer._web,
    b"CONNECT": SmtpServer._web,
    b"OPTIONS": SmtpServer._web,
}
_ALWAYS = {
    b"NOOP": Answer(250, "2.0.0", "nothing done"),
    b"VRFY": Answer(252, "2.0.0", "send some mail, the other side will try"),
    b"HELP": Answer(214, "2.0.0", "mail for other sites, see batchmail-lmtpd(8)"),
}
_NOT_HERE = (b"EXPN", b"ETRN", b"ATRN", b"TURN", b"AUTH", b"STARTTLS", b"BURL", b"XCLIENT", b"SEND", b"SOML", b"SAML")


def _want_nothing(line: bytes) -> None:
    verb, _, rest = line.partition(b" ")
    if rest:
        raise CommandError(501, "5.5.4", f"nothing may follow {verb.upper().decode()}")
