"""What queries have cost, and what would make them cheaper: GraphQL and recommendations."""

from collections.abc import Iterator
from typing import Final

from aiohttp import web

from d1server.insights.recommender import encode_page, read_filter, read_page
from d1server.web.calls import Calls
from d1server.web.rest import DATABASES, PREFIXES
from d1server.web.route import Route

OF_ONE: Final = DATABASES + "/{database}/insights"
OF_ALL: Final = "/accounts/{account}/d1/insights"


class InsightRoutes:
    """See the module's head."""

    def __init__(self, calls: Calls) -> None:
        """Serve them by `calls`."""
        self._calls = calls

    def routes(self) -> Iterator[Route]:
        """Everything that is served here."""
        for prefix in PREFIXES:
            yield Route("POST", prefix + "/graphql", self._calls.operation("graphql"))
            yield Route("GET", prefix + OF_ONE, self.of_one)
            yield Route("GET", prefix + OF_ALL, self.of_all)

    async def of_one(self, request: web.Request) -> web.StreamResponse:
        """Recommendations for one database."""
        read_filter(request.query.get("filter", ""))
        return await self._calls.administer("recommend", request, b"")

    async def of_all(self, request: web.Request) -> web.StreamResponse:
        """A page of those for all databases."""
        read_filter(request.query.get("filter", ""))
        page = read_page(request.query.get("limit", ""), request.query.get("cursor", ""))
        return await self._calls.administer("recommend-all", request, encode_page(page))
