"""One SQL statement: what is it, and run it.

`Planner` asks SQLite what a statement is (does it write? how many parameters?) and
remembers the answer by the statement's text. `run` binds, steps and counts.

Invariants:

1. A `Plan` belongs to the sandbox whose planner made it.
2. Whether a statement writes is SQLite's word on the prepared statement, never a guess from
   the text.
3. When `run` returns or raises, no statement is left open: no snapshot is held.
4. A result is counted while it is stepped; it never grows past `result_bytes_max` by more
   than a few rows.
5. SQLite's counters are asked for during one run only, also if that fails.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from operator import length_hint
from typing import Final, Never

import apsw

from engine.counts import RowCounts
from engine.errors import BudgetExceeded, ResultTooLarge, StatementRefused
from engine.invalid_text import rows_of_any_text
from engine.permissions import Trait, may_nest_views
from engine.program import parse
from engine.sandbox import Sandbox
from engine.sqltext import first_row, shape
from proto.api import SqlValue, StatementResult

WRONG_BINDINGS: Final = "Wrong number of parameter bindings for SQL query."

_TEXT_KEPT_MAX: Final = 16_384  # characters; apsw keeps no longer statement either
_TEXT_EXPLAINED_MAX: Final = 4096  # characters; a longer text can be 100,000 instructions
_CHEAP_TABLES: Final = re.compile(r"json_(?:each|tree)", re.IGNORECASE)
_SHAPES_MAX: Final = 256
_ROWS_FIRST: Final = 16  # between two counts; a row may have 100 values of 2 MB
_ROWS_NEXT: Final = 64
_VALUE_BYTES: Final = 16  # about what a value costs beside its text; its name may cost more
_INLINE_AGAIN: Final = 64  # runs on a thread, after one that was too slow for the event loop
_NEVER: Final = -1

_SELECT: Final = re.compile(r"\bselect\b", re.IGNORECASE)
_PLANNED_SOON_MAX: Final = 150  # characters of a statement
_SELECTS_MAX: Final = 6
_LONG_TEXT: Final = 2000
_SELECTS_OF_LONG_MAX: Final = 2


class Plan:
    """What is known of one statement before it runs."""

    __slots__ = (
        "can_borrow",
        "changes_schema",
        "changes_views",
        "columns",
        "counts",
        "is_kept",
        "is_watched",
        "not_inline",
        "parameters",
        "row_bytes",
        "sandbox",
        "schema_version",
        "sql",
        "writes",
    )

    def __init__(self, sandbox: Sandbox, sql: str) -> None:
        """Ask SQLite. Raises `StatementRefused`."""
        prepared = sandbox.prepare(sql)
        self.sandbox = sandbox
        self.sql = sql
        self.parameters = prepared.parameters
        self.columns: tuple[str, ...]  # as of the newest preparation; see `run`
        self.row_bytes: int  # what a row costs beside its texts and blobs
        self.name_columns(prepared.columns)
        writes = not prepared.is_readonly or Trait.WRITES in prepared.found
        self.writes = writes and not prepared.is_explain
        self.changes_schema = self.writes and Trait.SCHEMA in prepared.found
        self.changes_views = self.writes and may_nest_views(prepared.found)
        self.is_kept = len(sql) <= _TEXT_KEPT_MAX
        self.counts: RowCounts | None = None  # as of the newest preparation; made by the first run
        self.schema_version = _NEVER  # that they are of
        self.can_borrow = self.is_kept and not self.changes_schema  # another text's
        self.is_watched = False  # they may be of another program: measure the next run
        # How many more runs to keep out of the event loop; _NEVER: all. SQLite looks at no
        # clock while it lists the program of an EXPLAIN, which may have 250,000 instructions.
        is_slow = Trait.SLOW in prepared.found or prepared.is_explain
        self.not_inline = _NEVER if is_slow else 0

    def name_columns(self, columns: tuple[str, ...]) -> None:
        """Note the columns of the result; a row may be written as an object, with each name."""
        self.columns = columns
        self.row_bytes = sum([max(_VALUE_BYTES, len(name)) for name in columns])


class Planner:
    """The plans of one sandbox, at most `2 * plans_max` of them remembered, recent ones kept.

    Two generations instead of a list in order of use, so that most finds are one lookup.
    """

    def __init__(self, sandbox: Sandbox, plans_max: int) -> None:
        """Plan statements of `sandbox`."""
        self._sandbox = sandbox
        self._plans_max = plans_max
        self._young: dict[str, Plan] = {}
        self._old: dict[str, Plan] = {}

    def plan(self, sql: str) -> Plan:
        """What the statement is. Raises `StatementRefused`.

        Raises `BudgetExceeded` in the event loop if SQLite might take long to prepare it.
        """
        plan = self._young.get(sql)
        return plan if plan is not None else self._plan_other(sql)

    def _plan_other(self, sql: str) -> Plan:
        plan = self._old.get(sql)
        if plan is None:
            sandbox = self._sandbox
            if (sandbox.is_inline or not sandbox.is_in_request) and is_long_to_plan(sql):
                raise BudgetExceeded("this statement is planned on a thread")
            plan = Plan(sandbox, sql)
        if plan.is_kept:
            if len(self._young) >= self._plans_max:
                self._old, self._young = self._young, {}
            self._young[sql] = plan
        return plan


def is_long_to_plan(sql: str) -> bool:
    """Whether SQLite might be long preparing it; it looks at no clock meanwhile.

    A column of an inner SELECT is copied into each of its uses, so a few levels of sums are
    millions of terms. Too careful rather than too bold: a thread costs little.
    """
    if len(sql) < _PLANNED_SOON_MAX:
        return False
    most = _SELECTS_MAX if len(sql) < _LONG_TEXT else _SELECTS_OF_LONG_MAX
    return len(_SELECT.findall(sql)) > most


def run(sandbox: Sandbox, plan: Plan, params: Sequence[SqlValue]) -> StatementResult:
    """Run one statement to its end, within `Sandbox.limit_time`.

    Raises `StatementRefused`, `ResultTooLarge`, `BudgetExceeded`, `DeadlineExceeded`,
    `DatabaseDamaged`. After any of them the transaction may already be rolled back.
    """
    assert plan.sandbox is sandbox, "a plan belongs to one connection"
    assert sandbox.is_in_request, "statements run within limit_time"
    if plan.not_inline or not sandbox.is_inline or len(params) != plan.parameters:
        _check(sandbox, plan, params)
    connection, prepares, writes = sandbox.connection, sandbox.prepares, plan.writes
    is_measured = (plan.counts or _counts_of(sandbox, plan)).is_measured or plan.is_watched
    changes_before = connection.total_changes() if writes else 0
    row_id_before = connection.last_insert_rowid()
    started = time.perf_counter()
    try:
        if is_measured:
            sandbox.start_counting()
        cursor = sandbox.cursor.execute(plan.sql, params)
        if sandbox.prepares != prepares:
            _prepared_anew(sandbox, plan, cursor)
        rows = list(islice(cursor, _ROWS_FIRST))
        if rows:
            _count(sandbox, plan, rows)
            if len(rows) == _ROWS_FIRST:
                _step_on(sandbox, plan, cursor, rows)
    except UnicodeDecodeError as exc:
        rows = _rows_of_any_text(sandbox, plan, params, exc)
    except Exception as exc:
        _fail(sandbox, plan, exc)
    finally:
        if is_measured:
            _stop_counting(sandbox, plan, prepares)
    duration_ms = (time.perf_counter() - started) * 1000.0
    read = len(rows)
    if not writes:
        counts = plan.counts or _counts_of(sandbox, plan)
        if not counts.is_plain:
            counters = sandbox.counters if is_measured else None
            read = counts.read(read, 0, counters, rows[0] if rows else ())
        return StatementResult(plan.columns, rows, 0, row_id_before, read, 0, duration_ms, False)
    changes = connection.total_changes() - changes_before
    row_id = connection.last_insert_rowid()
    has_new_id = row_id != row_id_before
    if plan.counts is not None and plan.counts.per_change is not None:
        read_each, written_each = plan.counts.per_change
        read, written = changes * read_each, changes * written_each
    else:
        own = min(connection.changes(), changes)  # without those of triggers and foreign keys
        counts = plan.counts or _counts_of(sandbox, plan)
        counters = sandbox.counters if is_measured else None
        read = counts.read(read, own, counters)
        written = counts.written(own, changes - own, counters, has_inserted=has_new_id)
    return StatementResult(
        plan.columns,
        rows,
        changes,
        row_id,
        read,
        written,
        duration_ms,
        changes > 0 or has_new_id or plan.changes_schema,
    )


def _check(sandbox: Sandbox, plan: Plan, params: Sequence[SqlValue]) -> None:
    if len(params) != plan.parameters:
        raise StatementRefused(WRONG_BINDINGS, f"it takes {plan.parameters}, not {len(params)}")
    if not sandbox.is_inline:
        sandbox.check_time()
    elif plan.not_inline:
        _refuse_inline(plan)


def row_counts(sandbox: Sandbox, sql: str, parameters: int | None = None) -> RowCounts:
    """Ask SQLite how it goes about a statement. Raises `DeadlineExceeded`, `BudgetExceeded`."""
    text: str | None = sql
    if len(sql) > _TEXT_EXPLAINED_MAX:  # the first row tells of all
        text, parameters = first_row(sql), None
    if text is None or len(text) > _TEXT_EXPLAINED_MAX:
        return RowCounts(parse([]))
    program = parse(sandbox.explain(text, text.count("?") if parameters is None else parameters))
    # A full-text search runs statements of its own, and SQLite would tell of each of them.
    is_dear = program.virtual_tables > len(_CHEAP_TABLES.findall(text))
    return RowCounts(program, is_dear=is_dear)


def _counts_of(sandbox: Sandbox, plan: Plan) -> RowCounts:
    """What the plan's counts are made of: asked at its first run, and after a change of schema.

    It is borrowed from a text that differs in its literals only, for which SQLite most likely has
    the same program; the first run shows whether it scans. `Connection.changes` is lost.
    """
    plan.schema_version = sandbox.schema_version() if plan.is_kept else _NEVER
    key = (plan.schema_version, shape(plan.sql)) if plan.can_borrow else (_NEVER, "")
    known = sandbox.row_counts.get(key)
    if known is None:
        known = row_counts(sandbox, plan.sql, plan.parameters)
        if plan.can_borrow:
            if len(sandbox.row_counts) >= _SHAPES_MAX:
                sandbox.row_counts.clear()
            sandbox.row_counts[key] = known
    else:
        plan.is_watched = not known.is_dear
    plan.counts = known
    return known


def _stop_counting(sandbox: Sandbox, plan: Plan, prepares: int) -> None:
    sandbox.stop_counting()
    if plan.is_watched:
        plan.is_watched = sandbox.prepares != prepares
        counters, counts = sandbox.counters, plan.counts
        is_another = counters is not None and counts is not None and counts.is_not_of(counters)
        if is_another and plan.can_borrow:
            plan.can_borrow = False
            plan.counts = None


def _prepared_anew(sandbox: Sandbox, plan: Plan, cursor: apsw.Cursor) -> None:
    """SQLite prepared the statement again, for another schema or other values.

    After ANALYZE it looks at the values before it decides between an index and a scan.
    """
    if plan.columns:
        plan.name_columns(_columns_now(sandbox, plan, cursor))
    if plan.is_kept and not plan.changes_schema:
        plan.is_watched = plan.counts is not None and not plan.counts.is_dear
        if sandbox.schema_version() != plan.schema_version:
            plan.counts = None


def _columns_now(sandbox: Sandbox, plan: Plan, cursor: apsw.Cursor) -> tuple[str, ...]:
    """Name the columns as they are now."""
    try:
        return tuple([column[0] for column in cursor.get_description()])
    except apsw.ExecutionCompleteError:  # no rows: the cursor has let go of the statement
        return sandbox.prepare(plan.sql).columns


def _rows_of_any_text(
    sandbox: Sandbox, plan: Plan, params: Sequence[SqlValue], error: UnicodeDecodeError
) -> list[tuple[SqlValue, ...]]:
    """The rows, if one of them has text that is not UTF-8; on a thread."""
    if plan.writes:  # it cannot be part of another statement
        _fail(sandbox, plan, error)
    sandbox.forget_cursor()
    if sandbox.is_inline:
        if plan.not_inline != _NEVER:
            plan.not_inline = _INLINE_AGAIN
        raise BudgetExceeded("text that is not UTF-8 is read on a thread")
    rows: list[tuple[SqlValue, ...]] = []
    try:
        with closing(rows_of_any_text(sandbox, plan.sql, params, len(plan.columns))) as found:
            _step_on(sandbox, plan, found, rows)
    except apsw.SQLError:  # an EXPLAIN or PRAGMA: no part of another statement either
        _fail(sandbox, plan, error)
    except Exception as exc:
        _fail(sandbox, plan, exc)
    return rows


def _step_on(
    sandbox: Sandbox,
    plan: Plan,
    cursor: Iterator[tuple[SqlValue, ...]],
    rows: list[tuple[SqlValue, ...]],
) -> None:
    while more := list(islice(cursor, _ROWS_NEXT)):
        _count(sandbox, plan, more)
        rows += more


def _count(sandbox: Sandbox, plan: Plan, rows: list[tuple[SqlValue, ...]]) -> None:
    text = sum(map(length_hint, chain.from_iterable(rows)))  # 0 for numbers and NULL
    count_result(sandbox, text + plan.row_bytes * len(rows))


def count_result(sandbox: Sandbox, size: int) -> None:
    """Note that the request's answer grows.

    Raises `ResultTooLarge`; `BudgetExceeded` if it is too large for the event loop.
    """
    sandbox.result_bytes += size
    if sandbox.result_bytes > sandbox.result_bytes_bound:
        if sandbox.is_inline and sandbox.result_bytes <= sandbox.limits.result_bytes_max:
            raise BudgetExceeded("so large a result is read on a thread")
        raise ResultTooLarge(
            f"the result is larger than {sandbox.limits.result_bytes_max} bytes: SQLITE_TOOBIG",
            "ask for fewer rows or columns at a time, with LIMIT or a narrower WHERE",
        )


def _refuse_inline(plan: Plan) -> Never:
    if plan.not_inline != _NEVER:
        plan.not_inline -= 1
    raise BudgetExceeded("this statement is too slow for the event loop")


def _fail(sandbox: Sandbox, plan: Plan, exc: Exception) -> Never:
    sandbox.forget_cursor()
    if isinstance(exc, BudgetExceeded):  # of size: the next value may be a small one
        raise exc
    refusal = sandbox.refusal(exc)
    if isinstance(refusal, BudgetExceeded) and sandbox.is_inline and plan.not_inline != _NEVER:
        plan.not_inline = _INLINE_AGAIN
    if refusal is exc:
        raise exc
    raise refusal from exc
