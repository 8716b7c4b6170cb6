"""Queries on a replica: serve what the session allows, forward the rest."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from d1server.access.grants import Level
from d1server.access.permissions import refuse_read
from d1server.insights.query_costs import QueryStatistics
from d1server.primary_queries import refuse_bookmark
from d1server.query import BOOKMARK_OP, SHORT_WAY_MAX, Answer, Constraint, OnTimeout, QueryRequest
from d1server.refusals import answer_refusal
from d1server.results import Answers, State, to_reply_answer
from d1server.router import BookmarkAge, Route, age_of, route_on_replica
from d1server.web.errors import Fault, refuse
from engine.errors import (
    DatabaseClosed,
    DatabaseDamaged,
    EngineError,
    StatementRefused,
)
from engine.ondemand import Retired
from engine.transaction import Step, steps_of, writes
from engine.wal import PAGE_SIZE
from proto.api import ServedBy
from proto.errors import RequestInvalid
from proto.messages import Forward, Reply
from proto.tokens import Bookmark
from replica.database import NotHere, OpenReplica, ReplicaDatabase
from replica.errors import ForwardFailed, OutcomeUnknown, ReplicaError, TooManyWaiters
from replica.forward import Forwarder

logger = logging.getLogger(__name__)

_DOUBT_S = 0.1  # a bookmark that the primary has not told of by then is asked about
_FORWARD_MARGIN_S = 5.0  # on top of the primary's own deadline
HOPS_MAX = 1
_READ: Final = Level.READ  # looked up once: members of an enumeration cost 0.15 us each time
_NO_SESSION: Final = Constraint.NONE
_NEWEST: Final = Constraint.PRIMARY


class ReplicaQueries:
    """The replica's `QueryService`."""

    def __init__(
        self,
        find: Callable[[str], ReplicaDatabase | None],
        forwarder: Forwarder,
        served: ServedBy,
        statistics: QueryStatistics,
        *,
        read_wait_s: float,
        query_deadline_s: float,
    ) -> None:
        """Serve what `find` knows by name; a read that says nothing waits for `read_wait_s`."""
        self._find = find
        self._forwarder = forwarder
        self._answers = Answers(served, statistics)
        self._read_wait_s = read_wait_s
        self._forward_s = query_deadline_s + _FORWARD_MARGIN_S

    def answer_now(self, request: QueryRequest) -> Answer | None:
        """Serve a short read of an open database that has the bookmark."""
        database = self._find(request.database)
        if database is None or not database.is_here:
            return None
        opened, constraint = database.demand.current, request.constraint
        if opened is None or constraint is _NO_SESSION or constraint is _NEWEST:
            return None
        if not request.grant.may(_READ, database.uuid):
            return None
        database.demand.touch()
        try:
            if request.bookmark is not None and not _has_reached(request, database, opened):
                return None
            steps = steps_of(request.statements)
            if writes(opened.live.reader, steps):
                return None
            results = opened.reads.now(steps)
        except EngineError:
            return None  # the long way finds the same error, or has the time
        return self._answers.now(request, opened, steps, results, _state(database, opened))

    async def answer(self, request: QueryRequest) -> Answer:
        """Serve whatever the request is."""
        database = self._find(request.database)
        try:
            if database is not None:
                forbidden = refuse_read(request.grant, database.uuid)
                if forbidden is not None:
                    return forbidden
                return await self._serve(request, database)
        except (NotHere, Retired, DatabaseClosed) as exc:
            logger.debug("%s is forwarded: %s", request.database, exc)
        except Exception as exc:
            return answer_refusal(exc)
        try:
            return await self.forward(request)  # also for a database created a moment ago
        except (ReplicaError, RequestInvalid) as exc:
            return answer_refusal(exc)

    async def _serve(self, request: QueryRequest, database: ReplicaDatabase) -> Answer:
        if request.constraint in (Constraint.NONE, Constraint.PRIMARY) or not database.is_here:
            return await self.forward(request)
        route, steps = await self._routed(request, database)
        waited_ms = 0.0
        if route is Route.WAIT:  # not inside `used`: the commit may come with a copy of the file
            started = time.perf_counter()
            instead = await self._wait(request, database)
            if instead is not None:
                return instead
            waited_ms = (time.perf_counter() - started) * 1000
        if route is not Route.FORWARD:
            answer = await self._served_here(request, steps, database, waited_ms)
            if answer is not None:
                return answer
        return await self.forward(request)

    async def _routed(
        self, request: QueryRequest, database: ReplicaDatabase
    ) -> tuple[Route, list[Step]]:
        async with database.demand.used() as opened:
            steps = await opened.reads.steps_of(request.statements)
            is_write = await _may_write(steps, opened)
            age = _age(request, database, opened) if request.bookmark is not None else None
            return _route(request, age, is_write), steps

    async def _served_here(
        self,
        request: QueryRequest,
        steps: list[Step],
        database: ReplicaDatabase,
        waited_ms: float,
    ) -> Answer | None:
        """The answer from this replica's state; None: only the primary can give it."""
        async with database.demand.used() as opened:
            age = _age(request, database, opened) if request.bookmark is not None else None
            if age is BookmarkAge.FOREIGN or age is BookmarkAge.FORKED:
                assert request.bookmark is not None
                instead = refuse_bookmark(request.bookmark, age, opened.log.head)
            else:
                try:
                    found = await _judged(steps, opened)
                    if found is True:
                        return None
                    if found is False:
                        return await self._read(request, steps, database, opened, waited_ms)
                    instead = found
                except DatabaseDamaged as exc:
                    database.stop_because(exc)
                    return None
                except EngineError as exc:
                    return answer_refusal(exc, opened.applier.visible.text)
        # A database that took this name a moment ago may be known to the primary only; so may the
        # table or the column that a write speaks of.
        try:
            return await self.forward(request)
        except ForwardFailed:
            return instead

    async def _read(
        self,
        request: QueryRequest,
        steps: list[Step],
        database: ReplicaDatabase,
        opened: OpenReplica,
        waited_ms: float,
    ) -> Answer:
        results = await opened.reads.run(steps)
        state = _state(database, opened, waited_ms)
        return await self._answers.soon(request, opened, steps, results, state)

    async def _wait(self, request: QueryRequest, database: ReplicaDatabase) -> Answer | None:
        """Wait for the bookmark. None: serve now; else the answer that the policy gives."""
        bookmark = request.bookmark
        assert bookmark is not None
        wait_s = self._read_wait_s if request.max_wait_s is None else request.max_wait_s
        deadline = time.monotonic() + wait_s
        try:
            if await _applied(database, bookmark, min(wait_s, _DOUBT_S)):
                return None
            if bookmark.token > database.known_head.token:
                refused = await self._ask_about(request, deadline - time.monotonic())
                if refused is not None:
                    return refused
            if await _applied(database, bookmark, deadline - time.monotonic()):
                return None
        except TooManyWaiters:
            if request.on_timeout is not OnTimeout.PRIMARY:
                raise
        return await self._too_late(request, database, wait_s)

    async def _ask_about(self, request: QueryRequest, within_s: float) -> Answer | None:
        """Ask the primary whether this bookmark will ever come; its refusal, None if it will."""
        if within_s <= 0:
            return None
        constraint = _constraint_text(request)
        try:
            reply = await self._forwarder.ask(
                Forward(
                    0,
                    BOOKMARK_OP,
                    request.database,
                    b"",
                    constraint=constraint,
                    caller=request.grant.caller,
                ),
                timeout_s=within_s,
                held_s_max=0,
            )
        except (ForwardFailed, OutcomeUnknown):
            return None  # the primary is away: wait as long as the request allows
        return None if reply.status == 200 else to_reply_answer(reply)

    async def _too_late(
        self, request: QueryRequest, database: ReplicaDatabase, wait_s: float
    ) -> Answer | None:
        if request.on_timeout is OnTimeout.STALE:
            return None
        if request.on_timeout is OnTimeout.PRIMARY:
            return await self.forward(request)
        here = database.applied_bookmark
        return refuse(
            Fault.READ_LATE,
            f"this replica is at {here} and did not reach {request.bookmark} "
            f"within {wait_s * 1000:.0f} ms; retry, or send x-d1-on-timeout: primary",
            here.text,
        )

    async def forward(self, request: QueryRequest) -> Answer:
        """Have the primary answer. Raises `ForwardFailed`; a lost answer is told as such."""
        if request.hops >= HOPS_MAX:
            raise ForwardFailed("this request was forwarded already: a replica is no primary")
        reply = await self._asked(
            request,
            Forward(
                0,
                request.operation,
                request.database,
                request.body,
                constraint=_constraint_text(request),
                idempotency_key=request.idempotency_key or "",
                caller=request.grant.caller,
                hops=request.hops + 1,
            ),
        )
        return to_reply_answer(reply)

    async def _asked(self, request: QueryRequest, forward: Forward) -> Reply:
        """The primary's reply. With an idempotency key, a lost one may be asked for again."""
        try:
            return await self._forwarder.ask(forward, timeout_s=self._forward_s)
        except OutcomeUnknown as exc:
            if self._surely_reads(request):
                raise ForwardFailed(f"{exc}; it is a read: send it again") from exc
            if request.idempotency_key is None:
                raise
            raise ForwardFailed(
                f"{exc}; send it again with the same idempotency key: it is done once"
            ) from exc

    def _surely_reads(self, request: QueryRequest) -> bool:
        """By the word of this node's own state, which prepares reads as the primary does."""
        if len(request.body) > SHORT_WAY_MAX:
            return False
        database = self._find(request.database)
        opened = database.demand.current if database is not None else None
        try:
            return opened is not None and not writes(
                opened.live.reader, steps_of(request.statements)
            )
        except EngineError:
            return False


async def _may_write(steps: list[Step], opened: OpenReplica) -> bool:
    """Whether the request writes, as far as this state knows the tables that it speaks of."""
    try:
        return await opened.reads.writes(steps)
    except StatementRefused:
        return False  # asked again once the bookmark is here


async def _judged(steps: list[Step], opened: OpenReplica) -> bool | Answer:
    """Whether the request writes; a refusal if this state cannot tell."""
    try:
        return await opened.reads.writes(steps)
    except StatementRefused as exc:
        return answer_refusal(exc, opened.applier.visible.text)


def _route(request: QueryRequest, age: BookmarkAge | None, is_write: bool) -> Route:
    return route_on_replica(request.constraint, age, writes=is_write, is_here=True)


def _constraint_text(request: QueryRequest) -> str:
    if request.bookmark is not None:
        return request.bookmark.text
    return "" if request.constraint is Constraint.NONE else request.constraint.value


def _has_reached(request: QueryRequest, database: ReplicaDatabase, opened: OpenReplica) -> bool:
    if request.bookmark == opened.applier.applied:  # the usual case, without its parts
        return True
    return _age(request, database, opened) is BookmarkAge.REACHED


def _age(request: QueryRequest, database: ReplicaDatabase, opened: OpenReplica) -> BookmarkAge:
    assert request.bookmark is not None
    age = age_of(request.bookmark, opened.log.head, opened.log.digest_at)
    if age is BookmarkAge.REACHED and request.bookmark.seq > database.applied:
        return BookmarkAge.AHEAD  # it is here, but no reader sees it yet
    return age


def _state(database: ReplicaDatabase, opened: OpenReplica, waited_ms: float = 0.0) -> State:
    applier = opened.applier
    return State(
        applier.page_count * PAGE_SIZE,
        waited_ms=waited_ms,
        lag_ms=database.lag_ms,
        bookmark=applier.visible,
    )


async def _applied(database: ReplicaDatabase, bookmark: Bookmark, wait_s: float) -> bool:
    """Whether the commit of `bookmark` is applied within `wait_s`."""
    try:
        if bookmark.seq > database.waiter.applied:
            async with asyncio.timeout(max(0.0, wait_s)):
                await database.waiter.wait_applied(bookmark.seq)
    except TimeoutError:
        return False
    # The number alone does not tell: a bookmark of an epoch that is not known here is ahead.
    return bookmark.token.epoch <= database.applied_bookmark.token.epoch
