"""The binding's calls as bytes: workerd's own, and Miniflare's proxied ones."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from d1server.web.fastpath import FastConnection
from tests.binding.binding_client import ROWS, TOKEN, Binding, error_of, statement, taken
from tests.rest.http_cluster import HttpCluster, HttpNode
from tests.web.raw_client import Response, connected

pytestmark = pytest.mark.asyncio(loop_scope="module")


class CountingTransport:
    """Passes everything on, and counts what is written."""

    def __init__(self, transport: Any, writes: list[str]) -> None:
        self._transport = transport
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "writelines"):
            self._writes.append(name)
        return getattr(self._transport, name)


async def send(node: HttpNode, *lines: str, body: bytes) -> Response:
    """One request on a connection of its own."""
    parts = urlsplit(node.url)
    assert parts.hostname is not None
    assert parts.port is not None
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode()
    async with connected((parts.hostname, parts.port)) as client:
        return await client.exchange(head, body)


async def test_workerds_bytes(nodes: HttpCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As workerd puts them on the wire; the answer leaves in one write on either way.

    Two writes would cost each call of a Worker about 50 ms (Nagle and delayed
    acknowledgements). Method: count what reaches the transport.
    """
    await nodes.create("wire")
    writes: list[str] = []
    made = FastConnection.connection_made

    def counted(connection: FastConnection, transport: Any) -> None:
        made(connection, CountingTransport(transport, writes))  # type: ignore[arg-type]

    monkeypatch.setattr(FastConnection, "connection_made", counted)
    ways = [(node, path) for node in nodes.nodes for path in ("/query", "/query/")]
    for node, path in ways:
        for sql, ok in (("SELECT ? AS a", True), ("nope", False), ("SELECT zeroblob(?)", True)):
            writes.clear()
            response = await send(
                node,
                f"POST {path}?resultsFormat=ROWS_AND_COLUMNS HTTP/1.1",
                "Host: d1",
                "Content-Type: application/json",
                "Authorization: Bearer db-scoped-secret",
                "x-d1-database: wire",
                "x-cf-d1-session-commit-token: first-primary",
                body=orjson.dumps({"sql": sql, "params": [90_000] if ok else []}),
            )
            assert response.status == 200
            assert len(writes) == 1
            assert len(response.headers[TOKEN]) == 59
            assert isinstance(orjson.loads(response.body), list if ok else dict)


def wrapped(headers: Mapping[str, str], path: str = "/query") -> dict[str, str]:
    """The headers of Miniflare's proxied form."""
    inner = {f"MF-Header-{name}": value for name, value in headers.items()}
    return {"MF-URL": f"http://d1{path}?resultsFormat={ROWS}", "MF-Binding": "DB", **inner}


async def test_miniflares_proxied_calls(nodes: HttpCluster) -> None:
    """The database is named in the wrapper, in the wrapped headers, or in the proxy's URL."""
    await nodes.create("proxied", "CREATE TABLE t(a)")
    one = statement("SELECT ? AS a", "é")
    rows = {"columns": ["a"], "rows": [["é"]]}
    named = {"x-d1-database": "proxied"}
    for node in nodes.nodes:
        for path, headers in (
            ("/?x-d1-database=proxied", wrapped({})),
            ("/", wrapped({}) | named),
            ("/", wrapped(named)),
        ):
            answer = taken(await node.call("POST", path, one, headers))
            assert answer.results == [rows]
            assert answer.token is None
            token = {TOKEN: "first-unconstrained"}
            answer = taken(await node.call("POST", path, one, headers | wrapped(token)))
            assert answer.token is not None
        lines = [{"sql": "INSERT INTO t VALUES (1)"}, {"sql": "SELECT 1 AS a"}]
        call = await node.call("POST", "/", lines, wrapped(named, "/execute"))
        assert len(taken(call).elements) == 2
        broken = await node.call("POST", "/", statement("nope"), wrapped(named))
        assert error_of(broken).startswith('near "nope"')
        assert "x-d1-database" in error_of(await node.call("POST", "/", one, wrapped({})))
        assert "/nope" in error_of(await node.call("POST", "/", one, wrapped(named, "/nope")))
        dump = await node.call("POST", "/", None, wrapped(named, "/dump"))
        assert dump.status == 400


async def test_miniflares_websocket_is_declined(nodes: HttpCluster) -> None:
    """It tries one when it starts; any answer but 101 makes it go on without."""
    upgrade = {
        "upgrade": "websocket",
        "connection": "upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    for node in nodes.nodes:
        reply = await node.call("GET", "/?MF-Binding=DB", None, upgrade)
        assert reply.error[:2] == (404, 7404)
        assert (await node.call("POST", "/", b"{}")).error[:2] == (404, 7404)
        url = {"MF-URL": "http://[broken", "x-d1-database": "proxied"}
        assert (await node.call("POST", "/", b"{}", url)).error[:2] == (404, 7404)


async def test_many_calls_on_one_connection(nodes: HttpCluster) -> None:
    """Workerd keeps one connection for a caller that waits for each answer."""
    await nodes.create("many", "CREATE TABLE t(a)")
    db = Binding(nodes.replica, "many")
    for at in range(50):
        await db.execute(statement("INSERT INTO t VALUES (?)", at))
        answer = await db.query(statement("SELECT count(*) FROM t"))
        assert answer.results[0]["rows"] == [[at + 1]]
