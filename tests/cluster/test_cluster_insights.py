"""Query costs of the replicas at the primary: each counted once, whatever the link does."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from d1server import replica_door
from d1server.access.grants import EVERYTHING
from d1server.insights import cost_sender
from d1server.insights.cost_batch import CostBatch, decode_batch
from d1server.insights.stored_costs import StoredCosts
from d1server.query import AdminRequest, Answer
from d1server.replication_metrics import ReplicationCollector
from engine.durations import Histogram
from tests.cluster.running_cluster import Cluster, NodeUnderTest, running_cluster
from tests.waiting import EVENT_S_MAX, until

READ = "SELECT a FROM t"
COUNTS = """{ viewer { accounts {
  d1QueriesAdaptiveGroups(limit: 50) { count dimensions { query } }
  d1AnalyticsAdaptiveGroups(limit: 50) { sum { readQueries } } } } }"""


async def a_table(cluster: Cluster) -> tuple[NodeUnderTest, NodeUnderTest]:
    primary = await cluster.add_primary()
    replica = await cluster.add_replica()
    await cluster.create()
    await primary.run("CREATE TABLE t(a)")
    await cluster.caught_up()
    return primary, replica


async def read(replica: NodeUnderTest, times: int) -> None:
    for _ in range(times):
        assert (await replica.sql(READ, session="first-unconstrained")).status == 200


async def told(node: NodeUnderTest) -> Answer:
    body = json.dumps({"query": COUNTS}).encode()
    return await node.node.administer(
        AdminRequest(op="graphql", database="", body=body, hops=0, grant=EVERYTHING)
    )


async def reads_told(node: NodeUnderTest) -> int:
    """How often READ ran, as the node says; both datasets must say the same."""
    answer = await told(node)
    assert answer.status == 200, answer.body
    account = json.loads(answer.body)["data"]["viewer"]["accounts"][0]
    counts = {
        row["dimensions"]["query"]: row["count"] for row in account["d1QueriesAdaptiveGroups"]
    }
    count: int = counts.get(READ, 0)
    assert account["d1AnalyticsAdaptiveGroups"][0]["sum"]["readQueries"] == count
    return count


async def until_told(node: NodeUnderTest, count: int) -> None:
    async with asyncio.timeout(EVENT_S_MAX):
        while await reads_told(node) != count:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.02)


async def until_any_told(node: NodeUnderTest) -> None:
    """Until the node knows of some: how many are in a batch, the time between two decides."""
    async with asyncio.timeout(EVENT_S_MAX):
        while not await reads_told(node):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.02)


async def until_sent(replica: NodeUnderTest) -> None:
    """Until the replica holds no batch, and nothing that would become one."""
    async with asyncio.timeout(EVENT_S_MAX):
        while await held_rows(replica.replica.costs):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.02)


async def held_rows(costs: StoredCosts) -> int:
    await costs.store()
    tables = ("queries", "usage", "cost_batches")
    rows = [await costs.db.rows(f"SELECT 1 FROM {table}") for table in tables]
    return sum(len(one) for one in rows)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_sender, "SEND_S", 0.05)


async def test_what_a_replica_read_comes_to_the_primary(tmp_path: Path) -> None:
    """By itself; and at once for whoever asks at the replica."""
    async with running_cluster(tmp_path) as cluster:
        primary, replica = await a_table(cluster)
        await read(replica, 3)
        assert await reads_told(replica) == 3
        await read(replica, 2)
        await until_told(primary, 5)


async def test_a_broken_link_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran meanwhile is kept, over a restart too; whoever asks is told to come again."""
    monkeypatch.setattr("replica.redial.HELD_S", 0.3)  # it does not come back
    async with running_cluster(tmp_path) as cluster:
        primary, replica = await a_table(cluster)
        await read(replica, 1)
        with replica.link.cut():
            await read(replica, 2)
            answer = await told(replica)
            assert (answer.status, answer.should_retry) == (503, True)
            await replica.stop()
            await replica.start()
            await read(replica, 3)
            for number in range(250):  # more than one batch
                await replica.sql(f"SELECT 1 AS n{number}", session="first-unconstrained")
        await until_sent(replica)
        counted = await primary.primary.costs.db.rows(
            "SELECT query, sum(count) FROM queries WHERE query = ? OR query LIKE '% AS n%'"
            " GROUP BY query",  # the hour may have changed
            (READ,),
        )
        assert len(counted) == 251
        assert (READ, 6) in counted
        ((reads,),) = await primary.primary.costs.db.rows("SELECT sum(reads) FROM usage")
        assert reads == 256


async def test_a_lost_answer_doubles_nothing(tmp_path: Path) -> None:
    """Method: what the primary says is held while it counts, and lost with the link."""
    async with running_cluster(tmp_path) as cluster:
        primary, replica = await a_table(cluster)
        with replica.link.held(to_primary=False):
            await read(replica, 4)
            await until_any_told(primary)
            await read(replica, 1)
            assert await held_rows(replica.replica.costs) > 0
            replica.link.break_connections()
        await until_sent(replica)
        assert await reads_told(primary) == 5


async def test_a_batch_counts_once(tmp_path: Path) -> None:
    """Also after the primary's restart. Another source has numbers of its own."""
    async with running_cluster(tmp_path) as cluster:
        primary, replica = await a_table(cluster)
        with replica.link.cut():
            await read(replica, 2)
            await replica.replica.costs.store()
            found = await replica.replica.costs.next_batch()
            assert found is not None
            assert await replica.replica.costs.next_batch() == found
            await replica.stop()
        batch = decode_batch(found.body)
        later = CostBatch(batch.source, batch.number + 1, batch.costs)
        other = CostBatch("another", batch.number, batch.costs)
        unknown = batch.costs.usage[0]._replace(database="shop")  # a name is no uuid
        strange = CostBatch("stranger", 1, batch.costs._replace(queries=[], usage=[unknown]))
        for sent, count in ((batch, 2), (batch, 2), (later, 4), (batch, 4), (other, 6)):
            await primary.primary.costs.note(sent)
            assert await reads_told(primary) == count
        await primary.stop()
        await cluster.start_primary()
        for sent in (batch, later, other, strange):
            await primary.primary.costs.note(sent)
        assert await reads_told(primary) == 6
        assert len(await primary.primary.costs.db.rows("SELECT DISTINCT database FROM usage")) == 1


async def test_a_primary_that_does_not_know_of_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An older one: that is logged once, and made good when it is a newer one."""
    monkeypatch.setattr(cost_sender, "_REFUSED_S", 0.0)
    async with running_cluster(tmp_path) as cluster:
        primary, replica = await a_table(cluster)
        with monkeypatch.context() as older, caplog.at_level(logging.INFO):
            older.setattr(replica_door, "QUERY_COSTS_OP", "none")
            await read(replica, 2)
            for _ in range(3):
                assert await reads_told(replica) == 0
            assert await held_rows(replica.replica.costs) > 0
        messages = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert len(messages) == 1
        assert "run the same d1server on both nodes" in messages[0]
        await until_told(primary, 2)


async def test_a_batch_that_the_primary_does_not_take_is_in_nobodys_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_cluster(tmp_path) as cluster:
        primary, replica = await a_table(cluster)
        with replica.link.cut():
            await replica.replica.costs.db.run("INSERT INTO cost_batches (body) VALUES (x'c1')")
            await read(replica, 2)
        await until_sent(replica)
        assert await reads_told(primary) == 2
        assert "these are no query costs" in caplog.text


async def test_costs_of_a_deleted_database_are_dropped(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        primary, replica = await a_table(cluster)
        with replica.link.cut():
            await read(replica, 2)
            assert await held_rows(replica.replica.costs) > 0
            assert (await primary.administer("delete", "shop")).status == 200
        await until_sent(replica)
        costs = primary.primary.costs
        await costs.store()
        assert await costs.db.rows("SELECT * FROM queries") == []
        assert await costs.db.rows("SELECT * FROM usage") == []


async def test_costs_that_wait_at_a_replica_are_shown(tmp_path: Path) -> None:
    """While the primary is away, as a number in /status and a gauge; none once it has them."""
    async with running_cluster(tmp_path) as cluster:
        _, replica = await a_table(cluster)
        await until_sent(replica)
        await cluster.primary.stop()
        await read(replica, 3)
        await until(lambda: waiting(replica) == 2, "a statement and an hour")
        status = replica.node.status
        families = ReplicationCollector(status, Histogram()).collect()
        gauges = {one.name: one.samples for one in families}
        assert gauges["d1server_query_costs_waiting"][0].value == 2
        await cluster.start_primary()
        await until(lambda: waiting(replica) == 0, "nothing left")


def waiting(replica: NodeUnderTest) -> object:
    return replica.node.status()["query_costs_waiting"]
