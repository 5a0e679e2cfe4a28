# What begins with an underscore is not in the library's stubs.
# mypy: disable-error-code="attr-defined, misc"
"""The SSH library's transport, driven so that a login waits no longer than it has to.

Two things are said before they are asked for.  Our half of the key exchange
follows our identification at once: the server's first choice among our
algorithms is ours as well, if it has that at all.  Once the host key is
believed, the signed login, the channel, the command and the first data go in
one flight: a server that takes its input in order needs no more (RFC 4252 to
4254 only forbid what depends on an answer).  When a server turns out to be
another than was assumed, `Unlike` says so, and nothing of the session has begun.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import (
    MSG_SERVICE_ACCEPT,
    MSG_USERAUTH_FAILURE,
    cMSG_CHANNEL_DATA,
    cMSG_CHANNEL_OPEN,
    cMSG_CHANNEL_REQUEST,
    cMSG_KEXINIT,
    cMSG_SERVICE_REQUEST,
)
from paramiko.kex_curve25519 import KexCurve25519
from paramiko.packet import Packetizer

# How much data may ride along with the login: all servers give a channel more room than that.
FIRST_OCTETS = 16 << 10

_WINDOW_OCTETS = 4 << 20
_PACKET_OCTETS = 16 << 10  # a packet counts when its last octet is there: a cut loses it, and an answer waits for it
_POLL_S = 0.1

# The lists of algorithms are most of what is sent to agree on keys: what every server of the last ten years has, short
# tags first.  Curve25519 before the post-quantum exchange, which costs 2.3 kB at each login.
_KEX = "curve25519-sha256@libssh.org"
_LISTS = {
    "kex": (_KEX,),
    "ciphers": ("aes128-gcm@openssh.com", "aes128-ctr", "aes256-gcm@openssh.com", "aes256-ctr"),
    "digests": ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"),
}
# Which servers take their input in order, across authentication too; a refused key ends a connection to dropbear.
_IN_ORDER = ("OpenSSH_", "dropbear_")
_KEEPS_AFTER_REFUSAL = ("OpenSSH_",)


class Unlike(paramiko.SSHException):
    """The server is not as was assumed; an ordinary login over a new connection may do."""


class Transport(paramiko.Transport):
    """`early`: say what can be said without waiting, and less; otherwise the library's ways and all its algorithms."""

    def __init__(self, sock: socket.socket, *, early: bool):
        super().__init__(sock, default_window_size=_WINDOW_OCTETS, default_max_packet_size=_PACKET_OCTETS)
        self.early = early
        self._kex: _EarlyKex | None = None
        self.packetizer: _Packets = _Packets(sock, hold=early)
        self.packetizer.set_log(self.logger)
        if early:
            options = self.get_security_options()
            for name, wanted in _LISTS.items():
                known = getattr(options, name)
                setattr(options, name, tuple(algorithm for algorithm in wanted if algorithm in known))

    @property
    def server_program(self) -> str:
        """What the server calls itself; empty as long as it has not."""
        return str(self.remote_version).partition("-")[2].partition("-")[2]

    @property
    def may_be_misjudged(self) -> bool:
        """It is an SSH server, and fails to agree on keys in the way that we hastened."""
        return self.early and bool(self.server_program) and not self.initial_kex_done

    @property
    def takes_input_in_order(self) -> bool:
        return self.early and self.server_program.startswith(_IN_ORDER)

    @property
    def stays_after_refusal(self) -> bool:
        return self.server_program.startswith(_KEEPS_AFTER_REFUSAL)

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Kinds of host key; certificates, which we could not check, double the list."""
        return tuple(self._filter_algorithm("keys") if self.early else super().preferred_keys)

    def _check_banner(self) -> None:
        if self.early:
            self._announce()
            self._kex = _EarlyKex(self)
            self._kex.start_kex()
            self.packetizer.let_go()
        super()._check_banner()

    def _announce(self) -> None:
        """KEXINIT, RFC 4253 section 7.1.  Extensions (RFC 8308) are not asked for: OpenSSH's cost 0.4 kB."""
        kex = [*self.preferred_kex, *(["kex-strict-c-v00@openssh.com"] if self._knows_strict_kex else [])]
        both_ways = (self.preferred_ciphers, self.preferred_macs, self.preferred_compression, ())
        lists = [kex, self.preferred_keys, *(algorithms for one in both_ways for algorithms in (one, one))]
        message = paramiko.Message()
        message.add_bytes(cMSG_KEXINIT + os.urandom(16))
        for algorithms in lists:
            message.add_string(",".join(algorithms))
        message.add_boolean(False)  # no guess of the kind that the server would have to skip
        message.add_int(0)
        self.in_kex = True
        self.local_kex_init = self._latest_kex_init = message.asbytes()
        self._send_message(message)

    @property
    def _knows_strict_kex(self) -> bool:
        return bool(getattr(self, "advertise_strict_kex", False))  # paramiko 3.4

    def _send_kex_init(self) -> None:
        if self.initial_kex_done or not self.early:  # else it was sent
            super()._send_kex_init()

    def _parse_kex_init(self, m: paramiko.Message) -> None:
        super()._parse_kex_init(m)
        early, self._kex = self._kex, None
        if early is not None:
            if not isinstance(self.kex_engine, KexCurve25519):
                raise Unlike("the server exchanges keys in another way")
            self.kex_engine = early


class _EarlyKex(KexCurve25519):
    """Sends its half when it is first told to start; then it only waits for the server's."""

    def start_kex(self) -> None:
        if self.key is None:
            super().start_kex()
        else:
            self.transport._expect_packet(31)  # SSH_MSG_KEX_ECDH_REPLY, RFC 5656


class _Packets(Packetizer):
    """Can hold back what is to leave in one piece."""

    def __init__(self, sock: socket.socket, *, hold: bool):
        super().__init__(sock)
        self._order = threading.RLock()
        self._held: bytearray | None = bytearray() if hold else None

    def start_handshake(self, timeout: float) -> None:
        """Not the library's timer: ours is the one deadline, and a timer would keep the process from its end."""

    def write_all(self, out: bytes) -> None:  # type: ignore[override]
        if self._held is None:
            super().write_all(out)
        else:
            self._held += out

    def send_message(self, data: paramiko.Message) -> None:
        with self._order:
            super().send_message(data)

    def let_go(self) -> None:
        held, self._held = self._held, None
        self.write_all(bytes(held or b""))

    @contextlib.contextmanager
    def one_flight(self) -> Iterator[None]:
        """What is sent in this block leaves together at its end."""
        with self._order:
            self._held = bytearray()
            try:
                yield
            finally:
                self.let_go()


class Login:
    """A login that was sent in one flight, and what is heard of it."""

    def __init__(self, transport: Transport, user: str, key: paramiko.PKey, command: str, first: bytes):
        self._transport, self._first_octets = transport, len(first)
        self._answered, self._opened = threading.Event(), threading.Event()
        self._handler = handler = AuthHandler(transport)
        handler.username, handler.auth_method, handler.private_key = user, "publickey", key
        handler.auth_event = self._answered
        transport.auth_handler = handler
        # An RSA key signs in the one way that all servers know which do not want SHA-1.
        transport.server_extensions = {"server-sig-algs": b"rsa-sha2-256"} | transport.server_extensions
        self._table = transport._handler_table
        self._refusal: Exception | None = None
        early = {
            MSG_SERVICE_ACCEPT: lambda *_: None,
            MSG_USERAUTH_FAILURE: self._refused,
        }  # we went on without the first
        transport._handler_table = self._table | early
        with transport.packetizer.one_flight():
            transport._send_message(_message(cMSG_SERVICE_REQUEST, "ssh-userauth"))
            handler._parse_service_accept(_message(b"", "ssh-userauth"))  # signs, and sends the request
            self._channel = self._open_channel()
            transport._send_message(_message(cMSG_CHANNEL_REQUEST, 0, "exec", True, command))
            if first:
                transport._send_message(_message(cMSG_CHANNEL_DATA, 0, first))

    def _open_channel(self) -> paramiko.Channel:
        """As the library's `open_channel`, without its waiting."""
        transport = self._transport
        with transport.lock:
            number = transport._next_channel()
            channel = paramiko.Channel(number)
            transport._channels.put(number, channel)
            transport.channel_events[number] = self._opened
            transport.channels_seen[number] = True
            channel._set_transport(transport)
            channel._set_window(_WINDOW_OCTETS, _PACKET_OCTETS)
            channel._event_pending()
        transport._send_message(_message(cMSG_CHANNEL_OPEN, "session", number, _WINDOW_OCTETS, _PACKET_OCTETS))
        return channel

    def accepted(self) -> bool:
        """Wait for the answer to the key; False: it, or the key alone, will not do.  Raises what the library raises."""
        self._wait_for(self._answered)
        self._transport._handler_table = self._table
        if isinstance(self._refusal, paramiko.BadAuthenticationType):
            raise self._refusal
        if self._refusal is None and not self._handler.is_authenticated():
            raise self._transport.get_exception() or EOFError()
        return self._refusal is None

    def _refused(self, *arguments: paramiko.Message) -> None:
        """Kept: the server may hang up right after it, which the library would take for the reason."""
        self._handler.auth_event = None
        self._handler._parse_userauth_failure(arguments[-1])
        self._refusal = self._transport.get_exception() or paramiko.AuthenticationException("refused")
        self._answered.set()

    def channel(self) -> paramiko.Channel:
        """Wait until the command runs."""
        channel = self._channel
        self._wait_for(self._opened)
        if not channel.active:
            raise self._transport.get_exception() or EOFError()
        if channel.remote_chanid:
            raise Unlike("the server numbers its channels in another way")
        channel._wait_for_event()
        with channel.lock:  # the first data went before there was an account to write them in
            channel.out_buffer_cv.wait_for(lambda: channel.closed or channel.out_window_size >= self._first_octets)
            channel.out_window_size -= self._first_octets
        return channel

    def _wait_for(self, event: threading.Event) -> None:
        while self._transport.is_active() and not event.wait(_POLL_S):
            pass


def _message(kind: bytes, *fields: bytes | str | int) -> paramiko.Message:
    message = paramiko.Message()
    message.add_bytes(kind)
    for field in fields:
        if isinstance(field, bool):
            message.add_boolean(field)
        elif isinstance(field, int):
            message.add_int(field)
        else:
            message.add_string(field)
    message.rewind()
    return message
