"""What queries have cost, by the hour, in `node.db`; and the GraphQL that asks for it.

Each node counts what it ran itself: reads of a replica stand in the replica's.

Bounds: written at most every `FLUSH_S`, what a crash loses; kept for 31 days, and of one
database at most `ROWS_MAX` statements and hours: the oldest and cheapest go first. One GraphQL
query is answered at a time, from at most `_SAMPLES_MAX` rows of a dataset; `_WAITING_MAX` ask.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

import aiosqlite
import msgspec
import orjson

from d1server.access import Grant, Level
from d1server.analytics import Sample, rows
from d1server.graphql import Field, GraphqlRefused, Resolver, answer, read_query
from d1server.nodedb import NodeDb
from d1server.query import Answer
from d1server.query_costs import DatabaseCosts, QueryStatistics
from d1server.refusals import answer_refusal
from engine.threads import until_done
from primary.errors import Overloaded

logger = logging.getLogger(__name__)

QUERIES: Final = "d1QueriesAdaptiveGroups"
ANALYTICS: Final = "d1AnalyticsAdaptiveGroups"
STORAGE: Final = "d1StorageAdaptiveGroups"

FLUSH_S: Final = 5.0
_DATASETS_MAX: Final = 16  # in one query: each is gone through for itself
KEPT_HOURS: Final = 31 * 24
ROWS_MAX: Final = 10_000
_WAITING_MAX: Final = 16
_HOUR_S: Final = 3600

_ADD_QUERY: Final = """
INSERT INTO queries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET count = count + excluded.count,
    duration_ms = duration_ms + excluded.duration_ms, rows_read = rows_read + excluded.rows_read,
    rows_written = rows_written + excluded.rows_written,
    rows_returned = rows_returned + excluded.rows_returned, last_seen = excluded.last_seen
"""
_FIND_HOUR: Final = "SELECT * FROM usage WHERE database = ? AND hour = ?"
_SET_HOUR: Final = "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FORGET: Final = ("DELETE FROM queries WHERE hour < ?", "DELETE FROM usage WHERE hour < ?")
_TOO_MANY: Final = "SELECT database, count(*) FROM queries GROUP BY database HAVING count(*) > ?"
_FORGET_CHEAP: Final = """
DELETE FROM queries WHERE database = ?1 AND (hour, query) IN (
    SELECT hour, query FROM queries WHERE database = ?1 ORDER BY hour, duration_ms LIMIT ?2)
"""
_SAMPLES_MAX: Final = 200_000  # of a dataset, the newest: what one query looks at
_NEWEST: Final = (
    "WHERE hour >= ? AND database IN (SELECT value FROM json_each(?)) "
    f"ORDER BY hour DESC LIMIT {_SAMPLES_MAX}"
)
_QUERIES: Final = f"SELECT * FROM queries {_NEWEST}"
_USAGE: Final = f"SELECT * FROM usage {_NEWEST}"


class GraphqlBody(msgspec.Struct):
    """A GraphQL query."""

    query: str
    variables: dict[str, Any] | None = None
    operationName: str | None = None  # noqa: N815  # GraphQL's; there is one query


class Insights:
    """See the module's head; on the event loop. `db` only while it is `running`."""

    db: NodeDb

    def __init__(self, sizes: Callable[[], Iterable[tuple[bytes, str, int]]]) -> None:
        """`sizes`: of each database uuid, uuid as text, bytes."""
        self.statistics = QueryStatistics()
        self._sizes = sizes
        self._pruned_at = 0
        self._storing = asyncio.Lock()
        self._answering = asyncio.Lock()
        self._waiting = 0

    @asynccontextmanager
    async def running(self, db: NodeDb) -> AsyncIterator[None]:
        """Within this, what is counted is stored now and then, and at the end."""
        self.db = db
        storing = asyncio.get_running_loop().create_task(self._store_often(), name="insights")
        try:
            yield
        finally:
            storing.cancel()
            await asyncio.wait([storing])
            await self.store()

    async def graphql(self, body: bytes, grant: Grant) -> Answer:
        """Answer a query; errors as GraphQL tells them, with status 200 as D1's API does.

        What is not even a query gets 400.
        """
        try:
            asked = msgspec.json.decode(body, type=GraphqlBody)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            return _graphql(None, f'send {{"query": "..."}}: {exc}', 400)
        if self._waiting >= _WAITING_MAX:
            return answer_refusal(Overloaded("too many ask for statistics: try again later"))
        self._waiting += 1
        try:
            fields = read_query(asked.query, asked.variables or {})
            await self.store()
            async with self._answering:
                data = await self._data(fields, grant)
        except (GraphqlRefused, RecursionError) as exc:
            return _graphql(None, str(exc))
        finally:
            self._waiting -= 1
        return _graphql(data, "")

    async def store(self) -> None:
        """Write what was counted since the last time, also when cancelled meanwhile.

        Without room for it, it is lost.
        """
        await until_done(asyncio.ensure_future(self._store_in_turn()))

    async def _store_in_turn(self) -> None:
        async with self._storing:  # an hour is read, added to and written
            try:
                await self._store(int(time.time()))
            except aiosqlite.Error as exc:
                logger.warning("query statistics cannot be stored: %s", exc)

    async def _store(self, now: int) -> None:
        names = {key: text for key, text, _ in self._sizes()}
        for key, costs in self.statistics.take().items():
            if key in names:  # else it was deleted meanwhile
                await self._add(names[key], costs, now)
        if now // _HOUR_S != self._pruned_at:
            await self._prune(now // _HOUR_S)

    async def _store_often(self) -> NoReturn:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.store()

    async def _add(self, database: str, costs: DatabaseCosts, now: int) -> None:
        hour = now // _HOUR_S
        added = [
            (
                *(database, hour, one.query, one.count, one.duration_ms),
                *(one.rows_read, one.rows_written, one.rows_returned, now),
            )
            for one in costs.statements
        ]
        await self.db.run_many(_ADD_QUERY, added)
        reads = sum(one.count - one.writes for one in costs.statements)
        sums = [
            reads,
            sum(one.writes for one in costs.statements),
            sum(one.rows_read for one in costs.statements),
            sum(one.rows_written for one in costs.statements),
            sum(one.duration_ms for one in costs.statements),
            costs.response_bytes,
        ]
        buckets = costs.buckets
        for row in await self.db.rows(_FIND_HOUR, (database, hour)):
            sums = [one + float(before or 0) for one, before in zip(sums, row[2:8], strict=True)]
            known = orjson.loads(str(row[8]))
            buckets = [one + before for one, before in zip(buckets, known, strict=True)]
        await self.db.run(_SET_HOUR, (database, hour, *sums, orjson.dumps(buckets).decode()))

    async def _prune(self, hour: int) -> None:
        for sql in _FORGET:
            await self.db.run(sql, (hour - KEPT_HOURS,))
        for database, count in await self.db.rows(_TOO_MANY, (ROWS_MAX,)):
            assert isinstance(count, int)
            await self.db.run(_FORGET_CHEAP, (database, count - ROWS_MAX))
        self._pruned_at = hour

    # --- GraphQL

    async def _data(self, fields: Sequence[Field], grant: Grant) -> dict[str, Any]:
        """What is selected; of the datasets only those, and the work with them on a thread."""
        wanted = list(_datasets(fields))
        if len(wanted) > _DATASETS_MAX:
            raise GraphqlRefused(f"a query asks for at most {_DATASETS_MAX} datasets")
        since = int(time.time()) // _HOUR_S - KEPT_HOURS
        sizes = [one for one in self._sizes() if grant.may(Level.READ, one[0])]
        newest = since, orjson.dumps([text for _, text, _ in sizes]).decode()
        queries = await self.db.rows(_QUERIES, newest) if QUERIES in wanted else []
        usage = await self.db.rows(_USAGE, newest) if ANALYTICS in wanted else []

        def work() -> dict[str, Any]:
            datasets = {
                QUERIES: [_query_sample(row) for row in queries],
                ANALYTICS: [_usage_sample(row) for row in usage],
                STORAGE: [
                    Sample(text, since + KEPT_HOURS, {}, 1, most={"databaseSizeBytes": size})
                    for _, text, size in sizes
                ],
            }
            resolvers: dict[str, Resolver] = {"viewer": lambda _: {}, "accounts": lambda _: [{}]}
            resolvers |= {name: _resolver(samples) for name, samples in datasets.items()}
            return answer(fields, resolvers)

        return await until_done(asyncio.ensure_future(asyncio.to_thread(work)))


def _datasets(fields: Iterable[Field]) -> Iterator[str]:
    """The datasets that are selected, each as often as it is."""
    for field in fields:
        if field.name in (QUERIES, ANALYTICS, STORAGE):
            yield field.name
        yield from _datasets(field.fields)


def _resolver(samples: list[Sample]) -> Callable[[Field], Any]:
    return lambda field: rows(samples, field)


def _query_sample(row: Any) -> Sample:
    database, hour, query, count, duration_ms, read, written, returned, seen = row
    sums = {
        "queryDurationMs": duration_ms,
        "rowsRead": read,
        "rowsWritten": written,
        "rowsReturned": returned,
    }
    return Sample(database, hour, sums, count, query=query, most={"lastSeen": seen})


def _usage_sample(row: Any) -> Sample:
    database, hour, reads, writes, read, written, duration_ms, response_bytes, buckets = row
    sums = {
        "readQueries": reads,
        "writeQueries": writes,
        "rowsRead": read,
        "rowsWritten": written,
        "queryBatchTimeMs": duration_ms,
        "queryBatchResponseBytes": response_bytes,
    }
    known = orjson.loads(buckets)
    return Sample(database, hour, sums, sum(known), buckets=known)


def _graphql(data: dict[str, Any] | None, error: str, status: int = 200) -> Answer:
    shown = error.encode("utf-8", "replace").decode()
    errors = [{"message": shown, "path": None}] if error else None
    return Answer(status, orjson.dumps({"data": data, "errors": errors}), None)
