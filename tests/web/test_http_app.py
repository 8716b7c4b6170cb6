"""Everything that goes through aiohttp: unusual queries, administration, health."""

import pytest

from d1server.web.front import Front
from tests.web.memory_node import MemoryNode
from tests.web.raw_client import RawClient, query, rows

HOST = "Host: localhost\r\n"


def call(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """Return the bytes of any request."""
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, *headers, "", "")).encode() + body


BODY = b'{"sql":"SELECT ? AS a","params":[5]}'
UNUSUAL = {
    "query string": call("POST", "/db/shop/query?x=1", body=BODY),
    "percent-encoded name": call("POST", "/db/sh%6Fp/query", body=BODY),
    "trailing slash": call("POST", "/db/shop/query/", body=BODY),
    "HTTP/1.0": call("POST", "/db/shop/query", body=BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "absolute target": call("POST", "http://localhost/db/shop/query", body=BODY),
    "TE": call("POST", "/db/shop/query", "TE: trailers", body=BODY),
    "leading line end": b"\r\n" + call("POST", "/db/shop/query", body=BODY),
    "chunked": (
        b"POST /db/shop/query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
async def test_unusual_queries_get_the_same_answer(
    client: RawClient, front: Front, name: str
) -> None:
    """What the fast path does not take is served all the same, with the same headers."""
    response = await client.exchange(UNUSUAL[name])
    assert response.status == 200
    assert rows(response) == [{"a": 5}]
    assert len(response.headers["x-d1-bookmark"]) == 59
    assert front.meter.handed_over == 1


async def test_expect_is_answered_before_the_body(client: RawClient) -> None:
    """`Expect: 100-continue` gets its 100 at once, then the answer; other expectations a 417."""
    head = call("POST", "/db/shop/query", "Expect: 100-continue", body=BODY).removesuffix(BODY)
    client.send(head)
    assert (await client.response()).status == 100
    assert rows(await client.exchange(BODY)) == [{"a": 5}]
    strange = await client.exchange(call("POST", "/db/shop/query", "Expect: cake", body=BODY))
    assert strange.status == 417
    assert "100-continue" in strange.message


async def test_a_body_that_will_be_refused_is_not_asked_for(client: RawClient) -> None:
    """A too large Content-Length with Expect gets its 413 instead of a 100."""
    request = f"POST /db/shop/query HTTP/1.1\r\n{HOST}Expect: 100-continue\r\n"
    response = await client.exchange(f"{request}Content-Length: 99999999\r\n\r\n".encode())
    assert response.status == 413


async def test_session_headers_mean_the_same_here(client: RawClient, node: MemoryNode) -> None:
    """Headers are read by the same rules, and a bad one is refused with the same text."""
    session = "x-d1-token: first-primary"
    response = await client.exchange(call("POST", "/db/shop/raw/", session, body=BODY))
    assert response.headers["x-d1-token"] == response.headers["x-d1-bookmark"]
    response = await client.exchange(query("SELECT 1", "x-d1-bookmark: yesterday"))
    assert response.status == 400
    assert "yesterday" in response.message
    assert len(node.seen) == 1


async def test_errors_of_queries_are_envelopes(client: RawClient) -> None:
    """SQL errors, bad JSON and our own bugs end here as they do on the fast path."""
    for body, status in ((b'{"sql":"SELEC"}', 400), (b"[", 400), (b'{"sql":"BUG"}', 500)):
        response = await client.exchange(call("POST", "/db/shop/query/", body=body))
        assert response.status == status
        assert "Traceback" not in response.message
    unknown = await client.exchange(call("POST", "/db/nope/query/", body=BODY))
    assert unknown.status == 404
    assert "nope" in unknown.message


@pytest.mark.parametrize(
    ("method", "path", "op", "name"),
    [
        ("POST", "/db", "create", ""),
        ("GET", "/db", "list", ""),
        ("GET", "/db/", "list", ""),
        ("GET", "/db/shop", "info", "shop"),
        ("DELETE", "/db/shop", "delete", "shop"),
        ("POST", "/db/sh%6fp/vacuum", "vacuum", "shop"),
    ],
)
async def test_administration_reaches_the_node(
    client: RawClient, node: MemoryNode, method: str, path: str, op: str, name: str
) -> None:
    """Each route is its operation on the database that it names, with the body as it came."""
    body = b'{"name":"new"}' if op == "create" else b""
    response = await client.exchange(call(method, path, body=body))
    assert response.status == 200
    (request,) = node.administered
    assert (request.op, request.database, request.body) == (op, name, body)


@pytest.mark.parametrize("path", ["/", "/db/shop/nope", "/favicon.ico", "/%00", "/..%2f/"])
async def test_unknown_paths_say_what_exists(client: RawClient, path: str) -> None:
    """A 404 is JSON and names the routes."""
    response = await client.exchange(call("GET", path))
    assert response.status == 404
    assert "/db/{name}/query" in response.message


async def test_wrong_methods_say_which_are_right(client: RawClient) -> None:
    """A 405 is JSON with an Allow header."""
    response = await client.exchange(call("PUT", "/db/shop/query"))
    assert response.status == 405
    assert response.headers["allow"] == "POST"
    assert "use POST" in response.message


async def test_health_for_balancers(client: RawClient, node: MemoryNode) -> None:
    """/livez always says yes; /readyz says no with its reasons; HEAD gets the status alone."""
    assert (await client.exchange(call("GET", "/livez"))).status == 200
    ready = await client.exchange(call("GET", "/readyz"))
    assert (ready.status, ready.json()) == (200, {"ready": True, "reasons": []})
    node.reasons = ["the primary is away"]
    late = await client.exchange(call("GET", "/readyz?verbose"))
    assert late.status == 503
    assert late.json()["reasons"] == ["the primary is away"]
    assert late.json()["status"] == node.status()
    client.send(call("HEAD", "/readyz"))
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")


async def test_status_is_the_nodes_own(client: RawClient, node: MemoryNode) -> None:
    """/status shows what the node says, as JSON."""
    response = await client.exchange(call("GET", "/status"))
    assert response.json() == node.status()


async def test_metrics_count_what_was_served(client: RawClient) -> None:
    """A scrape shows queries by path and status, and the node's own gauges."""
    for _ in range(3):
        await client.exchange(query("SELECT 1"))
    await client.exchange(query("SELEC"))
    text = (await client.exchange(call("GET", "/metrics"))).body.decode()
    assert 'd1server_http_answers_total{status="200"} 3.0' in text
    assert 'd1server_http_answers_total{status="400"} 1.0' in text
    assert 'd1server_http_seconds_count{path="now"} 4.0' in text
    assert 'd1server_http_seconds_bucket{le="+Inf",path="now"} 4.0' in text
    assert 'd1server_replica_lag_seconds{database="shop"} 0.0015' in text
    assert "d1server_is_primary 1.0" in text
    assert "process_resident_memory_bytes" in text
    openmetrics = await client.exchange(
        call("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0")
    )
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.body.endswith(b"# EOF\n")
