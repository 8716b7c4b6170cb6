"""Each replica has its name for itself, and keeps it through restarts and broken networks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import d1server.link
import d1server.replica_door
import replica.receiver
from d1server.link import dial
from proto.messages import PROTOCOL_VERSION, Hello, Welcome
from replica.errors import PeerRefused
from replica.greeting import Greeting
from replica.receiver import ReceiverState
from tests.cluster.running_cluster import Cluster, NodeUnderTest
from tests.waiting import until


def hello(name: str, *, node_id: str = "", life: str = "") -> Hello:
    return Hello(PROTOCOL_VERSION, "", name, "WEUR", "http://x", node_id=node_id, life=life)


@contextlib.asynccontextmanager
async def link_of(cluster: Cluster, said: Hello) -> AsyncIterator[Greeting]:
    """A link that says this hello and then nothing more, as half of a broken one does."""
    link = await dial(*cluster.primary.primary.replication_address)
    greeting = Greeting(link, said, None)
    link.on_message = greeting.take
    try:
        yield greeting
    finally:
        link.abort("the test is over")
        if greeting.welcome.done() and not greeting.welcome.cancelled():
            greeting.welcome.exception()


async def welcomed(greeting: Greeting) -> Welcome:
    async with asyncio.timeout(30):
        return await greeting.welcome


def names(cluster: Cluster) -> list[str]:
    shown: Any = cluster.primary.node.status()["replicas"]
    return [one["name"] for one in shown]


def is_refused(node: NodeUnderTest) -> bool:
    return node.replica._receiver.state is ReceiverState.REFUSED


async def test_second_replica_of_a_name_is_refused_while_the_first_one_lives(
    empty_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told whom the name belongs to; it gets in when that one is gone."""
    monkeypatch.setattr(replica.receiver, "_REFUSED_PAUSE_S", 0.1)
    cluster = empty_cluster
    await cluster.add_primary()
    first = await cluster.add_replica()
    await until(lambda: first.is_following, "the first one")
    second = await cluster.add_replica(starts=False)
    cluster.configure(second, name=first.name)
    await second.start()
    await until(lambda: is_refused(second), "the refusal")
    reason = second.replica._receiver.reason
    assert f"a replica named {first.name} is connected from 127.0.0.1" in reason
    assert first.config.url in reason
    assert "--name of its own" in reason
    assert first.is_following
    assert names(cluster) == [first.name]
    await first.stop()
    await until(lambda: second.is_following, "the second one")
    await cluster.create()
    await cluster.caught_up(nodes=[second])


async def test_replica_that_comes_back_takes_its_name_from_a_dead_link(
    empty_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine lost power: nobody has told the primary that the old link is dead."""
    monkeypatch.setattr(d1server.replica_door, "_NAME_S", 0.3)
    monkeypatch.setattr(d1server.link, "SILENCE_S_MAX", 1000.0)
    cluster = empty_cluster
    await cluster.add_primary()
    async with link_of(cluster, hello("weur", life="before")) as dead:
        await welcomed(dead)
        async with link_of(cluster, hello("weur", life="after")) as alive:
            await welcomed(alive)
            assert names(cluster) == ["weur"]
            await until(lambda: len(cluster.primary.primary._doors) == 1, "the dead link's end")


async def test_same_process_takes_its_name_along_at_once(
    empty_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(d1server.replica_door, "_NAME_S", 1000.0)
    monkeypatch.setattr(d1server.link, "SILENCE_S_MAX", 1000.0)
    cluster = empty_cluster
    await cluster.add_primary()
    async with (
        link_of(cluster, hello("weur", life="one")) as old,
        link_of(cluster, hello("apac", life="two")) as other,
    ):
        await welcomed(old)
        await welcomed(other)
        async with link_of(cluster, hello("weur", life="one")) as new:
            await welcomed(new)
            await until(lambda: sorted(names(cluster)) == ["apac", "weur"], "one link of each")


async def test_copied_folder_is_told_of(
    empty_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Method: what comes after the second hello counts at once."""
    monkeypatch.setattr(d1server.replica_door, "_NAME_S", 1.5)
    monkeypatch.setattr(d1server.replica_door, "_IN_FLIGHT_S", 0.0)
    cluster = empty_cluster
    await cluster.add_primary()
    first = await cluster.add_replica()
    await until(lambda: first.is_following, "the first one")
    said = hello(first.name, node_id=first.replica.hello().node_id, life="another")
    async with link_of(cluster, said) as second:
        with pytest.raises(PeerRefused, match="is a copy of the other's"):
            await welcomed(second)
    assert first.replica.hello().node_id
    assert first.is_following


async def test_replicas_without_a_name_have_one_each(empty_cluster: Cluster) -> None:
    """On the same port of machines in one region, say."""
    cluster = empty_cluster
    await cluster.add_primary()
    made = []
    for _ in range(2):
        node = await cluster.add_replica()
        config = node.config.named("unused")
        assert config.name == node.name  # a name that was given stays
        made.append(node)
    ids = [node.replica.hello().node_id for node in made]
    cluster.configure(made[0], name="")
    shown = {made[0].config.named(one).name for one in ids}
    assert len(shown) == 2
    assert shown == {f"replica-weur-{one[:6]}" for one in ids}
