"""Writes through replicas: forwarded once, and honest about what became of them."""

import asyncio

import pytest

from d1server import primary_queries, replica_door
from primary.database import PrimaryDatabase
from primary.idempotency import IdempotencyKey
from tests.cluster.running_cluster import Cluster, NodeUnderTest, Reply
from tests.waiting import until

COUNT = "SELECT count(*) FROM t"


async def test_writes_are_forwarded_and_answered_by_the_primary(cluster: Cluster) -> None:
    """Whatever the session's wish: a write is done once, at the primary."""
    for number, wish in enumerate((None, "first-unconstrained", "first-primary"), 1):
        reply = await cluster.replicas[0].sql("INSERT INTO t VALUES (1)", session=wish)
        assert reply.status == 200
        assert reply.meta["changes"] == 1
        assert reply.meta["served_by"] == cluster.primary.name
        assert (await cluster.primary.sql(COUNT)).value == number


async def test_a_write_may_speak_of_what_the_replica_has_not_seen(cluster: Cluster) -> None:
    """A replica that is behind does not refuse it by its own, older tables.

    Method: nothing comes from the primary while a column is made there and a row is written to
    it through the replica.
    """
    replica, database = cluster.replicas[0], cluster.primary.database()
    with replica.link.held(to_primary=False):
        await cluster.primary.run("ALTER TABLE t ADD COLUMN b")
        seq = database.durable.seq
        insert = replica.sql("INSERT INTO t(b) VALUES (7)", session="first-unconstrained")
        write = asyncio.create_task(insert)
        await until(lambda: write.done() or database.durable.seq > seq, "the write")
    assert (await write).status == 200
    assert (await cluster.primary.sql("SELECT b FROM t")).value == 7


async def test_what_a_replica_refuses_is_refused_without_the_primary_too(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks there first, and where it cannot, what it knows itself must do."""
    monkeypatch.setattr("replica.redial.HELD_S", 0.3)  # it does not come back
    replica = cluster.replicas[0]
    with replica.link.cut():
        await until(lambda: not replica.is_following, "the loss noticed")
        reply = await replica.sql("SELECT nope FROM t", session="first-unconstrained")
        assert (reply.status, "no such column: nope" in reply.message) == (400, True)
        reply = await replica.sql("SELECT * FROM t", session="first-unconstrained")
        assert reply.status == 200


async def test_many_forwarded_writes_at_once(cluster: Cluster) -> None:
    """Pipelined over one link, each answered with its own bookmark."""
    writes = [
        cluster.replicas[number % 2].sql("INSERT INTO t VALUES (?)", number)
        for number in range(200)
    ]
    replies = await asyncio.gather(*writes)
    assert {reply.status for reply in replies} == {200}
    assert len({reply.mark for reply in replies}) == 200
    assert (await cluster.primary.sql(COUNT)).value == 200
    await cluster.equal()


async def test_a_batch_through_a_replica_is_one_transaction(cluster: Cluster) -> None:
    """A failure in it undoes all of it, and the answer says so with a 400."""
    batch = {"batch": [{"sql": "INSERT INTO t VALUES (1)"}, {"sql": "INSERT INTO nowhere"}]}
    reply = await cluster.replicas[0].ask(batch)
    assert reply.status == 400
    assert (await cluster.primary.sql(COUNT)).value == 0


async def test_a_write_with_a_bookmark_of_the_future_is_refused(cluster: Cluster) -> None:
    """Also through a replica, which cannot know: nothing is done."""
    head = await cluster.primary.run("INSERT INTO t VALUES (1)")
    future = head._replace(token=head.token._replace(seq=head.seq + 50))
    for node in cluster.nodes:
        reply = await node.sql("INSERT INTO t VALUES (2)", session=future)
        assert reply.status == 400, node.name
    assert (await cluster.primary.sql(COUNT)).value == 1


async def write_with_lost_reply(replica: NodeUnderTest, cluster: Cluster, key: str | None) -> Reply:
    """A write that reaches the primary, and whose answer is lost with the link.

    Method: what the primary sends is held from before the write until it is done there, and
    then the link breaks.
    """
    database = cluster.primary.database()
    seq = database.durable.seq
    with replica.link.held(to_primary=False):
        write = asyncio.create_task(replica.sql("INSERT INTO t VALUES (1)", key=key))
        await until(lambda: database.durable.seq > seq, "the write at the primary")
        assert not write.done()
        with replica.link.cut():
            return await write


async def test_a_lost_reply_is_told_as_unknown(cluster: Cluster) -> None:
    """The write happened; the client is told that it may have, and not to repeat it blindly."""
    reply = await write_with_lost_reply(cluster.replicas[0], cluster, None)
    assert reply.status == 503
    assert reply.answer.should_retry is False
    assert (await cluster.primary.sql(COUNT)).value == 1


async def test_a_lost_reply_with_a_key_may_be_asked_for_again(cluster: Cluster) -> None:
    """The retry, through another node, gets the first answer and writes nothing."""
    reply = await write_with_lost_reply(cluster.replicas[0], cluster, "key-1")
    assert reply.status == 503
    assert reply.answer.should_retry is True
    again = await cluster.replicas[1].sql("INSERT INTO t VALUES (1)", key="key-1")
    assert again.status == 200
    assert again.meta["changes"] == 1
    assert (await cluster.primary.sql(COUNT)).value == 1
    direct = await cluster.primary.sql("INSERT INTO t VALUES (1)", key="key-1")
    assert (direct.rows, direct.meta["changes"]) == (again.rows, again.meta["changes"])
    await cluster.equal()


async def test_a_key_holds_across_a_restart_of_the_primary(cluster: Cluster) -> None:
    """The stored answer is part of the database."""
    first = await cluster.replicas[0].sql("INSERT INTO t VALUES (1)", key="key-1")
    await cluster.primary.stop()
    await cluster.start_primary()
    again = await cluster.primary.sql("INSERT INTO t VALUES (1)", key="key-1")
    assert (again.rows, again.meta["changes"]) == (first.rows, first.meta["changes"])
    assert (await cluster.primary.sql(COUNT)).value == 1


async def test_a_key_is_for_one_request(cluster: Cluster) -> None:
    """The same key with other content is a mistake of the client: 400, nothing done."""
    await cluster.primary.sql("INSERT INTO t VALUES (1)", key="key-1")
    for node in cluster.nodes:
        reply = await node.sql("INSERT INTO t VALUES (2)", key="key-1")
        assert reply.status == 400, node.name
        assert "key-1" in reply.message
    assert (await cluster.primary.sql(COUNT)).value == 1


async def test_concurrent_tries_with_one_key_write_once(cluster: Cluster) -> None:
    """Ten tries at the same time over three nodes: one write, one answer for all."""
    replies = await asyncio.gather(
        *(
            cluster.nodes[number % 3].sql("INSERT INTO t VALUES (1)", key="key-1")
            for number in range(10)
        )
    )
    assert {reply.status for reply in replies} == {200}
    assert {reply.meta["changes"] for reply in replies} == {1}
    assert len({reply.meta["last_row_id"] for reply in replies}) == 1
    assert (await cluster.primary.sql(COUNT)).value == 1


async def test_a_large_answer_with_a_key_is_kept_without_its_rows(cluster: Cluster) -> None:
    """The write is done and answered whole; its retry is told that it was done."""
    sql = (
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        "WHERE i < 30) SELECT hex(randomblob(50000)) FROM n RETURNING x"
    )
    first = await cluster.replicas[0].sql(sql, key="key-1")
    assert first.status == 200, first.message[:200]
    assert len(first.rows) == 30
    again = await cluster.replicas[1].sql(sql, key="key-1")
    assert again.status == 200
    assert b"earlier request" in again.answer.body
    assert (await cluster.primary.sql(COUNT)).value == 30


@pytest.mark.parametrize("size", [1_900_000, 33_000_000, 50_000_000])
async def test_large_bodies_pass_the_link(cluster: Cluster, size: int) -> None:
    """A body of the size that HTTP takes arrives at the primary, or is refused, never lost."""
    body = {
        "batch": [{"sql": "INSERT INTO t VALUES (?)", "params": ["x" * 1_900_000]}]
        * (size // 1_900_000)
    }
    reply = await cluster.replicas[0].ask(body)
    if size < 40_000_000:
        assert reply.status == 200, reply.message[:200]
        assert (await cluster.primary.sql(COUNT)).value == size // 1_900_000
    else:
        assert reply.status == 400
        assert "split" in reply.message
        assert (await cluster.primary.sql(COUNT)).value == 0
    await cluster.equal()


async def test_an_answer_too_large_for_the_link_is_refused(cluster: Cluster) -> None:
    """What the primary could answer itself and cannot send is an error with advice, not silence.

    Method: blobs are arrays of numbers in JSON, so that 12 MB of them are about 45 MB.
    """
    for _ in range(10):
        await cluster.primary.run("INSERT INTO t SELECT randomblob(1200000)")
    reply = await cluster.replicas[0].sql("SELECT x FROM t")
    assert reply.status == 400
    assert "fewer" in reply.message + reply.answer.body.decode()


async def test_a_long_write_does_not_hold_up_reads_on_replicas(cluster: Cluster) -> None:
    """A write of some hundred milliseconds runs on a thread; point reads go on everywhere."""
    replica = cluster.replicas[0]
    sql = (
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        "WHERE i < 200000) SELECT i FROM n"
    )
    write = asyncio.create_task(replica.sql(sql))
    reads = 0
    while not write.done():
        for node in (replica, cluster.primary):
            reply = await node.sql(COUNT, session="first-unconstrained")
            assert reply.value in (0, 200_000)
            reads += 1
    assert (await write).meta["changes"] == 200_000
    assert reads > 2
    await cluster.equal()


async def test_an_oversized_write_is_bounded_by_its_deadline(cluster: Cluster) -> None:
    """A write without end is undone and refused; the primary goes on."""
    await cluster.primary.stop()
    cluster.configure(cluster.primary, query_deadline_s=2.0)
    await cluster.start_primary()
    endless = (
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i FROM n"
    )
    reply = await cluster.primary.sql(endless)
    assert reply.status == 400
    assert " 2 s" in reply.message
    assert await cluster.primary.run("INSERT INTO t VALUES (1)")
    assert (await cluster.primary.sql(COUNT)).value == 1
    database = cluster.primary.database()
    assert isinstance(database, PrimaryDatabase)
    assert not database.problem


async def test_an_answer_too_large_for_the_link_is_refused_before_the_commit(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be told of a write through a replica is not done; with a key neither.

    Method: make the bound small. Ask the primary itself: it has no such bound.
    """
    monkeypatch.setattr(primary_queries, "ANSWER_BYTES_MAX", 50_000)
    monkeypatch.setattr(replica_door, "ANSWER_BYTES_MAX", 50_000)
    insert = "INSERT INTO t VALUES (hex(zeroblob(30000))) RETURNING *"
    slow = (
        f"{insert}, (WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 200000)"
    )
    replica = cluster.replicas[0]
    for sql in (insert, f"{slow} SELECT count(*) FROM n)"):
        for key in (None, "once"):
            reply = await replica.sql(sql, key=key)
            assert reply.status == 400
            assert "nothing was done" in reply.message
            assert reply.answer.should_retry is None
    assert (await cluster.primary.sql(COUNT)).value == 0
    assert (await cluster.primary.sql(insert)).status == 200
    assert (await replica.sql("INSERT INTO t VALUES (1) RETURNING *", key="once")).status == 200
    reply = await replica.sql("SELECT * FROM t")
    assert (reply.status, "too large" in reply.message) == (400, True)


async def test_a_replica_may_not_have_too_many_requests_under_way(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary bounds them by number and by size, and says that nothing was done.

    Method: bounds of one request, and of none of its size.
    """
    slow = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 400000)"
    replica, other = cluster.replicas
    monkeypatch.setattr(replica_door, "_FORWARDS_MAX", 1)
    first = asyncio.create_task(replica.sql(f"{slow} SELECT max(x) FROM n"))
    second = asyncio.create_task(replica.sql("INSERT INTO t VALUES (1)"))
    third = asyncio.create_task(other.sql("INSERT INTO t VALUES (2)"))
    refused = await second
    assert (refused.status, refused.answer.should_retry) == (503, True)
    assert "under way" in refused.message
    assert (await third).status == 200  # its replica has a bound of its own
    assert (await first).value == 400_000
    monkeypatch.setattr(replica_door, "_FORWARDS_BYTES_MAX", 20)
    assert (await replica.sql("INSERT INTO t VALUES (3)")).status == 503
    monkeypatch.setattr(replica_door, "_FORWARDS_BYTES_MAX", 2000)
    for _ in range(50):  # what was answered does not count any more
        assert (await replica.sql("INSERT INTO t VALUES (4)")).status == 200
    assert (await cluster.primary.sql(COUNT)).value == 51


def test_a_key_is_of_one_form_of_answer() -> None:
    """The same body to another route is another request: its answer looks otherwise."""
    of_query, of_raw = (IdempotencyKey.of("key", form, b"{}") for form in ("query", "raw"))
    assert of_query == IdempotencyKey.of("key", "query", b"{}")
    assert of_query != of_raw
