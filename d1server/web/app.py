"""The aiohttp application: administration, health, and queries that are not plain.

The same query route as the fast path's, decoded by the same code: a client that sends its
body in chunks or its name percent-encoded gets the same answers, only slower. Whatever
happens, the answer is JSON.
"""

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from time import monotonic
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from prometheus_client.registry import Collector

from d1server.query import Answer, NodeView
from d1server.web.admission import Refused
from d1server.web.binding import BindingRoutes, refused
from d1server.web.body import BODY_FAULTS
from d1server.web.calls import Calls
from d1server.web.errors import Fault, answer_exception, refuse
from d1server.web.front import Front
from d1server.web.handed import HandedConnection
from d1server.web.health import HealthRoutes
from d1server.web.insights import InsightRoutes
from d1server.web.openapi import document_routes
from d1server.web.response import to_response
from d1server.web.rest import RestRoutes
from d1server.web.route import Handler, Route
from d1server.web.transfers import TransferRoutes
from proto.api import Dialect, Shape

ExpectHandler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

_ROUTES_SHOWN: Final = (
    "POST /db/{name}/query, POST /db/{name}/raw, GET or POST /db, GET or DELETE /db/{name},"
    " POST /db/{name}/vacuum, D1's REST API under /client/v4/accounts/{account}/d1/database,"
    " D1's binding at POST /query and /execute, GET or POST /tokens, DELETE /tokens/{id},"
    " GET /livez, /readyz, /status, /metrics; GET /openapi.json says more"
)
_TIME_TRAVEL: Final = "/time_travel/"
_NO_TIME_TRAVEL: Final = (
    "Time Travel is not available here: nothing was changed. What an export holds can be restored: "
    "`d1 export` writes one, and `d1 execute --file` loads it into a new database"
)


def open_app(node: NodeView, front: Front, collectors: Sequence[Collector]) -> web.Application:
    """Return the application of one listening socket."""
    # Bodies are read and bounded in `Body`, never by aiohttp's `request.read()`.
    app = web.Application(middlewares=[_open_boundary(front)])
    calls = Calls(node, front)
    health = HealthRoutes(node, front, collectors)
    routes = [
        Route("POST", "/db/{database}/query", calls.query(Shape.OBJECTS, Dialect.NODE)),
        Route("POST", "/db/{database}/raw", calls.query(Shape.ARRAYS, Dialect.NODE)),
        Route("POST", "/db", calls.operation("create")),
        Route("POST", "/db/{database}/vacuum", calls.operation("vacuum")),
        Route("GET", "/db", calls.operation("list")),
        Route("GET", "/db/{database}", calls.operation("info")),
        Route("DELETE", "/db/{database}", calls.operation("delete")),
        Route("POST", "/tokens", calls.operation("token-create")),
        Route("GET", "/tokens", calls.operation("token-list")),
        Route("DELETE", "/tokens/{id}", calls.operation("token-revoke")),
        Route("GET", "/livez", health.livez),
        Route("GET", "/readyz", health.readyz),
        Route("GET", "/status", health.status),
        Route("GET", "/metrics", health.metrics),
        *RestRoutes(calls).routes(),
        *BindingRoutes(node, front).routes(),
        *TransferRoutes(node, calls).routes(),
        *InsightRoutes(calls).routes(),
        *document_routes(),
    ]
    for method, path, handler, bytes_max in routes:
        on_expect = _on_expect(front, bytes_max or front.limits.body_bytes_max)
        for form in {path, path.rstrip("/") + "/"}:
            if method == "GET":
                app.router.add_get(form, handler, expect_handler=on_expect)  # and HEAD
            else:
                app.router.add_route(method, form, handler, expect_handler=on_expect)
    return app


def _open_boundary(front: Front) -> Middleware:
    """Return the one place where requests through aiohttp are counted and errors answered."""
    meter = front.meter

    @web.middleware
    async def boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, HandedConnection)
        started = monotonic()
        connection.begin_request()
        try:
            response = await _answer_or_refuse(front, request, handler)
        finally:
            connection.end_request()
        meter.answers[response.status] += 1
        meter.aside.add(monotonic() - started)
        return response

    return boundary


async def _answer_or_refuse(
    front: Front, request: web.Request, handler: Handler
) -> web.StreamResponse:
    if hdrs.TRANSFER_ENCODING in request.headers and not _is_plainly_chunked(request):
        # No two readers of HTTP are sure to agree on where such a request ends.
        return _refuse_and_close(
            Fault.REQUEST_INVALID,
            "Transfer-Encoding: send it once, as chunked, with HTTP/1.1 and no Content-Length",
        )
    try:
        front.admission.admit_request(request)
        return await handler(request)
    except Refused as exc:
        return _refuse_stranger(request, exc.answer)
    except web.HTTPException as exc:
        return _refuse_route(request, exc)
    except tuple(BODY_FAULTS) as exc:
        return _refuse_and_close(BODY_FAULTS[type(exc)], str(exc))
    except ConnectionError:
        raise  # the client is gone: aiohttp's to clean up
    except Exception as exc:
        return to_response(answer_exception(exc))


def _is_plainly_chunked(request: web.Request) -> bool:
    codings = request.headers.getall(hdrs.TRANSFER_ENCODING)
    return (
        request.version >= (1, 1)
        and [coding.strip().lower() for coding in codings] == ["chunked"]
        and hdrs.CONTENT_LENGTH not in request.headers
    )


def _refuse_stranger(request: web.Request, answer: Answer) -> web.StreamResponse:
    response = refused(request, answer) or to_response(answer)
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        response.force_close()
    return response


def _refuse_and_close(fault: Fault, message: str) -> web.StreamResponse:
    response = to_response(refuse(fault, message))
    response.force_close()
    return response


def _refuse_route(request: web.Request, exc: web.HTTPException) -> web.StreamResponse:
    if isinstance(exc, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(exc.allowed_methods))
        text = f"{request.method} is not served at {request.path}: use {allowed}"
        response = to_response(refuse(Fault.METHOD_WRONG, text))
        response.headers["allow"] = allowed
        return response
    if exc.status == 404:
        if _TIME_TRAVEL in request.path:
            return to_response(refuse(Fault.ROUTE_UNKNOWN, _NO_TIME_TRAVEL))
        text = f"nothing is served at {request.path}; there is {_ROUTES_SHOWN}"
        return to_response(refuse(Fault.ROUTE_UNKNOWN, text))
    return to_response(refuse(Fault.REQUEST_INVALID, f"{exc.status} {exc.reason}"))


def _on_expect(front: Front, bytes_max: int) -> ExpectHandler:
    """Return what answers an Expect header: no body is asked for that would be refused."""

    async def on_expect(request: web.Request) -> web.StreamResponse | None:
        if request.headers[hdrs.EXPECT].lower() != "100-continue":
            text = "the only Expect header served is 100-continue"
            return _refuse_and_close(Fault.EXPECTATION_UNKNOWN, text)
        try:
            front.admission.admit_request(request)
        except Refused as exc:
            response = _refuse_stranger(request, exc.answer)
            response.force_close()  # whether the body still comes is not known
            return response
        if (request.content_length or 0) <= bytes_max and request.version >= (1, 1):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer itself has not begun
        return None

    return on_expect
