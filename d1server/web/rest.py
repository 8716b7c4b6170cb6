"""D1's REST API, version 4: databases and queries under `/accounts/{account}/d1/database`.

The same with and without `/client/v4` in front: the official clients take a base URL with it,
some others have it built in. Any account is this cluster.

REST has no sessions: without a session header the primary answers, as at D1. A bookmark in a
header is honoured all the same.
"""

from collections.abc import Iterator
from typing import Final

from aiohttp import web

from d1server.web.calls import Calls
from d1server.web.rest_parameters import read_fields, read_list_parameters
from d1server.web.route import Route
from proto.api import Dialect, Shape

PREFIXES: Final = ("/client/v4", "")
DATABASES: Final = "/accounts/{account}/d1/database"


class RestRoutes:
    """See the module's head."""

    def __init__(self, calls: Calls) -> None:
        """Serve them by `calls`."""
        self._calls = calls

    def routes(self) -> Iterator[Route]:
        """Everything that is served here."""
        calls = self._calls
        for prefix in PREFIXES:
            databases = prefix + DATABASES
            database = databases + "/{database}"
            yield Route("POST", databases, calls.operation("create"))
            yield Route("GET", databases, self.list)
            yield Route("GET", database, self.get)
            yield Route("PUT", database, calls.operation("replace"))
            yield Route("PATCH", database, calls.operation("update"))
            yield Route("DELETE", database, self.delete)
            yield Route("POST", database + "/query", calls.query(Shape.OBJECTS, Dialect.REST))
            yield Route("POST", database + "/raw", calls.query(Shape.ARRAYS, Dialect.REST))

    async def list(self, request: web.Request) -> web.StreamResponse:
        parameters = read_list_parameters(list(request.query.items()))
        return await self._calls.administer("list", request, parameters)

    async def get(self, request: web.Request) -> web.StreamResponse:
        fields = read_fields(list(request.query.items()))
        return await self._calls.administer("info", request, fields)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        return await self._calls.administer("delete", request, b"")
