"""From results of SQL to an `Answer`: the envelope, `meta`, the bookmark."""

from dataclasses import dataclass

from d1server.query import Answer, QueryRequest
from engine.wal import PAGE_SIZE
from proto.api import MetaExtras, ServedBy, StatementResult, encode_answer
from proto.messages import Reply
from proto.tokens import Bookmark


@dataclass(frozen=True, slots=True)
class State:
    """What the answer says of the database's state."""

    bookmark: Bookmark
    page_count: int
    waited_ms: float = 0.0
    lag_ms: float = 0.0


def encode(
    results: list[StatementResult], request: QueryRequest, served: ServedBy, state: State
) -> bytes:
    """The body of a successful answer."""
    extras = MetaExtras(
        state.page_count * PAGE_SIZE, waited_ms=state.waited_ms, lag_ms=state.lag_ms
    )
    return encode_answer(results, request.shape, served, extras)


def to_answer(
    results: list[StatementResult], request: QueryRequest, served: ServedBy, state: State
) -> Answer:
    """A successful answer."""
    return Answer(200, encode(results, request, served, state), state.bookmark.text)


def to_reply_answer(reply: Reply) -> Answer:
    """The primary's answer to a forwarded request, as ours."""
    return Answer(
        reply.status, reply.body, reply.bookmark or None, reply.should_retry, reply.retry_after_s
    )
