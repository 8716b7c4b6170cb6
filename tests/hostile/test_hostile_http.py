"""Hostile requests against real processes, byte by byte: refused, and nothing behind them runs.

The list is that of `tests/web/test_http_refusals.py`; each request is tried on every surface.
"""

import asyncio
import gzip
import random
import time
from contextlib import AsyncExitStack

import pytest

from d1server.web.limits import HEAD_S_MAX
from tests.hostile.node_processes import DEADLINE_S, LATE_S, NodeProcess, Pair
from tests.rest.http_cluster import REST
from tests.waiting import EVENT_S_MAX, SOON_S_MAX
from tests.web.raw_client import RawClient, Response, connected, query
from tests.web.test_http_refusals import BODY, CHUNKED, END, HOST, LENGTH, REFUSED

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

SMUGGLED = "INSERT INTO k(a) VALUES ('smuggled')"
SURFACES = ["/db/shop/query", f"{REST}/shop/query", "/query"]
DEEP = 100_000
BODIES = {
    "deep params": b'{"sql":"SELECT ?","params":%b%b}' % (b"[" * DEEP, b"]" * DEEP),
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep batch": b'{"batch":' + b"[" * DEEP,
    "deep, with half a pair": b'{"sql":"\\ud800","params":%b%b}' % (b"[" * DEEP, b"]" * DEEP),
    "100,000 digits": b'{"sql":"SELECT ?","params":[%b]}' % (b"9" * DEEP),
    "100,000 digits, with half a pair": b'{"sql":"\\ud800","params":[%b]}' % (b"9" * DEEP),
    "a large exponent": b'{"sql":"SELECT ?","params":[1e%b]}' % (b"9" * 5000),
    "a large byte": b'{"sql":"SELECT ?","params":[[%b]]}' % (b"9" * 5000),
    "UTF-16": '{"sql":"SELECT 1"}'.encode("utf-16"),
    "blanks": b" " * 60_000,
    "NULs": bytes(1000),
    "a number": b"1",
    "an array in an array": b"[[[]]]",
    "nothing at all": b"",
}
# Fields and parameters that nobody knows change nothing; of equal fields the last one counts.
HARMLESS = {
    "/db/shop/query?a=b&sql=DROP+TABLE+t": b'{"sql":"SELECT 7 AS a","more":[1,{}],"__proto__":{}}',
    f"{REST}/shop/query?x-d1-bookmark=x&=&%00": b'{"sql":"SELECT 1","sql":"SELECT 7 AS a"}',
    f"{REST}/shop/query": b'{"sql":"SELECT ? AS a","params":[1],"params":[7]}',
}


async def exchanged(node: NodeProcess, *pieces: bytes) -> Response:
    """One request on a connection of its own; the answer must come in time."""
    watch = node.watch()
    async with connected(node.address) as client:
        response = await client.exchange(*pieces)
    assert watch.seconds < DEADLINE_S + LATE_S
    assert response.status < 500, response
    return response


def on_surface(request: bytes, path: str) -> bytes:
    """The same request for another path."""
    if path == "/query":
        request = request.replace(b"Host:", b"x-d1-database: shop\r\nHost:", 1)
    return request.replace(b"/db/shop/query", path.encode(), 1)


@pytest.mark.parametrize("path", SURFACES)
async def test_ambiguous_requests_are_refused(pair: Pair, path: str) -> None:
    """At both nodes, first on a connection and behind a query; what follows them is not run."""
    for node in pair:
        for name, request in REFUSED.items():
            for first in (True, False):
                async with connected(node.address) as client:
                    if not first:
                        assert (await client.exchange(query("SELECT 1"))).status == 200
                    watch = node.watch()
                    await refused(client, on_surface(request, path), name)
                    assert watch.seconds < DEADLINE_S + LATE_S, name
        assert await node.rows("SELECT count(*) AS n FROM k") == [{"n": 0}]
    await pair.unharmed()


async def refused(client: RawClient, request: bytes, name: str) -> None:
    response = await client.exchange(request, query(SMUGGLED))
    assert response.status == 400, (name, response)
    assert response.json()["success"] is False
    assert await client.is_closed()


async def test_bodies_that_are_none(pair: Pair) -> None:
    """Deep, long, half a character: an error that says so, never a 5xx."""
    for node in pair:
        for name, body in BODIES.items():
            for path in SURFACES:
                said = ["x-d1-database: shop"] if path == "/query" else []
                response = await exchanged(node, query("", *said, path=path, body=body))
                assert response.json()["success"] is False, (name, path)
                assert path == "/query" or response.status == 400, (name, path)
    await pair.unharmed()


async def test_values_without_end(pair: Pair) -> None:
    """A body of allowed size whose values would take a hundred times as much memory is refused.

    Method: `unharmed` bounds what the nodes took, and how soon they answered others meanwhile.
    """
    values = b"[]," * 1_500_000 + b"[]"
    for node in pair:
        for path in SURFACES:
            head = {"x-d1-database": "shop"} if path == "/query" else {}
            for body in (b'{"sql":"SELECT ?","params":[%b]}', b'{"sql":"SELECT 1","more":[%b]}'):
                reply = await node.post(path, body % values, head)
                assert reply.json["success"] is False, reply
                assert path == "/query" or reply.status == 400, reply
    await pair.unharmed()


async def test_what_nobody_knows_does_no_harm(pair: Pair) -> None:
    for node in pair:
        for path, body in HARMLESS.items():
            response = await exchanged(node, query("", path=path, body=body))
            assert response.status == 200, (path, response)
            assert response.json()["result"][0]["results"] == [{"a": 7}]  # type: ignore[index]
    await pair.unharmed()


async def test_too_much_is_refused(pair: Pair) -> None:
    """A body that says that it is large, a bomb in gzip, a body that is not gzip."""
    bomb = gzip.compress(bytes(100 * 2**20))
    for node in pair:
        for path in SURFACES:
            line = b"POST %b HTTP/1.1\r\n" % path.encode() + HOST + b"x-d1-database: shop\r\n"
            for pieces, status in (
                ((b"Content-Length: 99999999999\r\n", END), 413),
                ((b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb), bomb), 413),
                ((b"Content-Encoding: gzip\r\n", LENGTH, END, BODY), 400),
                ((b"Content-Encoding: nonsense\r\n", LENGTH, END, BODY), 400),
                ((CHUNKED, END, b"0xFF\r\n", BODY), 400),
            ):
                response = await exchanged(node, line, *pieces)
                assert response.status in (status, 200 if path == "/query" else status)
                assert response.json()["success"] is False
    await pair.unharmed()


async def test_garbage_in_headers(pair: Pair) -> None:
    """Sessions, keys, tokens, names: refused or passed over, never a 5xx."""
    values = [
        b"",
        b"\xff\xfe",
        b"a" * 7000,
        b"0" * 59,
        b"-1",
        b"1e999",
        b"NaN",
        b"\t",
        b"../..",
        b"%00",
    ]
    values += [
        b"ffffffff-ffffffff-ffffffff-" + b"f" * 32,
        b"00000000-00000000-00000000-" + b"0" * 32,
    ]
    names = ["x-d1-bookmark", "x-cf-d1-session-commit-token", "x-d1-max-wait-ms", "x-d1-on-timeout"]
    names += ["Idempotency-Key", "Authorization", "x-d1-database", "Origin", "MF-URL", "Upgrade"]
    names += ["Content-Type", "Cookie", "Range", "Expect", "Connection", "TE", "x-auth-key"]
    for node in pair:
        for path in SURFACES:
            for name in names:
                for value in values:
                    head = b"POST %b HTTP/1.1\r\n%b%b" % (path.encode(), HOST, LENGTH)
                    line = b"%b: %b\r\n" % (name.encode(), value)
                    await exchanged(node, head, line, b"x-d1-database: shop\r\n", END, BODY)
        key = "Idempotency-Key: " + "k" * 2**20
        assert (await exchanged(node, query("SELECT 1", key))).status == 400
    await pair.unharmed()


async def test_random_bytes(pair: Pair) -> None:
    """At the HTTP port: noise, and requests with a few bytes changed."""
    chance = random.Random(20)
    for number in range(600):
        node = pair[number % 2]
        data = bytearray(chance.randbytes(chance.randrange(1, 300)))
        if number % 3:
            data = bytearray(query("SELECT 1", "Connection: close"))
            for _ in range(chance.randrange(1, 5)):
                data[chance.randrange(len(data))] = chance.choice(b"\r\n\0 :/0,;\xff")
        reader, writer = await asyncio.open_connection(*node.address)
        writer.write(bytes(data))
        writer.write_eof()
        async with asyncio.timeout(EVENT_S_MAX):
            answer = await reader.read()
        assert not answer.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5")), (bytes(data), answer)
        writer.close()
    await pair.unharmed()


async def test_idle_and_slow_clients_are_let_go(pair: Pair) -> None:
    """Hundreds that say nothing are no trouble; a head that drips is given up in time.

    Method: one of them drips a byte now and then, for longer than a head may take.
    """
    async with AsyncExitStack() as stack:
        for node in pair:
            for _ in range(300):
                await stack.enter_async_context(connected(node.address))
        await pair.unharmed()
        slow = [await stack.enter_async_context(connected(node.address)) for node in pair]
        started = time.monotonic()
        for client in slow:
            client.send(b"POST /db/shop/query HTTP/1.1\r\n")
        closing = asyncio.gather(*[client.reader.read() for client in slow])
        while not closing.done():
            for client in slow:
                client.send(b"A")
            await asyncio.wait([closing], timeout=0.5)
            assert time.monotonic() - started < HEAD_S_MAX + SOON_S_MAX
        assert all(b" 408 " in answer for answer in closing.result())
    await pair.unharmed()
