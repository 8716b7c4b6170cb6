"""Which heads are served without aiohttp, and that the two readers never disagree."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from d1server.query import Constraint
from d1server.web.head import HeadCache, may_be_query, read_head
from d1server.web.limits import FAST_BODY_BYTES_MAX
from proto.api import Shape

PLAIN = (
    b"POST /db/shop/query HTTP/1.1\r\n",
    b"Host: localhost:8787\r\n",
    b"Content-Length: 17\r\n",
    b"X-D1-Bookmark: first-primary\r\n",
    b"\r\n",
)


def plain(**changed: bytes) -> bytes:
    """Return a plain head with lines replaced: `line_0=b"..."` is the request line."""
    lines = list(PLAIN)
    for name, line in changed.items():
        lines[int(name.removeprefix("line_"))] = line
    return b"".join(lines)


def test_a_plain_head_is_read_whole() -> None:
    """Every part of the head arrives where the request needs it."""
    head = read_head(plain())
    assert head is not None
    assert (head.database, head.shape) == ("shop", Shape.OBJECTS)
    assert head.content_length == 17
    assert head.keep_alive
    assert head.wishes.constraint is Constraint.PRIMARY
    assert head.alias == b""


def test_variants_that_stay_on_the_fast_path() -> None:
    """Case of names, /raw, an explicit Connection and the other bookmark names are plain."""
    raw = read_head(plain(line_0=b"POST /db/a.b-c_1/raw HTTP/1.1\r\n"))
    assert raw is not None
    assert (raw.database, raw.shape) == ("a.b-c_1", Shape.ARRAYS)
    shouted = read_head(plain(line_2=b"CONTENT-LENGTH: 0\r\n"))
    assert shouted is not None
    assert shouted.content_length == 0
    closing = read_head(plain(line_3=b"Connection: Close\r\n"))
    assert closing is not None
    assert not closing.keep_alive
    chunked = read_head(plain(line_2=b"transfer-encoding: chunked\r\n"))
    assert chunked is not None
    assert chunked.content_length is None
    token = read_head(plain(line_3=b"X-D1-Token: first-unconditional\r\n"))
    assert token is not None
    assert token.alias == b"x-d1-token"


ODD = {
    "get": plain(line_0=b"GET /db/shop/query HTTP/1.1\r\n"),
    "other path": plain(line_0=b"POST /db/shop/dump HTTP/1.1\r\n"),
    "query string": plain(line_0=b"POST /db/shop/query?a HTTP/1.1\r\n"),
    "percent": plain(line_0=b"POST /db/sh%6fp/query HTTP/1.1\r\n"),
    "slash": plain(line_0=b"POST /db/shop/query/ HTTP/1.1\r\n"),
    "absolute": plain(line_0=b"POST http://x/db/shop/query HTTP/1.1\r\n"),
    "dots": plain(line_0=b"POST /db/../query HTTP/1.1\r\n"),
    "http/1.0": plain(line_0=b"POST /db/shop/query HTTP/1.0\r\n"),
    "http/2": plain(line_0=b"POST /db/shop/query HTTP/2.0\r\n"),
    "bare lf in the first line": plain(line_0=b"POST /db/shop/query HTTP/1.1\n"),
    "no host": plain(line_1=b""),
    "two hosts": plain(line_3=b"Host: localhost:8787\r\n"),
    "strange host": plain(line_1=b"Host: a/b\r\n"),
    "empty host": plain(line_1=b"Host:\r\n"),
    "no length": plain(line_2=b""),
    "two lengths": plain(line_3=b"Content-Length: 17\r\n"),
    "length with sign": plain(line_2=b"Content-Length: +5\r\n"),
    "length with underscore": plain(line_2=b"Content-Length: 5_0\r\n"),
    "length with space": plain(line_2=b"Content-Length: 5 \r\n"),
    "length list": plain(line_2=b"Content-Length: 5, 5\r\n"),
    "large": plain(line_2=b"Content-Length: %d\r\n" % (FAST_BODY_BYTES_MAX + 1)),
    "huge": plain(line_2=b"Content-Length: 18446744073709551621\r\n"),
    "other coding": plain(line_2=b"Transfer-Encoding: gzip, chunked\r\n"),
    "both": plain(line_3=b"Transfer-Encoding: chunked\r\n"),
    "expect": plain(line_3=b"Expect: 100-continue\r\n"),
    "upgrade": plain(line_3=b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    "connection list": plain(line_3=b"Connection: keep-alive, x\r\n"),
    "gzip": plain(line_3=b"Content-Encoding: gzip\r\n"),
    "folded": plain(line_3=b"A: b\r\n c\r\n"),
    "space before colon": plain(line_3=b"A : b\r\n"),
    "bare lf": plain(line_3=b"A: b\nC: d\r\n"),
    "bare cr": plain(line_3=b"A: b\rC: d\r\n"),
    "nul": plain(line_3=b"A: \0\r\n"),
    "101 headers": plain(line_3=b"A: b\r\n" * 101),
    "9 KB": plain(line_3=b"A: " + b"b" * 9000 + b"\r\n"),
    "bad bookmark": plain(line_3=b"X-D1-Bookmark: yesterday\r\n"),
    "crlf first": b"\r\n" + plain(),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_heads_go_to_aiohttp(name: str) -> None:
    """Whatever is not beyond doubt a plain query is not served here."""
    assert read_head(ODD[name]) is None


class TwoReaders:
    """The strict reader here and the one that aiohttp would use on the same bytes."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def aiohttp_accepts(self, raw: bytes) -> tuple[str, str, str | None, str | None]:
        parser = HttpRequestParser(Mock(), self.loop, 2**16)
        messages, _, rest = parser.feed_data(raw)
        assert len(messages) == 1
        assert rest == b""
        message = messages[0][0]
        assert not message.upgrade
        headers = message.headers
        assert len(headers.getall("Host")) == 1
        assert len(headers.getall("Content-Length", [])) == (not message.chunked)
        return message.method, message.path, headers.get("Host"), headers.get("Content-Length")


CHUNKED = plain(line_2=b"Transfer-Encoding: chunked\r\n")
PIECES = st.sampled_from([
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b"5", b"+", b"_", b"\xff", b"a",
    b"Host: b\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"X: y\r\n", b"TE: trailers\r\n", b"Expect: x\r\n", b"%41",
    b"#", b"?", b"Upgrade: h2c\r\n", b"HTTP/1.0", b"/", b"..",
    b"Content-Length:", b"content_length: 9\r\n",
])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_what_is_served_here_aiohttp_reads_the_same(data: st.DataObject) -> None:
    """No head that is taken here is refused or understood otherwise by aiohttp.

    Method: damage a plain head at random places with bytes that readers of HTTP disagree
    about; whenever it is still taken, aiohttp must find the same target, host and length.
    """
    raw = bytearray(data.draw(st.sampled_from([plain(), CHUNKED])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw)))
        cut = data.draw(st.integers(0, 3))
        raw[place : place + cut] = data.draw(PIECES)
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        return
    exact = bytes(raw[: end + 4])
    head = read_head(exact)
    if head is None:
        return
    readers = TwoReaders()
    try:
        method, path, _, length = readers.aiohttp_accepts(exact)
    finally:
        readers.loop.close()
    assert method == "POST"
    assert path in (f"/db/{head.database}/query", f"/db/{head.database}/raw")
    assert head.content_length == (None if length is None else int(length))


def test_an_incomplete_head_is_waited_for_only_while_it_may_be_ours() -> None:
    """The first byte that cannot be a query's decides, and so does a lone line feed."""
    for size in range(1, len(plain())):
        assert may_be_query(plain()[:size]), size
    assert not may_be_query(b"G")
    assert not may_be_query(b"POST /dbx")
    assert not may_be_query(b"\r\n")
    assert not may_be_query(b"POST /db/shop/query HTTP/1.1\nHost: x\n\n")
    assert not may_be_query(b"POST /db/" + b"x" * 9000)


def test_the_cache_returns_what_reading_returns_and_stays_bounded() -> None:
    """A head is read once while it keeps coming; old ones make room; odd ones are not kept."""
    cache = HeadCache(heads_max=4)
    often = plain()
    first = cache.read(often)
    assert first is not None
    for length in range(100):
        other = cache.read(plain(line_2=b"Content-Length: %d\r\n" % length))
        assert other is not None
        assert other.content_length == length
        assert cache.read(often) is first
    assert cache.misses == 100  # 17 is also in the range
    assert len(cache) <= 8

    kept = len(cache)
    assert cache.read(ODD["other coding"]) is None
    keyed = plain(line_3=b"Idempotency-Key: once\r\n")
    assert cache.read(keyed) is not cache.read(keyed)
    wide = plain(line_3=b"Cookie: " + b"c" * 3000 + b"\r\n")
    assert cache.read(wide) is not cache.read(wide)
    assert len(cache) == kept
