"""A scripted SMTP or LMTP server on loopback, in a thread: what it answers is given, what it heard is kept.

`FakeSmtp(Script(...), Script(...))` uses one script per connection and the last for all further ones.  In `replies`
the key is the beginning of a command, the value the answer without line end, CLOSE to hang up, or a list of answers
for one after the other.  Any other command is answered as a willing server would.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import NamedTuple, Self

CLOSE = b""
END = b"."  # key for the answers to the final dot; LMTP: a list with one per recipient
SKIP = b"-"  # no answer at all


class Script(NamedTuple):
    greeting: bytes = b"220 mx.test ESMTP Fake"
    ehlo: tuple[bytes, ...] = (b"PIPELINING", b"8BITMIME", b"SIZE", b"DSN", b"ENHANCEDSTATUSCODES")
    replies: dict[bytes, bytes | list[bytes]] = {}
    lmtp: bool = False
    one_by_one: bool = False  # every octet in a write of its own
    after_octets: int = 0  # of content: then `early` is said and the connection closed
    early: bytes = CLOSE
    after_greeting: bytes = b""  # said unasked at once
    tls: ssl.SSLContext | None = None
    keeps_quit_back: bool = False  # until the client has ended its side, as Exim does


class FakeSmtp:
    def __init__(self, *scripts: Script, path: str = ""):
        self.scripts = scripts or (Script(),)
        self.sessions: list[list[bytes]] = []  # the commands of each connection
        self.received: list[list[bytes]] = []  # and the pieces they came in
        self.messages: list[bytes] = []  # stuffed, with the final dot
        self.failures: list[BaseException] = []
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._listener.bind(path or ("127.0.0.1", 0))
        self._listener.listen()
        self.port = 0 if path else self._listener.getsockname()[1]
        self._connections: list[_Connection] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def url(self, scheme: str = "smtp", query: str = "") -> str:
        place = f"//{self._path}" if self._path else f"//127.0.0.1:{self.port}"
        return f"{scheme}:{place}{'?' if query else ''}{query}"

    @property
    def commands(self) -> list[bytes]:
        return [command for session in self.sessions for command in session]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        assert not self.failures, self.failures

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                script = self.scripts[min(len(self.sessions), len(self.scripts) - 1)]
                self.sessions.append([])
                self.received.append([])
                connection = _Connection(self, sock, script, self.sessions[-1], self.received[-1])
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=connection.run, daemon=True))
                self._threads[-1].start()


class _Hangup(Exception):
    pass


class _Connection:
    def __init__(
        self, server: FakeSmtp, sock: socket.socket, script: Script, commands: list[bytes], received: list[bytes]
    ):
        self.server, self.sock, self.script, self.commands, self.received = server, sock, script, commands, received
        self.replies = {k: list(v) if isinstance(v, list) else v for k, v in script.replies.items()}
        self.buffer = b""
        self.accepted = 0
        self.mail = False

    def run(self) -> None:
        try:
            self.say(self.script.greeting)
            if self.script.after_greeting:
                self.say(self.script.after_greeting)
            while True:
                self.command(self.line())
        except (_Hangup, OSError):
            pass
        except BaseException as error:
            self.server.failures.append(error)
        finally:
            self.sock.close()

    def say(self, text: bytes) -> None:
        if text == CLOSE:
            raise _Hangup
        if text == SKIP:
            return
        data = text if text.endswith(b"\n") else text + b"\r\n"
        for piece in (data[i : i + 1] for i in range(len(data))) if self.script.one_by_one else (data,):
            self.sock.sendall(piece)

    def more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise _Hangup
        self.received.append(data)
        self.buffer += data

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self.more()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def answer(self, key: bytes, default: bytes) -> bytes:
        for start, scripted in self.replies.items():
            if key.startswith(start) and start != END:
                if isinstance(scripted, list):
                    return scripted.pop(0) if scripted else default
                return scripted
        return default

    def command(self, line: bytes) -> None:
        self.commands.append(line)
        verb = line.split(b" ")[0].upper()
        handler: Callable[[bytes], None] = getattr(self, "on_" + verb.decode().lower(), self.on_other)
        handler(line)

    def on_other(self, line: bytes) -> None:
        self.say(self.answer(line, b"500 5.5.1 what?"))

    def on_ehlo(self, line: bytes) -> None:
        keywords = (b"mx.test greets you", *self.script.ehlo)
        lines = [b"250-" + word for word in keywords[:-1]] + [b"250 " + keywords[-1]]
        self.say(self.answer(line, b"\r\n".join(lines)))

    on_lhlo = on_ehlo

    def on_starttls(self, line: bytes) -> None:
        reply = self.answer(line, b"220 2.0.0 go")
        self.say(reply)
        if reply.startswith(b"220") and self.script.tls:
            self.sock = self.script.tls.wrap_socket(self.sock, server_side=True)
            self.buffer = b""

    def on_mail(self, line: bytes) -> None:
        reply = self.answer(line, b"250 2.1.0 ok")
        self.mail, self.accepted = reply.startswith(b"2"), 0
        self.say(reply)

    def on_rcpt(self, line: bytes) -> None:
        reply = self.answer(line, b"250 2.1.5 ok" if self.mail else b"503 5.5.1 no MAIL")
        self.accepted += reply.startswith(b"2")
        self.say(reply)

    def on_data(self, line: bytes) -> None:
        reply = self.answer(line, b"354 go on" if self.accepted else b"503 5.5.1 nobody")
        self.say(reply)
        if reply.startswith(b"354"):
            self.server.messages.append(self.content())
            self.end()

    def content(self) -> bytes:
        while not (self.buffer.startswith(b".\r\n") or b"\r\n.\r\n" in self.buffer):
            if self.script.after_octets and len(self.buffer) >= self.script.after_octets:
                if self.script.early != CLOSE:
                    self.say(self.script.early)
                raise _Hangup
            self.more()
        if self.buffer.startswith(b".\r\n"):
            content, self.buffer = b".\r\n", self.buffer[3:]
        else:
            end = self.buffer.index(b"\r\n.\r\n") + 5
            content, self.buffer = self.buffer[:end], self.buffer[end:]
        return content

    def end(self) -> None:
        scripted = self.replies.get(END)
        for _ in range(self.accepted if self.script.lmtp else 1):
            if isinstance(scripted, list):
                self.say(scripted.pop(0) if scripted else b"250 2.0.0 done")
            else:
                self.say(b"250 2.0.0 done" if scripted is None else scripted)
        self.mail = False

    def on_rset(self, line: bytes) -> None:
        self.mail = False
        self.say(self.answer(line, b"250 2.0.0 ok"))

    def on_quit(self, line: bytes) -> None:
        if self.script.keeps_quit_back:
            self.sock.settimeout(20)
            try:
                assert self.sock.recv(1) == b""
            except TimeoutError:
                raise AssertionError("the client waits for the answer to QUIT without ending its side") from None
        self.say(self.answer(line, b"221 2.0.0 bye"))
        raise _Hangup
