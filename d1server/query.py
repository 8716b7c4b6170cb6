"""The seam between HTTP and the node: what a request asks, what an answer says.

`d1server.web` turns bytes into a `QueryRequest` and an `Answer` into bytes; the node
decides where the request is served and runs it. Neither side knows the other's insides.

Invariants:

1. Every `Answer.body` is a complete D1 envelope in JSON, also for an error.
2. `QueryService.answer_now` never blocks and never waits; it returns None for what it
   cannot answer at once, and has then changed nothing. A `PendingAnswer` has: it comes.
3. `QueryService.answer` is cancelled when the client hangs up. A write that has begun
   to commit is not undone by that; whoever retries it needs an idempotency key.

Owned by nobody: these are values and protocols. Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from proto.api import Dialect, Shape

if TYPE_CHECKING:
    from d1server.access.grants import Access, Grant
    from d1server.transfers.file_relay import FileRelay
    from d1server.transfers.node_transfers import Transfers
    from proto.api import Statement
    from proto.tokens import Bookmark


class Constraint(enum.Enum):
    """How fresh the state must be that a request reads."""

    NONE = "none"  # no session: always the primary
    UNCONSTRAINED = "first-unconstrained"  # whatever this node has
    PRIMARY = "first-primary"  # the primary's newest
    BOOKMARK = "bookmark"  # at least `QueryRequest.bookmark`


class OnTimeout(enum.Enum):
    """What becomes of a read whose bookmark did not arrive in time."""

    PRIMARY = "primary"  # forward it
    STALE = "stale"  # answer from what is there, and say so in `meta`
    ERROR = "error"  # refuse


# Structs, where one is made for each query: they cost a fifth of what dataclasses do.
class QueryRequest(msgspec.Struct, kw_only=True, gc=False):
    """One decoded query: a transaction of one or more statements, and its session's wishes."""

    database: str
    statements: tuple[Statement, ...]  # at least one
    shape: Shape
    constraint: Constraint
    bookmark: Bookmark | None  # set exactly when `constraint` is BOOKMARK
    max_wait_s: float | None  # None: the node's default
    on_timeout: OnTimeout
    idempotency_key: str | None
    hops: int  # nodes that have forwarded it already
    body: bytes  # for forwarding: what `decode_query` made `statements` of
    grant: Grant  # what the caller may do; judged where the database and the statements are known
    dialect: Dialect = Dialect.NODE

    @property
    def operation(self) -> str:
        """Its name in QUERY_OPS."""
        return _QUERY_OP_OF[self.dialect, self.shape]


class Answer(msgspec.Struct, gc=False):
    """What goes back to the client, apart from the framing of HTTP."""

    status: int
    body: bytes
    bookmark: str | None
    should_retry: bool | None = None  # x-should-retry; None: say nothing
    retry_after_s: int | None = None


class PendingAnswer:
    """An answer that is decided and on its way: a write that waits for its `fdatasync`.

    `deliver` is set by whoever got this, before the event loop's next turn, and is called
    once. A request whose client hung up need not be given back: nothing waits for it.
    """

    __slots__ = ("deliver",)

    deliver: Callable[[Answer], None]

    async def wait(self) -> Answer:
        """Return the answer; instead of setting `deliver`."""
        arrived: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def deliver(answer: Answer) -> None:
            if not arrived.done():
                arrived.set_result(answer)

        self.deliver = deliver
        return await arrived


@dataclass(slots=True, kw_only=True)
class AdminRequest:
    """One administration call. `op` is one of ADMIN_OPS."""

    op: str
    database: str  # name or uuid; empty for "list"; for "create" it stands in `body`
    body: bytes
    hops: int
    grant: Grant  # what the caller may do; see `access/permissions.py`


# Every operation that a node runs for another one's client, by its name on the link.
QUERY_OPS: Final[Mapping[str, tuple[Dialect, Shape]]] = {
    "query": (Dialect.NODE, Shape.OBJECTS),
    "raw": (Dialect.NODE, Shape.ARRAYS),
    "rest/query": (Dialect.REST, Shape.OBJECTS),
    "rest/raw": (Dialect.REST, Shape.ARRAYS),
    "binding/query": (Dialect.BINDING, Shape.OBJECTS),
    "binding/raw": (Dialect.BINDING, Shape.ARRAYS),
}
INSIGHT_OPS: Final = frozenset({"graphql", "recommend", "recommend-all"})  # they only read
ADMIN_OPS: Final = INSIGHT_OPS | frozenset(
    {"create", "list", "info", "replace", "update", "delete", "vacuum", "export", "import"}
    | {"token-create", "token-list", "token-revoke"}
)
BOOKMARK_OP: Final = "bookmark"  # will this bookmark ever be satisfied?

SHORT_WAY_MAX: Final = 64 * 1024  # bytes of a body; a larger one may hold thousands of statements
_QUERY_OP_OF: Final = {meaning: name for name, meaning in QUERY_OPS.items()}


class QueryService(Protocol):
    """Runs queries; the node's side of the seam."""

    def answer_now(self, request: QueryRequest) -> Answer | PendingAnswer | None:
        """Answer inline in the event loop, or return None: then `answer` must be awaited."""

    async def answer(self, request: QueryRequest) -> Answer:
        """Answer whatever the request is. Cancelled when the client hangs up."""


async def answered(service: QueryService, request: QueryRequest) -> Answer:
    """The answer to a request, by the short way or the long one."""
    if len(request.body) > SHORT_WAY_MAX:
        return await service.answer(request)
    answer = service.answer_now(request)
    if isinstance(answer, PendingAnswer):
        return await answer.wait()
    return answer if answer is not None else await service.answer(request)


class NodeView(Protocol):
    """What HTTP sees of a node."""

    @property
    def queries(self) -> QueryService:
        """Where queries go."""

    @property
    def access(self) -> Access:
        """Who may come in."""

    def status(self) -> dict[str, object]:
        """Return what `/status` shows, ready for JSON."""

    def readiness(self) -> tuple[bool, list[str]]:
        """Return whether the node may be sent requests, and why not."""

    @property
    def transfers(self) -> Transfers | FileRelay | None:
        """Files that its signed URLs lead to; None: no URL leads here."""

    async def administer(self, request: AdminRequest) -> Answer:
        """Run one administration call; a replica forwards it."""
