"""A replica's database that is fed by hand with the real commits of a real primary's database."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from engine.files import Disk
from engine.limits import SqlLimits
from engine.resources import Resources
from engine.threads import Threads
from engine.transaction import steps_of
from engine.wal import PAGE_SIZE
from proto.api import SqlValue, Statement
from proto.messages import Position, SnapshotBegin, SnapshotEnd, SnapshotPages
from proto.record import CommitPart
from proto.tokens import Bookmark
from replica.database import OpenReplica, ReplicaDatabase, ReplicaHooks
from tests.primary.opened_primary import PrimaryUnderTest, opened_primary
from tests.waiting import EVENT_S_MAX


@dataclass
class Following:
    """See the module's head; made by `following`."""

    source: PrimaryUnderTest
    database: ReplicaDatabase
    copies_wanted: int = 0
    follows: int = 0
    moved: int = 0
    _sent: Bookmark = field(init=False)

    def __post_init__(self) -> None:
        self._sent = self.database.position

    # --- what a link would do

    async def parts(self, after: Bookmark | None = None) -> list[CommitPart]:
        """What the primary's log holds after a position, or after what was taken last."""
        opened = await self.source.open()
        reader = opened.log.reader(self._sent if after is None else after)
        parts: list[CommitPart] = []
        while more := reader.next(1 << 24):
            parts += more
        reader.close()
        return parts

    async def feed(self, *, each: int = 0) -> None:
        """Deliver everything new, `each` parts a message (0: all in one)."""
        parts = await self.parts()
        for at in range(0, len(parts), each or max(1, len(parts))):
            some = parts[at : at + each] if each else parts
            self.database.receive([part.raw for part in some])
        if parts:
            self._sent = parts[-1].bookmark

    async def copy(self, *, pages_each: int = 50, ends: bool = True) -> None:
        """Send a copy of the primary's file, as the feed does, and what follows its base."""
        opened = await self.source.open()
        base = opened.live.base
        key = self.source.key
        self.database.begin_copy(
            SnapshotBegin(
                Position.at(key, base.position), base.checksum, PAGE_SIZE, base.page_count
            )
        )
        for first in range(1, base.page_count + 1, pages_each):
            count = min(pages_each, base.page_count + 1 - first)
            data = opened.live.read_file(count * PAGE_SIZE, (first - 1) * PAGE_SIZE)
            data = data.ljust(count * PAGE_SIZE, b"\0")
            self.database.copy_pages(SnapshotPages(key, first, data))
        if ends:
            until = opened.log.durable
            self.database.end_copy(SnapshotEnd(Position.at(key, until)))
            self._sent = base.position
            await self.feed()

    # --- looking

    async def write(self, sql: str, *params: SqlValue) -> Bookmark:
        return (await self.source.write(sql, *params)).bookmark

    async def read(self, sql: str) -> list[tuple[SqlValue, ...]]:
        async with self.database.demand.used() as opened:
            return (await opened.reads.run(steps_of([Statement(sql)])))[0].rows

    async def open(self) -> OpenReplica:
        async with self.database.demand.used() as opened:
            return opened

    async def reached(self, seq: int) -> None:
        """Return once commit `seq` is visible in a sound database."""
        ends = time.monotonic() + EVENT_S_MAX
        while True:
            assert time.monotonic() < ends, f"commit {seq}; {self.database.problem}"
            if self.database.is_here:
                async with asyncio.timeout(EVENT_S_MAX):
                    return await self.database.waiter.wait_applied(seq)
            await asyncio.sleep(0.002)

    async def equal(self) -> None:
        """Wait for the primary's newest commit; all pages must be the same then."""
        opened = await self.source.open()
        await self.reached(opened.log.durable.seq)
        async with self.database.demand.used() as ours:
            assert ours.live.pages.rolling == opened.live.pages.rolling
            assert ours.applier.page_count == opened.committer.page_count
            assert ours.applier.applied == opened.log.durable

    async def closed(self) -> None:
        async with self.database.demand.closed():
            pass


@asynccontextmanager
async def following(
    folder: Path, disk: Disk | None = None, *, log_bytes_max: int = 1 << 30
) -> AsyncIterator[Following]:
    """A primary's database with the table `t(x)`, and a replica that has nothing yet."""
    async with opened_primary(folder / "primary") as source:
        io, readers = Threads("replica-io", 4), Threads("replica-read", 4)
        resources = Resources(
            disk=disk or Disk(),
            limits=SqlLimits(),
            io=io,
            readers=readers,
            query_deadline_s=60.0,
            log_bytes_max=log_bytes_max,
        )
        made: Following

        def on_moved(_database: ReplicaDatabase) -> None:
            made.moved += 1

        def follow(_database: ReplicaDatabase, is_copy_wanted: bool) -> None:
            made.follows += 1
            made.copies_wanted += is_copy_wanted
            made.database.restart_feed()

        database = ReplicaDatabase(
            folder / "replica",
            source.key,
            resources,
            spawn=source.tasks.spawn,
            hooks=ReplicaHooks(on_moved=on_moved, follow=follow),
        )
        made = Following(source, database)
        try:
            yield made
        finally:
            await made.database.retire()
            readers.close()
            io.close()
