"""What the head of one query says, whichever reader of HTTP has read it. Pure."""

from d1server.access import NOBODY, Grant
from d1server.query import QueryRequest
from d1server.web.headers import BOOKMARK_HEADER, Wishes
from proto.api import Dialect, Shape, decode_query
from proto.tokens import Bookmark


class QueryHead:
    """Ready to be joined with its body."""

    __slots__ = (
        "alias",
        "authorization",
        "content_length",
        "database",
        "dialect",
        "era",
        "grant",
        "has_one_bookmark",
        "keep_alive",
        "shape",
        "wishes",
    )

    def __init__(
        self,
        database: str,
        shape: Shape,
        wishes: Wishes,
        dialect: Dialect,
        *,
        content_length: int | None = 0,
        keep_alive: bool = True,
    ) -> None:
        self.database = database  # name or uuid
        self.shape = shape
        self.wishes = wishes
        self.dialect = dialect
        self.content_length = content_length  # None: the body comes in chunks
        self.keep_alive = keep_alive
        name = wishes.answer_header
        # The second name under which the answer carries its bookmark; empty: none.
        self.alias = b"" if name == BOOKMARK_HEADER else name.encode()
        # One header is about bookmarks, and holds one (see `HeadCache`).
        self.has_one_bookmark = False
        self.authorization: str | None = None
        self.grant: Grant = NOBODY  # of `era`; see `Access.era`
        self.era: object = None

    def with_bookmark(self, bookmark: Bookmark) -> "QueryHead":
        """The same head with another bookmark in its one bookmark header."""
        other = QueryHead.__new__(QueryHead)
        other.database = self.database
        other.shape = self.shape
        other.wishes = self.wishes._replace(bookmark=bookmark)
        other.dialect = self.dialect
        other.content_length = self.content_length
        other.keep_alive = self.keep_alive
        other.alias = self.alias
        other.has_one_bookmark = True
        other.authorization = self.authorization
        other.grant = self.grant
        other.era = self.era
        return other

    def request(self, body: bytes, grant: Grant) -> QueryRequest:
        """Decode `body` by the rules of the dialect, and join it. Raises `RequestInvalid`."""
        constraint, bookmark, max_wait_s, on_timeout, idempotency_key, _ = self.wishes
        return QueryRequest(
            database=self.database,
            statements=decode_query(body, self.dialect),
            shape=self.shape,
            constraint=constraint,
            bookmark=bookmark,
            max_wait_s=max_wait_s,
            on_timeout=on_timeout,
            idempotency_key=idempotency_key,
            hops=0,
            body=body,
            grant=grant,
            dialect=self.dialect,
        )
