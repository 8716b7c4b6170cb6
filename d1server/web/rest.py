"""D1's REST API, version 4: databases and queries under `/accounts/{account}/d1/database`.

The same with and without `/client/v4` in front: the official clients take a base URL with it,
some others have it built in. Any account is this cluster.

REST has no sessions: without a session header the primary answers, as at D1. A bookmark in a
header is honoured all the same.
"""

from collections.abc import Iterator
from typing import Final

from aiohttp import web

from d1server.query import AdminRequest, NodeView, answered
from d1server.web.admission import grant_of
from d1server.web.body import Body
from d1server.web.front import Front
from d1server.web.headers import read_wishes
from d1server.web.limits import ADMIN_BODY_BYTES_MAX
from d1server.web.query_head import QueryHead
from d1server.web.response import to_response
from d1server.web.rest_parameters import read_fields, read_list_parameters
from d1server.web.route import Route
from proto.api import Dialect, Shape

PREFIXES: Final = ("/client/v4", "")
DATABASES: Final = "/accounts/{account}/d1/database"


class RestRoutes:
    """See the module's head."""

    def __init__(self, node: NodeView, front: Front) -> None:
        self._node = node
        self._room = front.room
        self._body_bytes_max = front.limits.body_bytes_max

    def routes(self) -> Iterator[Route]:
        """Everything that is served here."""
        for prefix in PREFIXES:
            databases = prefix + DATABASES
            database = databases + "/{database}"
            yield Route("POST", databases, self.create)
            yield Route("GET", databases, self.list)
            yield Route("GET", database, self.get)
            yield Route("PUT", database, self.replace)
            yield Route("PATCH", database, self.update)
            yield Route("DELETE", database, self.delete)
            yield Route("POST", database + "/query", self.query)
            yield Route("POST", database + "/raw", self.raw)

    async def create(self, request: web.Request) -> web.StreamResponse:
        return await self._administer("create", request, await self._body(request))

    async def list(self, request: web.Request) -> web.StreamResponse:
        parameters = read_list_parameters(list(request.query.items()))
        return await self._administer("list", request, parameters)

    async def get(self, request: web.Request) -> web.StreamResponse:
        fields = read_fields(list(request.query.items()))
        return await self._administer("info", request, fields)

    async def replace(self, request: web.Request) -> web.StreamResponse:
        return await self._administer("replace", request, await self._body(request))

    async def update(self, request: web.Request) -> web.StreamResponse:
        return await self._administer("update", request, await self._body(request))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        return await self._administer("delete", request, b"")

    async def query(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, Shape.OBJECTS)

    async def raw(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, Shape.ARRAYS)

    async def _body(self, request: web.Request) -> bytes:
        return await Body(request, self._room, ADMIN_BODY_BYTES_MAX).read()

    async def _administer(self, op: str, request: web.Request, body: bytes) -> web.StreamResponse:
        name = request.match_info.get("database", "")
        answer = await self._node.administer(
            AdminRequest(op=op, database=name, body=body, hops=0, grant=grant_of(request))
        )
        return to_response(answer)

    async def _answer(self, request: web.Request, shape: Shape) -> web.StreamResponse:
        wishes = read_wishes((name.lower(), value) for name, value in request.headers.items())
        head = QueryHead(request.match_info["database"], shape, wishes, Dialect.REST)
        body = Body(request, self._room, self._body_bytes_max)
        try:
            query = await head.request_aside(await body.read(), grant_of(request))
            answer = await answered(self._node.queries, query)
        finally:
            body.close()
        return to_response(answer, wishes.answer_header)
