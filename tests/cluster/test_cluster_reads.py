"""Reads on replicas: sessions, waits, and what becomes of them when the link is slow."""

import asyncio
import threading
import time

import pytest

from d1server.query import OnTimeout
from engine.log_reader import LogReader
from proto.tokens import Bookmark, CommitToken
from replica.applier import Applier
from tests.cluster.running_cluster import Cluster, NodeUnderTest, Reply
from tests.waiting import SOON_S_MAX, until

COUNT = "SELECT count(*) FROM t"


async def waiting_read(
    node: NodeUnderTest, session: Bookmark, **wishes: object
) -> "asyncio.Task[Reply]":
    """A read of `node` that has come to the point where it waits for its bookmark."""
    before = node.waiting
    read = asyncio.create_task(node.sql(COUNT, session=session, **wishes))  # type: ignore[arg-type]
    await until(lambda: node.waiting > before or read.done(), "a waiting read")
    assert not read.done(), await read
    return read


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
        read = await waiting_read(replica, session)
    reply = await read
    assert reply.rows == [[1]]
    assert reply.meta["served_by"] == replica.name
    assert reply.meta["waited_ms"] > 0


async def test_many_waiting_reads_are_woken_by_their_own_commits(cluster: Cluster) -> None:
    """Each of many reads wakes with a state at least as new as its bookmark."""
    replica = cluster.replicas[0]
    with replica.link.held():
        sessions = [await cluster.primary.run("INSERT INTO t VALUES (1)") for _ in range(40)]
        reads = [await waiting_read(replica, session) for session in reversed(sessions)]
        replies = asyncio.gather(*reads)
    for needed, reply in zip(range(40, 0, -1), await replies, strict=True):
        assert reply.value >= needed
        assert reply.meta["served_by"] == replica.name
    assert replica.waiting == 0


async def test_a_cancelled_read_leaves_its_place(cluster: Cluster) -> None:
    """A client that hangs up while its read waits leaves nothing behind."""
    replica = cluster.replicas[0]
    with replica.link.held():
        session = await cluster.primary.run("INSERT INTO t VALUES (1)")
        read = await waiting_read(replica, session)
        read.cancel()
        await asyncio.wait([read])
        assert read.cancelled()
        assert replica.waiting == 0
    assert (await replica.sql(COUNT, session=session)).rows == [[1]]


async def test_a_late_read_is_stale_if_it_asked_for_that(cluster: Cluster) -> None:
    """`x-d1-on-timeout: stale`: what is there is answered, within the time, and said to be late."""
    replica = cluster.replicas[0]
    await cluster.primary.run("INSERT INTO t VALUES (0)")
    await cluster.caught_up()
    with replica.link.held():
        session = await cluster.primary.run("INSERT INTO t VALUES (1)")
        began = time.monotonic()
        reply = await replica.sql(COUNT, session=session, wait_ms=250, on_timeout=OnTimeout.STALE)
        assert 0.25 <= time.monotonic() - began < SOON_S_MAX
        assert reply.rows == [[1]]
        assert reply.mark < session
        assert reply.meta["served_by"] == replica.name


async def test_a_late_read_is_refused_if_it_asked_for_that(cluster: Cluster) -> None:
    """`x-d1-on-timeout: error`: a 503 that may be retried, within the time."""
    replica = cluster.replicas[0]
    with replica.link.held():
        session = await cluster.primary.run("INSERT INTO t VALUES (1)")
        began = time.monotonic()
        reply = await replica.sql(COUNT, session=session, wait_ms=250, on_timeout=OnTimeout.ERROR)
        assert 0.25 <= time.monotonic() - began < SOON_S_MAX
        assert reply.status == 503
        assert reply.answer.should_retry
        assert session.text in reply.message


async def test_a_late_read_goes_to_the_primary_by_default(cluster: Cluster) -> None:
    """`x-d1-on-timeout: primary`: forwarded when the time is over.

    Method: what the link brings for the database is kept back, not the link's bytes: the
    forwarded read passes the same link.
    """
    replica = cluster.replicas[0]
    database = replica.replica_of()
    taken: list[list[bytes]] = []
    database.receive = taken.append  # type: ignore[method-assign, assignment]
    try:
        session = await cluster.primary.run("INSERT INTO t VALUES (1)")
        reply = await replica.sql(COUNT, session=session, wait_ms=50)
        assert reply.rows == [[1]]
        assert reply.meta["served_by"] == cluster.primary.name
    finally:
        del database.receive
        for raw_parts in taken:
            database.receive(raw_parts)
    await cluster.equal()


async def test_no_wait_at_all(cluster: Cluster) -> None:
    """`x-d1-max-wait-ms: 0` with `error` answers at once."""
    replica = cluster.replicas[0]
    with replica.link.held():
        session = await cluster.primary.run("INSERT INTO t VALUES (1)")
        reply = await replica.sql(COUNT, session=session, wait_ms=0, on_timeout=OnTimeout.ERROR)
        assert reply.status == 503


@pytest.mark.parametrize("wish", ["first-primary", None])
async def test_without_a_session_the_primary_answers(cluster: Cluster, wish: str | None) -> None:
    """`first-primary`, and no session at all, see the newest state, also through a replica."""
    await cluster.primary.run("INSERT INTO t VALUES (1)")
    reply = await cluster.replicas[0].sql(COUNT, session=wish)
    assert reply.rows == [[1]]
    assert reply.meta["served_by"] == cluster.primary.name


async def test_an_unconstrained_read_is_answered_by_a_replica_without_link(
    cluster: Cluster,
) -> None:
    """`first-unconstrained` takes what is there, however old, and its bookmark tells how old."""
    replica = cluster.replicas[0]
    before = await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.caught_up()
    with replica.link.cut():
        await cluster.primary.run("INSERT INTO t VALUES (2)")
        reply = await replica.sql(COUNT, session="first-unconstrained")
        assert reply.rows == [[1]]
        assert reply.mark == before


async def test_a_bookmark_of_the_future_is_refused_quickly(cluster: Cluster) -> None:
    """No wait for a commit that will never be: the primary is asked, and its answer is a 400."""
    head = await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.caught_up()
    future = Bookmark(CommitToken(1, head.seq + 1000), head.digest)
    for node in cluster.nodes:
        began = time.monotonic()
        reply = await node.sql(COUNT, session=future)
        assert reply.status == 400, reply
        assert "ahead" in reply.message
        assert time.monotonic() - began < SOON_S_MAX


async def test_a_bookmark_of_a_lost_history_is_refused(cluster: Cluster) -> None:
    """The same number with another digest is another history."""
    head = await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.primary.run("INSERT INTO t VALUES (2)")
    await cluster.caught_up()
    forked = Bookmark(head.token, head.digest[:4] + bytes(12))
    for node in cluster.nodes:
        reply = await node.sql(COUNT, session=forked)
        assert reply.status == 400, (node.name, reply)
        assert "history" in reply.message


async def test_a_bookmark_of_another_database_is_refused(cluster: Cluster) -> None:
    """Its digest names another database, whatever its number."""
    await cluster.create("other")
    other = await cluster.primary.run("CREATE TABLE o (x)", db="other")
    for node in cluster.nodes:
        reply = await node.sql(COUNT, session=other)
        assert reply.status == 400, node.name
        assert "another database" in reply.message


async def test_a_bookmark_from_the_start_of_the_history_is_good(cluster: Cluster) -> None:
    """An old session goes on anywhere, without a wait."""
    old = cluster.primary.database().durable
    for number in range(300):
        await cluster.primary.run("INSERT INTO t VALUES (?)", number)
    await cluster.caught_up()
    for node in cluster.nodes:
        reply = await node.sql(COUNT, session=old)
        assert reply.value == 300


async def test_the_table_may_come_with_the_bookmark(cluster: Cluster) -> None:
    """A read that speaks of a table the replica does not know yet waits like any other."""
    replica = cluster.replicas[0]
    with replica.link.held():
        session = await cluster.primary.run("CREATE TABLE fresh AS SELECT 42 AS answer")
        read = asyncio.create_task(replica.sql("SELECT answer FROM fresh", session=session))
        await until(lambda: replica.waiting == 1, "a waiting read")
    reply = await read
    assert reply.rows == [[42]]
    assert reply.meta["served_by"] == replica.name


async def test_long_reads_see_one_snapshot_while_commits_are_applied(cluster: Cluster) -> None:
    """A read of several statements on a thread is never torn by an injection."""
    replica = cluster.replicas[0]
    await cluster.primary.run("INSERT INTO t VALUES (0)")
    await cluster.caught_up()
    slow = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) "
        "SELECT count(*), (SELECT count(*) FROM t) FROM n"
    )
    batch = {"batch": [{"sql": COUNT}, {"sql": slow}, {"sql": COUNT}]}
    reads = [
        asyncio.create_task(replica.ask(batch, session="first-unconstrained")) for _ in range(4)
    ]
    last = None
    while not all(read.done() for read in reads):
        last = await cluster.primary.run("INSERT INTO t VALUES (1)")
    for read in reads:
        reply = await read
        assert reply.status == 200, reply
        first, (_, within), again = (rows[0] for rows in reply.results)
        assert first[0] == within == again[0]
    assert last is not None
    assert (await replica.sql(COUNT, session=last)).value == last.seq - 2


async def test_errors_on_a_replica_carry_a_bookmark_of_what_they_saw(cluster: Cluster) -> None:
    """An SQL error is a 400 wherever it is found, never a 500."""
    for node in cluster.nodes:
        for wish in (None, "first-unconstrained", "first-primary"):
            reply = await node.sql("SELECT x FROM nowhere", session=wish)
            assert reply.status == 400
            assert "no such table" in reply.message
            assert reply.bookmark is not None


async def test_a_read_waits_for_what_is_in_the_log_and_not_yet_applied(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica has the commit of the bookmark, and no reader sees it.

    Method: a commit too large for the event loop is held up on its way from the log to the file.
    """
    replica = cluster.replicas[0]
    holding, release = threading.Event(), threading.Event()
    apply_chunk = Applier._apply_chunk

    def held(self: Applier, reader: LogReader) -> int:
        holding.set()
        release.wait()
        return apply_chunk(self, reader)

    monkeypatch.setattr(Applier, "_apply_chunk", held)
    try:
        session = await cluster.primary.run("INSERT INTO t VALUES (randomblob(1500000))")
        await until(lambda: replica.replica_of().position == session, "the commit in its log")
        await until(holding.is_set, "on its way into the file")
        read = await waiting_read(replica, session)
    finally:
        release.set()
    assert (await read).value == 1
