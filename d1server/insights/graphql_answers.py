"""The GraphQL that asks what queries have cost: the primary's, for the whole cluster.

Bounds: one query is answered at a time, from at most `_SAMPLES_MAX` rows of a dataset;
`_WAITING_MAX` ask.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import orjson

from d1server.access.grants import Grant, Level
from d1server.insights.analytics import ANALYTICS, DATASETS, QUERIES, STORAGE, Sample
from d1server.insights.cost_batch import KEPT_HOURS, QueryRow
from d1server.insights.stored_costs import StoredCosts, usage_row
from d1server.query import Answer
from d1server.refusals import answer_refusal
from engine.threads import until_done
from primary.errors import Overloaded

if TYPE_CHECKING:
    from d1server.insights.graphql_query import Query

T = TypeVar("T")

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
    operationName: str | None = None  # noqa: N815  # GraphQL's; of several operations, which


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
            return _refused([_error(f'send {{"query": "..."}}: {exc}')], 400)
        if self._waiting >= _WAITING_MAX:
            return answer_refusal(Overloaded("too many ask for statistics: try again later"))
        self._waiting += 1
        try:
            await self._costs.store()
            async with self._answering:
                query = await _on_thread(lambda: _read(asked))
                return query if isinstance(query, Answer) else await self._answer(query, grant)
        finally:
            self._waiting -= 1

    async def _answer(self, query: "Query", grant: Grant) -> Answer:
        """What is selected; of the datasets only those are read."""
        since = int(time.time()) // _HOUR_S - KEPT_HOURS
        sizes = [one for one in self._sizes() if grant.may(Level.READ, one[0])]
        newest = since, orjson.dumps([text for _, text, _ in sizes]).decode()
        db = self._costs.db
        queries = await db.rows(_QUERIES, newest) if query.fields[QUERIES] else []
        usage = await db.rows(_USAGE, newest) if query.fields[ANALYTICS] else []

        def work() -> Answer:
            samples = {
                QUERIES: [_query_sample(row) for row in queries],
                ANALYTICS: [_usage_sample(row) for row in usage],
                STORAGE: [
                    Sample(text, since + KEPT_HOURS, {}, 1, most={"databaseSizeBytes": size})
                    for _, text, size in sizes
                ],
            }
            return _answered(query, samples)

        return await _on_thread(work)


# graphql-core takes a quarter of a second to load: most nodes are never asked, and start sooner so.


def _read(asked: GraphqlBody) -> "Query | Answer":
    from d1server.insights.analytics_schema import SCHEMA  # noqa: PLC0415
    from d1server.insights.graphql_query import GraphqlRefused, read_query  # noqa: PLC0415

    try:
        query = read_query(SCHEMA, asked.query, asked.variables or {}, asked.operationName)
    except GraphqlRefused as exc:
        return _refused(exc.errors)
    if sum(query.fields[name] for name in DATASETS) > _DATASETS_MAX:
        return _refused([_error(f"a query asks for at most {_DATASETS_MAX} datasets")])
    return query


def _answered(query: "Query", samples: Mapping[str, list[Sample]]) -> Answer:
    from d1server.insights.graphql_query import GraphqlRefused  # noqa: PLC0415

    try:
        data = query.answer(samples)
    except GraphqlRefused as exc:
        return _refused(exc.errors)
    return Answer(200, orjson.dumps({"data": data, "errors": None}), None)


async def _on_thread(work: Callable[[], T]) -> T:
    return await until_done(asyncio.ensure_future(asyncio.to_thread(work)))


def _query_sample(row: Any) -> Sample:
    ran = QueryRow(*row[:-1])
    sums = {
        "queryDurationMs": ran.duration_ms,
        "rowsRead": ran.rows_read,
        "rowsWritten": ran.rows_written,
        "rowsReturned": ran.rows_returned,
    }
    most = {"lastSeen": ran.last_seen}
    # Of hundreds of thousands: their buckets are read where somebody asks for quantiles.
    return Sample(
        ran.database, ran.hour, sums, ran.runs, query=ran.query, buckets=row[-1], most=most
    )


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


def _error(message: str) -> dict[str, Any]:
    return {"message": message, "path": None}


def _refused(errors: list[dict[str, Any]], status: int = 200) -> Answer:
    """Errors as GraphQL tells them, with what Cloudflare's API adds."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    for error in errors:
        error["message"] = error["message"].encode("utf-8", "replace").decode()
        error["extensions"] = {"timestamp": now}
    return Answer(status, orjson.dumps({"data": None, "errors": errors}), None)
