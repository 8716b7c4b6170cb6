"""What the head of one query says, whichever reader of HTTP has read it."""

import asyncio

import msgspec
from msgspec.structs import replace

from d1server.access.grants import NOBODY, Grant
from d1server.query import QueryRequest
from d1server.web.headers import BOOKMARK_HEADER, Wishes
from proto.api import LARGE_BODY_BYTES, Dialect, Shape, decode_query
from proto.tokens import Bookmark


class QueryHead(msgspec.Struct, gc=False):
    """Ready to be joined with its body."""

    database: str  # name or uuid
    shape: Shape
    wishes: Wishes
    dialect: Dialect
    content_length: int | None = 0  # None: the body comes in chunks
    keep_alive: bool = True
    authorization: str | None = None
    has_one_bookmark: bool = False  # one header is about bookmarks, and holds one (`HeadCache`)
    alias: bytes = b""  # the second name under which the answer carries its bookmark, if any
    grant: Grant = NOBODY  # of `era`; see `Access.era`
    era: object = None

    def __post_init__(self) -> None:
        """Find the alias."""
        name = self.wishes.answer_header
        if name != BOOKMARK_HEADER:
            self.alias = name.encode()

    def with_bookmark(self, bookmark: Bookmark) -> "QueryHead":
        """The same head with another bookmark in its one bookmark header."""
        return replace(self, wishes=replace(self.wishes, bookmark=bookmark))

    async def request_aside(self, body: bytes, grant: Grant) -> QueryRequest:
        """`request`; a large body is decoded on a thread."""
        if len(body) <= LARGE_BODY_BYTES:
            return self.request(body, grant)
        return await asyncio.to_thread(self.request, body, grant)

    def request(self, body: bytes, grant: Grant) -> QueryRequest:
        """Decode `body` by the rules of the dialect, and join it. Raises `RequestInvalid`."""
        wishes = self.wishes
        return QueryRequest(
            database=self.database,
            statements=decode_query(body, self.dialect),
            shape=self.shape,
            constraint=wishes.constraint,
            bookmark=wishes.bookmark,
            max_wait_s=wishes.max_wait_s,
            on_timeout=wishes.on_timeout,
            idempotency_key=wishes.idempotency_key,
            hops=0,
            body=body,
            grant=grant,
            dialect=self.dialect,
        )
