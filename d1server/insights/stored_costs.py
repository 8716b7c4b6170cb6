"""What queries have cost, by the hour, in `node.db`.

At the primary, the costs of the whole cluster: its own, and those that the replicas send. At a
replica, what it has still to send: rows are there until they stand in the one batch that is
under way, and that until the primary has it (`cost_sender.py`).

Invariants:

1. A row is either in the tables or in the batch under way: moving it is one transaction.
2. A batch is counted and its number noted in one transaction.
3. Whoever changes the tables holds `_turn`, to the end also when cancelled.

Bounds: written every `STORE_S`, what a crash loses. Kept for 31 days, and of one database at
most `ROWS_MAX` statements and hours: the oldest and cheapest go first. That is looked after
each hour and each `ROWS_MAX` rows. Of `SOURCES_MAX` sources the last number is remembered.
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import aiosqlite

from d1server.catalog import Catalog
from d1server.insights.cost_batch import (
    KEPT_HOURS,
    CostBatch,
    HourlyCosts,
    QueryRow,
    UsageRow,
    acceptable,
    decode_batch,
    encode_batch,
    rows_of,
    summed,
)
from d1server.insights.cost_batch import ROWS_MAX as BATCH_ROWS_MAX
from d1server.insights.durations import read, stored
from d1server.insights.query_costs import QueryStatistics
from d1server.nodedb import NodeDb, Step
from engine.errors import DatabaseClosed
from engine.threads import until_done
from primary.errors import Overloaded
from proto.errors import RequestInvalid

logger = logging.getLogger(__name__)
T = TypeVar("T")

STORE_S: Final = 5.0
ROWS_MAX: Final = 10_000
SOURCES_MAX: Final = 1000  # a replica is another one each time it starts
_HOUR_S: Final = 3600

_ADD_QUERY: Final = """
INSERT INTO queries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET count = count + excluded.count,
    duration_ms = duration_ms + excluded.duration_ms, rows_read = rows_read + excluded.rows_read,
    rows_written = rows_written + excluded.rows_written,
    rows_returned = rows_returned + excluded.rows_returned,
    last_seen = max(last_seen, excluded.last_seen),
    buckets = buckets_added(buckets, excluded.buckets)
"""
_FIND_HOUR: Final = "SELECT * FROM usage WHERE database = ? AND hour = ?"
_SET_HOUR: Final = "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FORGET_OLD: Final = ("DELETE FROM queries WHERE hour < ?", "DELETE FROM usage WHERE hour < ?")
_FORGET_ONE: Final = (
    "DELETE FROM queries WHERE database = ?",
    "DELETE FROM usage WHERE database = ?",
)
_DATABASES: Final = (
    "SELECT DISTINCT database FROM usage UNION SELECT DISTINCT database FROM queries"
)
_TOO_MANY: Final = "SELECT database, count(*) FROM queries GROUP BY database HAVING count(*) > ?"
_FORGET_CHEAP: Final = """
DELETE FROM queries WHERE database = ?1 AND (hour, query) IN (
    SELECT hour, query FROM queries WHERE database = ?1 ORDER BY hour, duration_ms LIMIT ?2)
"""

_LAST_NUMBER: Final = "SELECT number FROM cost_sources WHERE source = ?"
_NOTE_NUMBER: Final = "INSERT OR REPLACE INTO cost_sources VALUES (?, ?, ?)"
_FORGET_SOURCES: Final = """
DELETE FROM cost_sources WHERE source IN (
    SELECT source FROM cost_sources ORDER BY heard_at DESC LIMIT -1 OFFSET ?)
"""

_SOME_QUERIES: Final = f"SELECT * FROM queries ORDER BY database, hour LIMIT {BATCH_ROWS_MAX}"
_SOME_USAGE: Final = f"SELECT * FROM usage ORDER BY database, hour LIMIT {BATCH_ROWS_MAX}"
_TAKE_QUERY: Final = "DELETE FROM queries WHERE database = ? AND hour = ? AND query = ?"
_TAKE_USAGE: Final = "DELETE FROM usage WHERE database = ? AND hour = ?"
_UNDER_WAY: Final = "SELECT id, body FROM cost_batches ORDER BY id LIMIT 1"
_PUT_UNDER_WAY: Final = "INSERT INTO cost_batches (body) VALUES (?)"
_COUNT: Final = "SELECT (SELECT count(*) FROM queries) + (SELECT count(*) FROM usage)"
_ARRIVED: Final = "DELETE FROM cost_batches WHERE id = ?"


class UnderWay(NamedTuple):
    """A batch that is sent until the primary has it."""

    id: int
    body: bytes


class StoredCosts:
    """See the module's head; on the event loop. Open only while it is `running`."""

    def __init__(self, catalog: Catalog) -> None:
        """Keep the costs of the databases of `catalog`."""
        self.statistics = QueryStatistics()
        self._catalog = catalog
        self._db: NodeDb | None = None
        self._turn = asyncio.Lock()
        self._pruned_at = 0  # hour
        self._added = 0  # rows since then
        self._source = secrets.token_hex(8)  # of a new process: no number of it was used before
        self._numbers = itertools.count(1)

    @property
    def db(self) -> NodeDb:
        """The open file. Raises `DatabaseClosed`."""
        if self._db is None:
            raise DatabaseClosed("this node is starting or stopping")
        return self._db

    @asynccontextmanager
    async def running(self, db: NodeDb) -> AsyncIterator[None]:
        """Within this, what is counted is stored now and then, and at the end."""
        self._db = db
        storing = asyncio.get_running_loop().create_task(self._store_often(), name="query costs")
        try:
            yield
        finally:
            storing.cancel()
            await asyncio.wait([storing])
            await self.store()
            async with self._turn:
                self._db = None

    async def _store_often(self) -> NoReturn:
        while True:
            await asyncio.sleep(STORE_S)
            await self.store()

    async def store(self) -> None:
        """Write what was counted since the last time. Without room for it, it is lost."""
        try:
            await self._alone(self._store())
        except aiosqlite.Error as exc:
            logger.warning("query statistics cannot be stored: %s", exc)

    async def note(self, batch: CostBatch) -> None:
        """Count a replica's batch, unless that was done. Raises `Overloaded`, `DatabaseClosed`."""
        try:
            await self._alone(self._note(batch))
        except aiosqlite.Error as exc:
            raise Overloaded(f"query statistics cannot be stored now: {exc}") from exc

    async def forget(self, database: str) -> None:
        """This database is deleted; if not open, that is found out at the next start."""
        if self._db is not None:
            await self._alone(self._forget([database]))

    async def next_batch(self) -> UnderWay | None:
        """The batch to be sent: always the same one until it `arrived`; None: all is sent."""
        return await self._alone(self._next_batch())

    async def arrived(self, batch: UnderWay) -> None:
        """The primary has it."""
        await self.db.run(_ARRIVED, (batch.id,))

    async def count_waiting(self) -> int:
        """Rows that have not arrived, the batch under way included. Raises `DatabaseClosed`."""
        ((count,),) = await self.db.rows(_COUNT)
        assert isinstance(count, int)
        for _, body in await self.db.rows(_UNDER_WAY):
            assert isinstance(body, bytes)
            with suppress(RequestInvalid):  # of no version that is known here
                costs = decode_batch(body).costs
                count += len(costs.queries) + len(costs.usage)
        return count

    async def _alone(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this when nobody else changes the tables, to its end also when cancelled."""
        return await until_done(asyncio.ensure_future(self._in_turn(work)))

    async def _in_turn(self, work: Coroutine[Any, Any, T]) -> T:
        async with self._turn:
            return await work

    # --- in turn

    async def _store(self) -> None:
        db, now = self.db, int(time.time())
        counted = HourlyCosts([], [])
        for key, costs in self.statistics.take().items():
            entry = self._catalog.by_uuid.get(key)
            if entry is not None:  # else it was deleted meanwhile
                rows = rows_of(entry.id, costs, now)
                counted.queries.extend(rows.queries)
                counted.usage.extend(rows.usage)
        if counted.usage:
            await db.run_all(await self._adding(counted))
        if now // _HOUR_S != self._pruned_at or self._added >= ROWS_MAX:
            await self._prune(now // _HOUR_S)

    async def _note(self, batch: CostBatch) -> None:
        db, now = self.db, int(time.time())
        for (last,) in await db.rows(_LAST_NUMBER, (batch.source,)):
            assert isinstance(last, int)
            if batch.number <= last:
                return
        costs = acceptable(batch.costs, now, self._is_known)
        noted = (_NOTE_NUMBER, [(batch.source, batch.number, now)])
        await db.run_all([*await self._adding(costs), noted])

    def _is_known(self, database: str) -> bool:
        entry = self._catalog.find(database)
        return entry is not None and entry.id == database  # not its name

    async def _adding(self, costs: HourlyCosts) -> list[Step]:
        """The steps that add these costs to what is stored."""
        self._added += len(costs.queries)
        sums = summed(costs.usage)
        for key, row in sums.items():
            for found in await self.db.rows(_FIND_HOUR, key):
                sums[key] = usage_row(found).plus(row)
        queries = [(*row[:-1], stored(row.buckets)) for row in costs.queries]
        hours = [(*row[:-1], stored(row.buckets)) for row in sums.values()]
        return [(_ADD_QUERY, queries), (_SET_HOUR, hours)]

    async def _prune(self, hour: int) -> None:
        db = self.db
        await db.run_all([(sql, [(hour - KEPT_HOURS,)]) for sql in _FORGET_OLD])
        await db.run(_FORGET_SOURCES, (SOURCES_MAX,))
        if self._catalog.by_uuid:  # else it may not have been read yet
            stored = [str(row[0]) for row in await db.rows(_DATABASES)]
            await self._forget(name for name in stored if not self._is_known(name))
        for database, count in await db.rows(_TOO_MANY, (ROWS_MAX,)):
            assert isinstance(count, int)
            await db.run(_FORGET_CHEAP, (database, count - ROWS_MAX))
        self._pruned_at, self._added = hour, 0

    async def _forget(self, databases: Iterable[str]) -> None:
        gone = [(name,) for name in databases]
        await self.db.run_all([(sql, gone) for sql in _FORGET_ONE])

    async def _next_batch(self) -> UnderWay | None:
        db = self.db
        for number, body in await db.rows(_UNDER_WAY):
            assert isinstance(number, int)
            assert isinstance(body, bytes)
            return UnderWay(number, body)
        queries = [query_row(row) for row in await db.rows(_SOME_QUERIES)]
        usage = [usage_row(row) for row in await db.rows(_SOME_USAGE)]
        if not queries and not usage:
            return None
        batch = CostBatch(self._source, next(self._numbers), HourlyCosts(queries, usage))
        taken: list[Step] = [
            (_PUT_UNDER_WAY, [(encode_batch(batch),)]),
            (_TAKE_QUERY, [row[:3] for row in queries]),
            (_TAKE_USAGE, [row[:2] for row in usage]),
        ]
        await db.run_all(taken)
        return await self._next_batch()


def query_row(row: Any) -> QueryRow:
    """A row of the table `queries`."""
    return QueryRow._make((*row[:-1], tuple(read(row[-1]))))


def usage_row(row: Any) -> UsageRow:
    """A row of the table `usage`."""
    return UsageRow._make((*row[:-1], read(row[-1])))
