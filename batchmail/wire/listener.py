"""A listener on the loopback address, for the servers that the demonstration embeds."""

import contextlib
import socket
import threading
from collections.abc import Callable

LOOPBACK = "127.0.0.1"


class Listener:
    """Hands every connection to `serve`, called in the accepting thread, until closed."""

    def __init__(self, name: str, serve: Callable[[socket.socket], None]):
        self._serve = serve
        self._socket = socket.create_server((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name=f"batchmail-{name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; connections end with their ends."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._socket.accept()
            except OSError:
                return
            self._serve(connected)
