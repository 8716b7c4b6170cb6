"""What queries have cost, and what would make them cheaper: GraphQL and recommendations."""

from collections.abc import Iterator
from typing import Final

from aiohttp import web

from d1server.query import AdminRequest, NodeView
from d1server.recommender import encode_page, read_filter, read_page
from d1server.web.admission import grant_of
from d1server.web.body import Body
from d1server.web.front import Front
from d1server.web.limits import ADMIN_BODY_BYTES_MAX
from d1server.web.response import to_response
from d1server.web.rest import DATABASES, PREFIXES
from d1server.web.route import Route

OF_ONE: Final = DATABASES + "/{database}/insights"
OF_ALL: Final = "/accounts/{account}/d1/insights"


class InsightRoutes:
    """See the module's head."""

    def __init__(self, node: NodeView, front: Front) -> None:
        self._node = node
        self._room = front.room

    def routes(self) -> Iterator[Route]:
        """Everything that is served here."""
        for prefix in PREFIXES:
            yield Route("POST", prefix + "/graphql", self.graphql)
            yield Route("GET", prefix + OF_ONE, self.of_one)
            yield Route("GET", prefix + OF_ALL, self.of_all)

    async def graphql(self, request: web.Request) -> web.StreamResponse:
        """What queries have cost."""
        body = await Body(request, self._room, ADMIN_BODY_BYTES_MAX).read()
        return await self._administer("graphql", request, body)

    async def of_one(self, request: web.Request) -> web.StreamResponse:
        """Recommendations for one database."""
        read_filter(request.query.get("filter", ""))
        return await self._administer("recommend", request, b"")

    async def of_all(self, request: web.Request) -> web.StreamResponse:
        """A page of those for all databases."""
        read_filter(request.query.get("filter", ""))
        page = read_page(request.query.get("limit", ""), request.query.get("cursor", ""))
        return await self._administer("recommend-all", request, encode_page(page))

    async def _administer(self, op: str, request: web.Request, body: bytes) -> web.StreamResponse:
        name = request.match_info.get("database", "")
        answer = await self._node.administer(
            AdminRequest(op=op, database=name, body=body, hops=0, grant=grant_of(request))
        )
        return to_response(answer)
