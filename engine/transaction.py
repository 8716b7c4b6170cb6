"""One request's statements as one transaction on one connection.

D1's rule: one call, one transaction; any failure undoes all of it. A read of several
statements sees one snapshot. A text may hold several statements, of which only the last
one can have parameters: the request's values are that one's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import msgspec

from engine.errors import BudgetExceeded, StatementRefused
from engine.limits import SqlLimits
from engine.sandbox import Sandbox
from engine.sqltext import split
from engine.statements import Planner, count_result, run
from proto.api import NO_STATEMENTS, SqlValue, Statement, StatementResult

_SPLIT_CACHE_MAX = 256
_SPLIT_CACHE_TEXT_MAX = 4096  # longer texts are split anew: they are run once
_PLANS_MAX = 128  # twice as many in all
_PLANNED_AT_ONCE = 16  # statements for which no clock is looked at
_PLANNING_S = 0.005  # in the event loop
_STATEMENT_BYTES = 128  # about what a statement without rows adds to the answer, beside its names

_ONLY_THE_LAST = (
    "When executing multiple SQL statements in a single call, "
    "only the last statement can have parameters."
)


class Step(msgspec.Struct, frozen=True, gc=False):
    """One SQL statement and its values."""

    sql: str
    params: tuple[SqlValue, ...]
    is_last: bool = True  # of the text that it came in


@dataclass(slots=True)
class SqlConnection:
    """A sandboxed connection and the plans prepared on it."""

    sandbox: Sandbox
    planner: Planner

    @classmethod
    def reader(cls, path: Path, limits: SqlLimits) -> Self:
        """Open a read-only connection."""
        sandbox = Sandbox.open_reader(path, limits)
        return cls(sandbox, Planner(sandbox, _PLANS_MAX))

    @classmethod
    def writer(cls, path: Path, limits: SqlLimits) -> Self:
        """Open the database's one writing connection."""
        sandbox = Sandbox.open_writer(path, limits)
        return cls(sandbox, Planner(sandbox, _PLANS_MAX))

    def close(self) -> None:
        """Close the connection."""
        self.sandbox.close()


def steps_of(statements: Sequence[Statement]) -> list[Step]:
    """The single SQL statements of a request with their parameters, in order.

    Raises `StatementRefused` if there is none in one of the texts.
    """
    steps: list[Step] = []
    for statement in statements:
        sql = statement.sql
        texts = _split_cached(sql) if len(sql) <= _SPLIT_CACHE_TEXT_MAX else split(sql)
        if len(texts) == 1:
            steps.append(Step(texts[0], statement.params))
            continue
        if not texts:
            raise StatementRefused(NO_STATEMENTS)
        steps += [Step(text, (), False) for text in texts[:-1]]
        steps.append(Step(texts[-1], statement.params))
    return steps


@lru_cache(maxsize=_SPLIT_CACHE_MAX)
def _split_cached(sql: str) -> tuple[str, ...]:
    return split(sql)


def writes(connection: SqlConnection, steps: Sequence[Step]) -> bool:
    """Whether the request changes the database, by SQLite's own word on each statement.

    Stops at the first statement that writes: those behind it may need what it makes.
    Raises `StatementRefused` if a statement before that cannot be prepared; `BudgetExceeded`
    if there are so many that the event loop has no time for them: use `writes_in_time`.
    """
    if len(steps) == 1:  # spare most requests the loop
        return connection.planner.plan(steps[0].sql).writes
    if len(steps) <= _PLANNED_AT_ONCE:
        return _plan_until_one_writes(connection, steps, _no_check)
    stop_at = time.monotonic() + _PLANNING_S

    def check() -> None:
        if time.monotonic() > stop_at:
            raise BudgetExceeded("so many statements are planned on a thread")

    return _plan_until_one_writes(connection, steps, check)


def writes_in_time(connection: SqlConnection, steps: Sequence[Step], *, budget_s: float) -> bool:
    """`writes`, on a thread, within `budget_s` seconds. Raises what `read` raises."""
    sandbox = connection.sandbox
    with sandbox.limit_time(budget_s):
        return _plan_until_one_writes(connection, steps, sandbox.check_time)


def _plan_until_one_writes(
    connection: SqlConnection, steps: Sequence[Step], check: Callable[[], None]
) -> bool:
    """Whether a step writes; `check` comes after each. A refusal says which of several it was."""
    plan, number = connection.planner.plan, 0
    try:
        for step in steps:
            if plan(step.sql).writes:
                return True
            check()
            number += 1
    except StatementRefused as exc:
        if len(steps) > 1:
            exc.statement = number
        raise
    return False


def _no_check() -> None:
    """Steps so few that nobody looks at the clock."""


def read(
    connection: SqlConnection, steps: Sequence[Step], *, budget_s: float
) -> list[StatementResult]:
    """Run statements that only read, in one snapshot.

    Raises `StatementRefused`; `BudgetExceeded` after `budget_s` seconds.
    """
    sandbox = connection.sandbox
    sandbox.start_request(budget_s)  # not `limit_time`: three calls more for a short read
    try:
        if len(steps) == 1:
            only = steps[0]
            return [run(sandbox, connection.planner.plan(only.sql), only.params)]
        sandbox.execute_internal("BEGIN")
        try:
            return _run_all(connection, steps)
        finally:
            sandbox.execute_internal("ROLLBACK")
    finally:
        sandbox.end_request()


def write(
    connection: SqlConnection,
    steps: Sequence[Step],
    *,
    budget_s: float,
    before_commit: Callable[[list[StatementResult]], None] | None = None,
) -> list[StatementResult]:
    """Run the statements and commit. On any error nothing of them remains.

    `before_commit` gets the results and may write our own rows into the same transaction.
    Raises `StatementRefused`; `BudgetExceeded` after `budget_s` seconds.
    """
    sandbox = connection.sandbox
    sandbox.start_request(budget_s)  # not `limit_time`: as in `read`
    try:
        sandbox.execute_internal("BEGIN IMMEDIATE")
        try:
            results = _run_all(connection, steps)
            if before_commit is not None:
                before_commit(results)
            sandbox.execute_internal("COMMIT")
        except BaseException:
            if sandbox.connection.in_transaction:
                sandbox.execute_internal("ROLLBACK")
            raise
    finally:
        sandbox.end_request()
    return results


def _run_all(connection: SqlConnection, steps: Sequence[Step]) -> list[StatementResult]:
    """Run the steps in order; a refusal says which of several it was."""
    sandbox, plan = connection.sandbox, connection.planner.plan
    results: list[StatementResult] = []
    try:
        for step in steps:
            sandbox.check_time()
            planned = plan(step.sql)
            if planned.parameters and not step.is_last:
                raise StatementRefused(_ONLY_THE_LAST)
            results.append(run(sandbox, planned, step.params))
            count_result(sandbox, _STATEMENT_BYTES + planned.row_bytes)
            if planned.changes_views:
                sandbox.check_views()
    except StatementRefused as exc:
        if len(steps) > 1:
            exc.statement = len(results)
        raise
    return results
