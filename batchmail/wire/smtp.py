"""Connections to SMTP and LMTP servers: TCP, unix socket, TLS; the times of each step; the password.

Times are those of RFC 5321 §4.5.3.2.
"""

import contextlib
import os
import socket
import ssl

from batchmail.core.errors import LineError
from batchmail.wire.timed import TimedStream

CONNECT_S = 30
COMMAND_S = 300  # greeting, EHLO, MAIL, RCPT and the rest
DATA_S = 120
BLOCK_S = 180  # each block of content written
END_S = 600  # from the final dot to its reply (RFC 1047); LMTP: to each reply
QUIT_S = 5  # its answer changes nothing

_MAX_PASSWORD_OCTETS = 1024


class SmtpStream(TimedStream):
    """A connection that can be put under TLS."""

    is_secured = False

    def start_tls(self, host: str, verify: bool) -> None:
        """The handshake.  Raises LineError, also when the certificate is not good for `host`."""
        self._set_timeout()
        try:
            self._socket = _tls_context(verify).wrap_socket(self._socket, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise LineError(f"the certificate of {host} is not valid: {error.verify_message}") from None
        except (OSError, ValueError) as error:
            raise LineError(f"no TLS with {host}: {error}") from None
        self.is_secured = True

    def end_input(self) -> None:
        """Let the server see that nothing more is coming; below TLS only `close` says that."""
        if not self.is_secured:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def acknowledge(self) -> None:
        """Let TCP say at once that what was read has come, instead of with the next octets that are written."""
        if self._socket.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _ready_error(self, error: OSError) -> bytes | None:
        if isinstance(error, ssl.SSLWantReadError):  # TLS's own business, such as a session ticket
            return None
        return super()._ready_error(error)


def _tls_context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def connect_tcp(host: str, port: int, timeout_s: float = CONNECT_S) -> SmtpStream:
    """Connect, trying each address of `host`.  Raises LineError."""
    try:
        sock = socket.create_connection((host, port), timeout_s)
    except (OSError, UnicodeError) as error:
        raise LineError(f"cannot connect: {getattr(error, 'strerror', None) or error}") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # we write whole groups
    return SmtpStream(sock)


def connect_unix(path: str, timeout_s: float = CONNECT_S) -> SmtpStream:
    """Connect to a socket in the file system.  Raises LineError."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout_s)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise LineError(f"cannot connect: {error.strerror or error}") from None
    return SmtpStream(sock)


def read_password(path: str) -> bytes:
    """The first line of a file that only its owner may read.  Raises LineError: a person can mend it, mail waits."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LineError(f"cannot read password_file {path}: {error.strerror}") from None
    with contextlib.closing(os.fdopen(fd, "rb")) as file:
        if os.fstat(fd).st_mode & 0o007:
            raise LineError(f"password_file {path} can be read by everybody: chmod o= {path}")
        try:
            line = file.readline(_MAX_PASSWORD_OCTETS).rstrip(b"\r\n")
        except OSError as error:
            raise LineError(f"cannot read password_file {path}: {error.strerror}") from None
    if not line:
        raise LineError(f"password_file {path} is empty")
    return line
