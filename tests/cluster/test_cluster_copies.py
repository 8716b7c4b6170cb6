"""Replicas that are far behind, fresh, damaged or interrupted come to the primary's exact state."""

import asyncio
import shutil
from functools import partial
from pathlib import Path

import pytest

from engine.recovery import DB_NAME
from engine.wal import PAGE_SIZE
from replica.database import ReplicaDatabase
from tests.cluster.running_cluster import Cluster, NodeUnderTest
from tests.waiting import until

COUNT = "SELECT count(*) FROM t"
FILL = "INSERT INTO t SELECT randomblob(1500) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "


def fill(rows: int) -> str:
    """SQL that adds so many rows of 1,500 random bytes."""
    return f"{FILL} SELECT i + 1 FROM n WHERE i < {rows}) SELECT i FROM n)"


def damage(folder: Path, page: int) -> None:
    """Change a byte of a page of a closed database."""
    with (folder / DB_NAME).open("r+b") as file:
        file.seek((page - 1) * PAGE_SIZE + 2000)
        old = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([old[0] ^ 0x55]))


def has_healed_since(database: ReplicaDatabase, before: float) -> bool:
    return database._copy_asked_at > before and database.is_here


def copies_of(replica: NodeUnderTest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The databases of which copies are begun from now on, by uuid."""
    begun: list[str] = []
    begin = ReplicaDatabase.begin_copy

    def noted(self: ReplicaDatabase, message: object) -> None:
        begun.append(self.uuid.hex())
        begin(self, message)  # type: ignore[arg-type]

    monkeypatch.setattr(ReplicaDatabase, "begin_copy", noted)
    return begun


async def test_a_fresh_replica_gets_everything(cluster: Cluster) -> None:
    """A third replica joins a cluster in use, from the logs' very beginning."""
    await cluster.create("other")
    await cluster.primary.run("CREATE TABLE o AS SELECT 1 AS x", db="other")
    await cluster.primary.run(fill(500))
    late = await cluster.add_replica()
    assert await cluster.equal() == late.shown()["checksum"]
    await cluster.equal("other")


async def test_a_stale_replica_takes_the_rest_from_the_log(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it lacks is streamed; nothing is copied, nothing is sent twice."""
    replica = cluster.replicas[0]
    await replica.stop()
    copies = copies_of(replica, monkeypatch)
    for number in range(50):
        await cluster.primary.run("INSERT INTO t VALUES (?)", number)
    await replica.start()
    await cluster.equal()
    assert not copies


@pytest.mark.parametrize("loses", ["data", "nothing"])
async def test_a_replica_behind_a_trimmed_log_copies_the_file(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, loses: str
) -> None:
    """Far behind, or empty, when the log does not reach back: a copy of the file, then the log."""
    replica = cluster.replicas[0]
    await replica.stop()
    if loses == "data":
        shutil.rmtree(replica.config.data_dir)
    await cluster.primary.stop()
    cluster.configure(cluster.primary, log_bytes_max=64 * 1024)
    await cluster.start_primary()
    for _ in range(4):
        await cluster.primary.run(fill(400))
        await cluster.primary.run("DELETE FROM t WHERE rowid % 3 = 0")
    await cluster.primary.stop()  # closing moves the base, and the log is trimmed up to it
    await cluster.start_primary()
    tail = cluster.primary.database().ends.tail  # type: ignore[union-attr]
    assert tail.seq > 2, "the log was not trimmed"
    copies = copies_of(replica, monkeypatch)
    await replica.start()
    await cluster.equal()
    assert replica.database().uuid.hex() in copies
    await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.equal()


async def test_a_file_damaged_while_closed_is_copied_anew(cluster: Cluster) -> None:
    """One flipped bit on the disk is found at the next start and healed without a hand."""
    replica = cluster.replicas[0]
    await cluster.primary.run(fill(50))
    await cluster.caught_up()
    folder = replica.folder()
    await replica.stop()
    damage(folder, 5)
    await replica.start()
    await until(lambda: replica.is_following, "the link")
    reply = await replica.sql(COUNT, session="first-unconstrained")
    assert reply.rows == [[50]], "meanwhile the primary is asked"
    await until(lambda: replica.has_reached(3), "healed")
    await cluster.equal()
    await until(lambda: replica.node.readiness()[0], "ready again")


async def test_a_damaged_log_is_replaced_by_a_copy(cluster: Cluster) -> None:
    """The replica's own log may be destroyed: its history is the primary's."""
    replica = cluster.replicas[0]
    await cluster.primary.run(fill(50))
    await cluster.caught_up()
    folder = replica.folder()
    await replica.stop()
    for segment in (folder / "log").glob("*.log"):
        data = bytearray(segment.read_bytes())
        data[200] ^= 1
        segment.write_bytes(data)
    await replica.start()
    await until(lambda: replica.node.find("shop") is not None, "the catalog")
    await cluster.equal()


async def test_a_damaged_catalog_heals(cluster: Cluster) -> None:
    """The catalog is a database like the others, also in this."""
    replica = cluster.replicas[0]
    catalog = replica.replica._catalog_database
    assert catalog is not None
    await replica.stop()
    damage(catalog.folder, 2)
    await replica.start()
    await cluster.create("after")
    await cluster.caught_up("after")
    await cluster.equal()


async def test_pages_that_differ_stop_the_database_and_heal(cluster: Cluster) -> None:
    """A checksum that differs after a commit: no reader sees that state, a copy replaces it.

    Method: one page hash in memory is wrong, as if the file were.
    """
    replica = cluster.replicas[0]
    async with replica.replica_of().demand.used() as opened:
        opened.live.pages.rolling ^= 1
    session = await cluster.primary.run("INSERT INTO t VALUES (1)")
    reply = await replica.sql(COUNT, session=session)
    assert reply.rows == [[1]]
    await cluster.equal()
    assert replica.replica_of().demand.current is not opened
    assert not replica.replica_of().problem


async def test_damage_that_a_query_meets_is_healed(cluster: Cluster) -> None:
    """SQLite finds a page malformed while it is open: forwarded, and copied anew.

    Method: overwrite the table's root page in the file of the open database after a checkpoint.
    """
    replica = cluster.replicas[0]
    await cluster.primary.run(fill(2000))
    await cluster.caught_up()
    database = replica.replica_of()
    async with database.demand.closed():
        pass
    async with database.demand.used() as opened:
        with (replica.folder() / DB_NAME).open("r+b", buffering=0) as file:
            for page in range(3, 400):
                file.seek((page - 1) * PAGE_SIZE)
                file.write(b"\x5a" * PAGE_SIZE)
        assert opened.live.pages.page_count > 400
    reply = await replica.sql("SELECT sum(length(x)) FROM t", session="first-unconstrained")
    assert reply.rows == [[2000 * 1500]]
    assert reply.meta["served_by"] == cluster.primary.name
    await until(lambda: not database.problem and database.is_here, "healed")
    again = await replica.sql("SELECT sum(length(x)) FROM t", session="first-unconstrained")
    assert again.meta["served_by"] == replica.name
    await cluster.equal()


async def test_copying_while_writes_go_on(cluster: Cluster) -> None:
    """The copy is of a file that changes: with the commits since its base it is exact.

    Method: the primary's file is checkpointed over and over while it is copied.
    """
    await cluster.primary.run(fill(2500))
    await cluster.caught_up()
    replica = cluster.replicas[0]
    stop = asyncio.Event()

    async def writing() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            await cluster.primary.run(
                "UPDATE t SET x = randomblob(1500) WHERE rowid = ?", number % 2500
            )
            opened = cluster.primary.database().demand.current
            assert opened is not None
            opened.committer._writer.wal_frames = 10_000  # type: ignore[union-attr]
        return number

    writer = asyncio.create_task(writing())
    for _ in range(2):
        before = replica.replica_of()._copy_asked_at
        with replica.link.slowed(40_000_000):
            replica.replica_of().stop_because(RuntimeError("told to heal"))
            await until(partial(has_healed_since, replica.replica_of(), before), "healed")
    stop.set()
    assert await writer > 3
    await cluster.equal()


@pytest.mark.parametrize("after_bytes", [100, 100_000, 3_000_000, 5_900_000])
async def test_a_copy_whose_link_breaks_is_begun_again(cluster: Cluster, after_bytes: int) -> None:
    """Wherever it breaks: at its beginning, in the file, among the commits after it."""
    replica = cluster.replicas[0]
    await cluster.primary.run(fill(4000))
    await cluster.caught_up()
    await replica.stop()
    shutil.rmtree(replica.config.data_dir)
    await cluster.primary.stop()
    cluster.configure(cluster.primary, log_bytes_max=64 * 1024)
    await cluster.start_primary()
    await cluster.primary.run(fill(10))
    await cluster.primary.stop()
    await cluster.start_primary()
    replica.link.cut_after(after_bytes)
    await replica.start()
    await until(lambda: replica.node.find("shop") is not None, "the catalog")
    await cluster.equal()
    assert replica.link.connections >= 2
    left = [path.name for path in replica.folder().parent.iterdir() if "." in path.name]
    assert not left


async def test_a_database_much_smaller_than_its_log_is_copied(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that lacks many times the file's size in log takes the file."""
    replica = cluster.replicas[0]
    await cluster.primary.run(fill(100))
    await cluster.caught_up()
    await replica.stop()
    for _ in range(30):
        await cluster.primary.run(fill(400))
        await cluster.primary.run("DELETE FROM t WHERE rowid > 100")
    await cluster.primary.administer("vacuum", "shop")
    ends = cluster.primary.database().ends  # type: ignore[union-attr]
    assert ends.bytes > 16 * 1024 * 1024 > 4 * ends.page_count * PAGE_SIZE
    copies = copies_of(replica, monkeypatch)
    await replica.start()
    await cluster.equal()
    assert replica.database().uuid.hex() in copies


async def test_reads_go_on_while_a_sound_replica_copies(cluster: Cluster) -> None:
    """The old state is served until the new one takes its place; bookmarks wait for it."""
    replica = cluster.replicas[0]
    await cluster.primary.run(fill(4000))
    await cluster.caught_up()
    with replica.link.slowed(4_000_000):
        replica.replica._receiver.follow([replica.replica_of()], is_copy_wanted=True)
        await until(lambda: replica.replica_of().copied is not None, "a copy under way")
        session = await cluster.primary.run("INSERT INTO t VALUES (1)")
        reply = await replica.sql(COUNT, session="first-unconstrained")
        assert reply.rows == [[4000]]
        assert reply.meta["served_by"] == replica.name
        assert any("copied" in reason for reason in replica.node.readiness()[1])
        waiting = asyncio.create_task(replica.sql(COUNT, session=session, wait_ms=15000))
        await until(lambda: replica.waiting > 0, "a waiting read")
    reply = await waiting
    assert reply.rows == [[4001]]
    assert reply.meta["served_by"] == replica.name
    await cluster.equal()
