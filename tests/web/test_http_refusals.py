"""The hostile requests of an HTTP audit, each against the one socket.

Two readers stand behind the socket, so each request is tried where it begins a connection
and where it follows a query that the fast path served.
"""

import gzip
import logging

import orjson
import pytest

from d1server.web.front import Front
from d1server.web.limits import HttpLimits
from d1server.web.serve import serving
from tests.web.memory_node import MemoryNode
from tests.web.raw_client import RawClient, connected, query, rows

BODY = b'{"sql":"SELECT 1"}'
LINE = b"POST /db/shop/query HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
LENGTH = b"Content-Length: 18\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"12\r\n" + BODY + b"\r\n0\r\n\r\n"
END = b"\r\n"

REFUSED = {
    "CL and TE": LINE + HOST + LENGTH + CHUNKED + END + CHUNKS,
    "TE and CL": LINE + HOST + CHUNKED + LENGTH + END + CHUNKS,
    "duplicate CL": LINE + HOST + LENGTH + b"Content-Length: 17\r\n" + END + BODY,
    "equal CL twice": LINE + HOST + LENGTH + LENGTH + END + BODY,
    "duplicate Host": LINE + HOST + HOST + LENGTH + END + BODY,
    "bad TE": LINE + HOST + b"Transfer-Encoding: xchunked\r\n" + END + CHUNKS,
    "chunked, identity": LINE + HOST + b"Transfer-Encoding: chunked, identity\r\n" + END + CHUNKS,
    "gzip, chunked": LINE + HOST + b"Transfer-Encoding: gzip, chunked\r\n" + END + CHUNKS,
    "nothing, chunked": LINE + HOST + b"Transfer-Encoding: , chunked\r\n" + END + CHUNKS,
    "empty TE and CL": LINE + HOST + b"Transfer-Encoding:\r\n" + LENGTH + END + BODY,
    "TE in quotes": LINE + HOST + b'Transfer-Encoding: "chunked"\r\n' + END + CHUNKS,
    "TE twice": LINE + HOST + CHUNKED + CHUNKED + END + CHUNKS,
    "CL twice in one": LINE + HOST + b"Content-Length: 18, 18\r\n" + END + BODY,
    "space before colon": LINE + HOST + b"Content-Length : 18\r\n" + END + BODY,
    "obs-fold": LINE + HOST + LENGTH + b"A: b\r\n c\r\n" + END + BODY,
    "bare LF": LINE + HOST + LENGTH + b"A: b\nC: d\r\n" + END + BODY,
    "bare LF everywhere": b"POST /db/shop/query HTTP/1.1\nHost: x\nContent-Length: 18\n\n" + BODY,
    "CL +5": LINE + HOST + b"Content-Length: +18\r\n" + END + BODY,
    "CL 5_0": LINE + HOST + b"Content-Length: 1_8\r\n" + END + BODY,
    "CL -1": LINE + HOST + b"Content-Length: -1\r\n" + END + BODY,
    "chunk 0x5": LINE + HOST + CHUNKED + END + b"0x12\r\n" + BODY + b"\r\n0\r\n\r\n",
    "NUL in a value": LINE + HOST + LENGTH + b"A: \0\r\n" + END + BODY,
    "NUL in the path": b"POST /db/sh\0p/query HTTP/1.1\r\n" + HOST + LENGTH + END + BODY,
    "9 KB header": LINE + HOST + LENGTH + b"A: " + b"b" * 9000 + b"\r\n" + END + BODY,
    "200 headers": LINE + HOST + LENGTH + b"A: b\r\n" * 200 + END + BODY,
    "20000 headers": LINE + HOST + LENGTH + b"A: b\r\n" * 20_000 + END + BODY,
    "9 KB URL": b"POST /db/" + b"x" * 9000 + b"/query HTTP/1.1\r\n" + HOST + LENGTH + END + BODY,
    "missing Host": LINE + LENGTH + END + BODY,
    "HTTP/1.0 with TE": b"POST /db/shop/query HTTP/1.0\r\n" + HOST + CHUNKED + END + CHUNKS,
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "after a query"])
@pytest.mark.parametrize("name", REFUSED)
async def test_ambiguous_requests_are_refused(
    client: RawClient, node: MemoryNode, name: str, *, first: bool
) -> None:
    """Each one gets a 400 with D1's envelope, its connection ends, and nothing behind it runs."""
    if not first:
        assert (await client.exchange(query("SELECT 1"))).status == 200
    node.seen.clear()
    response = await client.exchange(REFUSED[name], query("SELECT 'smuggled'"))
    assert response.status == 400
    assert response.headers["content-type"] == "application/json"
    assert response.message
    assert await client.is_closed()
    assert not node.seen


@pytest.mark.parametrize("said", ["Content-Length", "chunked"])
async def test_too_large_bodies_are_refused(node: MemoryNode, said: str) -> None:
    """A body over the limit is a 413: before it is read if it says its size, else while it is."""
    limits = HttpLimits(body_bytes_max=2**20)
    body = b"x" * 2**21
    async with (
        serving(node, "127.0.0.1", 0, limits=limits) as front,
        connected(front.address) as client,
    ):
        if said == "chunked":
            client.send(LINE, HOST, CHUNKED, END, b"%x\r\n" % len(body), body)
        else:
            client.send(LINE, HOST, b"Content-Length: %d\r\n" % len(body), END)
        response = await client.response()
        assert response.status == 413
        assert "1048576 bytes" in response.message
        assert front.room.bytes_free == limits.bodies_bytes_max
    assert not node.seen


async def test_a_compressed_bomb_is_refused(client: RawClient, node: MemoryNode) -> None:
    """100 MB in 100 KB: the limit counts what comes out, and reading stops there."""
    bomb = gzip.compress(bytes(100 * 2**20))
    gzipped = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(bomb)
    response = await client.exchange(LINE, HOST, gzipped, END, bomb)
    assert response.status == 413
    assert not node.seen


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "nonsense"])
async def test_broken_compression_is_the_clients_fault(
    client: RawClient, caplog: pytest.LogCaptureFixture, coding: str
) -> None:
    """A body that does not decompress is a 400, not a 500, and nothing to tell the log."""
    said = f"Content-Encoding: {coding}\r\n".encode()
    response = await client.exchange(LINE, HOST, said, LENGTH, END, BODY)
    assert response.status == 400
    assert response.message.endswith("send it plain")  # our words, not those of a library
    if coding != "nonsense":  # what follows a body that was not begun can be found
        assert await client.is_closed()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_large_bodies_share_a_bounded_room(node: MemoryNode) -> None:
    """When the room for large bodies is taken, one more is refused and may come again."""
    limits = HttpLimits(bodies_bytes_max=300_000)
    large = orjson.dumps({"sql": "SELECT 1 AS a -- " + "x" * 200_000})
    async with (
        serving(node, "127.0.0.1", 0, limits=limits) as front,
        connected(front.address) as one,
        connected(front.address) as two,
    ):
        with node.held():
            one.send(query("", body=large))
            while not node.waiting:
                await one_turn(front)
            refused = await two.exchange(query("", body=large))
            assert refused.status == 503
            assert refused.headers["x-should-retry"] == "true"
        assert rows(await one.response()) == [{"a": 1}]
        assert front.room.bytes_free == limits.bodies_bytes_max


async def one_turn(front: Front) -> None:
    """Let the server work for a moment, on a connection of its own."""
    async with connected(front.address) as client:
        await client.exchange(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
