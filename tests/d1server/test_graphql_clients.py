"""GraphQL as D1's clients send it: wrangler's queries, those of D1's documentation, bad ones."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from tests.rest.http_cluster import HttpCluster, http_cluster

# As wrangler writes them, but for the white space.
INFO = """query getD1MetricsOverviewQuery(
    $accountTag: string, $filter: ZoneWorkersRequestsFilter_InputObject
) {
    viewer {
        accounts(filter: {accountTag: $accountTag}) {
            d1AnalyticsAdaptiveGroups(limit: 10000, filter: $filter) {
                sum {
                    readQueries
                    writeQueries
                    rowsRead
                    rowsWritten
            }
            dimensions {
                    datetimeHour
                }
            }
        }
    }
}"""
INSIGHTS = """query getD1QueriesOverviewQuery(
    $accountTag: string, $filter: ZoneWorkersRequestsFilter_InputObject
) {
    viewer {
        accounts(filter: {accountTag: $accountTag}) {
            d1QueriesAdaptiveGroups(limit: 5, filter: $filter, orderBy: [%s]) {
                sum {
                    queryDurationMs
                    rowsRead
                    rowsWritten
                    rowsReturned
                }
                avg {
                    queryDurationMs
                    rowsRead
                    rowsWritten
                    rowsReturned
                }
                count
                dimensions {
                        query
                        databaseId
                }
            }
        }
    }
}"""
USAGE = """
query Usage(
  $accountTag: string!, $start: Date, $end: Date, $databaseId: string, $most: Int = 1
) {
  viewer { __typename accounts(filter: { accountTag: $accountTag }) {
    d1AnalyticsAdaptiveGroups(
      limit: $most
      filter: { date_geq: $start, date_leq: $end, databaseId: $databaseId }
      orderBy: [date_DESC]
    ) {
      sum { readQueries writeQueries queryBatchResponseBytes }
      avg { queryBatchTimeMs }
      quantiles { queryBatchTimeMsP50 queryBatchTimeMsP90 }
      dimensions { date databaseId __typename }
    }
    size: d1StorageAdaptiveGroups(limit: 10000, filter: { date_geq: $start, date_leq: $end }) {
      max { databaseSizeBytes }
      dimensions { date databaseId }
    }
  } }
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCluster]:
    async with http_cluster(tmp_path_factory.mktemp("nodes")) as cluster:
        await cluster.create("shop", "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)")
        await cluster.create("other")
        for number in range(3):
            await cluster.primary.rows("shop", "SELECT a FROM t WHERE a > ?", number)
        yield cluster


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(
    nodes: HttpCluster, query: str, variables: dict[str, Any] | None = None
) -> dict[str, Any]:
    body = {"query": query, "variables": variables}
    reply = await nodes.primary.call("POST", "/client/v4/graphql", body)
    assert (reply.status, reply.json["errors"]) == (200, None), reply
    account: dict[str, Any] = reply.json["data"]["viewer"]["accounts"][0]
    return account


async def uuid_of(nodes: HttpCluster, name: str = "shop") -> str:
    return str((await nodes.primary.rest("GET", f"/{name}")).result["uuid"])


def last_day(**more: object) -> dict[str, Any]:
    """The variables of wrangler: from a day ago to now, in JavaScript's form of times."""
    now = datetime.now(UTC)
    first, last = (
        at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for at in (now - timedelta(days=1), now)
    )
    wanted = {"datetimeHour_geq": first, "datetimeHour_leq": last, **more}
    return {"accountTag": "any", "filter": {"AND": [wanted]}}


async def test_wrangler_info(nodes: HttpCluster) -> None:
    found = await ask(nodes, INFO, last_day(databaseId=await uuid_of(nodes)))
    rows = found["d1AnalyticsAdaptiveGroups"]
    assert sum(row["sum"]["readQueries"] for row in rows) == 3
    assert sum(row["sum"]["writeQueries"] for row in rows) == 2
    assert all(row["dimensions"].keys() == {"datetimeHour"} for row in rows)
    found = await ask(nodes, INFO, last_day(databaseId="no such"))
    assert found["d1AnalyticsAdaptiveGroups"] == []


@pytest.mark.parametrize(
    ("order", "first"),
    [
        ("count_DESC", "SELECT a FROM t WHERE a > ?"),
        ("sum_rowsReturned_DESC", "SELECT a FROM t WHERE a > ?"),
        ("avg_rowsWritten_DESC", None),
        ("sum_queryDurationMs_ASC", None),
        ("avg_rowsRead_DESC", None),
    ],
)
async def test_wrangler_insights(nodes: HttpCluster, order: str, first: str | None) -> None:
    """With and without a database; each kind of order that its options make."""
    key = await uuid_of(nodes)
    for variables in (last_day(databaseId=key), last_day()):
        rows = (await ask(nodes, INSIGHTS % order, variables))["d1QueriesAdaptiveGroups"]
        assert len(rows) == 3
        assert all(row["dimensions"]["databaseId"] == key for row in rows)
        assert first in (None, rows[0]["dimensions"]["query"])


async def test_a_variable_that_is_not_given_filters_nothing(nodes: HttpCluster) -> None:
    """And one with a default has that."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
    variables: dict[str, Any] = {"accountTag": "any", "start": yesterday, "end": today}
    found = await ask(nodes, USAGE, variables)
    assert len(found["d1AnalyticsAdaptiveGroups"]) == 1
    assert found["d1AnalyticsAdaptiveGroups"][0]["dimensions"]["__typename"]
    assert len(found["size"]) == 2
    other = await uuid_of(nodes, "other")
    found = await ask(nodes, USAGE, {**variables, "databaseId": other, "most": 5})
    assert found["d1AnalyticsAdaptiveGroups"] == []


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ('query_like: "select%"', 1),
        ('query_notlike: "SELECT%"', 2),
        ('query_notin: ["CREATE TABLE t(a)", "x"]', 2),
        ('query_in: "CREATE TABLE t(a)"', 1),
        ('query_like: "INSERT_INTO%"', 1),
        ('query: "CREATE TABLE \\u0074(a)"', 1),
        ('AND: {query_neq: "x"}, OR: [{query_like: "CREATE%"}, {query_like: "%VALUES%"}]', 2),
        ('datetime_geq: "2020-01-01", datetime_lt: "2999-01-01T00:00:00+02:00"', 3),
        ('datetimeFiveMinutes_gt: "2999-01-01T00:00:00Z"', 0),
        ('date_geq: "2020-01-01", databaseId: null', 3),
        ("", 3),
    ],
)
async def test_filters(nodes: HttpCluster, wanted: str, count: int) -> None:
    query = (
        "{ viewer { accounts { d1QueriesAdaptiveGroups(filter: {%s}) "
        "{ quantiles { queryDurationMsP95 } dimensions { query } } } } }"
    )
    found = (await ask(nodes, query % wanted))["d1QueriesAdaptiveGroups"]
    assert len(found) == count
    assert all(0 < row["quantiles"]["queryDurationMsP95"] < 60_000 for row in found)


def dataset(wanted: str = "{}", selected: str = "count") -> str:
    return (
        "query ($filter: X) { viewer { accounts { "
        f"d1QueriesAdaptiveGroups(filter: {wanted}) {{ {selected} }} }} }} }}"
    )


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(levels):
        inner = {"AND": [inner]}
    return inner


MANY = " ".join(f"a{number}: d1QueriesAdaptiveGroups {{ count }}" for number in range(17))


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        (dataset('{date_geq: "2026-01-01", nope: 1}'), {}),
        (dataset('{datetime_geq: "yesterday"}'), {}),
        (dataset('{datetime_like: "2026%"}'), {}),
        (dataset('{query_like: "%a%b%c%"}'), {}),
        (dataset("{query_in: [1]}"), {}),
        (dataset('{datetime: "\\ud800"}'), {}),
        (dataset("$filter"), {"filter": nested(30)}),
        (dataset("$filter"), {"filter": nested(100)}),
        (dataset("$filter"), {"filter": {"OR": [{"query": "x"}] * 200}}),
        (dataset("$filter"), {"filter": "x"}),
        (dataset(selected="sum { nope }"), {}),
        (dataset(selected="sum"), {}),
        ("{ viewer { accounts { d1StorageAdaptiveGroups(limit: 1e999) { count } } } }", {}),
        ("{ viewer { accounts { noSuchDataset { count } } } }", {}),
        (f"{{ viewer {{ accounts {{ {MANY} }} }} }}", {}),
        ("query ($a: [[String!]!]! = [}) { viewer { a } }", {}),
        ("query ($a) { viewer { a } }", {}),
        ("mutation { a }", {}),
    ],
)
async def test_a_bad_query_is_told_as_errors(
    nodes: HttpCluster, query: str, variables: dict[str, Any]
) -> None:
    body = {"query": query, "variables": variables}
    reply = await nodes.primary.call("POST", "/graphql", body)
    assert (reply.status, reply.json["data"]) == (200, None), reply
    for error in reply.json["errors"]:
        assert error["message"]
        assert error["path"] is None or error["path"][0] == "viewer"
        assert error["extensions"]["timestamp"].endswith("Z")


DEEP = b'{"query": "{a}", "variables": {"a": ' + b"[" * 30_000


async def test_what_is_no_query_is_a_bad_request(nodes: HttpCluster) -> None:
    for body in (b"", b"x", b"[]", b'{"query": 5}', b'{"query": "{a}", "variables": []}', DEEP):
        reply = await nodes.primary.call("POST", "/graphql", body)
        assert (reply.status, reply.json["data"]) == (400, None)
        assert reply.json["errors"][0]["message"]
