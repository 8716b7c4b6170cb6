"""One database of a primary, with real files and threads, without a node around it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from d1server.tasks import Tasks
from engine.files import Disk
from engine.limits import SqlLimits
from engine.resources import Resources
from engine.threads import Threads
from engine.transaction import Step
from primary.committer import Committer
from primary.database import OpenPrimary, PrimaryDatabase, create_database
from primary.writer import KeyedWrite, Written
from proto.api import SqlValue


class PrimaryUnderTest:
    """See the module's head; made by `opened_primary`."""

    def __init__(self, folder: Path, resources: Resources, tasks: Tasks) -> None:
        self.key = uuid.uuid4().bytes
        self.resources = resources
        self.woken: Callable[[bytes], None] = lambda _key: None
        self.tasks = tasks
        create_database(folder, self.key, resources, time_ms=0)
        self.database = self._made(folder)

    def _made(self, folder: Path) -> PrimaryDatabase:
        return PrimaryDatabase(
            folder, self.key, self.resources, spawn=self.tasks.spawn, on_durable=self._on_durable
        )

    def _on_durable(self, key: bytes) -> None:
        self.woken(key)

    @property
    def folder(self) -> Path:
        return self.database.folder

    async def open(self) -> OpenPrimary:
        async with self.database.demand.used() as opened:
            return opened

    async def committer(self) -> Committer:
        return (await self.open()).committer

    async def write(self, sql: str, *params: SqlValue, keyed: KeyedWrite | None = None) -> Written:
        async with self.database.demand.used() as opened:
            return await opened.committer.write([Step(sql, params)], keyed)

    async def read(self, sql: str) -> list[tuple[SqlValue, ...]]:
        async with self.database.demand.used() as opened:
            return (await opened.reads.run(steps(sql)))[0].rows

    async def close(self) -> None:
        async with self.database.demand.closed():
            pass

    async def reopen(self) -> None:
        """Close it, and begin again with what the folder holds."""
        await self.close()
        self.database = self._made(self.folder)


@asynccontextmanager
async def opened_primary(
    folder: Path,
    disk: Disk | None = None,
    *,
    deadline_s: float = 30.0,
    log_bytes_max: int = 1 << 30,
) -> AsyncIterator[PrimaryUnderTest]:
    """A new database with the table `t(x)`, until the block ends."""
    tasks = Tasks()
    io, readers = Threads("io", 4), Threads("read", 4)
    resources = Resources(
        disk=disk or Disk(),
        limits=SqlLimits(),
        io=io,
        readers=readers,
        query_deadline_s=deadline_s,
        log_bytes_max=log_bytes_max,
    )
    made = PrimaryUnderTest(folder, resources, tasks)
    try:
        await made.write("CREATE TABLE t (x)")
        yield made
    finally:
        await made.database.demand.retire()
        await tasks.cancel_all()
        readers.close()
        io.close()


def numbers(count: int) -> str:
    """SQL of a table `n(i)` with the numbers from 1 to `count`."""
    return f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "


def steps(*texts: str) -> Sequence[Step]:
    return [Step(text, ()) for text in texts]


async def turns(count: int = 20) -> None:
    """Let what is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
