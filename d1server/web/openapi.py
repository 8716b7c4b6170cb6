"""The OpenAPI document at `/openapi.json`, for everybody: it tells what the source tells."""

from collections.abc import Iterator
from typing import Final

from aiohttp import web

from d1server.query import Answer
from d1server.web.response import to_response
from d1server.web.rest import PREFIXES
from d1server.web.route import Route

DOCUMENT: Final = "/openapi.json"


def document_routes() -> Iterator[Route]:
    """Everything that is served here."""
    for prefix in PREFIXES:
        yield Route("GET", prefix + DOCUMENT, _document)


async def _document(request: web.Request) -> web.StreamResponse:  # noqa: ARG001
    # Loaded and made when it is first asked for: most nodes never are, and start sooner so.
    from d1server.openapi.document import encoded  # noqa: PLC0415

    return to_response(Answer(200, encoded(), None))
