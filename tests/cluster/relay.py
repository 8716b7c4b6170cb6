"""A TCP relay between a replica and its primary, and what can go wrong with a network.

    with relay.held():      nothing passes, connections stay as they are; or in one direction
    with relay.cut():       connections break, and new ones break at once
    with relay.slowed(n):   about n bytes a second pass, in each direction
    relay.cut_after(n)      connections break when n more bytes came from the primary

A relay outlives the primary: `aim` points it at another address.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

_READ_BYTES = 64 * 1024
_SLICE_S = 0.01


class Relay:
    """See the module's head; made by `relaying`."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0  # accepted since the start
        self.from_primary_bytes = 0
        self._target: tuple[str, int] | None = None
        self._to_primary, self._to_replica = asyncio.Event(), asyncio.Event()
        self._to_primary.set()
        self._to_replica.set()
        self._is_cut = False
        self._cut_at: int | None = None
        self._bytes_per_s: float | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def aim(self, host: str, port: int) -> None:
        """Send connections made from now on there."""
        self._target = (host, port)

    @contextlib.contextmanager
    def held(self, *, to_primary: bool = True, to_replica: bool = True) -> Iterator[None]:
        """Let nothing pass while the block runs."""
        gates = [self._to_primary] * to_primary + [self._to_replica] * to_replica
        for gate in gates:
            gate.clear()
        try:
            yield
        finally:
            for gate in gates:
                gate.set()

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Break all connections; new ones break while the block runs."""
        self._is_cut = True
        self.break_connections()
        try:
            yield
        finally:
            self._is_cut = False

    @contextlib.contextmanager
    def slowed(self, bytes_per_s: float) -> Iterator[None]:
        """Let bytes trickle while the block runs."""
        self._bytes_per_s = bytes_per_s
        try:
            yield
        finally:
            self._bytes_per_s = None

    def cut_after(self, count: int) -> None:
        """Break the connections once, after `count` more bytes from the primary."""
        self._cut_at = self.from_primary_bytes + count

    def break_connections(self) -> None:
        """Break what is connected now."""
        for writer in self._writers:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of the replica until either side ends it."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut or self._target is None:
            writer.transport.abort()
            return
        try:
            primary_reader, primary_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, primary_writer}
        self._writers |= both
        try:
            await until_one_ends(
                self._pump(reader, primary_writer, is_from_primary=False),
                self._pump(primary_reader, writer, is_from_primary=True),
            )
        finally:
            self._writers -= both
            for one in both:
                one.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_from_primary: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(self._read_bytes):
                await (self._to_replica if is_from_primary else self._to_primary).wait()
                if self._bytes_per_s is not None:
                    await asyncio.sleep(_SLICE_S)
                writer.write(data)
                await writer.drain()
                if is_from_primary:
                    self._count(len(data))

    @property
    def _read_bytes(self) -> int:
        if self._bytes_per_s is None:
            return _READ_BYTES
        return max(1, int(self._bytes_per_s * _SLICE_S))

    def _count(self, size: int) -> None:
        self.from_primary_bytes += size
        if self._cut_at is not None and self.from_primary_bytes >= self._cut_at:
            self._cut_at = None
            self.break_connections()

    async def close(self) -> None:
        """End what is under way."""
        self._to_primary.set()
        self._to_replica.set()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def until_one_ends(*pumps: Coroutine[Any, Any, None]) -> None:
    """Run these together until the first ends, and end the others."""
    tasks = [asyncio.ensure_future(pump) for pump in pumps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def relaying() -> AsyncIterator[Relay]:
    """A relay that listens on a port of its own until the block ends."""
    relay = Relay()
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
        await server.wait_closed()
