"""The server's side of a Worker's `env.DB`; see `binding_call.py` for the protocol.

Every answer but that to `/dump` has status 200: the client reads the body whatever the
status is, and proxies in between do not retry a 200.
"""

import uuid
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from aiohttp import web

from d1server.query import Answer, NodeView, answered
from d1server.web.admission import grant_of
from d1server.web.binding_call import (
    DUMP,
    PATHS,
    Head,
    read_call,
    to_binding_answer,
    unwrap,
)
from d1server.web.body import BODY_FAULTS, Body
from d1server.web.errors import Fault, answer_exception, refuse
from d1server.web.front import Front
from d1server.web.headers import NO_WISHES, Wishes
from d1server.web.response import to_response
from d1server.web.route import Route

_NO_DUMP: Final = "dump() is not available: D1 has taken it back; read the tables instead"


class BindingRoutes:
    """See the module's head."""

    def __init__(self, node: NodeView, front: Front) -> None:
        self._node = node
        self._room = front.room
        self._body_bytes_max = front.limits.body_bytes_max

    def routes(self) -> Iterator[Route]:
        """Everything that is served here."""
        for path in (*PATHS, DUMP):
            yield Route("POST", path, self.direct)
        yield Route("*", "/", self.proxied)

    async def direct(self, request: web.Request) -> web.StreamResponse:
        """A call from workerd."""
        return await self._answer(request, _head(request))

    async def proxied(self, request: web.Request) -> web.StreamResponse:
        """A call that Miniflare has wrapped; nothing else is served at `/`."""
        wrapped = unwrap(_head(request)) if request.method == "POST" else None
        if wrapped is None:
            raise web.HTTPNotFound
        return await self._answer(request, wrapped)

    async def _answer(self, request: web.Request, head: Head) -> web.StreamResponse:
        wishes = NO_WISHES
        body = Body(request, self._room, self._body_bytes_max)
        try:
            if head.path == DUMP:
                return _to_response(refuse(Fault.REQUEST_INVALID, _NO_DUMP), wishes, status=400)
            grant = grant_of(request)
            only = grant.only_database
            call = read_call(head, str(uuid.UUID(bytes=only)) if only is not None else "")
            wishes = call.wishes
            query = await call.request_aside(await body.read(), grant)
            return _to_response(await answered(self._node.queries, query), wishes)
        except tuple(BODY_FAULTS) as exc:
            response = _to_response(refuse(BODY_FAULTS[type(exc)], str(exc)), wishes)
            response.force_close()
            return response
        except ConnectionError:
            raise  # the client is gone
        except Exception as exc:
            return _to_response(answer_exception(exc), wishes)
        finally:
            body.close()


def _head(request: web.Request) -> Head:
    headers = [(name.lower(), value) for name, value in request.headers.items()]
    return Head(request.path.rstrip("/"), list(request.query.items()), headers)


def _to_response(answer: Answer, wishes: Wishes, *, status: int = 200) -> web.Response:
    answer = to_binding_answer(answer, wishes)
    response = to_response(answer, wishes.answer_header)
    if answer.status == HTTPStatus.OK:
        response.set_status(status)
    return response


def refused(request: web.Request, answer: Answer) -> web.Response | None:
    """What a caller of the binding without a token reads; None: the call is not for here."""
    path = request.path.rstrip("/")
    if path not in (*PATHS, DUMP, "") or request.method != "POST":
        return None
    return _to_response(answer, NO_WISHES)
