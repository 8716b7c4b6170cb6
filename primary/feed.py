"""Sends one replica node what it lacks: commits, copies of files, heads.

One feed per link, all databases on it. What a database is sent next is `ReplicaProgress`'s
decision; the feed obeys. A replica that keeps up is served from memory, inline, when its
primary's flush ends; one that is behind by a task that reads the log's files. A slow
replica never slows the primary: at most `WINDOW_BYTES` are in flight to it, and what it does
not take stays where it is, in the log.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

from engine.errors import EngineError, PositionTrimmed, PositionUnknown
from engine.live import LiveDatabase
from engine.ondemand import Retired
from engine.resources import Resources
from engine.wal import PAGE_SIZE
from primary.committer import Spawn
from primary.database import OpenPrimary, PrimaryDatabase
from primary.errors import DatabaseStopped
from primary.progress import Mode, ReplicaProgress, next_mode
from proto.link import Link
from proto.messages import (
    Ack,
    Commits,
    Follow,
    Heartbeat,
    Position,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPages,
    Unfollow,
)
from proto.record import CommitPart
from proto.tokens import Bookmark

logger = logging.getLogger(__name__)

WINDOW_BYTES: Final = 32 * 1024 * 1024
_MESSAGE_BYTES: Final = 512 * 1024  # of commits: small enough to interleave databases
_COPY_PAGES: Final = 256  # of a file copy per message: 1 MiB
_COPIES_AT_ONCE: Final = 2
_CATCHING_UP_AT_ONCE: Final = 16  # each holds its database open
_TRY_AGAIN_S: Final = 1.0

Find: TypeAlias = Callable[[bytes], PrimaryDatabase | None]


class ReplicaFeed:
    """See the module's head; on the event loop."""

    def __init__(self, link: Link, find: Find, resources: Resources, spawn: Spawn) -> None:
        """Feed the replica at the other end of `link`; `find` knows the databases."""
        self.link = link
        self.progress: dict[bytes, ReplicaProgress] = {}
        self.lag_ms = 0.0
        self._find = find
        self._resources = resources
        self._spawn = spawn
        self._in_flight = 0  # of all databases: the sum of their progress
        self._freed = asyncio.Event()
        self._written: dict[bytes, int] = {}
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._copies = asyncio.Semaphore(_COPIES_AT_ONCE)
        self._places = asyncio.Semaphore(_CATCHING_UP_AT_ONCE)
        self._asked: dict[bytes, tuple[Bookmark, bool]] = {}  # the `Follow` of each: where, a copy?
        self._starved: set[bytes] = set()  # stopped by the window, which is all databases'
        self._told: dict[bytes, Bookmark] = {}
        self._acked = asyncio.Event()

    # --- what the replica says

    def follow(self, message: Follow) -> None:
        """Start, or start again, the feeds of these databases at these positions."""
        for position in message.positions:
            uuid = position.uuid
            self._drop(uuid)
            self.progress[uuid] = ReplicaProgress(uuid)
            self._written[uuid] = 0
            self._asked[uuid] = (position.bookmark, message.snapshot)
            self.wake(uuid)
        self._let_on()

    def unfollow(self, message: Unfollow) -> None:
        """The replica has deleted these databases."""
        for uuid in message.uuids:
            self.forget(uuid)

    def acked(self, message: Ack) -> None:
        """The replica's progress: frees the window, and those who wait for it."""
        self.lag_ms = message.lag_ms
        for acked in message.databases:
            progress = self.progress.get(acked.uuid)
            if progress is None:
                continue
            freed = acked.bytes_written - self._written[acked.uuid]
            self._written[acked.uuid] = acked.bytes_written
            self._in_flight -= progress.in_flight
            progress.acked(acked, freed)
            self._in_flight += progress.in_flight
            self._starved.add(acked.uuid)
        self._let_on()
        self._acked.set()

    def forget(self, uuid: bytes) -> None:
        """The database is deleted here."""
        self._drop(uuid)
        self._told.pop(uuid, None)
        self._let_on()

    def _let_on(self) -> None:
        """There may be room in the window: those whom it stopped go on."""
        starved, self._starved = self._starved, set()
        for uuid in starved:
            self.wake(uuid)
        self._freed.set()

    def _drop(self, uuid: bytes) -> None:
        if (task := self._tasks.pop(uuid, None)) is not None:
            task.cancel()
        if (progress := self.progress.pop(uuid, None)) is not None:
            self._in_flight -= progress.in_flight
        self._written.pop(uuid, None)
        self._asked.pop(uuid, None)
        self._starved.discard(uuid)

    def close(self) -> None:
        """Stop all feeding; the link is gone."""
        for uuid in list(self.progress):
            self._drop(uuid)
        self._acked.set()

    # --- what the primary does

    def wake(self, uuid: bytes) -> None:
        """This database is known now, or commits of it may be there to send."""
        progress, database = self.progress.get(uuid), self._find(uuid)
        if progress is None or database is None or uuid in self._tasks:
            return
        if progress.mode is Mode.PROBE:
            position, is_copy_wanted = self._asked[uuid]
            start = partial(
                self._start, progress, database, position, is_copy_wanted=is_copy_wanted
            )
            self._run(uuid, start)
        elif progress.mode is Mode.STREAM:
            self._stream(progress, database)

    def _stream(self, progress: ReplicaProgress, database: PrimaryDatabase) -> None:
        """Send what is durable and in memory; have a task send what is not."""
        assert progress.sent is not None
        durable = database.durable
        while progress.sent.seq < durable.seq:
            if self._in_flight >= WINDOW_BYTES:
                self._starved.add(progress.uuid)
                return
            opened = database.demand.current
            if opened is None or not opened.log.is_recent(progress.sent):
                self._run(progress.uuid, partial(self._catch_up, progress, database))
                return
            self._send_parts(
                progress, opened.log.parts_after(progress.sent, bytes_max=_MESSAGE_BYTES)
            )

    async def wait_applied(self, uuid: bytes, seq: int) -> None:
        """Return once the replica has applied commit `seq`, or its link is gone."""
        while (progress := self.progress.get(uuid)) is not None and progress.applied < seq:
            self._acked.clear()
            await self._acked.wait()

    def heartbeat(self, databases: list[PrimaryDatabase], *, time_ms: int) -> None:
        """Tell the heads that moved since the last heartbeat."""
        heads = []
        for database in databases:
            durable = database.durable
            if self._told.get(database.uuid) != durable:
                self._told[database.uuid] = durable
                heads.append(Position.at(database.uuid, durable))
        self.link.send(Heartbeat(time_ms, heads))

    # --- bringing one database forward

    def _run(self, uuid: bytes, work: Callable[[], Awaitable[None]]) -> None:
        """Have a task bring this database forward; one at a time."""
        assert uuid not in self._tasks
        task = self._spawn(self._guarded(uuid, work), f"feed:{uuid.hex()}")
        self._tasks[uuid] = task
        task.add_done_callback(lambda done: self._ended(uuid, done))

    def _ended(self, uuid: bytes, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(uuid) is task:
            del self._tasks[uuid]
            self.wake(uuid)

    async def _guarded(self, uuid: bytes, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, again and again while the database is in trouble."""
        while True:
            try:
                async with self._places:
                    return await work()
            except (DatabaseStopped, EngineError, OSError) as exc:
                logger.warning("feeding %s to %s: %s", uuid.hex(), self.link.peer, exc)
                await asyncio.sleep(_TRY_AGAIN_S)
            except Retired:
                return None

    async def _start(
        self,
        progress: ReplicaProgress,
        database: PrimaryDatabase,
        position: Bookmark,
        *,
        is_copy_wanted: bool,
    ) -> None:
        """Decide how the replica is brought forward from `position`, and do it."""
        mode = next_mode(await database.view(position), is_copy_wanted=is_copy_wanted)
        self._in_flight -= progress.in_flight  # of an earlier try
        durable = database.durable
        if position.tag == durable.tag and position.token > durable.token:
            logger.error(
                "%s has commit %s of %s, and this primary has none after %s: commits that were "
                "acknowledged are lost here; %s now drops them, too",
                self.link.peer,
                position.token,
                progress.uuid.hex(),
                durable.token,
                self.link.peer,
            )
        progress.follow(position, mode)
        if mode is Mode.SNAPSHOT:
            await self._copy(progress, database)

    async def _catch_up(self, progress: ReplicaProgress, database: PrimaryDatabase) -> None:
        """Stream from the log's files until the replica has what is durable."""
        if progress.mode is Mode.STREAM:  # else it fell out of the log, and its copy failed
            async with database.demand.used() as opened:
                try:
                    return await self._stream_files(progress, opened)
                except (PositionTrimmed, PositionUnknown):
                    progress.fall_out()
        return await self._copy(progress, database)

    async def _stream_files(self, progress: ReplicaProgress, opened: OpenPrimary) -> None:
        assert progress.sent is not None
        reader = opened.log.reader(progress.sent)
        try:
            while progress.sent.seq < opened.log.durable.seq:
                await self._window()
                parts = await self._resources.io.call(reader.next, _MESSAGE_BYTES)
                if not parts:
                    break
                self._send_parts(progress, parts)
        finally:
            reader.close()

    def _send_parts(self, progress: ReplicaProgress, parts: list[CommitPart]) -> None:
        self.link.send(Commits(progress.uuid, [part.raw for part in parts]))
        newest = next((part.bookmark for part in reversed(parts) if part.is_last), None)
        self._sent(progress, sum(map(len, parts)), newest)

    def _sent(self, progress: ReplicaProgress, size: int, newest: Bookmark | None) -> None:
        progress.note_sent(size, newest)
        self._in_flight += size

    async def _window(self) -> None:
        """Return when the replica may be sent more."""
        while self._in_flight >= WINDOW_BYTES:
            self._freed.clear()
            await self._freed.wait()

    async def _copy(self, progress: ReplicaProgress, database: PrimaryDatabase) -> None:
        """Send the file as it is, while it changes; what changed after its base is streamed."""
        async with self._copies, database.demand.used() as opened:
            base = opened.live.base
            with database.pinned(base.position):
                logger.info("copying %s to %s", progress.uuid.hex(), self.link.peer)
                self.link.send(
                    SnapshotBegin(
                        Position.at(progress.uuid, base.position),
                        base.checksum,
                        PAGE_SIZE,
                        base.page_count,
                    )
                )
                for first in range(1, base.page_count + 1, _COPY_PAGES):
                    await self._window()
                    count = min(_COPY_PAGES, base.page_count + 1 - first)
                    data = await self._read_pages(opened, first, count)
                    self.link.send(SnapshotPages(progress.uuid, first, data))
                    self._sent(progress, len(data), None)
                until = opened.log.durable
                self.link.send(SnapshotEnd(Position.at(progress.uuid, until)))
                progress.copied(base.position)
                await self._stream_files(progress, opened)

    async def _read_pages(self, opened: OpenPrimary, first: int, count: int) -> bytes:
        async with opened.reads.inside():
            return await self._resources.io.call(_read_pages, opened.live, first, count)


def _read_pages(live: LiveDatabase, first: int, count: int) -> bytes:
    """Pages as they stand in the file; zeros where it ends earlier (a later commit cut it)."""
    data = live.read_file(count * PAGE_SIZE, (first - 1) * PAGE_SIZE)
    return data.ljust(count * PAGE_SIZE, b"\0")
