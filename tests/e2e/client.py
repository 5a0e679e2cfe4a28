"""An SMTP client that says exactly the octets it is given."""

import re
import socket
from collections.abc import Sequence

from tests.servers.host import LOOPBACK


class Client:
    """One session with a server on loopback.  A context manager."""

    def __init__(self, port: int, name: bytes = b"client.test", hello: bytes = b"EHLO"):
        self._socket = socket.create_connection((LOOPBACK, port), 60)
        self._replies = self._socket.makefile("rb")
        self.reply()
        self.offer = {line.upper() for line in self.say(hello + b" " + name)[1:]}

    def say(self, line: bytes) -> list[bytes]:
        """The lines of the reply, the first with its code."""
        self._socket.sendall(line + b"\r\n")
        return self.reply()

    def reply(self) -> list[bytes]:
        lines: list[bytes] = []
        while True:
            line = self._replies.readline()
            if not line:
                raise ConnectionError("the server has gone")
            lines.append(line[:4].replace(b"-", b" ") + line[4:].rstrip(b"\r\n") if not lines else line[4:].rstrip())
            if line[3:4] != b"-":
                return lines

    def transaction(self, mail: bytes, rcpts: Sequence[bytes], content: bytes) -> bytes:
        """What became of it: the reply to the final dot, or to the first command that was refused; then it is reset."""
        for line, right in ((mail, b"250"), *((rcpt, b"250") for rcpt in rcpts), (b"DATA", b"354")):
            (answer, *_) = self.say(line)
            if not answer.startswith(right):
                self.say(b"RSET")
                return line + b": " + answer
        stuffed = re.sub(rb"(\A|\r\n)\.", rb"\1..", content)
        return self.say(stuffed + b".")[0]

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
