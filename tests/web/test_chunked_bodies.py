"""Bodies in chunks: the plain ones are read on the fast path, and nobody reads them otherwise."""

import asyncio
from time import monotonic

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from d1server.web.chunks import CHUNKS_MAX, Chunks, read_chunks
from d1server.web.front import Front
from d1server.web.limits import BODY_S_MAX, FAST_BODY_BYTES_MAX
from tests.web.memory_node import MemoryNode
from tests.web.raw_client import RawClient, query, rows, wait_until

HEAD = b"POST /db/shop/query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b'{"sql":"SELECT 5 AS a"}'
LAST = b"0\r\n\r\n"


def chunks(*pieces: bytes) -> bytes:
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + LAST


PLAIN = chunks(BODY)

UNUSUAL = {
    "an extension": b"17;a=b\r\n" + BODY + b"\r\n" + LAST,
    "a trailer": b"17\r\n" + BODY + b"\r\n0\r\nA: b\r\n\r\n",
    "many chunks": chunks(*[BODY[at : at + 1] for at in range(len(BODY))]),
    "leading zeros": b"0000000017\r\n" + BODY + b"\r\n" + LAST,
}
BAD = {
    "a sign": b"+17\r\n" + BODY + b"\r\n" + LAST,
    "an underscore": b"1_7\r\n" + BODY + b"\r\n" + LAST,
    "0x": b"0x17\r\n" + BODY + b"\r\n" + LAST,
    "no digits": b"\r\n" + BODY + b"\r\n" + LAST,
    "a blank line before": b"\r\n17\r\n" + BODY + b"\r\n" + LAST,
    "space before": b" 17\r\n" + BODY + b"\r\n" + LAST,
    "bare LF after the size": b"17\n" + BODY + b"\r\n" + LAST,
    "bare CR after the size": b"17\r" + BODY + b"\r\n" + LAST,
    "bare LF after the chunk": b"17\r\n" + BODY + b"\n" + LAST,
    "longer than it says": b"16\r\n" + BODY + b"\r\n" + LAST,
    "shorter than it says": b"18\r\n" + BODY + b"\r\n" + LAST,
    "bare LF after the last": b"17\r\n" + BODY + b"\r\n0\r\n\n",
    "beyond 64 bits": b"10000000000000017\r\n" + BODY + b"\r\n" + LAST,
    "negative": b"-17\r\n" + BODY + b"\r\n" + LAST,
}


@pytest.mark.parametrize(
    "pieces", [(BODY,), (BODY[:1], BODY[1:]), (BODY[:9], BODY[9:20], BODY[20:])]
)
def test_chunks_are_joined(pieces: tuple[bytes, ...]) -> None:
    raw = chunks(*pieces)
    assert read_chunks(b"before" + raw + b"behind", 6) == Chunks(BODY, 6 + len(raw))


def test_a_body_that_is_not_all_here_says_when_to_look_again() -> None:
    """Never later than its end, and a look is worth it only when a line or a chunk is there."""
    raw = chunks(BODY[:4], BODY[4:])
    looks, wanted = 0, 0
    for size in range(len(raw)):
        if size < wanted:
            continue
        looks += 1
        found = read_chunks(raw[:size], 0)
        assert found is not None
        assert found.body is None
        assert size < found.end <= len(raw)
        wanted = found.end
    assert looks < len(raw) / 2
    assert read_chunks(raw, 0) == Chunks(BODY, len(raw))


@pytest.mark.parametrize("name", [*UNUSUAL, *BAD])
def test_what_is_unusual_is_left_to_aiohttp(name: str) -> None:
    """At the latest when it is all there, and whatever follows it."""
    assert read_chunks((UNUSUAL | BAD)[name] + PLAIN, 0) is None


def test_no_more_is_kept_than_a_fast_body_may_have() -> None:
    """Neither in one chunk nor in several; one that is too large is known by its first line."""
    most = b"x" * FAST_BODY_BYTES_MAX
    found = read_chunks(chunks(most), 0)
    assert found is not None
    assert found.body == most
    assert read_chunks(b"%x\r\n" % (FAST_BODY_BYTES_MAX + 1), 0) is None
    assert read_chunks(chunks(most, b"x"), 0) is None
    assert read_chunks(chunks(*[b"x"] * CHUNKS_MAX), 0) is not None
    assert read_chunks(chunks(*[b"x"] * (CHUNKS_MAX + 1)), 0) is None


def read_by_aiohttp(raw: bytes) -> tuple[bytes, bytes]:
    """The body, and what stands behind it. Raises if it is refused or not all there."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        messages, _, behind = parser.feed_data(raw)
        stream = messages[0][1]
        assert isinstance(stream, StreamReader)
        assert stream.is_eof()
        return stream.read_nowait(), behind
    finally:
        loop.close()


PIECES = st.sampled_from([
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b";", b";a", b"0", b"00", b"5", b"17", b"+", b"_",
    b"x", b"-", b"A: b\r\n", LAST, BODY,
])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_what_is_read_here_aiohttp_reads_the_same(data: st.DataObject) -> None:
    """No body that is taken here is refused, cut or understood otherwise by aiohttp.

    Method: damage plain chunks at random places with bytes that readers of HTTP disagree about;
    whenever they are still taken, aiohttp must find the same body with the same end.
    """
    raw = bytearray(chunks(BODY[:4], BODY[4:]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw)))
        cut = data.draw(st.integers(0, 3))
        raw[place : place + cut] = data.draw(PIECES)
    found = read_chunks(bytes(raw), 0)
    if found is None or found.body is None:
        return
    try:
        body, _ = read_by_aiohttp(HEAD + bytes(raw[: found.end]))
    except HttpProcessingError as exc:
        raise AssertionError(f"aiohttp refuses {bytes(raw)!r}") from exc
    assert body == found.body
    if found.end > 1:
        with pytest.raises((AssertionError, HttpProcessingError)):
            read_by_aiohttp(HEAD + bytes(raw[: found.end - 1]))


async def test_a_query_in_chunks_is_answered_on_the_fast_path(
    client: RawClient, front: Front
) -> None:
    """However it is cut, and with others before and behind it."""
    for cut in range(1, len(HEAD + PLAIN), 5):
        client.send((HEAD + PLAIN)[:cut])
        await asyncio.sleep(0.001)
        assert rows(await client.exchange((HEAD + PLAIN)[cut:])) == [{"a": 5}]
    client.send(HEAD, PLAIN, query("SELECT 6 AS a"), HEAD, chunks(BODY[:7], BODY[7:]))
    for answer in (5, 6, 5):
        assert rows(await client.response()) == [{"a": answer}]
    assert front.meter.handed_over == 0


@pytest.mark.parametrize("name", UNUSUAL)
async def test_unusual_chunks_get_the_same_answer(
    client: RawClient, front: Front, name: str
) -> None:
    client.send(HEAD)
    await asyncio.sleep(0.001)
    assert rows(await client.exchange(UNUSUAL[name])) == [{"a": 5}]
    assert front.meter.handed_over == 1


@pytest.mark.parametrize("split", [True, False], ids=["head first", "one piece"])
@pytest.mark.parametrize("name", BAD)
async def test_bad_chunks_are_refused(
    client: RawClient, node: MemoryNode, name: str, *, split: bool
) -> None:
    """400, the connection ends, and what stands behind them is not taken for a request."""
    if split:
        client.send(HEAD)
        await asyncio.sleep(0.001)
        response = await client.exchange(BAD[name], query("SELECT 'smuggled'"))
    else:
        response = await client.exchange(HEAD, BAD[name], query("SELECT 'smuggled'"))
    assert response.status == 400
    assert await client.is_closed()
    assert not node.seen


async def test_dripped_chunks_are_answered_408(client: RawClient, front: Front) -> None:
    """A body in chunks must be complete BODY_S_MAX after its head; more of it does not help."""
    client.send(HEAD)
    await wait_until(lambda: _deadline(front) < monotonic() + BODY_S_MAX)
    begun = _deadline(front)
    for _ in range(5):
        client.send(b"1\r\n{\r\n")
        await asyncio.sleep(0.01)
    assert _deadline(front) == begun
    front.sweep(begun)
    assert (await client.response()).status == 408
    assert await client.is_closed()


def _deadline(front: Front) -> float:
    (connection,) = front.clients
    return connection.deadline
