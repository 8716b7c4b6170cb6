"""Stopping in the middle of anything is quick, clean, and loses nothing that was told."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from primary.database import PrimaryDatabase
from tests.cluster.running_cluster import Cluster, NodeUnderTest
from tests.waiting import until

COUNT = "SELECT count(*) FROM t"
FILL = (
    "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
    "SELECT randomblob(1000000) FROM n"
)
FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
STOP_S_MAX = 10.0  # what would wait for a slow link has a minute and more to wait


async def stopped_quickly(node: NodeUnderTest) -> None:
    began = time.monotonic()
    await node.stop()
    assert time.monotonic() - began < STOP_S_MAX, node.name


@asynccontextmanager
async def writing(node: NodeUnderTest) -> AsyncIterator[set[int]]:
    """Writers that go on until the block ends; the numbers that were acknowledged."""
    told: set[int] = set()
    is_over = False

    async def write(first: int) -> None:
        number = first
        while not is_over:
            number += 1
            reply = await node.sql("INSERT INTO t VALUES (?)", number)
            if reply.status != 200:
                return
            told.add(number)

    writers = [asyncio.create_task(write(10_000 * one)) for one in range(5)]
    try:
        await until(lambda: len(told) > 20 or all(one.done() for one in writers), "some writes")
        yield told
    finally:
        is_over = True
        await asyncio.gather(*writers)


async def test_the_primary_stops_under_load(cluster: Cluster) -> None:
    """Every acknowledged write is there after the restart, and nothing half."""
    for _ in range(3):
        async with writing(cluster.primary) as told:
            await stopped_quickly(cluster.primary)
        await cluster.start_primary()
        rows = {row[0] for row in (await cluster.primary.sql("SELECT x FROM t")).rows}
        assert told <= rows
    await cluster.equal()


async def test_a_replica_stops_under_load(cluster: Cluster) -> None:
    target = cluster.replicas[0]
    for _ in range(3):
        async with writing(cluster.primary):
            await stopped_quickly(target)
            await target.start()
    await cluster.equal()


@pytest.mark.parametrize("who", ["primary", "replica"])
async def test_stopping_in_the_middle_of_a_copy(cluster: Cluster, who: str) -> None:
    """Over a link that carries next to nothing: nobody waits for the rest of it."""
    target = cluster.replicas[0]
    await cluster.primary.run(FILL.format(12))
    await cluster.caught_up()
    with target.link.slowed(200_000):
        target.replica._receiver.follow([target.replica_of()], is_copy_wanted=True)
        await until(lambda: target.replica_of().copied is not None, "a copy under way")
        if who == "primary":
            await stopped_quickly(cluster.primary)
        else:
            await stopped_quickly(target)
    if who == "primary":
        await cluster.start_primary()
    else:
        await target.start()
    await cluster.equal()


@pytest.mark.parametrize("who", ["primary", "replica"])
async def test_stopping_in_the_middle_of_a_large_commit(cluster: Cluster, who: str) -> None:
    target = cluster.replicas[0]
    with target.link.slowed(400_000):
        session = await cluster.primary.run(FILL.format(30))
        node = cluster.primary if who == "primary" else target
        await asyncio.sleep(0.1)
        await stopped_quickly(node)
    if who == "primary":
        await cluster.start_primary()
    else:
        await target.start()
    await cluster.caught_up()
    assert (await target.sql(COUNT, session=session)).rows == [[30]]
    await cluster.equal()


async def test_stopping_with_a_held_link(cluster: Cluster) -> None:
    """A peer that does not read must not keep us."""
    target = cluster.replicas[0]
    with target.link.held():
        await cluster.primary.run(FILL.format(10))
        await stopped_quickly(cluster.primary)
    await cluster.start_primary()
    await cluster.equal()


async def test_stopping_with_long_queries_under_way(cluster: Cluster) -> None:
    """HTTP ends its requests first: here they are cancelled as it does, then the node stops."""
    for node in cluster.nodes:
        await node.sql(COUNT, session="first-unconstrained")
        reads = [
            asyncio.create_task(node.sql(FOREVER, session="first-unconstrained")) for _ in range(6)
        ]
        await asyncio.sleep(0.05)
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)
    for node in reversed(cluster.nodes):
        await stopped_quickly(node)


async def test_deleting_in_the_middle_of_a_copy(cluster: Cluster) -> None:
    """The copy is for nothing: ended on both sides, nothing of it remains."""
    target = cluster.replicas[0]
    await cluster.primary.run(FILL.format(5))
    await cluster.caught_up()
    folder = target.folder()
    with target.link.slowed(5_000_000):
        target.replica._receiver.follow([target.replica_of()], is_copy_wanted=True)
        await until(lambda: target.replica_of().copied is not None, "a copy under way")
        reply = await cluster.primary.administer("delete", "shop")
        assert reply.status == 200
    await until(lambda: target.node.find("shop") is None, "forgotten")
    await until(
        lambda: not [one for one in folder.parent.iterdir() if one.name.startswith(folder.name)],
        "removed",
    )
    assert (await target.sql(COUNT, session="first-unconstrained")).status == 404


async def test_deleting_under_load(cluster: Cluster) -> None:
    """Readers and writers on all nodes see it, and then a 404: nothing else."""
    statuses: set[int] = set()
    is_over = False

    async def use(node: NodeUnderTest, sql: str) -> None:
        while not is_over:
            reply = await node.sql(sql, session="first-unconstrained")
            statuses.add(reply.status)
            assert reply.status in (200, 404, 503), reply
            await asyncio.sleep(0)

    users = [
        asyncio.create_task(use(node, sql))
        for node in cluster.nodes
        for sql in (COUNT, "INSERT INTO t VALUES (1)", "SELECT hex(randomblob(500000))")
    ]
    await until(lambda: 200 in statuses, "some use")
    assert (await cluster.replicas[1].administer("delete", "shop")).status == 200
    for node in cluster.nodes:
        assert (await node.sql(COUNT)).status == 404
    await until(lambda: 404 in statuses, "what they see then")
    is_over = True
    await asyncio.gather(*users)


async def test_vacuum_and_delete_at_once(cluster: Cluster) -> None:
    await cluster.primary.run(FILL.format(8))
    vacuum = asyncio.create_task(cluster.primary.administer("vacuum", "shop"))
    await asyncio.sleep(0.01)
    assert (await cluster.replicas[0].administer("delete", "shop")).status == 200
    assert (await vacuum).status in (200, 404)
    assert cluster.primary.node.find("shop") is None


async def test_a_damaged_page_on_the_primary_is_told_and_stops_the_database(
    cluster: Cluster,
) -> None:
    """Nothing is served from a damaged file; the others go on, and /readyz names it."""
    await cluster.create("other")
    await cluster.primary.run("CREATE TABLE o (x)", db="other")
    await cluster.primary.run(FILL.format(8))
    database = cluster.primary.database()
    assert isinstance(database, PrimaryDatabase)
    async with database.demand.closed():
        pass
    async with database.demand.used() as opened:
        size = opened.live.pages.page_count
        with (database.folder / "db.sqlite").open("r+b", buffering=0) as file:
            for page in range(3, size - 1):
                file.seek((page - 1) * 4096)
                file.write(b"\x5a" * 4096)
    await cluster.caught_up()
    reply = await cluster.primary.sql("SELECT sum(length(x)) FROM t")
    assert reply.status == 503
    await until(lambda: not cluster.primary.node.readiness()[0], "told")
    assert any("shop" in reason for reason in cluster.primary.node.readiness()[1])
    assert (await cluster.primary.sql("SELECT count(*) FROM o", db="other")).rows == [[0]]
    replica_reply = await cluster.replicas[0].sql(COUNT, session="first-unconstrained")
    assert replica_reply.rows == [[8]]
