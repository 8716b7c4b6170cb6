"""The GraphQL that asks what queries have cost: the primary's, for the whole cluster.

Bounds: one query is answered at a time, from at most `_SAMPLES_MAX` rows of a dataset;
`_WAITING_MAX` ask.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
import orjson

from d1server.access import Grant, Level
from d1server.analytics import Sample, rows
from d1server.cost_batch import KEPT_HOURS
from d1server.graphql import Field, GraphqlRefused, Resolver, answer, read_query
from d1server.query import Answer
from d1server.refusals import answer_refusal
from d1server.stored_costs import StoredCosts, query_row, usage_row
from engine.threads import until_done
from primary.errors import Overloaded

QUERIES: Final = "d1QueriesAdaptiveGroups"
ANALYTICS: Final = "d1AnalyticsAdaptiveGroups"
STORAGE: Final = "d1StorageAdaptiveGroups"

_DATASETS_MAX: Final = 16  # in one query: each is gone through for itself
_WAITING_MAX: Final = 16
_HOUR_S: Final = 3600

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
    """See the module's head; on the event loop."""

    def __init__(
        self, costs: StoredCosts, sizes: Callable[[], Iterable[tuple[bytes, str, int]]]
    ) -> None:
        """`sizes`: of each database uuid, uuid as text, bytes."""
        self._costs = costs
        self._sizes = sizes
        self._answering = asyncio.Lock()
        self._waiting = 0

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
            await self._costs.store()
            async with self._answering:
                data = await self._data(fields, grant)
        except (GraphqlRefused, RecursionError) as exc:
            return _graphql(None, str(exc))
        finally:
            self._waiting -= 1
        return _graphql(data, "")

    async def _data(self, fields: Sequence[Field], grant: Grant) -> dict[str, Any]:
        """What is selected; of the datasets only those, and the work with them on a thread."""
        wanted = list(_datasets(fields))
        if len(wanted) > _DATASETS_MAX:
            raise GraphqlRefused(f"a query asks for at most {_DATASETS_MAX} datasets")
        since = int(time.time()) // _HOUR_S - KEPT_HOURS
        sizes = [one for one in self._sizes() if grant.may(Level.READ, one[0])]
        newest = since, orjson.dumps([text for _, text, _ in sizes]).decode()
        db = self._costs.db
        queries = await db.rows(_QUERIES, newest) if QUERIES in wanted else []
        usage = await db.rows(_USAGE, newest) if ANALYTICS in wanted else []

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
    ran = query_row(row)
    sums = {
        "queryDurationMs": ran.duration_ms,
        "rowsRead": ran.rows_read,
        "rowsWritten": ran.rows_written,
        "rowsReturned": ran.rows_returned,
    }
    most = {"lastSeen": ran.last_seen}
    return Sample(ran.database, ran.hour, sums, ran.runs, query=ran.query, most=most)


def _usage_sample(row: Any) -> Sample:
    ran = usage_row(row)
    sums = {
        "readQueries": ran.reads,
        "writeQueries": ran.writes,
        "rowsRead": ran.rows_read,
        "rowsWritten": ran.rows_written,
        "queryBatchTimeMs": ran.duration_ms,
        "queryBatchResponseBytes": ran.response_bytes,
    }
    return Sample(ran.database, ran.hour, sums, sum(ran.buckets), buckets=ran.buckets)


def _graphql(data: dict[str, Any] | None, error: str, status: int = 200) -> Answer:
    shown = error.encode("utf-8", "replace").decode()
    errors = [{"message": shown, "path": None}] if error else None
    return Answer(status, orjson.dumps({"data": data, "errors": errors}), None)
