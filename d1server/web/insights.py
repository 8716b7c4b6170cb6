"""GraphQL over HTTP: what D1's tools and dashboards ask about queries and sizes."""

from collections.abc import Iterator

from aiohttp import web

from d1server.query import NodeView
from d1server.web.admission import grant_of
from d1server.web.body import Body
from d1server.web.front import Front
from d1server.web.limits import ADMIN_BODY_BYTES_MAX
from d1server.web.response import to_response
from d1server.web.rest import PREFIXES
from d1server.web.route import Route


class InsightRoutes:
    """See the module's head."""

    def __init__(self, node: NodeView, front: Front) -> None:
        self._node = node
        self._room = front.room

    def routes(self) -> Iterator[Route]:
        """Everything that is served here."""
        for prefix in PREFIXES:
            yield Route("POST", prefix + "/graphql", self.graphql)

    async def graphql(self, request: web.Request) -> web.StreamResponse:
        insights = self._node.insights
        if insights is None:
            raise web.HTTPNotFound
        body = await Body(request, self._room, ADMIN_BODY_BYTES_MAX).read()
        return to_response(await insights.graphql(body, grant_of(request)))
