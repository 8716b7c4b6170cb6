"""A primary and replicas behind real sockets, asked with whole requests.

The nodes are those of `tests/cluster`, so a test can hold, slow or cut a replica's link.
"""

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson

from d1server.web.serve import serving
from tests.cluster.running_cluster import Cluster, NodeUnderTest, running_cluster
from tests.waiting import until

ACCOUNT = "/accounts/0123456789abcdef0123456789abcdef/d1/database"
REST = "/client/v4" + ACCOUNT


class Reply(NamedTuple):
    """One response; its body is JSON whatever it is."""

    status: int
    headers: Mapping[str, str]  # in any case
    json: Any

    @property
    def result(self) -> Any:
        assert self.status == 200, self
        assert self.json["success"] is True
        assert self.json["errors"] == []
        return self.json["result"]

    @property
    def error(self) -> tuple[int, int, str]:
        """Status, code and text of a REST error, whose envelope must be whole."""
        assert self.json.keys() == {"result", "success", "errors", "messages"}, self
        assert self.json["success"] is False
        assert self.json["result"] == []
        assert self.headers["content-type"] == "application/json"
        first = self.json["errors"][0]
        return self.status, first["code"], first["message"]


class HttpNode:
    """One node and where it serves."""

    def __init__(self, node: NodeUnderTest, url: str, http: aiohttp.ClientSession) -> None:
        self.node = node
        self.url = url
        self._http = http

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request; `body` is JSON, or bytes as they are."""
        text = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        data = io.BytesIO(text) if text else None
        async with self._http.request(
            method, self.url + path, data=data, headers=headers, allow_redirects=False
        ) as response:
            return Reply(response.status, response.headers, json.loads(await response.read()))

    async def rest(self, method: str, path: str = "", body: object = None) -> Reply:
        """Call D1's REST API; `path` is what stands behind `.../d1/database`."""
        return await self.call(method, REST + path, body)

    async def create(self, name: str, **options: object) -> Any:
        """Create a database; its object."""
        return (await self.rest("POST", "", {"name": name, **options})).result

    async def rows(self, database: str, sql: str, *params: object) -> Any:
        """Run one statement over REST that must work; its rows."""
        body = {"sql": sql, "params": params}
        return (await self.rest("POST", f"/{database}/query", body)).result[-1]["results"]


class HttpCluster:
    """A primary and one replica."""

    def __init__(self, cluster: Cluster, primary: HttpNode, replica: HttpNode) -> None:
        self.cluster = cluster
        self.primary = primary
        self.replica = replica

    @property
    def nodes(self) -> tuple[HttpNode, HttpNode]:
        return self.primary, self.replica

    async def create(self, name: str, schema: str = "") -> None:
        """A database that both nodes have."""
        await self.primary.create(name)
        if schema:
            await self.primary.rows(name, schema)
        replica = self.replica.node.node
        await until(lambda: replica.find(name) is not None, f"the replica knows {name}")
        await self.cluster.caught_up(name)


@asynccontextmanager
async def http_cluster(folder: Path, **settings: Any) -> AsyncIterator[HttpCluster]:
    """A running cluster with HTTP in front of both nodes; `settings` are for both."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running_cluster(folder))
        await cluster.add_primary(**settings)
        await cluster.add_replica(**settings)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        served = []
        for node in cluster.nodes:
            front = await stack.enter_async_context(serving(node.node, "127.0.0.1", 0))
            host, port = front.address
            served.append(HttpNode(node, f"http://{host}:{port}", http))
        yield HttpCluster(cluster, *served)
