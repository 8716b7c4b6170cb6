"""Query statistics of real nodes: counted where a query ran, told by all of them."""

import asyncio
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from d1server.access.grants import EVERYTHING, Grant, Level
from d1server.cli import command_line
from d1server.cli.insights import COLUMNS
from d1server.insights import stored_costs
from d1server.query import AdminRequest
from tests.cluster.running_cluster import NodeUnderTest, running_cluster
from tests.web.real_nodes import open_pair

OF_NONE = Grant("reader", Level.READ, frozenset())
QUERIES = """query getD1QueriesOverviewQuery($filter: ZoneWorkersRequestsFilter_InputObject) {
  viewer { accounts(filter: {accountTag: "x"}) {
    d1QueriesAdaptiveGroups(limit: 5, filter: $filter, orderBy: [sum_rowsWritten_DESC]) {
      sum { rowsRead rowsWritten } avg { rowsReturned } count dimensions { query databaseId }
} } } }"""
TIMES = """{ viewer { accounts {
  d1QueriesAdaptiveGroups { count quantiles { queryDurationMsP50 } } } } }"""
OVERVIEW = """{ viewer { accounts {
  d1AnalyticsAdaptiveGroups(limit: 10000) {
    sum { readQueries writeQueries rowsRead rowsWritten queryBatchResponseBytes }
    quantiles { queryBatchTimeMsP90 } dimensions { databaseId } }
  d1StorageAdaptiveGroups { max { databaseSizeBytes } dimensions { databaseId } }
} } }"""


async def ask(
    node: NodeUnderTest, query: str, grant: Grant = EVERYTHING, **filters: str
) -> dict[str, Any]:
    body = {"query": query, "variables": {"filter": {"AND": [filters]}}}
    encoded = json.dumps(body).encode()
    answer = await node.node.administer(
        AdminRequest(op="graphql", database="", body=encoded, hops=0, grant=grant)
    )
    assert answer.status == 200
    told = json.loads(answer.body)
    assert told["errors"] is None, told
    account: dict[str, Any] = told["data"]["viewer"]["accounts"][0]
    return account


async def test_any_node_tells_what_all_ran(tmp_path: Path) -> None:
    """Without values, over a restart, and only of databases that the caller may read."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        replica = await cluster.add_replica()
        await cluster.create()
        await primary.run("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3)")
        await cluster.caught_up()
        for number in range(3):
            sql = f"SELECT a FROM t WHERE a > {number}"
            reply = await replica.sql(sql, session="first-unconstrained")
            assert reply.status == 200
            await replica.sql("SELECT count(*) FROM t WHERE a = ?", number)  # forwarded
        assert (await primary.sql("SELEC")).status == 400
        for node in (replica, primary, primary):  # the last time after a restart
            found = (await ask(node, QUERIES))["d1QueriesAdaptiveGroups"]
            key = found[0]["dimensions"]["databaseId"]
            found = (await ask(node, QUERIES, databaseId=key))["d1QueriesAdaptiveGroups"]
            ran = {row["dimensions"]["query"]: row for row in found}
            assert {query: row["count"] for query, row in ran.items()} == {
                "INSERT INTO t VALUES (?), ...": 1,
                "CREATE TABLE t(a)": 1,
                "SELECT count(*) FROM t WHERE a = ?": 3,
                "SELECT a FROM t WHERE a > ?": 3,
            }
            read = ran["SELECT a FROM t WHERE a > ?"]
            assert (read["sum"]["rowsRead"], read["avg"]["rowsReturned"]) == (9, 2)
            told = await ask(node, OVERVIEW)
            sums = told["d1AnalyticsAdaptiveGroups"][0]["sum"]
            assert (sums["readQueries"], sums["writeQueries"], sums["rowsWritten"]) == (6, 2, 5)
            assert sums["queryBatchResponseBytes"] > 500
            assert told["d1AnalyticsAdaptiveGroups"][0]["quantiles"]["queryBatchTimeMsP90"] > 0
            size = told["d1StorageAdaptiveGroups"][0]["max"]["databaseSizeBytes"]
            assert size == primary.shown()["size_bytes"]
            await primary.stop()
            await cluster.start_primary()
        assert (await ask(primary, OVERVIEW, OF_NONE))["d1StorageAdaptiveGroups"] == []
        assert (await ask(primary, QUERIES, OF_NONE))["d1QueriesAdaptiveGroups"] == []


async def test_statistics_of_an_older_version_are_kept(tmp_path: Path) -> None:
    """It counted no durations of statements: they are told as far as they are known."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        await primary.sql("SELECT 1")
        costs = primary.primary.costs
        await costs.store()
        await costs.db.run("ALTER TABLE queries DROP COLUMN buckets")
        await primary.stop()
        await cluster.start_primary()
        for seen in (None, 2):
            (row,) = (await ask(primary, TIMES))["d1QueriesAdaptiveGroups"]
            assert (row["quantiles"]["queryDurationMsP50"] is None) == (seen is None)
            await primary.sql("SELECT 1")
        assert (await ask(primary, TIMES))["d1QueriesAdaptiveGroups"][0]["count"] == 3


async def test_statistics_are_bounded(tmp_path: Path, monkeypatch: Any) -> None:
    """The oldest and cheapest rows go; a deleted database's are all gone."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        for number in range(6):
            await primary.sql(f"SELECT count(*) AS n{number}")
        costs = primary.primary.costs
        await costs.store()
        await costs.db.run("UPDATE queries SET duration_ms = count + length(query)")
        await costs.db.run("UPDATE queries SET hour = hour - 1 WHERE query LIKE '%n5'")
        monkeypatch.setattr(stored_costs, "ROWS_MAX", 3)
        for number in range(6, 9):
            await primary.sql(f"SELECT count(*) AS n{number}")
        await costs.store()
        rows = await costs.db.rows("SELECT query FROM queries ORDER BY query")
        assert len(rows) == 3
        assert ("SELECT count(*) AS n5",) not in rows
        await primary.sql("SELECT 1")
        await primary.administer("delete", "shop")
        await costs.store()
        assert await costs.db.rows("SELECT * FROM queries") == []
        assert await costs.db.rows("SELECT * FROM usage") == []


async def test_no_count_is_lost_between_two_that_store(tmp_path: Path) -> None:
    """An hour is read, added to and written: by one at a time, and to the end.

    Method: a request is counted and its counts begin to be stored, eight times over each other; of
    these, some give up.
    """
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        costs = primary.primary.costs
        await primary.sql("SELECT 1")
        await costs.store()
        storing = []
        for _ in range(8):
            await primary.sql("SELECT 1")
            storing.append(asyncio.create_task(costs.store()))
            await asyncio.sleep(0)
        for task in storing[::3]:
            task.cancel()
        await asyncio.wait(storing)
        await costs.store()
        rows = await costs.db.rows("SELECT sum(reads) FROM usage")
        assert rows == await costs.db.rows("SELECT sum(count) FROM queries") == [(9,)]


async def test_statistics_that_cannot_be_stored_stop_nothing(tmp_path: Path) -> None:
    """A full disk, or any other reason that SQLite has: what is known is told, the node stops."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        await primary.sql("SELECT 1")
        await ask(primary, QUERIES)
        await primary.primary.costs.db.rows("PRAGMA query_only = 1")
        await primary.sql("SELECT 2, 2")
        found = (await ask(primary, QUERIES))["d1QueriesAdaptiveGroups"]
        assert [row["dimensions"]["query"] for row in found] == ["SELECT ?"]
        await primary.sql("SELECT 3, 3")
        await primary.stop()


async def test_many_who_ask_wait_or_are_refused(tmp_path: Path) -> None:
    """Each answer may take a hundred megabytes while it is made: they are made one by one."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        body = json.dumps({"query": OVERVIEW}).encode()
        asking = [primary.primary.insights.graphql(body, EVERYTHING) for _ in range(20)]
        answers = await asyncio.gather(*asking)
        assert [answer.status for answer in answers] == [200] * 16 + [503] * 4
        assert (await ask(primary, OVERVIEW))["d1StorageAdaptiveGroups"]


async def test_bad_queries_are_told_as_graphql_does(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        for body, status in (
            *((b"", 400), (b"{}", 400), (b'{"query":5}', 400), (b'{"query":"\xff"}', 400)),
            (b'{"query":"{ nope }"}', 200),
        ):
            answer = await primary.primary.insights.graphql(body, EVERYTHING)
            told = json.loads(answer.body)
            assert (answer.status, told["data"]) == (status, None)
            assert told["errors"][0]["message"]


async def test_the_command_shows_the_costliest(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (primary, _):

        async def d1server(*words: str) -> Any:
            line = [*words, "--url", f"http://{primary}"]
            return await asyncio.to_thread(CliRunner().invoke, command_line, line)

        await d1server("db", "create", "shop")
        assert "nothing has been run" in (await d1server("insights", "shop")).stderr
        sql = "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3); SELECT a FROM t WHERE a = 1"
        assert (await d1server("execute", "shop", "-c", sql)).exit_code == 0
        done = await d1server("insights", "shop", "--sort-by", "writes", "--limit", "1", "--json")
        assert done.exit_code == 0, done.output
        (found,) = json.loads(done.stdout)
        assert (found["query"], found["rows_written"]) == ("INSERT INTO t VALUES (?), ...", 3)
        assert found["last_seen"] > "2025"
        done = await d1server("insights", "shop", "--sort-by", "reads", "--limit", "1", "--json")
        (found,) = json.loads(done.stdout)
        assert (found["query"], found["rows_read"], found["rows_returned"]) == (
            *("SELECT a FROM t WHERE a = ?", 3),  # a scan, and one row of it
            1,
        )
        done = await d1server("insights", "shop")
        assert done.stdout.splitlines()[0].split("\t") == list(COLUMNS)
        assert len(done.stdout.splitlines()) == 4
        assert (await d1server("insights", "none")).exit_code == 1
