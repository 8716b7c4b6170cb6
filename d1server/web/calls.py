"""From a request through aiohttp to a call of the node, and back: what most routes do."""

from aiohttp import web

from d1server.query import AdminRequest, NodeView, answered
from d1server.web.admission import grant_of
from d1server.web.body import Body
from d1server.web.front import Front
from d1server.web.headers import read_wishes
from d1server.web.limits import ADMIN_BODY_BYTES_MAX
from d1server.web.query_head import QueryHead
from d1server.web.response import to_response
from d1server.web.route import Handler
from proto.api import Dialect, Shape


class Calls:
    """The calls of one node from one listening socket."""

    def __init__(self, node: NodeView, front: Front) -> None:
        """`front` bounds the bodies."""
        self._node = node
        self._room = front.room
        self._body_bytes_max = front.limits.body_bytes_max

    def operation(self, op: str) -> Handler:
        """What serves one administration call whose body is as the node wants it."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self.administer(op, request, await self.read_body(request))

        return handle

    def query(self, shape: Shape, dialect: Dialect) -> Handler:
        """What serves queries of one kind."""

        async def handle(request: web.Request) -> web.StreamResponse:
            wishes = read_wishes((name.lower(), value) for name, value in request.headers.items())
            head = QueryHead(request.match_info["database"], shape, wishes, dialect)
            body = Body(request, self._room, self._body_bytes_max)
            try:
                query = await head.request_aside(await body.read(), grant_of(request))
                answer = await answered(self._node.queries, query)
            finally:
                body.close()
            return to_response(answer, wishes.answer_header)

        return handle

    async def read_body(self, request: web.Request) -> bytes:
        """The body of an administration call."""
        body = Body(request, self._room, ADMIN_BODY_BYTES_MAX)
        try:
            return await body.read()
        finally:
            body.close()

    async def administer(self, op: str, request: web.Request, body: bytes) -> web.StreamResponse:
        """Have the node run one administration call on what the path names."""
        named = request.match_info
        name = named.get("database") or named.get("id", "")  # of a database, or a token's id
        answer = await self._node.administer(
            AdminRequest(op=op, database=name, body=body, hops=0, grant=grant_of(request))
        )
        return to_response(answer)
