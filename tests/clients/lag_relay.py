"""A TCP relay in front of a server, and what a far or failing network does to what it sends.

    with relaying("127.0.0.1", port) as relay:
        with relay.lagging(0.5):      each byte of the server takes half a second longer
        relay.lose_connections(2)     those that stand break, and so do the next two

Order and content stay. It runs on a thread with an event loop of its own, because its users
are tests without one. At most `PIECES_MAX` reads of a connection are on their way at a time.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.cluster.relay import until_one_ends

READ_BYTES = 64 * 1024
PIECES_MAX = 1024


class LagRelay:
    """See the module's head; made by `relaying`."""

    def __init__(self, host: str, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.port = 0
        self._target = (host, port)
        self._loop = loop
        self._lag_s = 0.0
        self._to_lose = 0
        self._clients: set[asyncio.StreamWriter] = set()

    @contextmanager
    def lagging(self, lag_s: float) -> Iterator[None]:
        """Hold back for `lag_s` what the server sends while the block runs."""
        self._lag_s = lag_s
        try:
            yield
        finally:
            self._lag_s = 0.0

    def lose_connections(self, count: int) -> None:
        """Break every connection that stands, and the next `count` as soon as they are made."""
        asyncio.run_coroutine_threadsafe(self._lose(count), self._loop).result()

    async def _lose(self, count: int) -> None:
        self._to_lose = count
        for writer in self._clients:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        if self._to_lose > 0:
            self._to_lose -= 1
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._clients.add(writer)
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES_MAX)
        try:
            await until_one_ends(
                _pump(reader, server_writer),
                self._collect(server_reader, pieces),
                _deliver(pieces, writer),
            )
        finally:
            self._clients.discard(writer)
            writer.transport.abort()
            server_writer.transport.abort()

    async def _collect(
        self, reader: asyncio.StreamReader, pieces: "asyncio.Queue[tuple[float, bytes]]"
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await pieces.put((asyncio.get_running_loop().time() + self._lag_s, data))


async def _deliver(
    pieces: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
) -> None:
    with suppress(OSError):
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            writer.write(data)
            await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()


@contextmanager
def relaying(host: str, port: int) -> Iterator[LagRelay]:
    """A relay to `host`:`port` that listens on a port of its own until the block ends."""
    loop = asyncio.new_event_loop()
    relay = LagRelay(host, port, loop)
    thread = threading.Thread(target=loop.run_forever, name="relay")
    thread.start()
    try:
        starting = asyncio.start_server(relay.accept, host, 0)
        server = asyncio.run_coroutine_threadsafe(starting, loop).result()
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            asyncio.run_coroutine_threadsafe(_end(server), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others)
