"""BSMTP: SMTP transactions as text (RFC 2442), read from a stream.

The reader is strict and incremental, a machine without I/O: `receive` octets,
ask `next_event` until it has none.  One line end holds for the whole input:
the one given, or that of the first line (MTAs write LF or CRLF to pipes).
Only a dot between two such line ends ends the data; anything that is not
understood ends the reading, nothing is skipped.
"""

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import MAX_RECIPIENTS, Envelope, Parameters, Recipient
from batchmail.core.errors import MalformedInput
from batchmail.core.lines import Unstuffer
from batchmail.core.path import MAX_COMMAND_OCTETS, MAX_KEPT_OCTETS, CommandError
from batchmail.core.value import NamedTuple


class Start(NamedTuple):
    """A transaction's envelope is complete, its content follows; `offset` is where MAIL stands."""

    envelope: Envelope
    offset: int


class Content(NamedTuple):
    """A piece of the content, unstuffed, with the line ends it came with."""

    octets: bytes


class End(NamedTuple):
    """The final dot; `offset` is where the next line stands."""

    offset: int


class Note(NamedTuple):
    """A NOOP and what stands behind it."""

    text: bytes


Event = Start | Content | End | Note

_MAX_IDLE_LINES = 1000
_IGNORED = (b"TICK", b"VERB", b"VERBOSE")  # of the BITNET dialect


class Reader:
    """Reads BSMTP text.  Any error is MalformedInput and final."""

    def __init__(self, eol: bytes = b""):
        """With `eol` the text is one of our own, and its line end; else the first line shows it."""
        self._eol = eol
        self._most_octets = MAX_KEPT_OCTETS if eol else MAX_COMMAND_OCTETS  # of a command line
        self._buffer = b""
        self._offset = 0  # of the buffer's first octet in the input
        self._ended = False
        self._quit = False
        self._data: Unstuffer | None = None
        self._closing = False
        self._lines = 0  # commands since the last message
        self._reset()

    @property
    def eol(self) -> bytes:
        """The input's line end; empty until its first line has shown it."""
        return self._eol

    def receive(self, data: bytes) -> None:
        """More of the input; b"" is its end."""
        if data:
            self._buffer += data
        else:
            self._ended = True

    def next_event(self) -> Event | None:
        """The next event, or None: more input is needed, or it has been read to its end."""
        while True:
            if self._closing:
                self._closing = False
                self._lines = 0
                return End(self._offset)
            if self._data is not None:
                return self._read_content(self._data)
            line = self._take_line()
            if line is None:
                return None
            event = self._command(line)
            if event is not None:
                return event

    def _reset(self) -> None:
        self._mail: tuple[bytes, Parameters, int] | None = None
        self._recipients: list[Recipient] = []

    def _read_content(self, data: Unstuffer) -> Event | None:
        if not self._buffer:
            if self._ended:
                raise MalformedInput("the input ends before the final dot of a message: its writer was cut off")
            return None
        octets = data.feed(self._buffer)
        self._offset += len(self._buffer)
        self._buffer = b""
        if data.done:
            self._buffer = data.rest
            self._offset -= len(data.rest)
            self._data = None
            self._closing = True
        return Content(octets) if octets else self.next_event()

    def _take_line(self) -> bytes | None:
        if not self._eol:
            end = self._buffer.find(b"\n")
            if end >= 0:
                self._eol = b"\r\n" if self._buffer[:end].endswith(b"\r") else b"\n"
        end = self._buffer.find(self._eol) if self._eol else -1
        if end > self._most_octets or (end < 0 and len(self._buffer) > self._most_octets):
            raise MalformedInput(f"a command line of more than {self._most_octets} octets")
        if end < 0:
            if self._ended:
                self._check_end()
            return None
        line = self._buffer[:end]
        self._line_offset = self._offset
        self._offset += end + len(self._eol)
        self._buffer = self._buffer[end + len(self._eol) :]
        return line

    def _check_end(self) -> None:
        if self._buffer:
            raise MalformedInput("the input ends within a line")
        if self._mail is not None:
            raise MalformedInput("the input ends within a transaction, before DATA")

    def _command(self, line: bytes) -> Event | None:
        if self._quit:
            raise MalformedInput("there is input after QUIT")
        self._lines += 1
        if self._lines > MAX_RECIPIENTS + _MAX_IDLE_LINES:
            raise MalformedInput("too many commands without a message")
        word, _, rest = line.rstrip(b" ").partition(b" ")
        verb = word.upper()
        if verb == b"MAIL":
            self._start(line)
        elif verb == b"RCPT":
            self._add_recipient(line)
        elif verb == b"DATA" and not rest:
            return self._begin_data()
        elif verb == b"NOOP":
            return Note(rest)
        elif verb in (b"HELO", b"EHLO", b"LHLO", b"RSET"):
            self._reset()  # RFC 5321 §4.1.4: EHLO acts as RSET
        elif verb == b"QUIT":
            if self._mail is not None:
                raise MalformedInput("QUIT within a transaction")
            self._quit = True
        elif verb not in _IGNORED:
            shown = verb.decode() if verb.isalpha() and len(verb) <= 16 else repr(line[:80])[1:]
            raise MalformedInput(f"not a BSMTP command: {shown}")
        return None

    def _start(self, line: bytes) -> None:
        if self._mail is not None:
            raise MalformedInput("MAIL within a transaction")
        try:
            self._mail = (*parse_mail(line), self._line_offset)
        except CommandError as error:
            raise MalformedInput(error.text) from None

    def _add_recipient(self, line: bytes) -> None:
        if self._mail is None:
            raise MalformedInput("RCPT without MAIL")
        if len(self._recipients) >= MAX_RECIPIENTS:
            raise MalformedInput(f"more than {MAX_RECIPIENTS} recipients in one transaction")
        try:
            self._recipients.append(parse_rcpt(line))
        except CommandError as error:
            raise MalformedInput(error.text) from None

    def _begin_data(self) -> Start:
        if self._mail is None or not self._recipients:
            raise MalformedInput("DATA without MAIL and RCPT")
        sender, parameters, offset = self._mail
        start = Start(Envelope(sender, parameters, tuple(self._recipients)), offset)
        self._reset()
        self._data = Unstuffer(self._eol)
        return start
