"""A relay on the loopback address that counts the octets on their way, for the demonstration."""

import contextlib
import socket
import threading

_CHUNK_OCTETS = 65536


class Relay:
    """Passes connections on to another port until closed."""

    def __init__(self, port: int):
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.forth_octets = self.back_octets = 0  # from the caller, and to it
        self._acceptor = threading.Thread(target=self._accept, name="batchmail-relay", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening; connections end with their ends."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
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
