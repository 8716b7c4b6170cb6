"""`node.db`: the node's own bookkeeping, in a SQLite file that the engine never opens.

Nothing in it is needed to serve a database: job states, statistics. A file that cannot be
read is put aside and begun anew.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias

import aiosqlite

from d1server.insights.durations import NOTHING, added
from engine.threads import until_done

logger = logging.getLogger(__name__)

Row: TypeAlias = Sequence[str | int | float | bytes | None]
Step: TypeAlias = tuple[str, Sequence[Row]]
"""A statement, and the rows that it is run for."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS imports (
    database TEXT PRIMARY KEY, id TEXT NOT NULL, filename TEXT NOT NULL, bookmark TEXT NOT NULL,
    status TEXT NOT NULL, error TEXT NOT NULL, result TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queries (
    database TEXT, hour INTEGER, query TEXT, count INTEGER, duration_ms REAL, rows_read INTEGER,
    rows_written INTEGER, rows_returned INTEGER, last_seen INTEGER,
    buckets TEXT NOT NULL,
    PRIMARY KEY (database, hour, query)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS usage (
    database TEXT, hour INTEGER, reads INTEGER, writes INTEGER, rows_read INTEGER,
    rows_written INTEGER, duration_ms REAL, response_bytes INTEGER, buckets TEXT,
    PRIMARY KEY (database, hour)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cost_batches (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cost_sources (
    source TEXT PRIMARY KEY, number INTEGER NOT NULL, heard_at INTEGER NOT NULL
) WITHOUT ROWID;
"""

_HAS_BUCKETS: Final = "SELECT 1 FROM pragma_table_info('queries') WHERE name = 'buckets'"
_ADD_BUCKETS: Final = f"ALTER TABLE queries ADD COLUMN buckets TEXT NOT NULL DEFAULT '{NOTHING}'"


class NodeDb:
    """The open file; made by `open_node_db`."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        """Use `open_node_db`."""
        self._connection = connection
        self._writing = asyncio.Lock()  # a transaction is the connection's, not its caller's

    async def run(self, sql: str, params: Row = ()) -> None:
        """Run one statement and commit."""
        await self.run_all([(sql, [params])])

    async def run_all(self, steps: Sequence[Step]) -> None:
        """Run some as one transaction, to its end also when cancelled."""
        await until_done(asyncio.ensure_future(self._run_all(steps)))

    async def _run_all(self, steps: Sequence[Step]) -> None:
        async with self._writing:
            try:
                for sql, rows in steps:
                    await self._connection.executemany(sql, rows)
                await self._connection.commit()
            except Exception:
                await self._connection.rollback()
                raise

    async def rows(self, sql: str, params: Row = ()) -> list[Row]:
        """What a query returns."""
        return [tuple(row) for row in await self._connection.execute_fetchall(sql, params)]


@asynccontextmanager
async def open_node_db(path: Path) -> AsyncIterator[NodeDb]:
    """Open the file, make it if it is not there. Raises `OSError`, `aiosqlite.Error`."""
    try:
        connection = await _connected(path)
    except aiosqlite.DatabaseError as exc:
        aside = path.with_name(path.name + ".damaged")
        logger.error("%s cannot be read (%s): it is now %s, and begun anew", path, exc, aside.name)
        await asyncio.to_thread(path.replace, aside)
        connection = await _connected(path)
    try:
        yield NodeDb(connection)
    finally:
        await connection.close()


async def _connected(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path)
    try:
        await connection.execute("PRAGMA synchronous=NORMAL")
        await connection.create_function("buckets_added", 2, added, deterministic=True)
        await connection.executescript(_SCHEMA)
        if not await connection.execute_fetchall(_HAS_BUCKETS):  # made by an older version
            await connection.execute(_ADD_BUCKETS)
    except BaseException:
        await connection.close()
        raise
    return connection
