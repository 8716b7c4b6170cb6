"""The protocol with two minds, over real sockets."""

import asyncio

import orjson
import pytest

from d1server.web.fastpath import FastConnection
from d1server.web.front import Front
from d1server.web.limits import BACKLOG_BYTES_MAX, FAST_BODY_BYTES_MAX, PIPELINE_TURN, HttpLimits
from d1server.web.serve import serving
from tests.web.memory_node import MemoryNode
from tests.web.raw_client import RawClient, connected, query, rows, wait_until


def is_blocked(front: Front) -> bool:
    """Tell whether the one connection waits for its client to read."""
    (connection,) = front.clients
    assert isinstance(connection, FastConnection)
    return connection.is_blocked


async def test_a_query_is_answered_on_the_fast_path(client: RawClient, front: Front) -> None:
    """One request, one response, with the headers that clients read; no aiohttp involved."""
    response = await client.exchange(query("SELECT ? AS a", params=(7,)))
    assert response.status == 200
    assert rows(response) == [{"a": 7}]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert len(response.headers["x-d1-bookmark"]) == 59
    assert response.headers["date"].endswith("GMT")
    raw = await client.exchange(query("SELECT 1, 2", path="/db/shop/raw"))
    assert orjson.loads(raw.body)["result"][0]["results"]["rows"] == [[1, 2]]
    assert front.meter.handed_over == 0


async def test_the_bookmark_goes_out_under_the_name_used(client: RawClient) -> None:
    """A client that knows bookmarks under another name finds it there, and as x-d1-bookmark."""
    for name in ("x-d1-token", "x-cf-d1-session-commit-token"):
        response = await client.exchange(query("SELECT 1", f"{name}: first-primary"))
        assert response.headers[name] == response.headers["x-d1-bookmark"]


async def test_every_way_of_cutting_a_request_gives_the_same_answer(
    client: RawClient, front: Front
) -> None:
    """A request may arrive in any two pieces, or byte by byte."""
    request = query("SELECT 1 AS a", "x-d1-bookmark: first-unconstrained")
    for cut in range(1, len(request), 7):
        client.send(request[:cut])
        await asyncio.sleep(0.001)
        assert rows(await client.exchange(request[cut:])) == [{"a": 1}]
    for place in range(len(request)):
        client.send(request[place : place + 1])
        await asyncio.sleep(0)
    assert rows(await client.response()) == [{"a": 1}]
    assert front.meter.handed_over == 0


async def test_pipelined_requests_are_answered_in_order(
    client: RawClient, node: MemoryNode
) -> None:
    """More requests in one piece than one turn serves: all are answered, in order."""
    count = 5 * PIPELINE_TURN + 3
    client.send(*(query("SELECT ? AS a", params=(place,)) for place in range(count)))
    for place in range(count):
        assert rows(await client.response()) == [{"a": place}]
    assert len(node.seen) == count


async def test_a_slow_answer_keeps_its_place(client: RawClient, node: MemoryNode) -> None:
    """While one request is in the making, the ones behind it wait, and none is lost."""
    with node.held():
        client.send(*(query("SELECT ? AS a", params=(place,)) for place in range(3)))
        await wait_until(lambda: node.waiting == 1)
        client.send(query("SELECT 3 AS a"))
        await asyncio.sleep(0.01)
        assert node.waiting == 1
        assert not node.seen
    for place in range(4):
        assert rows(await client.response()) == [{"a": place}]


async def test_many_slow_answers_in_one_piece(client: RawClient, node: MemoryNode) -> None:
    """Answers that all need a task come in order, too."""
    node.answers_now = False
    client.send(*(query("SELECT ? AS a", params=(place,)) for place in range(40)))
    for place in range(40):
        assert rows(await client.response()) == [{"a": place}]


async def test_hanging_up_cancels_the_request(front: Front, node: MemoryNode) -> None:
    """A client that goes away does not leave its request running."""
    with node.held():
        async with connected(front.address) as client:
            client.send(query("SELECT 1"))
            await wait_until(lambda: node.waiting == 1)
        await wait_until(lambda: node.cancelled == 1)
        await wait_until(lambda: not front.requests)
    assert not node.seen
    assert not front.clients


async def test_the_backlog_of_a_waiting_connection_is_bounded(
    front: Front, node: MemoryNode
) -> None:
    """A client that keeps sending while its request waits is not read for ever.

    Method: hold the request and push until the sockets are full; then what the server took must
    be far less than what was offered, and everything is answered once the node goes on.
    """
    request = query("SELECT 1 AS a", body=orjson.dumps({"sql": "SELECT 1 AS a --" + "x" * 30_000}))
    async with connected(front.address, receive_bytes=4096) as client:
        with node.held():
            client.send(request)
            await wait_until(lambda: node.waiting == 1)
            count = 400
            client.send(*[request] * count)
            (connection,) = front.clients
            assert isinstance(connection, FastConnection)
            taken = -1
            while taken < connection.backlog_bytes:
                taken = connection.backlog_bytes
                await asyncio.sleep(0.05)
            assert taken <= BACKLOG_BYTES_MAX + 2**18
        for _ in range(count + 1):
            assert (await client.response()).status == 200


async def test_a_client_that_does_not_read_is_not_answered_further(
    front: Front, node: MemoryNode
) -> None:
    """Answers that nobody takes do not pile up; when the client reads again, all come.

    Method: ask pipelined for large answers without reading; the node must stop being asked
    after the socket buffers are full, and finish when the client reads.
    """
    sql = "SELECT hex(zeroblob(500000)) AS a"
    async with connected(front.address, receive_bytes=4096) as client:
        client.send(*[query(sql)] * 30)
        await wait_until(lambda: is_blocked(front))
        asked = 0
        while asked < len(node.seen):  # the sockets have not taken all that they can
            asked = len(node.seen)
            await asyncio.sleep(0.05)
        assert is_blocked(front)
        assert asked < 30
        for _ in range(30):
            assert len((await client.response()).body) > 1_000_000
    assert len(node.seen) == 30


async def test_a_blocked_client_that_makes_no_progress_is_dropped(
    front: Front, node: MemoryNode
) -> None:
    """Not reading for a whole period ends the connection; reading on keeps it."""
    async with connected(front.address, receive_bytes=4096) as client:
        client.send(*[query("SELECT hex(zeroblob(900000)) AS a")] * 20)
        await wait_until(lambda: is_blocked(front))
        (connection,) = front.clients
        for _ in range(3):
            await client.response()
        await wait_until(lambda: is_blocked(front))
        front.sweep(connection.deadline)
        assert front.clients == {connection}
        while front.clients:  # the sockets may still take something
            front.sweep(connection.deadline)
            await asyncio.sleep(0.01)
    assert len(node.seen) < 20


@pytest.mark.parametrize("size", [FAST_BODY_BYTES_MAX - 30, FAST_BODY_BYTES_MAX + 1, 3_000_000])
async def test_bodies_of_every_size(client: RawClient, front: Front, size: int) -> None:
    """Small bodies are read here, larger ones by aiohttp, with the same answer."""
    body = orjson.dumps({"sql": "SELECT length(?) AS a", "params": ["x" * size]})
    assert rows(await client.exchange(query("", body=body))) == [{"a": size}]
    assert front.meter.handed_over == (len(body) > FAST_BODY_BYTES_MAX)
    assert front.room.bytes_free == front.limits.bodies_bytes_max


async def test_a_connection_is_handed_over_in_mid_life(client: RawClient, front: Front) -> None:
    """Fast, then anything else, then a query again on the same connection, pipelined or not."""
    await client.exchange(query("SELECT 1"))
    other = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    client.send(query("SELECT 1 AS a"), other, query("SELECT 2 AS a"))
    assert rows(await client.response()) == [{"a": 1}]
    assert (await client.response()).json() == {"live": True}
    assert rows(await client.response()) == [{"a": 2}]
    assert rows(await client.exchange(query("SELECT 3 AS a"))) == [{"a": 3}]
    assert front.meter.handed_over == 1
    assert len(front.clients) == 1


async def test_close_is_obeyed_and_said(client: RawClient) -> None:
    """`Connection: close` is answered, repeated in the answer, and what follows is ignored."""
    client.send(query("SELECT 1 AS a", "Connection: close"), query("SELECT 2"))
    response = await client.response()
    assert response.headers["connection"] == "close"
    assert rows(response) == [{"a": 1}]
    assert await client.is_closed()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, 7400),
        (b"{", 400, 7400),
        (b"[]", 400, 7400),
        (b'{"sql":"SELEC"}', 400, 7500),
        (b'{"sql":"AWAY"}', 503, 7500),
        (b'{"sql":"BUG"}', 500, 7500),
    ],
)
async def test_errors_are_envelopes(client: RawClient, body: bytes, status: int, code: int) -> None:
    """Every refusal is D1's JSON with a code; the connection goes on."""
    response = await client.exchange(query("", body=body))
    assert response.status == status
    errors = response.json()["errors"]
    assert isinstance(errors, list)
    assert errors[0]["code"] == code
    assert "Traceback" not in response.message
    assert rows(await client.exchange(query("SELECT 1 AS a"))) == [{"a": 1}]


async def test_retry_advice_is_in_the_headers(client: RawClient) -> None:
    """A write that was surely not done may be sent again, a bug's victim may not."""
    away = await client.exchange(query("AWAY"))
    assert (away.headers["x-should-retry"], away.headers["retry-after"]) == ("true", "1")
    bug = await client.exchange(query("BUG"))
    assert bug.headers["x-should-retry"] == "false"
    assert "reference = " in bug.message


async def test_a_bug_in_a_slow_answer_is_answered(client: RawClient, node: MemoryNode) -> None:
    """An unexpected error in the task ends as a 500 with a reference, not as a hung connection."""
    node.answers_now = False
    assert "reference = " in (await client.exchange(query("BUG"))).message
    assert (await client.exchange(query("SELECT 1"))).status == 200


async def test_a_request_that_the_node_cancels_is_answered(
    client: RawClient, front: Front, node: MemoryNode
) -> None:
    """A node that gives a request up leaves no client waiting."""
    with node.held():
        client.send(query("SELECT 1"))
        await wait_until(lambda: front.requests)
        for request in front.requests:
            request.cancel()
        response = await client.response()
    assert response.status == 503
    assert response.headers["x-should-retry"] == "false"
    assert await client.is_closed()


async def test_too_many_connections_are_refused(node: MemoryNode) -> None:
    """Beyond the bound a client hears so at once; a place that is given back is used again."""
    limits = HttpLimits(connections_max=2)
    async with serving(node, "127.0.0.1", 0, limits=limits) as front:
        async with connected(front.address) as one, connected(front.address) as two:
            await one.exchange(query("SELECT 1"))
            await two.exchange(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            async with connected(front.address) as three:
                response = await three.response()
                assert response.status == 503
                assert response.headers["x-should-retry"] == "true"
        await wait_until(lambda: not front.clients)
        async with connected(front.address) as four:
            assert (await four.exchange(query("SELECT 1"))).status == 200
        assert front.meter.connections_refused == 1
