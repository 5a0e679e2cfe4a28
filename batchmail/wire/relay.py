"""A relay on the loopback address that counts the octets on their way, for the demonstration."""

import contextlib
import socket
import threading

from batchmail.wire.listener import LOOPBACK, Listener

_CHUNK_OCTETS = 65536


class Relay:
    """Passes connections on to another port until closed."""

    def __init__(self, port: int):
        self._to = port
        self.forth_octets = self.back_octets = 0  # from the caller, and to it
        self._listener = Listener("relay", self._connect)
        self.port = self._listener.port
        self.close = self._listener.close

    def _connect(self, near: socket.socket) -> None:
        far = socket.create_connection((LOOPBACK, self._to))
        threading.Thread(target=self._pass_forth, args=(near, far), daemon=True).start()
        threading.Thread(target=self._pass_back, args=(far, near), daemon=True).start()

    def _pass_forth(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(_CHUNK_OCTETS):
                self.forth_octets += len(data)
                far.sendall(data)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_WR)

    def _pass_back(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(_CHUNK_OCTETS):
                self.back_octets += len(data)
                near.sendall(data)
        for one in (near, far):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
