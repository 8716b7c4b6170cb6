"""A primary restarts: what is asked through a replica meanwhile is held, or told of clearly."""

import asyncio
import time
from collections.abc import Callable

import pytest

import replica.redial
from d1server.link import PeerLink
from primary.committer import Committer
from replica.redial import HELD_S
from tests.cluster.running_cluster import Cluster, NodeUnderTest
from tests.waiting import until

INSERT = "INSERT INTO t VALUES (?)"


def held(node: NodeUnderTest) -> int:
    return node.replica._receiver._redial.held


def has_lost_its_link(node: NodeUnderTest) -> Callable[[], bool]:
    return lambda: not node.is_following


def has_held(node: NodeUnderTest, count: int) -> Callable[[], bool]:
    return lambda: held(node) == count


async def values(cluster: Cluster) -> list[int]:
    return sorted(row[0] for row in (await cluster.primary.sql("SELECT x FROM t")).rows)


async def test_write_is_held_while_the_primary_restarts(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And done once, as soon as it is back: nobody waits for the pause between two tries.

    Method: the pause between tries is endless for whoever has nothing to ask.
    """
    monkeypatch.setattr(replica.redial, "HELD_S", 1000.0)
    monkeypatch.setattr(replica.redial, "next_pause_s", lambda _away_s: 1000.0)
    await cluster.primary.stop()
    writes = []
    for number, target in enumerate(cluster.replicas):
        await until(has_lost_its_link(target), "the loss noticed")
        writes += [asyncio.create_task(target.sql(INSERT, 10 * number + n)) for n in range(3)]
        await until(has_held(target, 3), "the writes")
    await cluster.start_primary()
    replies = await asyncio.gather(*writes)
    assert [reply.status for reply in replies] == [200] * 6, replies
    assert await values(cluster) == [0, 1, 2, 10, 11, 12]
    await cluster.equal()


async def test_write_is_tried_at_once_however_long_the_primary_was_away(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away the write is refused after one try; the first one after that is taken."""
    monkeypatch.setattr(replica.redial, "HELD_S", 0.0)
    monkeypatch.setattr(replica.redial, "_TRY_S_MAX", 1000.0)
    monkeypatch.setattr(replica.redial, "PAUSE_S_MIN", 0.0)
    monkeypatch.setattr(replica.redial, "next_pause_s", lambda _away_s: 1000.0)
    target = cluster.replicas[0]
    await cluster.primary.stop()
    await until(lambda: not target.is_following, "the loss noticed")
    for number in range(3):
        reply = await target.sql(INSERT, number)
        assert (reply.status, reply.answer.should_retry) == (503, True)
    await cluster.start_primary()
    assert (await target.sql(INSERT, 3)).status == 200
    assert await values(cluster) == [3]


async def test_write_is_not_held_for_long(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica.redial, "HELD_S", 0.3)
    target = cluster.replicas[0]
    with target.link.held():  # a primary that takes connections and says nothing
        target.link.break_connections()
        await until(lambda: not target.is_following, "the loss noticed")
        began = time.monotonic()
        reply = await target.sql(INSERT, 1)
        assert (reply.status, reply.answer.should_retry) == (503, True)
        assert 0.1 < time.monotonic() - began < HELD_S
    await until(lambda: target.is_following, "connected again")
    assert await values(cluster) == []


async def test_write_whose_answer_is_lost_is_not_sent_again(cluster: Cluster) -> None:
    """The next link is there at once; nothing of what was sent over the last one goes over it."""
    target = cluster.replicas[0]
    before = cluster.primary.shown()["durable"]
    with target.link.held(to_primary=False):
        write = asyncio.create_task(target.sql(INSERT, 1))
        await until(lambda: target.waiting > 0, "the write at the primary")
        await until(lambda: cluster.primary.shown()["durable"] != before, "the commit")
        target.link.break_connections()
        reply = await write
    assert (reply.status, reply.answer.should_retry) == (503, False)
    await until(lambda: target.is_following, "connected again")
    assert await values(cluster) == [1]


async def test_primary_that_stops_answers_what_it_was_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that came through a replica before the goodbye is answered; a later one waits.

    Method: writes are slow at the primary, which stops while one of them is under way.
    """
    monkeypatch.setattr(replica.redial, "HELD_S", 1000.0)
    target = cluster.replicas[0]
    gate, came = asyncio.Event(), asyncio.Event()
    write = Committer.write

    async def slow(self: Committer, *args: object, **more: object) -> object:
        came.set()
        await gate.wait()
        return await write(self, *args, **more)  # type: ignore[arg-type]

    goodbyes = []
    send = PeerLink.send

    def watched(self: PeerLink, message: object) -> int:
        goodbyes.append(type(message).__name__ == "Goodbye")
        return send(self, message)  # type: ignore[arg-type]

    monkeypatch.setattr(Committer, "write", slow)
    monkeypatch.setattr(PeerLink, "send", watched)
    first = asyncio.create_task(target.sql(INSERT, 1, key="slow"))  # with a key: the long way
    await asyncio.wait_for(came.wait(), 20)
    stopping = asyncio.create_task(cluster.primary.stop())
    await until(lambda: any(goodbyes), "the goodbye")
    await until(lambda: not target.replica._receiver._following, "the goodbye heard")
    second = asyncio.create_task(target.sql(INSERT, 2))
    await until(has_held(target, 1), "the second write")
    gate.set()
    reply = await first
    assert reply.status == 200, reply
    await stopping
    await cluster.start_primary()
    assert (await second).status == 200
    assert await values(cluster) == [1, 2]
    await cluster.equal()
