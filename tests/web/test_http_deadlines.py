"""Slow, idle and stopping: nobody holds a connection for ever.

The clock is the argument of `Front.sweep`, so no test waits for a real deadline.
"""

import asyncio
from contextlib import AsyncExitStack
from time import monotonic

import pytest

from d1server.web import body as body_module
from d1server.web.front import Front
from d1server.web.limits import (
    BODY_S_MAX,
    HEAD_S_MAX,
    IDLE_S_MAX,
    IDLE_S_MIN,
    LINGER_S_MAX,
    HttpLimits,
    body_s_max,
)
from d1server.web.serve import serving
from tests.waiting import SOON_S_MAX
from tests.web.memory_node import MemoryNode
from tests.web.raw_client import RawClient, connected, query, rows, wait_until

HEAD = b"POST /db/shop/query HTTP/1.1\r\nHost: x\r\n"
GET_HEAD = b"GET /livez HTTP/1.1\r\nHost: x\r\n"


async def test_an_idle_connection_is_closed(client: RawClient, front: Front) -> None:
    """Between requests a connection lives IDLE_S_MAX, and a request renews it."""
    await client.exchange(query("SELECT 1"))
    front.sweep(_deadline(front) - 0.001)
    await client.exchange(query("SELECT 1"))
    front.sweep(monotonic() + IDLE_S_MAX)
    assert await client.is_closed()
    assert not front.clients


async def test_a_stalled_head_is_answered_408(client: RawClient, front: Front) -> None:
    """A head must be complete HEAD_S_MAX after its first byte; dripping it does not help."""
    client.send(HEAD)
    await wait_until(lambda: _deadline(front) < monotonic() + HEAD_S_MAX)
    begun = _deadline(front)
    for _ in range(5):
        client.send(b"A: b\r\n")
        await asyncio.sleep(0.01)
    assert _deadline(front) == begun
    front.sweep(begun)
    response = await client.response()
    assert response.status == 408
    assert response.headers["x-should-retry"] == "true"
    assert await client.is_closed()


async def test_a_stalled_body_is_answered_408(client: RawClient, front: Front) -> None:
    """A small body must be complete BODY_S_MAX after its head."""
    client.send(query("SELECT 1")[:-5])
    await wait_until(lambda: IDLE_S_MAX / 2 > _deadline(front) - monotonic() > HEAD_S_MAX)
    client.send(b"x")
    await asyncio.sleep(0.01)
    front.sweep(monotonic() + BODY_S_MAX)
    assert (await client.response()).status == 408
    front.sweep(monotonic() + LINGER_S_MAX)
    await wait_until(lambda: not front.clients)


async def test_a_stalled_head_at_aiohttp_is_closed(client: RawClient, front: Front) -> None:
    """A connection that was handed over has the same time for its heads."""
    await client.exchange(GET_HEAD, b"\r\n")
    client.send(GET_HEAD)
    await wait_until(lambda: _deadline(front) < monotonic() + HEAD_S_MAX)
    front.sweep(_deadline(front))
    assert await client.is_closed()
    assert not front.clients


async def test_a_request_in_the_making_has_no_deadline_here(
    client: RawClient, front: Front, node: MemoryNode
) -> None:
    """How long a query may take is the node's decision, on both ways in."""
    for request in (query("SELECT 1 AS a"), query("SELECT 1 AS a", path="/db/shop/query/")):
        with node.held():
            client.send(request)
            await wait_until(lambda: node.waiting)
            front.sweep(monotonic() + 10_000)
        assert rows(await client.response()) == [{"a": 1}]


async def test_a_dripped_large_body_is_answered_408(
    client: RawClient, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through aiohttp, too, a body must keep coming.

    Method: shrink the patience, send a byte now and then; the answer comes while most of the
    body is missing.
    """
    monkeypatch.setattr(body_module, "body_s_max", lambda size: 0.1 + size / 10_000)
    client.send(HEAD, b"Content-Length: 1000000\r\n\r\n")
    response = asyncio.create_task(client.response())
    while not response.done():
        client.send(b" ")
        await asyncio.sleep(0.02)
    assert (await response).status == 408
    assert front.room.bytes_free == front.limits.bodies_bytes_max


async def test_a_client_that_does_not_read_from_aiohttp_is_dropped(front: Front) -> None:
    """A handed-over connection whose answers nobody takes ends after one period without progress.

    Method: ask for far more than the socket buffers hold, and read nothing.
    """
    sql = "SELECT hex(zeroblob(900000)) AS a"
    async with connected(front.address, receive_bytes=4096) as client:
        client.send(*[query(sql, path="/db/shop/query/")] * 20)
        await wait_until(lambda: HEAD_S_MAX < _deadline(front) - monotonic() < IDLE_S_MAX)
        front.sweep(_deadline(front) - 0.001)
        assert len(front.clients) == 1
        while front.clients:  # it goes on for as long as the sockets still take something
            front.sweep(_deadline(front))
            await asyncio.sleep(0.01)


async def test_answers_that_nobody_takes_are_bounded_together(node: MemoryNode) -> None:
    """On both kinds of connection the largest go, before any deadline; others are served.

    Method: ask for far more than the socket buffers hold, of each client, and read nothing.
    """
    limits = HttpLimits(unread_bytes_max=2**23)
    values = "hex(zeroblob(900000)) || hex(zeroblob(90000))"
    sql = f"SELECT {', '.join(f'{values} AS c{i}' for i in range(5))}"
    async with serving(node, "127.0.0.1", 0, limits=limits) as front, AsyncExitStack() as clients:
        for path in ["/db/shop/query", "/db/shop/query/"] * 4:
            client = await clients.enter_async_context(connected(front.address, 4096))
            client.send(*[query(sql, path=path)] * 3)
            assert _unread_bytes(front) <= limits.unread_bytes_max
        await wait_until(lambda: front.meter.dropped_unread >= 6)
        assert 0 < _unread_bytes(front) <= limits.unread_bytes_max
        async with connected(front.address) as other:
            assert rows(await other.exchange(query("SELECT 1 AS a"))) == [{"a": 1}]


def _unread_bytes(front: Front) -> int:
    return sum(client.unread_bytes for client in front.unread)


async def test_connections_idle_for_long_make_room(node: MemoryNode) -> None:
    """Who says nothing does not keep others out; who waits for an answer stays."""
    limits = HttpLimits(connections_max=3)
    async with serving(node, "127.0.0.1", 0, limits=limits) as front, AsyncExitStack() as clients:

        async def another() -> RawClient:
            return await clients.enter_async_context(connected(front.address))

        one, two, three = await another(), await another(), await another()
        await one.exchange(query("SELECT 1"))
        await two.exchange(GET_HEAD, b"\r\n")
        with node.held():
            three.send(query("SELECT 1 AS a"))
            await wait_until(lambda: node.waiting)
            now = monotonic()
            assert not front.has_room(now)
            assert front.has_room(now + IDLE_S_MIN)
            assert await one.is_closed()
            assert await two.is_closed()
            assert (await (await another()).exchange(GET_HEAD, b"\r\n")).status == 200
        assert rows(await three.response()) == [{"a": 1}]


def test_patience_with_a_body_grows_with_what_came() -> None:
    """A slow line is no attack: a body that comes at 16 KiB/s is never cut off."""
    assert body_s_max(0) == BODY_S_MAX
    for megabytes in range(1, 33):
        size = megabytes * 2**20
        assert body_s_max(size) > size / (16 * 1024)


async def test_stopping_finishes_what_was_begun(node: MemoryNode) -> None:
    """A stop closes idle connections, answers the requests in the making, takes no new ones."""
    async with AsyncExitStack() as clients:
        async with serving(node, "127.0.0.1", 0) as front:
            idle, fast, slow, aside = [
                await clients.enter_async_context(connected(front.address)) for _ in range(4)
            ]
            await idle.exchange(query("SELECT 0"))
            await aside.exchange(GET_HEAD, b"\r\n")
            node.hold()
            fast.send(query("SELECT 1 AS a"))
            slow.send(query("SELECT 2 AS a", path="/db/shop/query/"))
            await wait_until(lambda: node.waiting == 2)
            asyncio.get_running_loop().call_later(0.05, node.release)
        response = await fast.response()
        assert response.headers["connection"] == "close"
        assert rows(response) == [{"a": 1}]
        assert rows(await slow.response()) == [{"a": 2}]
        assert await idle.is_closed()
        assert await aside.is_closed()
    with pytest.raises(ConnectionRefusedError):
        async with connected(front.address):
            pass


async def test_stopping_does_not_wait_for_ever(node: MemoryNode) -> None:
    """Requests that do not end are cancelled after `stop_s_max`, on both ways in."""
    began = monotonic()
    limits = HttpLimits(stop_s_max=0.2)
    async with AsyncExitStack() as clients:
        async with serving(node, "127.0.0.1", 0, limits=limits) as front:
            fast, slow = [
                await clients.enter_async_context(connected(front.address)) for _ in range(2)
            ]
            node.hold()
            fast.send(query("SELECT 1"))
            slow.send(query("SELECT 2", path="/db/shop/query/"))
            await wait_until(lambda: node.waiting == 2)
        assert node.cancelled == 2
        assert monotonic() - began < SOON_S_MAX
        await wait_until(lambda: not front.clients)


async def test_a_binding_call_cut_short_by_a_stop_is_answered_in_its_own_form(
    node: MemoryNode,
) -> None:
    """The client of the binding would throw a TypeError at D1's other envelope."""
    limits = HttpLimits(stop_s_max=0.2)
    head = query("SELECT 1", "x-d1-database: shop", path="/query?resultsFormat=NONE")
    async with AsyncExitStack() as clients:
        async with serving(node, "127.0.0.1", 0, limits=limits) as front:
            client = await clients.enter_async_context(connected(front.address))
            node.hold()
            client.send(head)
            await wait_until(lambda: node.waiting)
        response = await client.response()
    assert response.status == 200
    answer = response.json()
    assert answer.keys() == {"success", "error"}
    assert str(answer["error"]).startswith("Network connection lost. ")
    assert response.headers["x-should-retry"] == "false"


def _deadline(front: Front) -> float:
    (connection,) = front.clients
    return connection.deadline
