"""Queries on the primary: reads inline or on a thread, writes through the committer."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from d1server.access.grants import Level
from d1server.access.permissions import refuse_read, refuse_write
from d1server.insights.query_costs import QueryStatistics
from d1server.query import Answer, Constraint, PendingAnswer, QueryRequest
from d1server.refusals import answer_refusal, unknown_database
from d1server.results import Answers, State, encode
from d1server.router import BookmarkAge, age_of
from d1server.web.errors import Fault, refuse
from engine.errors import DatabaseDamaged, EngineError, ResultTooLarge
from engine.transaction import Step, steps_of, writes
from engine.wal import PAGE_SIZE
from primary.committer import Wish
from primary.database import OpenPrimary, PrimaryDatabase
from primary.errors import WriteUnknown
from primary.idempotency import IdempotencyKey
from primary.writer import CheckedWrite, KeyedWrite
from proto.api import LARGE_BODY_BYTES, ServedBy, StatementResult
from proto.framing import BODY_BYTES_MAX
from proto.tokens import Bookmark

_READ: Final = Level.READ  # looked up once: members of an enumeration cost 0.15 us each time
_EDIT: Final = Level.EDIT

ANSWER_BYTES_MAX: Final = BODY_BYTES_MAX  # of a request that came through a replica
_JSON_BYTES_MAX: Final = 8  # at most so many for each byte that `result_bytes` counts


class PrimaryQueries:
    """The primary's `QueryService`."""

    def __init__(
        self,
        find: Callable[[str], PrimaryDatabase | None],
        served: ServedBy,
        statistics: QueryStatistics,
    ) -> None:
        """Serve the databases that `find` knows by name."""
        self._find = find
        self._served = served
        self._answers = Answers(served, statistics)

    def answer_now(self, request: QueryRequest) -> Answer | PendingAnswer | None:
        """Serve a short read that sees only durable commits, or begin a short write."""
        database = self._find(request.database)
        opened = database.demand.current if database is not None else None
        if database is None or opened is None:
            return None
        database.demand.touch()
        head, bookmark = opened.log.head, request.bookmark
        if not request.grant.may(_READ, database.uuid):
            return None
        try:
            if bookmark is not None and bookmark != head and _refused_bookmark(request, opened):
                return None
            steps = steps_of(request.statements)
            if writes(opened.live.reader, steps):
                if not request.grant.may(_EDIT, database.uuid):
                    return None
                return self._write_now(request, steps, opened)
            if not opened.committer.is_settled:
                return None
            results = opened.reads.now(steps)
        except EngineError:
            return None  # the long way finds the same error, or has the time
        # A commit on a thread may have been seen: then the long way waits for it.
        if opened.log.head is not head or not opened.committer.is_settled:
            return None
        state = State(opened.committer.page_count * PAGE_SIZE, bookmark=head)
        return self._answers.now(request, opened, steps, results, state)

    def _write_now(
        self, request: QueryRequest, steps: list[Step], opened: OpenPrimary
    ) -> PendingAnswer | Answer | None:
        """Run a short write inline; its answer comes when it is durable."""
        if request.idempotency_key is not None:
            return None
        try:
            written = opened.committer.write_now(steps, self._checked(request, opened))
        except WriteUnknown as exc:
            return answer_refusal(exc)
        if written is None:
            return None
        pending = PendingAnswer()

        def reached(error: Exception | None) -> None:
            if error is not None:
                pending.deliver(answer_refusal(error))
                return
            state = State(written.page_count * PAGE_SIZE, bookmark=written.bookmark)
            try:
                answer = self._answers.now(request, opened, steps, written.results, state)
            except Exception as exc:  # the flusher, which calls this, has others to tell
                answer = answer_refusal(exc)
            pending.deliver(answer)

        if opened.committer.is_settled:  # it changed nothing: `deliver` is set by the next turn
            asyncio.get_running_loop().call_soon(reached, None)
        else:
            opened.committer.when_durable(written.bookmark.seq, reached)
        return pending

    async def answer(self, request: QueryRequest) -> Answer:
        """Serve whatever the request is."""
        database = self._find(request.database)
        forbidden = refuse_read(request.grant, database.uuid if database is not None else None)
        if forbidden is not None:
            return forbidden
        if database is None:
            return unknown_database(request.database)
        bookmark: str | None = None
        try:
            async with database.demand.used() as opened:
                refused = _refused_bookmark(request, opened)
                if refused is not None:
                    return refused
                try:
                    return await self._run(request, database.uuid, opened)
                finally:
                    bookmark = opened.log.durable.text
        except Exception as exc:
            return answer_refusal(exc, bookmark)

    async def _run(self, request: QueryRequest, database: bytes, opened: OpenPrimary) -> Answer:
        steps = await opened.reads.steps_of(request.statements)
        if await opened.reads.writes(steps):
            forbidden = refuse_write(request.grant, database)
            if forbidden is not None:
                return forbidden
            return await self._write(request, steps, opened)
        try:
            results = await opened.reads.run(steps)
        except DatabaseDamaged as exc:
            opened.committer.give_up(exc)
            raise
        finally:
            seen = await opened.committer.wait_durable()
        state = State(opened.committer.page_count * PAGE_SIZE, bookmark=seen)
        return await self._answers.soon(request, opened, steps, results, state)

    async def _write(self, request: QueryRequest, steps: list[Step], opened: OpenPrimary) -> Answer:
        committer = opened.committer
        wish: Wish | None = self._checked(request, opened)
        if request.idempotency_key is not None:
            wish = KeyedWrite(
                IdempotencyKey.of(request.idempotency_key, request.operation, request.body),
                partial(self._encoded, request, opened),
            )
        is_large = len(request.body) > LARGE_BODY_BYTES
        written = await committer.write(steps, wish, is_large=is_large)
        if written.replayed is not None:
            return Answer(200, written.replayed, written.bookmark.text)
        state = State(written.page_count * PAGE_SIZE, bookmark=written.bookmark)
        return await self._answers.soon(request, opened, steps, written.results, state)

    def _checked(self, request: QueryRequest, opened: OpenPrimary) -> CheckedWrite | None:
        """Refuses a write whose answer could not go back through the replica that it came from."""
        if request.hops == 0:
            return None
        return CheckedWrite(partial(self._check_size, request, opened))

    def _check_size(
        self, request: QueryRequest, opened: OpenPrimary, results: list[StatementResult]
    ) -> None:
        if opened.live.writer.sandbox.result_bytes * _JSON_BYTES_MAX > ANSWER_BYTES_MAX:
            self._encoded(request, opened, results)

    def _encoded(
        self, request: QueryRequest, opened: OpenPrimary, results: list[StatementResult]
    ) -> bytes:
        """The answer's body before COMMIT. Raises `ResultTooLarge`, and nothing is done."""
        state = State(opened.committer.page_count * PAGE_SIZE, bookmark=opened.log.head)
        body = encode(results, request, self._served, state)
        if request.hops and len(body) > ANSWER_BYTES_MAX:
            raise too_large_to_forward(len(body))
        return body


def too_large_to_forward(size: int) -> ResultTooLarge:
    """The error for an answer of this many bytes that a replica waits for."""
    return ResultTooLarge(
        f"the answer of {size} bytes is too large to pass through a replica; nothing was done",
        "ask for fewer rows at a time, or ask the primary itself",
    )


def _refused_bookmark(request: QueryRequest, opened: OpenPrimary) -> Answer | None:
    """The refusal of a bookmark that is not of this database's history, None if it is."""
    if request.constraint is not Constraint.BOOKMARK:
        return None
    assert request.bookmark is not None
    log = opened.log
    age = age_of(request.bookmark, log.head, log.digest_at)
    return None if age is BookmarkAge.REACHED else refuse_bookmark(request.bookmark, age, log.head)


def refuse_bookmark(bookmark: Bookmark, age: BookmarkAge, head: Bookmark) -> Answer:
    """The answer for a bookmark that no state of this database will ever satisfy."""
    said = {
        BookmarkAge.FOREIGN: "is a bookmark of another database",
        BookmarkAge.FORKED: "is of a history that this database did not take",
        BookmarkAge.AHEAD: f"is ahead of this database, whose newest commit is {head}",
    }[age]
    return refuse(
        Fault.BOOKMARK_FOREIGN,
        f"the bookmark {bookmark} {said}; begin a new session with first-primary",
        head.text,
    )
