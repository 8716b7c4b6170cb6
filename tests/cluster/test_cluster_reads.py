"""Reads on replicas: sessions, waits, and what becomes of them when the link is slow."""

import asyncio

from tests.cluster.running_cluster import Cluster, settle


async def test_a_session_sees_its_own_writes_on_every_node(cluster: Cluster) -> None:
    """Read-your-writes, whichever node answers; `meta` says which one did."""
    for number in range(1, 31):
        writer = cluster.nodes[number % 3]
        session = await writer.run("INSERT INTO t VALUES (?)", number)
        for node in cluster.nodes:
            reply = await node.sql("SELECT count(*), max(x) FROM t", session=session)
            assert reply.rows == [[number, number]], node.name
            assert reply.mark >= session
            assert reply.meta["served_by"] == node.name
            assert reply.meta["served_by_primary"] is (node is cluster.primary)


async def test_a_read_waits_for_its_bookmark(cluster: Cluster) -> None:
    """A read that carries a bookmark never sees an older state."""
    replica = cluster.replicas[0]
    with replica.link.held():
        session = await cluster.primary.run("INSERT INTO t VALUES (1)")
        read = asyncio.create_task(replica.sql("SELECT count(*) FROM t", session=session))
        await settle()
        assert not read.done()
        assert replica.replica_of().waiter.waiting == 1
    reply = await read
    assert reply.rows == [[1]]
    assert reply.meta["served_by"] == replica.name
