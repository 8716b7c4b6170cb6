"""Who comes in: from the headers of a request to a grant, or to the answer that refuses it.

Every route asks for a live access token, but for those in OPEN_ROUTES and those with signed
URLs, which are tokens by themselves. The check comes before the body is read and before
the path is looked at, so that without a token nobody learns what there is.

While a node has no tokens it is open to the programs of its machine. A browser is one of
them, and runs the scripts of every page: requests that such a page makes carry an Origin
header, and are refused unless the page is of this machine, too.
"""

from time import monotonic
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDictProxy

from d1server.access.exposure import is_loopback
from d1server.access.grants import NOBODY, Access, Grant, NotAdmitted
from d1server.access.permissions import forbid, not_admitted
from d1server.config import Address
from d1server.query import Answer
from d1server.transfers.signing import SIGNED_PREFIX
from d1server.web.errors import Fault, refuse
from d1server.web.failures import FailureBook
from d1server.web.head import LEGACY_HEADERS
from d1server.web.query_head import QueryHead

Headers: TypeAlias = CIMultiDictProxy[str]

OPEN_ROUTES: Final = frozenset({"/livez", "/readyz", "/openapi.json", "/client/v4/openapi.json"})
"""By aiohttp's canonical path: what load balancers ask, and how to ask; without a token."""

_GRANT: Final = web.RequestKey("grant", Grant)
_LEGACY: Final = (
    "X-Auth-Email, X-Auth-Key and X-Auth-User-Service-Key are not served: make an access token "
    "with `d1server token create` and send it as `Authorization: Bearer <token>`"
)


class Refused(Exception):
    """The request is answered already."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Admission:
    """The door of one listening socket."""

    def __init__(self, access: Access, *, open_metrics: bool) -> None:
        """Let in whom `access` knows."""
        self.access = access
        self._failures = FailureBook()
        self._open_routes = OPEN_ROUTES | ({"/metrics"} if open_metrics else set())

    def admit_request(self, request: web.Request) -> None:
        """Let the request in, so that `grant_of` knows its grant; or raise `Refused`."""
        peer = request.remote or ""
        try:
            request[_GRANT] = self._admit_headers(request.headers, peer)
        except Refused:
            if not self._is_open_route(request):
                raise
            request[_GRANT] = NOBODY

    def _is_open_route(self, request: web.Request) -> bool:
        resource = request.match_info.route.resource
        if resource is None:
            return False
        path = resource.canonical
        return path.rstrip("/") in self._open_routes or path.startswith(SIGNED_PREFIX)

    def admit_head(self, head: QueryHead, peer: str) -> None:
        """Let a query of the fast path in: its head knows its grant then. Raises `Refused`."""
        try:
            grant = self.access.admit(head.authorization)
            head.grant, head.era = grant, self.access.era
        except NotAdmitted:
            raise Refused(self._refusal(peer)) from None

    def _admit_headers(self, headers: Headers, peer: str) -> Grant:
        given = headers.getall("authorization", ())
        if len(given) > 1:
            raise Refused(refuse(Fault.REQUEST_INVALID, "header authorization: send it once"))
        if not given and not LEGACY_HEADERS.isdisjoint(name.lower() for name in headers):
            raise Refused(refuse(Fault.NOT_ADMITTED, _LEGACY))
        try:
            grant = self.access.admit(given[0] if given else None)
        except NotAdmitted:
            raise Refused(self._refusal(peer)) from None
        if self.access.is_open and not _is_of_this_machine(headers.getall("origin", ())):
            raise Refused(
                forbid(
                    "a web page made this request, and this node has no access tokens: make one "
                    "with `d1server token create` and have the page send it"
                )
            )
        return grant

    def _refusal(self, peer: str) -> Answer:
        """The answer to somebody without a live token."""
        wait_s = self._failures.note(peer, monotonic())
        if not wait_s:
            return not_admitted()
        answer = refuse(
            Fault.NOT_ADMITTED_OFTEN,
            "Authentication error: too many requests of this address had no live access token",
        )
        answer.retry_after_s = wait_s
        return answer


def grant_of(request: web.Request) -> Grant:
    """What the sender of a request that was let in may do."""
    return request[_GRANT]


def _is_of_this_machine(origins: list[str] | tuple[()]) -> bool:
    return all(_is_local(origin) for origin in origins)


def _is_local(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        return False
    return host is not None and is_loopback(Address(host, 0))
