"""From results of SQL to an `Answer`: the envelope, `meta`, the bookmark."""

from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from operator import length_hint
from typing import Final, TypeAlias

from d1server.insights.query_costs import QueryStatistics
from d1server.query import Answer, QueryRequest
from engine.sqltext import split
from engine.transaction import Step
from primary.database import OpenPrimary
from proto.api import Dialect, MetaExtras, ServedBy, Statement, StatementResult, encode_answer
from proto.messages import Reply
from proto.tokens import Bookmark
from replica.database import OpenReplica

Opened: TypeAlias = OpenPrimary | OpenReplica

_BINDING: Final = Dialect.BINDING
_RESULTS_INLINE_MAX: Final = 512
_ROWS_INLINE_MAX: Final = 2048
_BYTES_INLINE_MAX: Final = 256 * 1024  # a blob becomes four times as long


class State(MetaExtras, kw_only=True, gc=False):
    """What the answer says of the database's state: in its `meta`, and its bookmark."""

    bookmark: Bookmark


def encode(
    results: list[StatementResult], request: QueryRequest, served: ServedBy, state: State
) -> bytes:
    """The body of a successful answer."""
    dialect = request.dialect
    if dialect is _BINDING and len(results) != len(request.statements):
        results = _per_member(results, request.statements)
    return encode_answer(results, request.shape, served, state, dialect)


def _per_member(
    results: list[StatementResult], statements: Sequence[Statement]
) -> list[StatementResult]:
    """One result for each member of the batch, whose text may hold several statements."""
    rest = iter(results)
    members = [list(islice(rest, len(split(statement.sql)))) for statement in statements]
    return [_whole(member) for member in members]


def _whole(results: list[StatementResult]) -> StatementResult:
    """The last result, with what all of them did."""
    last = results[-1]
    return StatementResult(
        last.columns,
        last.rows,
        sum(result.changes for result in results),
        last.last_row_id,
        sum(result.rows_read for result in results),
        sum(result.rows_written for result in results),
        sum(result.duration_ms for result in results),
        any(result.changed_db for result in results),
    )


def is_large(results: Sequence[StatementResult]) -> bool:
    """Whether encoding the answer would hold the event loop up."""
    if len(results) > _RESULTS_INLINE_MAX:
        return True
    if sum([len(result.rows) for result in results]) > _ROWS_INLINE_MAX:
        return True
    size = sum([sum(map(length_hint, chain.from_iterable(result.rows))) for result in results])
    return size > _BYTES_INLINE_MAX


def to_answer(
    results: list[StatementResult], request: QueryRequest, served: ServedBy, state: State
) -> Answer:
    """A successful answer."""
    return Answer(200, encode(results, request, served, state), state.bookmark.text)


class Answers:
    """Makes the answers to requests that were run here, and counts what these have cost."""

    def __init__(self, served: ServedBy, statistics: QueryStatistics) -> None:
        """`served`: this node, as `meta` tells of it."""
        self._served = served
        self._statistics = statistics

    def now(
        self,
        request: QueryRequest,
        opened: Opened,
        steps: Sequence[Step],
        results: list[StatementResult],
        state: State,
    ) -> Answer:
        """The answer, made inline."""
        answer = to_answer(results, request, self._served, state)
        self._statistics.note(opened.live.uuid, steps, results, len(answer.body))
        return answer

    async def soon(
        self,
        request: QueryRequest,
        opened: Opened,
        steps: Sequence[Step],
        results: list[StatementResult],
        state: State,
    ) -> Answer:
        """The same; a large one is made on a thread."""
        if not is_large(results):
            return self.now(request, opened, steps, results, state)
        making = partial(to_answer, results, request, self._served, state)
        answer = await opened.reads.aside(making)
        self._statistics.note(opened.live.uuid, steps, results, len(answer.body))
        return answer


def to_reply_answer(reply: Reply) -> Answer:
    """The primary's answer to a forwarded request, as ours."""
    return Answer(
        reply.status, reply.body, reply.bookmark or None, reply.should_retry, reply.retry_after_s
    )
