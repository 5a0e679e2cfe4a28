"""An SMTP or LMTP server in a thread that writes down every dialogue, for the tests that look at the dialogue.

It is strict (lines end in CRLF and nothing else) and obeys rules: which reply to which command, wait, or hang up.
What it took stands in `transactions`, each command line in `lines`, in the order of arrival.
"""

import contextlib
import os
import re
import socket
import ssl
import threading
from base64 import b64decode
from collections.abc import Iterable
from typing import NamedTuple, Self

from tests.servers.host import LOOPBACK, PATIENCE_S, wait_until

EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE 0", "ENHANCEDSTATUSCODES")
LONGEST_LINE_OCTETS = 65536


class Transaction(NamedTuple):
    """What was accepted: command lines without CRLF; content unstuffed, with its final CRLF."""

    session: int
    mail: bytes
    rcpts: tuple[bytes, ...]
    content: bytes
    forwarded: tuple[bytes, ...] = ()  # the XFORWARD commands before it


class Rule:
    """What to do at a command instead of the usual.

    `verb` is CONNECT, EHLO, HELO, XFORWARD, MAIL, RCPT, DATA, AUTH, STARTTLS, RSET, NOOP, QUIT or DOT: after the final
    dot, with LMTP once per recipient.  `match` must stand in the line (at DOT: in the RCPT line, with SMTP in any of
    them).  `reply` is sent, b"" sends nothing.  `close` hangs up afterwards.  `until` is waited for first.  `times` is
    how often the rule holds; it counts down.
    """

    def __init__(
        self,
        verb: str,
        reply: bytes,
        *,
        match: bytes = b"",
        close: bool = False,
        until: threading.Event | None = None,
        times: int = 1_000_000,
    ):
        self.verb, self.reply, self.match, self.close, self.until, self.times = verb, reply, match, close, until, times


class SmtpLog:
    """`login` (user, password) offers AUTH, `tls` STARTTLS.  Without `socket_path` it listens on `port`."""

    def __init__(
        self,
        *,
        lmtp: bool = False,
        extensions: Iterable[str] = EXTENSIONS,
        rules: Iterable[Rule] = (),
        socket_path: str = "",
        login: tuple[bytes, bytes] | None = None,
        tls: ssl.SSLContext | None = None,
    ):
        self.lmtp, self.extensions, self.rules = lmtp, tuple(extensions), list(rules)
        self.login, self.tls = login, tls
        self.socket_path = socket_path
        self.port = 0
        self.transactions: list[Transaction] = []
        self.lines: list[bytes] = []
        self.violations: list[bytes] = []
        self.sessions = 0
        self.secrets: list[tuple[bytes, bytes]] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def start(self) -> Self:
        if self.socket_path:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.socket_path)
            os.chmod(self.socket_path, 0o666)
        else:
            self._listener = socket.create_server((LOOPBACK, 0))
            self.port = self._listener.getsockname()[1]
        self._listener.listen(100)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse new connections and drop those that are open."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        if self.socket_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.socket_path)

    def wait_for(self, count: int, timeout_s: float = PATIENCE_S) -> list[Transaction]:
        wait_until(lambda: len(self.transactions) >= count, f"{count} transactions at the logging server", timeout_s)
        return list(self.transactions)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.sessions += 1
                self._open.add(connection)
                number = self.sessions
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        dialogue = _Dialogue(self, connection, number)
        with contextlib.suppress(_HangUp, OSError):
            dialogue.run()
        with self._lock:
            self._open.discard(connection)
        with contextlib.suppress(OSError):
            dialogue.connection.close()

    def _take(self, transaction: Transaction) -> None:
        with self._lock:
            self.transactions.append(transaction)

    def _rule(self, verb: str, texts: Iterable[bytes]) -> Rule | None:
        with self._lock:
            for rule in self.rules:
                if rule.verb == verb and rule.times > 0 and any(rule.match in text for text in texts):
                    rule.times -= 1
                    return rule
        return None


class _HangUp(Exception):
    pass


class _Dialogue:
    """One session."""

    def __init__(self, server: SmtpLog, connection: socket.socket, number: int):
        self.server, self.connection, self.number = server, connection, number
        self._input = bytearray()
        self._replies = bytearray()
        self._secure = False
        self._forget()

    def _forget(self) -> None:
        self._mail = b""
        self._rcpts: list[bytes] = []
        self._forwarded: list[bytes] = []

    def run(self) -> None:
        self._reply("CONNECT", b"", b"220 log.test ready")
        while True:
            line = self._line()
            self.server.lines.append(line)
            verb = line.partition(b" ")[0].upper().decode("latin-1")
            if b"\n" in line or b"\r" in line:
                self.server.violations.append(line)
                self._say(b"500 5.5.2 bare CR or LF")
                continue
            getattr(self, f"_on_{verb.lower()}", self._on_unknown)(line)

    def _on_ehlo(self, line: bytes) -> None:
        self._forget()
        offered = list(self.server.extensions)
        if self.server.tls and not self._secure:
            offered.append("STARTTLS")
        if self.server.login:
            offered.append("AUTH PLAIN LOGIN")
        words = [b"log.test", *(word.encode() for word in offered)]
        dashes = [b"-"] * (len(words) - 1) + [b" "]
        right = (line[:4].upper() == b"LHLO") == self.server.lmtp
        everything = b"\r\n".join(b"250" + dash + word for dash, word in zip(dashes, words, strict=True))
        self._reply("EHLO", line, everything if right else b"500 5.5.1 this is the other protocol")

    _on_lhlo = _on_ehlo

    def _on_helo(self, line: bytes) -> None:
        self._forget()
        self._reply("HELO", line, b"250 log.test")

    def _on_xforward(self, line: bytes) -> None:
        if self._mail:
            self._say(b"503 5.5.1 not in a transaction")
        elif self._reply("XFORWARD", line, b"250 2.0.0 ok"):
            self._forwarded.append(line)

    def _on_mail(self, line: bytes) -> None:
        if self._mail:
            self._say(b"503 5.5.1 there is a transaction already")
        elif self._reply("MAIL", line, b"250 2.1.0 ok"):
            self._mail = line

    def _on_rcpt(self, line: bytes) -> None:
        if not self._mail:
            self._say(b"503 5.5.1 MAIL first")
        elif self._reply("RCPT", line, b"250 2.1.5 ok"):
            self._rcpts.append(line)

    def _on_data(self, line: bytes) -> None:
        if not self._rcpts:
            self._say(b"503 5.5.1 no valid recipients")
        elif self._reply("DATA", line, b"354 go on"):
            content = self._content()
            if content is None:
                self._say(b"550 5.6.0 bare CR or LF")
            else:
                self._after_dot(content)
            self._forget()

    def _after_dot(self, content: bytes) -> None:
        """The transaction is recorded before its reply is sent, so a client that has the reply finds it."""
        shares = [[rcpt] for rcpt in self._rcpts] if self.server.lmtp else [self._rcpts]
        rules = [self.server._rule("DOT", share) for share in shares]
        taken = [rcpt for share, rule in zip(shares, rules, strict=True) if _accepts(rule) for rcpt in share]
        if taken:
            self.server._take(Transaction(self.number, self._mail, tuple(taken), content, tuple(self._forwarded)))
        for rule in rules:
            self._obey(rule, b"250 2.0.0 taken")

    def _on_auth(self, line: bytes) -> None:
        rule = self.server._rule("AUTH", [line])
        _, mechanism, *initial = line.split(b" ")
        if mechanism.upper() == b"PLAIN":
            secret = b64decode(initial[0] if initial else self._ask(b""))
            user, password = secret.split(b"\0")[1:]
        else:
            user = b64decode(initial[0] if initial else self._ask(b"VXNlcm5hbWU6"))
            password = b64decode(self._ask(b"UGFzc3dvcmQ6"))
        self.server.secrets.append((user, password))
        right = (user, password) == self.server.login
        self._obey(rule, b"235 2.7.0 welcome" if right else b"535 5.7.8 no")

    def _on_starttls(self, line: bytes) -> None:
        if (
            self._reply("STARTTLS", line, b"220 2.0.0 go on" if self.server.tls else b"502 5.5.1 no")
            and self.server.tls
        ):
            self._flush()
            self._input.clear()
            self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
            self._secure = True
            self._forget()

    def _on_rset(self, line: bytes) -> None:
        self._forget()
        self._reply("RSET", line, b"250 2.0.0 ok")

    def _on_noop(self, line: bytes) -> None:
        self._reply("NOOP", line, b"250 2.0.0 ok")

    def _on_quit(self, line: bytes) -> None:
        self._reply("QUIT", line, b"221 2.0.0 bye")
        self._flush()
        raise _HangUp

    def _on_unknown(self, line: bytes) -> None:
        self._say(b"500 5.5.2 unknown command")

    def _ask(self, challenge: bytes) -> bytes:
        self._say(b"334 " + challenge)
        return self._line()

    def _reply(self, verb: str, line: bytes, usual: bytes) -> bool:
        """Answer a command; whether it was accepted."""
        return self._obey(self.server._rule(verb, [line]), usual)

    def _obey(self, rule: Rule | None, usual: bytes) -> bool:
        reply = usual if rule is None else rule.reply
        if rule and rule.until:
            self._flush()
            rule.until.wait()
        if reply:
            self._say(reply)
        if rule and rule.close:
            self._flush()
            raise _HangUp
        return reply[:1] in (b"2", b"3")

    def _say(self, reply: bytes) -> None:
        self._replies += reply + b"\r\n"

    def _flush(self) -> None:
        """Replies go out together when there is nothing more to read: that is what makes pipelining worth while."""
        replies, self._replies = bytes(self._replies), bytearray()
        self.connection.sendall(replies)

    def _fill(self) -> None:
        self._flush()
        octets = self.connection.recv(262144)
        if not octets:
            raise _HangUp
        self._input += octets

    def _line(self) -> bytes:
        while (end := self._input.find(b"\r\n")) < 0:
            if len(self._input) > LONGEST_LINE_OCTETS:
                raise _HangUp
            self._fill()
        line = bytes(self._input[:end])
        del self._input[: end + 2]
        return line

    def _content(self) -> bytes | None:
        """The unstuffed text up to CRLF "." CRLF; None when a CR or LF stands alone in it."""
        searched = 0
        while not self._input.startswith(b".\r\n"):
            end = self._input.find(b"\r\n.\r\n", searched)
            if end >= 0:
                break
            searched = max(0, len(self._input) - 4)
            self._fill()
        else:
            end = -2
        text = bytes(self._input[: end + 2])
        del self._input[: end + 5]
        if _BARE.search(text):
            self.server.violations.append(text)
            return None
        return _STUFFED.sub(rb"\1", text)


_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_STUFFED = re.compile(rb"(\A|\r\n)\.")


def _accepts(rule: Rule | None) -> bool:
    return rule is None or rule.reply[:1] == b"2"
