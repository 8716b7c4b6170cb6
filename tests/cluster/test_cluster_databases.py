"""Databases that come and go: on all nodes at once, and never mixed up."""

import asyncio
from functools import partial
from pathlib import Path

from engine.files import Disk
from primary.database import PrimaryDatabase
from replica.database import ReplicaDatabase
from tests.cluster.running_cluster import Cluster
from tests.waiting import until

COUNT = "SELECT count(*) FROM t"


def is_gone(folder: Path) -> bool:
    return not folder.exists()


def are_mostly_closed(databases: list[PrimaryDatabase | ReplicaDatabase]) -> bool:
    return sum(one.demand.current is not None for one in databases) <= 20


async def test_a_new_database_answers_on_every_node_at_once(cluster: Cluster) -> None:
    """Right after the answer to its creation, also on a replica that has not heard of it."""
    with cluster.replicas[0].link.held(to_primary=False):
        made = asyncio.create_task(cluster.replicas[1].create("fresh"))
        reply = await made
        assert reply.status == 200
        # This replica cannot hear: it asks the primary, whose answer waits in the held link.
        asked = asyncio.create_task(cluster.replicas[0].sql("SELECT 1", db="fresh"))
        await until(
            lambda: cluster.replicas[0].replica._receiver.forwarder.waiting > 0, "a forward"
        )
    assert (await asked).rows == [[1]]
    for node in cluster.nodes:
        for wish in (None, "first-unconstrained", "first-primary"):
            answer = await node.sql("SELECT 1", db="fresh", session=wish)
            assert answer.rows == [[1]], (node.name, wish, answer)


async def test_a_deleted_database_answers_on_no_node(cluster: Cluster) -> None:
    """Right after the answer to its deletion, whatever the session's wish."""
    session = await cluster.primary.run("INSERT INTO t VALUES (1)")
    for _ in range(5):
        await cluster.caught_up()
        folders = [node.folder() for node in cluster.nodes]
        reply = await cluster.replicas[0].administer("delete", "shop")
        assert reply.status == 200
        for node in cluster.nodes:
            for wish in (None, "first-unconstrained", "first-primary", session):
                answer = await node.sql(COUNT, session=wish)
                assert answer.status == 404, (node.name, wish, answer)
        for folder in folders:
            await until(partial(is_gone, folder), f"{folder} removed")
        await cluster.create()
        await cluster.primary.run("CREATE TABLE t (x)")


async def test_deleting_waits_for_a_slow_replica(cluster: Cluster) -> None:
    """The answer comes when the connected replicas have forgotten the database."""
    replica = cluster.replicas[0]
    with replica.link.held():
        deleting = asyncio.create_task(cluster.primary.administer("delete", "shop"))
        await until(lambda: cluster.replicas[1].node.find("shop") is None, "one has forgotten")
        assert not deleting.done()
    reply = await deleting
    assert reply.status == 200
    assert (await replica.sql(COUNT, session="first-unconstrained")).status == 404


async def test_a_reused_name_is_another_database(cluster: Cluster) -> None:
    """Bookmarks of the old one are refused on every node, reads see the new one only."""
    old = await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.caught_up()
    await cluster.primary.administer("delete", "shop")
    await cluster.create()
    new = await cluster.primary.run("CREATE TABLE t (x)")
    for node in cluster.nodes:
        reply = await node.sql(COUNT, session=old)
        assert reply.status == 400, (node.name, reply)
        assert "another database" in reply.message
        assert (await node.sql(COUNT, session=new)).rows == [[0]]


async def test_a_replica_that_missed_the_exchange_asks_the_primary(cluster: Cluster) -> None:
    """A bookmark of the new database is good on a replica that still has the old one.

    Method: the catalog's commits are kept from one replica, forwards are not.
    """
    replica = cluster.replicas[0]
    catalog = replica.replica._catalog_database
    assert catalog is not None
    kept: list[list[bytes]] = []
    catalog.receive = kept.append  # type: ignore[method-assign, assignment]
    deleting = asyncio.create_task(cluster.primary.administer("delete", "shop"))
    await until(lambda: cluster.primary.node.find("shop") is None, "deleted at the primary")
    await cluster.create()
    new = await cluster.primary.run("CREATE TABLE t (x)")
    reply = await replica.sql(COUNT, session=new)
    assert reply.rows == [[0]]
    assert reply.meta["served_by"] == cluster.primary.name
    del catalog.receive
    for raw_parts in kept:
        catalog.receive(raw_parts)
    assert (await deleting).status == 200
    await cluster.equal()


async def test_names_are_taken_once(cluster: Cluster) -> None:
    """Of many who create one name at once exactly one succeeds; deletes likewise."""
    made = await asyncio.gather(*(cluster.nodes[n % 3].create("one") for n in range(9)))
    assert sorted(reply.status for reply in made) == [200] + [400] * 8
    gone = await asyncio.gather(
        *(cluster.nodes[n % 3].administer("delete", "one") for n in range(9))
    )
    assert sorted(reply.status for reply in gone) == [200] + [404] * 8


class UnsyncedDisk(Disk):
    """Power cuts are not what is tested here, and 3,000 syncs take their time."""

    def fsync(self, fd: int) -> None:
        """Leave it to the system."""

    fdatasync = fsync

    def sync_folder(self, folder: Path) -> None:
        """Leave it to the system."""


async def test_two_hundred_databases_with_few_open(empty_cluster: Cluster) -> None:
    """Idle ones are closed on all nodes, and every one answers and replicates when asked."""
    cluster = empty_cluster
    await cluster.add_primary(UnsyncedDisk(), idle_close_s=0.2, open_databases_max=20)
    for _ in range(2):
        await cluster.add_replica(UnsyncedDisk(), idle_close_s=0.2, open_databases_max=20)
    names = [f"db-{number}" for number in range(200)]
    for start in range(0, 200, 25):
        replies = await asyncio.gather(*map(cluster.primary.create, names[start : start + 25]))
        assert {reply.status for reply in replies} == {200}
    sessions = {
        name: await cluster.replicas[0].run("CREATE TABLE t AS SELECT 7 AS x", db=name)
        for name in names
    }
    for name, session in sessions.items():
        reply = await cluster.replicas[1].sql("SELECT x FROM t", db=name, session=session)
        assert reply.rows == [[7]], name
    for node in cluster.nodes:
        databases = [node.database(name) for name in names]
        await until(partial(are_mostly_closed, databases), "databases closed")
    for name in names[::10]:
        await cluster.equal(name)


async def test_a_replica_catches_up_with_creates_and_deletes(cluster: Cluster) -> None:
    """What happened while it was away happens when it is back; strange folders are gone."""
    replica = cluster.replicas[0]
    await cluster.create("short-lived")
    await cluster.caught_up("short-lived")
    folder = replica.folder("short-lived")
    assert folder.exists()
    await replica.stop()
    await cluster.primary.administer("delete", "short-lived")
    await cluster.create("new")
    await cluster.primary.run("CREATE TABLE n (x)", db="new")
    await replica.start()
    await cluster.caught_up("new")
    await until(partial(is_gone, folder), "the old folder removed")
    reply = await replica.sql("SELECT 1", db="short-lived", session="first-unconstrained")
    assert reply.status == 404


async def test_a_database_used_by_the_fast_path_alone_stays_open(cluster: Cluster) -> None:
    """Point reads keep a database open: they would be slow once in a while otherwise."""
    await cluster.primary.stop()
    cluster.configure(cluster.primary, idle_close_s=0.1)
    await cluster.start_primary()
    assert (await cluster.primary.sql(COUNT)).rows == [[0]]
    database = cluster.primary.database()
    opened = database.demand.current
    assert opened is not None
    for _ in range(40):
        await cluster.primary.sql(COUNT)
        await asyncio.sleep(0.01)
    assert database.demand.current is opened


async def test_info_and_list_tell_the_same_on_all_nodes(cluster: Cluster) -> None:
    """Administration through a replica is the primary's."""
    await cluster.create("second")
    bodies = [(await node.administer("list")).answer.body for node in cluster.nodes]
    assert len(set(bodies)) == 1
    for node in cluster.nodes:
        assert (await node.administer("info", "second")).status == 200
        assert (await node.administer("info", "none")).status == 404
        assert (await node.create("second")).status == 400
        assert (await node.create("no/slashes")).status == 400
