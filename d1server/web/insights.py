"""What queries have cost, and what would make them cheaper: GraphQL and recommendations."""

from collections.abc import Iterator
from typing import Final

from aiohttp import web

from d1server.query import NodeView
from d1server.recommender import Recommender, read_filter, read_page
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
        insights = self._node.insights
        if insights is None:
            raise web.HTTPNotFound
        body = await Body(request, self._room, ADMIN_BODY_BYTES_MAX).read()
        return to_response(await insights.graphql(body, grant_of(request)))

    async def of_one(self, request: web.Request) -> web.StreamResponse:
        """Recommendations for one database."""
        recommender, name = self._recommender(request), request.match_info["database"]
        return to_response(await recommender.for_database(name, grant_of(request)))

    async def of_all(self, request: web.Request) -> web.StreamResponse:
        """A page of those for all databases."""
        recommender = self._recommender(request)
        page = read_page(request.query.get("limit", ""), request.query.get("cursor", ""))
        return to_response(await recommender.for_all(page, grant_of(request)))

    def _recommender(self, request: web.Request) -> Recommender:
        if self._node.recommender is None:
            raise web.HTTPNotFound
        read_filter(request.query.get("filter", ""))
        return self._node.recommender
