"""A bad line: a TCP proxy on loopback that delays, limits the rate, cuts, goes silent, and counts octets and turns.

"up" is from the client to the server.  Opening a connection costs a round trip, as TCP's handshake does.  A turn is
data that comes after silence and goes the other way than the data before: two are a round trip spent waiting.

A cut resets both sides; silence keeps both connections open and passes nothing on, as a radio link out of range does,
and later connections through the same port work.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Coroutine
from typing import Literal, Self

from tests.servers.host import LOOPBACK

Direction = Literal["up", "down"]
CHUNK_OCTETS = 16384


class Link:
    """`rtt_ms` and `rate` (octets per second, each direction, 0 is unlimited) hold for all connections together."""

    def __init__(self, to_port: int, *, rtt_ms: float = 0, rate: float = 0):
        self.to_port, self.rtt_ms, self.rate = to_port, rtt_ms, rate
        self.port = 0
        self.connections = 0
        self.octets: dict[Direction, int] = {"up": 0, "down": 0}
        self.turns = 0
        self.connected_s = 0.0  # when a client last connected, by the monotonic clock
        self._latest: Direction | None = None
        self._busy_until = 0.0
        self._limit: dict[Direction, tuple[int, str]] = {}
        self._free_at: dict[Direction, float] = {"up": 0.0, "down": 0.0}
        self._current: list[_Connection] = []
        self._loop = asyncio.new_event_loop()

    def start(self) -> Self:
        listener = socket.create_server((LOOPBACK, 0))
        self.port = listener.getsockname()[1]
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, sock=listener, limit=CHUNK_OCTETS)
        )
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def is_idle(self) -> bool:
        """No connection is open at either side."""
        return not self._current

    def cut_after(self, octets: int, direction: Direction = "up") -> None:
        """Reset the connection once it has passed on `octets` more in this direction."""
        self._limit[direction] = (self.octets[direction] + octets, "cut")

    def silence_after(self, octets: int, direction: Direction = "up") -> None:
        """Like `cut_after`, but nobody is told: neither end hears anything any more."""
        self._limit[direction] = (self.octets[direction] + octets, "silence")

    def cut(self) -> None:
        """Reset all connections that are open now."""
        self._run(self._end_all("cut"))

    def silence(self) -> None:
        """Pass on nothing more for all connections that are open now."""
        self._run(self._end_all("silence"))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, coroutine: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _end_all(self, how: str) -> None:
        for connection in list(self._current):
            connection.end(how)

    async def _finish(self) -> None:
        self._server.close()
        await self._end_all("cut")
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connected_s = time.monotonic()
        await asyncio.sleep(self.rtt_ms / 1000)
        try:
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self.to_port, limit=CHUNK_OCTETS)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(self, writer, far_writer)
        self._current.append(connection)
        self._latest = None
        handshake_s = self.rtt_ms / 2000  # the server may speak when the client's last word of it has come
        await asyncio.gather(
            connection.pump(reader, far_writer, "up"), connection.pump(far_reader, writer, "down", handshake_s)
        )
        self._current.remove(connection)
        writer.close()
        far_writer.close()

    def _passable(self, octets: int, direction: Direction) -> tuple[int, str]:
        """How many of these octets may still pass, and what happens to the connection after them."""
        limit, how = self._limit.get(direction, (0, ""))
        if not how or self.octets[direction] + octets < limit:
            return octets, ""
        del self._limit[direction]
        return limit - self.octets[direction], how

    def _arrival(self, octets: int, direction: Direction) -> float:
        """When octets sent now are all there."""
        now = self._loop.time()
        start = max(now, self._free_at[direction])
        self._free_at[direction] = start + (octets / self.rate if self.rate else 0)
        if now >= self._busy_until + 0.3 * self.rtt_ms / 1000:
            self.turns += direction != self._latest
            self._latest = direction
        self._busy_until = max(self._busy_until, self._free_at[direction])
        return self._free_at[direction] + self.rtt_ms / 2000


class _Connection:
    def __init__(self, link: Link, *writers: asyncio.StreamWriter):
        self._link, self._writers = link, writers
        self._silent = False
        self._ended = asyncio.Event()
        for writer in writers:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def end(self, how: str) -> None:
        if how == "silence":
            self._silent = True
            return
        self._ended.set()
        for writer in self._writers:
            writer.transport.abort()

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction, after_s: float = 0.0
    ) -> None:
        """Read at the line's rate, deliver half a round trip later."""
        link = self._link
        await asyncio.sleep(after_s)
        flying: asyncio.Queue[tuple[float, bytes, str]] = asyncio.Queue()
        landing = asyncio.create_task(self._land(flying, writer))
        with contextlib.suppress(OSError):
            while octets := await reader.read(CHUNK_OCTETS):
                if self._silent:
                    await self._ended.wait()
                    break
                passed, how = link._passable(len(octets), direction)
                link.octets[direction] += passed
                arrival = link._arrival(passed, direction)
                flying.put_nowait((arrival, octets[:passed], how))
                await asyncio.sleep(arrival - link.rtt_ms / 2000 - link._loop.time())
        flying.put_nowait((link._loop.time() + link.rtt_ms / 2000, b"", ""))
        with contextlib.suppress(OSError):
            await landing

    async def _land(self, flying: asyncio.Queue[tuple[float, bytes, str]], writer: asyncio.StreamWriter) -> None:
        end_of_input = False
        while not end_of_input:
            arrival, octets, how = await flying.get()
            await asyncio.sleep(arrival - self._link._loop.time())
            if self._silent:
                await self._ended.wait()
            writer.write(octets)
            await writer.drain()
            if how:
                self.end(how)
            end_of_input = not octets and not how
        if writer.can_write_eof():
            writer.write_eof()
