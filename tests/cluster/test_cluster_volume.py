"""Large commits, VACUUM, and many sessions at once through real links."""

import asyncio
import json
import random
import time

from tests.cluster.running_cluster import Cluster, Reply
from tests.torture.checker import check
from tests.torture.history import Event, History, Outcome, Read, Write
from tests.torture.workload import NUMBERS, READ_LEDGER, Sql, Workload, seen_by, setup_statements
from tests.waiting import until

COUNT = "SELECT count(*) FROM t"
BLOBS = (
    "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
    "SELECT randomblob(1000000) FROM n"
)


async def test_a_transaction_of_fifty_megabytes(cluster: Cluster) -> None:
    """Through the links in parts; reads go on and see all of it or nothing."""
    write = asyncio.create_task(cluster.replicas[0].sql(BLOBS.format(50)))
    seen = set()
    while not write.done():
        for node in cluster.nodes:
            reply = await node.sql(COUNT, session="first-unconstrained")
            seen.add(reply.value)
        await asyncio.sleep(0.005)
    session = (await write).mark
    assert seen <= {0, 50}
    for node in cluster.replicas:
        reply = await node.sql(COUNT, session=session, wait_ms=60_000)
        assert reply.rows == [[50]]
        assert reply.meta["served_by"] == node.name
    await cluster.equal()


async def test_vacuum_shrinks_every_node(cluster: Cluster) -> None:
    """One commit like others, with readers and writers around it."""
    await cluster.primary.run(BLOBS.format(20))
    await cluster.primary.run("DELETE FROM t WHERE rowid % 4")
    await cluster.primary.run("CREATE TABLE other (x)")
    before = await cluster.equal()
    vacuum = asyncio.create_task(cluster.replicas[0].administer("vacuum", "shop"))
    writes = [
        asyncio.create_task(cluster.nodes[one % 3].sql("INSERT INTO other VALUES (1)"))
        for one in range(30)
    ]
    reply = await vacuum
    assert reply.status == 200
    assert {one.status for one in await asyncio.gather(*writes)} == {200}
    assert await cluster.equal() != before
    sizes = {node.shown()["size_bytes"] for node in cluster.nodes}
    assert len(sizes) == 1
    assert sizes.pop() < 8_000_000
    for node in cluster.nodes:
        assert (await node.sql(COUNT, session="first-unconstrained")).value == 5


async def test_a_slow_replica_never_slows_the_others(cluster: Cluster) -> None:
    """What it does not take stays in the primary's log; it catches up when it can."""
    slow, quick = cluster.replicas
    with slow.link.held():
        for _ in range(30):
            session = await cluster.primary.run("INSERT INTO t SELECT randomblob(1500000)")
            reply = await quick.sql(COUNT, session=session)
            assert reply.meta["served_by"] == quick.name
        unsent = [door._link.unsent_bytes for door in cluster.primary.primary._doors]
        assert max(unsent) < 80 * 1024 * 1024
    await cluster.equal()


class Sessions:
    """Concurrent sessions that hop between the nodes, and what they did and saw."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.workload = Workload(self.rng)
        self.events: list[Event] = []
        self.is_over = False

    async def run(self, name: str) -> None:
        """One session, until it is over."""
        seen = None
        while not self.is_over:
            node = self.rng.choice(self.cluster.nodes)
            invoked = time.monotonic()
            if self.rng.random() < 0.5:
                id_, changes, statements = self.workload.next_write()
                reply = await node.ask(batch(statements), session=seen)
                assert reply.status == 200, reply
                self.events.append(
                    Write(
                        id=id_, session=name, node=node.name, invoked=invoked,
                        completed=time.monotonic(), outcome=Outcome.OK, changes=changes,
                        supplied=seen, bookmark=reply.mark,
                    )
                )  # fmt: skip
            else:
                questions = self.workload.next_read()
                is_fresh = self.rng.random() < 0.1
                wish = "first-primary" if is_fresh else seen or "first-unconstrained"
                reply = await node.ask(batch([one.statement for one in questions]), session=wish)
                assert reply.status == 200, reply
                self.events.append(
                    Read(
                        session=name, node=node.name, invoked=invoked,
                        completed=time.monotonic(), seen=seen_by(questions, as_objects(reply)),
                        supplied=None if is_fresh else seen, bookmark=reply.mark,
                        is_fresh=is_fresh,
                    )
                )  # fmt: skip
            seen = max(seen, reply.mark) if seen is not None else reply.mark


def batch(statements: list[Sql]) -> dict[str, object]:
    return {"batch": [{"sql": one.sql, "params": one.params} for one in statements]}


def as_objects(reply: Reply) -> list[list[dict[str, object]]]:
    """The rows of a /raw answer as those of /query."""
    body = json.loads(reply.answer.body)
    return [
        [dict(zip(one["results"]["columns"], row, strict=True)) for row in one["results"]["rows"]]
        for one in body["result"]
    ]


async def test_fifty_sessions_hop_between_the_nodes(cluster: Cluster) -> None:
    """Every promise of sessions, over thousands of requests, with links cut and held meanwhile."""
    await cluster.primary.ask(batch(setup_statements()))
    await cluster.caught_up()
    base = cluster.primary.database().durable
    sessions = Sessions(cluster, seed=20)
    running = [asyncio.create_task(sessions.run(f"s{number}")) for number in range(50)]
    for round_ in range(6):
        wanted = 60 * (round_ + 1)
        await until(lambda wanted=wanted: len(sessions.events) > wanted, "some requests")  # type: ignore[misc]
        with cluster.replicas[round_ % 2].link.held(to_primary=False):
            await asyncio.sleep(0.1)
    sessions.is_over = True
    await asyncio.gather(*running)
    await cluster.equal()
    ledger: list[int] = []
    place = 0
    while True:
        rows = (await cluster.primary.sql(READ_LEDGER, place)).rows
        if not rows:
            break
        place = rows[-1][0]
        ledger += [row[1] for row in rows]
    history = History(
        events=sorted(sessions.events, key=lambda event: event.completed),
        ledger=ledger,
        initial=NUMBERS,
        base=base,
        head=cluster.primary.database().durable,
    )
    assert len(history.events) > 300
    assert not check(history)
    await until(lambda: all(node.waiting == 0 for node in cluster.replicas), "nobody waits")
