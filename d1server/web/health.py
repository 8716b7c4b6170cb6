"""What operators, load balancers and Prometheus ask: /livez, /readyz, /status, /metrics."""

from collections.abc import Mapping, Sequence

import orjson
from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from d1server.access.grants import NOBODY
from d1server.access.permissions import forbid
from d1server.metrics import HttpCollector, NodeCollector, open_registry
from d1server.query import NodeView
from d1server.web.admission import grant_of
from d1server.web.front import Front
from d1server.web.response import SERVER, answer_headers


class HealthRoutes:
    """Answers from memory; nothing here waits for a disk, a lock or another node."""

    def __init__(self, node: NodeView, front: Front, collectors: Sequence[Collector]) -> None:
        self._node = node
        self._front = front
        own = (
            HttpCollector(front.meter, lambda: len(front.clients)),
            NodeCollector(node.status, node.readiness),
        )
        self._registry = open_registry((*own, *collectors))

    async def livez(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002
        """Answer as long as the event loop turns."""
        return _to_json({"live": True})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """Say 200 when this node may be sent requests, else 503 and why not."""
        ready, reasons = self._node.readiness()
        is_known = grant_of(request) is not NOBODY
        if self._front.stops:
            ready, reasons = False, [*reasons, "this node is stopping"]
        if reasons and not is_known:
            reasons = ["send an access token to see why"]  # they name databases
        shown: dict[str, object] = {"ready": ready, "reasons": reasons}
        if "verbose" in request.query and is_known:
            shown["status"] = self._node.status()
        return _to_json(shown, 200 if ready else 503)

    async def status(self, request: web.Request) -> web.StreamResponse:
        """Say what the node is and where its databases stand, if the token is for all of them."""
        status = self._node.status()
        if grant_of(request).databases is not None:
            status.pop("databases", None)
        return _to_json(status)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Answer a scrape, in the format that it accepts."""
        grant = grant_of(request)
        if grant.databases is not None and grant is not NOBODY:
            answer = forbid("the metrics are of all databases, and this token is not")
            return web.Response(
                status=answer.status, body=answer.body, headers=answer_headers(answer, "")
            )
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        headers = {"content-type": content_type, "server": SERVER}
        return web.Response(body=encode(self._registry), headers=headers)


def _to_json(value: Mapping[str, object], status: int = 200) -> web.Response:
    headers = {
        "content-type": "application/json",
        "cache-control": "no-store",
        "server": SERVER,
    }
    body = orjson.dumps(value, default=str, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(status=status, body=body, headers=headers)
