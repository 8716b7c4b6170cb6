"""Indexes that a statement would use and that there are not yet.

Asked of SQLite's own planner: a copy of the schema in memory, without rows but with the
statistics of ANALYZE if there are any, gets one candidate index after the other, and is asked for
the statement's plan with it. An index counts only if the plan then uses it to look rows up, or
to have the first rows in order without sorting all of them.

The statements come without their values (`?`), which a plan seldom depends on. Nothing of them
is run. Bounds: `_COLUMNS_MAX` columns of a table are tried and `INDEX_COLUMNS_MAX` make an
index; the caller's `is_over` ends it early.

Blocking and slow: for a thread. One `Advisor` is used by one thread at a time.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import apsw

INDEX_COLUMNS_MAX: Final = 3
_COLUMNS_MAX: Final = 12
_INDEXES_MAX: Final = 2  # for one statement
_SQL_CHARS_MAX: Final = 2000

_CANDIDATE: Final = "d1_candidate"
_HAS_PLAN: Final = re.compile(r"\s*(?:SELECT|WITH|INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_HAS_LIMIT: Final = re.compile(r"\bLIMIT\b", re.IGNORECASE)
_ABBREVIATED: Final = re.compile(r"(\?|\)), \.\.\.")  # as statistics shorten lists
_TERMS: Final = re.compile(r"\(([^()]*[=<>]\?[^()]*)\)$")
_TERM: Final = re.compile(r"(?:^| AND )(.+?)(=|<|>)\?")
_HIDDEN: Final = ("sqlite_", "_cf_", "_d1_")

# What a step of a plan is worth; only their order matters.
_SCAN: Final = 100
_AUTOMATIC: Final = 90  # an index made for one run of the statement
_SORT: Final = 5
_EQUAL: Final = 3
_RANGE: Final = 1

Row: TypeAlias = Sequence[object]


class _Worth(NamedTuple):
    """Of a plan; less is better."""

    slow: int  # steps through many rows
    unbound: int  # the fewer, the more terms bound the steps through few


class Index(NamedTuple):
    """An index that there is not."""

    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """A statement would use this index."""

    index: Index
    equal: tuple[str, ...]  # columns looked up by equality
    has_range: bool  # and one by a range
    before: str  # the step of the plan that it replaces
    after: str


@dataclass(slots=True)
class Touched:
    """Tables and columns that a statement reads, and tables whose rows or columns it writes."""

    reads: dict[str, dict[str, None]] = field(default_factory=dict)  # in their order
    rows: set[str] = field(default_factory=set)
    columns: set[tuple[str, str]] = field(default_factory=set)

    def writes(self, index: Index) -> bool:
        """Whether the statement has to keep this index up to date."""
        table = index.table
        return table in self.rows or any((table, name) in self.columns for name in index.columns)


class Advisor:
    """See the module's head."""

    def __init__(self, schema: Iterable[Row], statistics: Iterable[Row]) -> None:
        """Copy a schema (type, name, sql) and the rows of `sqlite_stat1` (tbl, idx, stat)."""
        self._scratch = apsw.Connection(":memory:")
        self._tables: dict[str, str] = {}  # by name in lower case
        self._keys: set[tuple[str, str]] = set()  # a table, its primary key of one column
        self._touched = Touched()
        order = {"table": 0, "view": 1, "index": 2}
        known = [row for row in schema if row[0] in order and row[2]]
        for kind, name, sql in sorted(known, key=lambda row: order[str(row[0])]):
            if not str(name).lower().startswith(_HIDDEN):
                self._copy(str(kind), str(name), str(sql))
        self._copy_statistics(statistics)
        # A name in quotes that no column has is a text to SQLite; here it is none of ours.
        self._scratch.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
        self._scratch.authorizer = self._authorize

    def close(self) -> None:
        """Forget the copy."""
        self._scratch.close()

    def touched(self, text: str) -> Touched:
        """What a statement reads and writes; nothing, if it is none that has a plan."""
        self._plan(text)
        return self._touched

    def advise(self, text: str, is_over: Callable[[], bool]) -> list[Advice]:
        """The indexes that would serve a statement better, the best first."""
        steps = self._plan(text)
        slow = _slowness(steps)
        found: list[Advice] = []
        useful = 0  # so many of them make the plan less slow; the next may need one more
        try:
            for number in range(_INDEXES_MAX):
                name = f"{_CANDIDATE}_{number}"
                best = self._best(text, steps, name, is_over) if slow else None
                if best is None:
                    break
                found.append(best)
                self._create(name, best.index)
                steps = self._plan(text)
                if _slowness(steps) < slow:
                    slow, useful = _slowness(steps), len(found)
        finally:
            for number in range(_INDEXES_MAX):
                self._drop(f"{_CANDIDATE}_{number}")
        return found[:useful]

    def index_sql(self, index: Index) -> str:
        """The statement that makes an index, with a name that is free."""
        words = re.sub(r"\W+", "_", "_".join((index.table, *index.columns)))
        name = base = f"idx_{words}"[:60]
        number = 1
        while self._scratch.execute(
            "SELECT 1 FROM sqlite_schema WHERE name = ? COLLATE NOCASE", (name,)
        ).fetchall():
            number += 1
            name = f"{base}_{number}"
        return _create_sql(name, index)

    # --- the copy

    def _copy(self, kind: str, name: str, sql: str) -> None:
        try:
            self._scratch.execute(sql)
        except apsw.Error:
            return  # the tables of a virtual one come with it; what is missing is not advised on
        if kind == "table" and not sql.lstrip()[:14].upper().startswith("CREATE VIRTUAL"):
            self._tables[name.lower()] = name
            keys = self._scratch.execute("SELECT name FROM pragma_table_info(?) WHERE pk", (name,))
            names = [str(row[0]) for row in keys]
            self._keys |= {(name, key) for key in names if len(names) == 1}

    def _copy_statistics(self, statistics: Iterable[Row]) -> None:
        self._scratch.execute("ANALYZE")
        for row in statistics:
            self._scratch.execute("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", list(row))
        self._scratch.execute("ANALYZE sqlite_schema")

    def _create(self, name: str, index: Index) -> bool:
        try:
            self._scratch.execute(_create_sql(name, index))
        except apsw.Error:
            return False
        return True

    def _drop(self, name: str) -> None:
        self._scratch.execute(f"DROP INDEX IF EXISTS {name}")

    def _authorize(
        self, action: int, first: str | None, second: str | None, _db: str | None, _by: str | None
    ) -> int:
        """Note what is touched. No other file is opened, whatever a text says."""
        if action in (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH):
            return apsw.SQLITE_DENY
        table = self._tables.get((first or "").lower())
        if table is not None:
            if action == apsw.SQLITE_READ and second and (table, second) not in self._keys:
                self._touched.reads.setdefault(table, {})[second] = None
            elif action in (apsw.SQLITE_INSERT, apsw.SQLITE_DELETE):
                self._touched.rows.add(table)
            elif action == apsw.SQLITE_UPDATE and second:
                self._touched.columns.add((table, second))
        return apsw.SQLITE_OK

    # --- plans

    def _plan(self, text: str) -> list[str]:
        """The steps of the plan; none, if there is none. `_touched` is of this statement then."""
        self._touched = Touched()
        sql = _ABBREVIATED.sub(r"\1", text)
        if len(sql) > _SQL_CHARS_MAX or not _HAS_PLAN.match(sql):
            return []
        cursor = self._scratch.cursor()
        for parameters in (sql.count("?"), -1):
            count = parameters if parameters >= 0 else cursor.bindings_count
            try:
                rows = cursor.execute(
                    f"EXPLAIN QUERY PLAN {sql}", (None,) * count, can_cache=False
                ).fetchall()
            except apsw.BindingsError:
                continue
            except apsw.Error:
                break
            return [str(row[3]) for row in rows]
        return []

    def _best(
        self, text: str, steps: Sequence[str], name: str, is_over: Callable[[], bool]
    ) -> Advice | None:
        """The one index that helps most, grown column by column."""
        can_stop_early = _HAS_LIMIT.search(text) is not None
        best: tuple[_Worth, Advice | None] = (_worth(steps, can_stop_early=can_stop_early), None)
        for table, columns in self._touched.reads.copy().items():
            chosen: tuple[str, ...] = ()
            for _ in range(INDEX_COLUMNS_MAX):
                longer = best
                for column in list(columns)[:_COLUMNS_MAX]:
                    if is_over():
                        return best[1]
                    if column not in chosen:
                        tried = self._try(text, steps, name, Index(table, (*chosen, column)))
                        if tried is not None:
                            worth = _worth(tried[0], can_stop_early=can_stop_early)
                            if worth < longer[0]:
                                longer = (worth, tried[1])
                if longer[1] is None or longer is best:
                    break
                best, chosen = longer, longer[1].index.columns
        return best[1]

    def _try(
        self, text: str, before: Sequence[str], name: str, index: Index
    ) -> tuple[list[str], Advice] | None:
        """The plan with this index, and what it is to the statement; None if it is not used."""
        if not self._create(name, index):
            return None
        try:
            steps = self._plan(text)
        finally:
            self._drop(name)
        after = next((step for step in steps if f"INDEX {name}" in step), None)
        if after is None:
            return None
        terms = _TERMS.search(after)
        found = _TERM.findall(terms[1]) if terms is not None else []
        gone = next((step for step in before if _slowness([step]) and step not in steps), "")
        shown = f"idx_{index.table}"
        advice = Advice(
            index,
            tuple(column for column, sign in found if sign == "="),
            any(sign != "=" for _, sign in found),
            gone,
            after.replace(name, shown),
        )
        return steps, advice


def _create_sql(name: str, index: Index) -> str:
    columns = ", ".join(quoted(column) for column in index.columns)
    return f"CREATE INDEX {quoted(name)} ON {quoted(index.table)} ({columns})"


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _slowness(steps: Iterable[str]) -> int:
    return _worth(steps, can_stop_early=True).slow


def _worth(steps: Iterable[str], *, can_stop_early: bool) -> _Worth:
    slow = terms = 0
    for step in steps:
        if step.startswith("SCAN "):
            slow += _SCAN if "VIRTUAL TABLE" not in step and step != "SCAN CONSTANT ROW" else 0
        elif "AUTOMATIC" in step:
            slow += _AUTOMATIC
        elif step.startswith("USE TEMP B-TREE"):
            slow += _SORT if can_stop_early else 0
        elif (found := _TERMS.search(step)) is not None:
            terms += sum(_EQUAL if sign == "=" else _RANGE for _, sign in _TERM.findall(found[1]))
    return _Worth(slow, -terms)
