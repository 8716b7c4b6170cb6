"""The primary stops, comes back, or is another one: replicas go on serving, and say the truth."""

import asyncio
import shutil
import time
import uuid
from functools import partial
from pathlib import Path

import pytest

import d1server.link
import replica.receiver
import replica.redial
from proto.tokens import Bookmark
from replica.receiver import ReceiverState
from tests.cluster.running_cluster import Cluster, NodeUnderTest, running_cluster
from tests.waiting import SOON_S_MAX, until

COUNT = "SELECT count(*) FROM t"


def has_lost_its_link(node: NodeUnderTest) -> bool:
    return not node.is_following


def is_ready(node: NodeUnderTest) -> bool:
    return node.node.readiness()[0]


def is_at(node: NodeUnderTest, bookmark: Bookmark) -> bool:
    return bool(node.shown()["applied"] == bookmark.text)


def has_aside(databases: Path, name: str) -> bool:
    return bool(list(databases.glob(f"{name}.ahead-*/log")))


def has_grown(numbers: set[int], wanted: int) -> bool:
    return len(numbers) >= wanted


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redial soon: the length of pauses is not what is tested here."""
    monkeypatch.setattr(replica.redial, "PAUSE_S_MAX", 0.1)
    monkeypatch.setattr(replica.redial, "HELD_S", 0.3)
    monkeypatch.setattr(replica.receiver, "_REFUSED_PAUSE_S", 0.1)


async def test_reads_go_on_and_writes_are_refused_while_the_primary_is_away(
    cluster: Cluster,
) -> None:
    session = await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.caught_up()
    await cluster.primary.stop()
    for target in cluster.replicas:
        await until(partial(has_lost_its_link, target), "the loss noticed")
        for wish in (session, "first-unconstrained"):
            reply = await target.sql(COUNT, session=wish)
            assert reply.rows == [[1]]
            assert reply.meta["served_by"] == target.name
        for primary_wish in (None, "first-primary"):
            reply = await target.sql(COUNT, session=primary_wish)
            assert reply.status == 503
            assert reply.answer.should_retry is True
        write = await target.sql("INSERT INTO t VALUES (2)", session=session)
        assert write.status == 503
        assert write.answer.should_retry is True
        assert write.answer.retry_after_s is not None
        made = await target.create("never")
        assert made.status == 503
        ready, reasons = target.node.readiness()
        assert not ready
        assert any("not connected" in reason for reason in reasons)
    await cluster.start_primary()
    for target in cluster.replicas:
        await until(partial(is_ready, target), "ready by itself")
    assert (await cluster.replicas[0].sql("INSERT INTO t VALUES (2)")).status == 200
    await cluster.equal()


async def test_a_read_whose_bookmark_cannot_come_ends_in_time(cluster: Cluster) -> None:
    """The primary is away and took the commit with it: the policy decides, within the wait."""
    target = cluster.replicas[0]
    with target.link.cut():
        session = await cluster.primary.run("INSERT INTO t VALUES (1)")
        await until(lambda: not target.is_following, "the loss noticed")
        began = time.monotonic()
        reply = await target.sql(COUNT, session=session, wait_ms=200)
        assert reply.status == 503
        assert reply.answer.should_retry is True
        assert 0.2 <= time.monotonic() - began < SOON_S_MAX


async def test_foreign_and_garbage_bookmarks_are_400_without_a_primary(cluster: Cluster) -> None:
    await cluster.create("other")
    other = await cluster.primary.run("CREATE TABLE o (x)", db="other")
    head = await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.caught_up()
    await cluster.primary.stop()
    target = cluster.replicas[0]
    await until(lambda: not target.is_following, "the loss noticed")
    for bookmark in (other, head._replace(digest=head.digest[:4] + bytes(12))):
        reply = await target.sql(COUNT, session=bookmark)
        assert reply.status == 400


async def test_a_replica_starts_and_serves_without_its_primary(cluster: Cluster) -> None:
    """From its own folder alone; it finds the primary when that is there."""
    session = await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.caught_up()
    target = cluster.replicas[0]
    await target.stop()
    await cluster.primary.stop()
    await target.start()
    reply = await target.sql(COUNT, session=session)
    assert reply.rows == [[1]]
    assert (await target.sql("INSERT INTO t VALUES (2)")).status == 503
    await cluster.start_primary()
    await until(lambda: target.is_following, "connected")
    assert (await target.sql("INSERT INTO t VALUES (2)")).status == 200
    await cluster.equal()


async def test_the_primary_restarts_under_load(cluster: Cluster) -> None:
    """Replicas stay; every acknowledged write is there; whoever was told to retry may."""
    acknowledged: set[int] = set()
    done = False

    async def writer(first: int) -> None:
        number = first
        while not done:
            number += 1
            node = cluster.replicas[number % 2]
            reply = await node.sql("INSERT INTO t VALUES (?)", number, key=f"k{number}")
            while reply.status == 503:
                assert reply.answer.should_retry is not None
                await asyncio.sleep(0.01)
                reply = await node.sql("INSERT INTO t VALUES (?)", number, key=f"k{number}")
            assert reply.status == 200, reply
            acknowledged.add(number)

    writers = [asyncio.create_task(writer(10_000 * one)) for one in range(4)]
    for _ in range(3):
        wanted = len(acknowledged) + 20
        await until(partial(has_grown, acknowledged, wanted), "progress")
        await cluster.primary.stop()
        await cluster.start_primary()
    done = True
    await asyncio.gather(*writers)
    rows = (await cluster.primary.sql("SELECT x FROM t")).rows
    assert sorted(row[0] for row in rows) == sorted(acknowledged)
    await cluster.equal()


async def test_a_silent_link_is_given_up(
    empty_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that stands and carries nothing is no connection: both sides drop it."""
    cluster = empty_cluster
    await cluster.add_primary()
    target = await cluster.add_replica()
    await cluster.create()
    await cluster.caught_up()
    with monkeypatch.context() as impatient, target.link.held():
        impatient.setattr(d1server.link, "SILENCE_S_MAX", 2.0)
        await until(lambda: not target.is_following, "given up here")
        doors = cluster.primary.primary._doors
        await until(lambda: not any(door.is_welcome for door in doors), "given up there")
    await until(lambda: target.is_following, "connected again")
    await cluster.primary.run("CREATE TABLE t (x)")
    await cluster.equal()


async def test_links_that_break_all_the_time(cluster: Cluster) -> None:
    """Cut again and again in the middle of commits of all sizes: nothing lost, nothing twice."""
    done = False

    async def writer() -> None:
        number = 0
        while not done:
            number += 1
            size = 20_000 if number % 5 else 400_000
            await cluster.primary.run("INSERT INTO t VALUES (randomblob(?))", size)

    writing = asyncio.create_task(writer())
    for count in range(8):
        wanted = [(target.link, target.link.connections + 1) for target in cluster.replicas]
        for link, _ in wanted:
            link.cut_after(1000 + 200_000 * count)
        await until(lambda wanted=wanted: all(link.connections >= n for link, n in wanted), "again")  # type: ignore[misc]
    done = True
    await writing
    await cluster.equal()


async def test_a_replica_of_another_cluster_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """Its data is another history: said on both sides, and nothing of it is touched."""
    target = cluster.replicas[0]
    session = await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.caught_up()
    async with running_cluster(tmp_path / "second") as second:
        await second.add_primary()
        await second.create()
        target.link.aim(*second.primary.primary.replication_address)
        target.link.break_connections()
        await until(lambda: target.replica._receiver.state is ReceiverState.REFUSED, "the refusal")
        ready, reasons = target.node.readiness()
        assert not ready
        assert any("cluster" in reason for reason in reasons)
        assert (await target.sql(COUNT, session=session)).rows == [[1]]
        assert not second.primary.node.status()["replicas"]
        target.link.aim(*cluster.primary.primary.replication_address)
        await until(lambda: target.is_following, "back at its own primary")
    await cluster.primary.run("INSERT INTO t VALUES (2)")
    await cluster.equal()


async def test_a_primary_that_was_set_back_is_followed_back(cluster: Cluster) -> None:
    """Restored from an older copy of its folder: the replicas are ahead, and take its state.

    What was ahead is another history; a bookmark of it is refused, and the lag is none.
    """
    await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.caught_up()
    await cluster.primary.stop()
    copy = cluster.folder / "backup"
    shutil.copytree(cluster.primary.config.data_dir, copy)
    await cluster.start_primary()
    lost = await cluster.primary.run("INSERT INTO t VALUES ('lost')")
    for _ in range(5):
        lost = await cluster.primary.run("INSERT INTO t VALUES ('lost')")
    await cluster.create("later")
    await cluster.primary.run("CREATE TABLE t (a)", db="later")
    await until(lambda: all(node.node.find("later") for node in cluster.replicas), "known")
    await cluster.caught_up("later")
    later = str(uuid.UUID(bytes=cluster.replicas[0].database("later").uuid))
    await cluster.caught_up()
    await cluster.primary.stop()
    shutil.rmtree(cluster.primary.config.data_dir)
    copy.rename(cluster.primary.config.data_dir)
    await cluster.start_primary()
    other = await cluster.primary.run("INSERT INTO t VALUES ('other')")
    for target in cluster.replicas:
        await until(partial(is_at, target, other), "taken back")
        assert target.shown()["lag_commits"] == 0
        reply = await target.sql(COUNT, session=other)
        assert reply.rows == [[2]]
        refused = await target.sql(COUNT, session=lost)
        assert refused.status == 400
        await until(partial(is_ready, target), "ready")
        # The only copy of commits that the primary has lost is kept for people: of a whole
        # database too, and when the replica starts again.
        kept = target.config.data_dir / "databases"
        assert target.node.find("later") is None
        await until(partial(has_aside, kept, later), "kept")
        asides = sorted(kept.glob("*.ahead-*"))
        assert len(asides) == 3  # the catalog, `shop`, `later`
        await target.stop()
        await target.start()
        assert sorted(kept.glob("*.ahead-*")) == asides
        assert not (kept / later).exists()
    await cluster.equal()
