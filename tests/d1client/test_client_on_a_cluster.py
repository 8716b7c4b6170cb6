"""The client on a real cluster: one primary, one replica, both over HTTP."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from d1client import D1Client, D1Database, D1Refused, D1Unavailable, RetryPolicy, connect
from d1server.query import NodeView
from d1server.web.serve import serving
from tests.cluster.running_cluster import Cluster, running_cluster

QUICK = RetryPolicy(tries_max=2, delay_s_first=0.001)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A primary and a replica with the database `shop` and its empty table `t`."""
    async with running_cluster(tmp_path) as cluster:
        await cluster.add_primary()
        await cluster.add_replica()
        await cluster.create()
        await cluster.primary.run("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        await cluster.caught_up()
        yield cluster


async def open_client(stack: AsyncExitStack, node: NodeView) -> D1Client:
    front = await stack.enter_async_context(serving(node, "127.0.0.1", 0))
    host, port = front.address
    return await stack.enter_async_context(connect(f"http://{host}:{port}", retry=QUICK))


@pytest.fixture
async def shops(cluster: Cluster) -> AsyncIterator[tuple[D1Database, D1Database]]:
    """The database through the primary, and through the replica."""
    async with AsyncExitStack() as stack:
        primary = await open_client(stack, cluster.primary.primary)
        replica = await open_client(stack, cluster.replicas[0].replica)
        yield primary.database("shop"), replica.database("shop")


async def test_a_session_moves_between_nodes(shops: tuple[D1Database, D1Database]) -> None:
    """Write through the replica, read on it, go on at the primary: each sees all before."""
    primary, replica = shops
    bookmark: str | None = None
    for number in range(1, 11):
        first, second = (primary, replica) if number % 2 else (replica, primary)
        session = first.with_session(bookmark)
        insert = session.prepare("INSERT INTO t (x) VALUES (?)").bind(number)
        assert (await insert.run()).meta.last_row_id == number
        moved = second.with_session(session.get_bookmark())
        result = await moved.prepare("SELECT count(*) AS n FROM t").all()
        assert result.results == [{"n": number}]
        assert result.meta.served_by_primary is (second is primary)
        bookmark = moved.get_bookmark()


async def test_an_idempotency_key_writes_once(shops: tuple[D1Database, D1Database]) -> None:
    """The same key, sent again through another node: the first answer, and one row."""
    for number, db in enumerate([*shops, *shops]):
        result = await db.prepare("INSERT INTO t (x) VALUES ('once')").run(idempotency_key="order")
        assert result.meta.last_row_id == 1, number
    assert await shops[0].prepare("SELECT count(*) AS n FROM t").first("n") == 1


async def test_a_failing_batch_leaves_nothing(shops: tuple[D1Database, D1Database]) -> None:
    for db in shops:
        insert = db.prepare("INSERT INTO t (id) VALUES (?)")
        with pytest.raises(D1Refused, match="UNIQUE constraint failed"):
            await db.batch([insert.bind(5), insert.bind(5)])
        assert await db.prepare("SELECT count(*) AS n FROM t").first("n") == 0


async def test_without_its_primary_a_replica_reads_and_refuses_writes(
    cluster: Cluster, shops: tuple[D1Database, D1Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replica.redial.HELD_S", 0.3)  # it does not come back
    replica = shops[1]
    session = replica.with_session()
    await session.prepare("INSERT INTO t (x) VALUES (1)").run()
    await session.prepare("SELECT 1").all()
    await cluster.caught_up()
    await cluster.primary.stop()
    assert await session.prepare("SELECT x FROM t").first("x") == 1
    with pytest.raises(D1Unavailable):
        await session.prepare("INSERT INTO t (x) VALUES (2)").run()
