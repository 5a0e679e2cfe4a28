"""A small SMTP server on the loopback address, for the demonstration: it stands in for an MTA.

It offers what a modern MTA offers, takes everything but mail for `nobody`,
and keeps what it took for the caller to look at.  Nothing is relayed.
"""

import contextlib
import socket
import threading
from io import BufferedIOBase
from typing import NamedTuple

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Envelope, Parameters, Recipient
from batchmail.core.lines import CRLF, Unstuffer
from batchmail.core.path import CommandError
from batchmail.wire.listener import Listener

_EXTENSIONS = (b"PIPELINING", b"SIZE 104857600", b"8BITMIME", b"SMTPUTF8", b"DSN", b"ENHANCEDSTATUSCODES")
_MAX_LINE_OCTETS = 8192
_CHUNK_OCTETS = 65536


class Taken(NamedTuple):
    """A transaction that was accepted; the content with CRLF line ends, unstuffed."""

    envelope: Envelope
    content: bytes


class SmtpSink:
    """Serves until closed."""

    def __init__(self, name: str):
        self.name = name.encode()
        self.taken: list[Taken] = []
        self._listener = Listener("sink", self._accept)
        self.port = self._listener.port
        self.close = self._listener.close

    def _accept(self, connected: socket.socket) -> None:
        threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        with contextlib.suppress(OSError), connected, connected.makefile("rwb") as file:
            _Session(self, file).run()


class _Session:
    def __init__(self, sink: SmtpSink, file: BufferedIOBase):
        self._sink, self._file = sink, file
        self._reset()

    def _reset(self) -> None:
        self._mail: tuple[bytes, Parameters] | None = None
        self._recipients: list[Recipient] = []

    def run(self) -> None:
        self._say(b"220 " + self._sink.name + b" ESMTP")
        while (line := self._file.readline(_MAX_LINE_OCTETS)).endswith(CRLF):
            verb = line[:4].upper()
            self._answer(verb, line[:-2])
            if verb == b"QUIT":
                return

    def _say(self, *lines: bytes) -> None:
        for line in lines:
            self._file.write(line + CRLF)
        self._file.flush()

    def _answer(self, verb: bytes, line: bytes) -> None:
        if verb == b"EHLO":
            self._reset()
            self._say(*(b"250-" + word for word in (self._sink.name, *_EXTENSIONS[:-1])), b"250 " + _EXTENSIONS[-1])
        elif verb in (b"MAIL", b"RCPT"):
            try:
                self._say(self._take_mail(line) if verb == b"MAIL" else self._take_rcpt(line))
            except CommandError as error:
                self._say(f"{error.code} {error.status} {error.text}".encode())
        elif verb == b"DATA":
            self._take_data()
        elif verb == b"RSET":
            self._reset()
            self._say(b"250 2.0.0 forgotten")
        else:
            self._say({b"QUIT": b"221 2.0.0 goodbye", b"NOOP": b"250 2.0.0 ok"}.get(verb, b"502 5.5.1 not known here"))

    def _take_mail(self, line: bytes) -> bytes:
        if self._mail is not None:
            return b"503 5.5.1 one transaction at a time"
        self._mail = parse_mail(line)
        return b"250 2.1.0 sender ok"

    def _take_rcpt(self, line: bytes) -> bytes:
        if self._mail is None:
            return b"503 5.5.1 MAIL comes first"
        recipient = parse_rcpt(line)
        if recipient.address.startswith(b"nobody@"):
            return b"550 5.1.1 <" + recipient.address + b">: there is nobody of that name here"
        self._recipients.append(recipient)
        return b"250 2.1.5 recipient ok"

    def _take_data(self) -> None:
        if self._mail is None or not self._recipients:
            return self._say(b"554 5.5.1 no valid recipients")
        self._say(b"354 go on, end with a dot on a line")
        content, unstuffer = bytearray(), Unstuffer(CRLF)
        while not unstuffer.done:
            line = self._file.readline(_CHUNK_OCTETS)
            if not line:
                return None
            content += unstuffer.feed(line)
        self._sink.taken.append(Taken(Envelope(*self._mail, tuple(self._recipients)), bytes(content)))
        self._reset()
        return self._say(b"250 2.0.0 taken")
