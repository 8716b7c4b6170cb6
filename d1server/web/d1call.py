"""One call on D1's own surfaces (REST and the binding), on its way to the node. Pure."""

from typing import NamedTuple

from d1server.query import QueryRequest
from d1server.web.headers import Wishes
from proto.api import Dialect, Shape, decode_query


class D1Call(NamedTuple):
    """What is known of a query before its body is read."""

    database: str  # name or uuid
    dialect: Dialect
    shape: Shape
    wishes: Wishes

    def request(self, body: bytes) -> QueryRequest:
        """Decode `body` by D1's rules and join it with the call. Raises `RequestInvalid`."""
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
            dialect=self.dialect,
        )
