"""Indexes that would have made the costliest statements of a database cheaper.

Pure: what statements have cost (`stored_costs.py`), the schema and samples of the tables in; D1's
object for recommendations out. SQLite's planner says which index a statement would use
(`engine/index_advice.py`); the samples say whether that is worth it.

What is told of the costs is an estimate for the time that was looked at, negative where it is
less:

- rows read: now, what was counted; with the index, the rows with one value of its columns, as
  found in a sample, and no fewer than were returned;
- time: in the same proportion;
- rows written: at most one more for each row that statements have written to the table.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import msgspec

from engine.index_advice import Advice, Advisor, Index, Row, quoted
from proto.api import Statement

ROWS_MIN: Final = 100  # of a table that is worth an index
COUNTED_MAX: Final = 100_000  # rows: of a larger table it is only known that it has so many
SAMPLED_MAX: Final = 10_000
INSIGHTS_MAX: Final = 10  # of one database
ADVISE_S_MAX: Final = 2.0  # on a thread
_USEFUL: Final = 0.5  # with the index at most so many of the rows now are read
_RANGE: Final = 0.25  # of the rows are in a range, by SQLite's own guess
_SATURATED: Final = 10  # rows for each value: then the sample has seen about all values


class CostImpact(msgspec.Struct, frozen=True):
    """How the costs would have changed; negative: less."""

    rows_read: int
    rows_written: int
    query_duration_ms: float


class Suggestion(msgspec.Struct, frozen=True):
    """What to do."""

    kind: Literal["index_creation"]
    sql: str
    summary: str
    cost_impact: CostImpact


class QueryCost(msgspec.Struct, frozen=True):
    """What a statement has cost."""

    count: int
    rows_read: int
    rows_written: int
    query_duration_ms: float


class ImpactedQuery(msgspec.Struct, frozen=True):
    """A statement, without its values; its id is the SHA-256 of that text."""

    id: str
    query: str
    cost: QueryCost


class Insight(msgspec.Struct, frozen=True):
    """One recommendation."""

    database_id: str
    database_name: str
    summary: str
    reasoning: str
    suggestions: list[Suggestion]
    impacted_queries: list[ImpactedQuery]


class Recommendations(msgspec.Struct, frozen=True):
    """The recommendations as of a time."""

    generated_at: str
    insights: list[Insight]


class Recommended(msgspec.Struct, frozen=True):
    """The result of the call."""

    recommendations: Recommendations


class Ran(NamedTuple):
    """What a statement has cost, in the time that is looked at."""

    query: str
    runs: int
    duration_ms: float
    rows_read: int
    rows_written: int
    rows_returned: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """An index, the statements that would use it, and what it would cost to keep."""

    index: Index
    sql: str
    uses: Sequence[tuple[Ran, Advice]]
    rows_written: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of the rows of a table."""

    rows: int  # at most COUNTED_MAX
    sampled: int
    values: int  # different ones of the index's columns, in the sample


def propose(
    schema: Iterable[Row], statistics: Iterable[Row], costliest: Sequence[Ran], writing: list[Ran]
) -> list[Proposal]:
    """The indexes that the costliest statements would use; blocking, for `ADVISE_S_MAX`."""
    ends = time.monotonic() + ADVISE_S_MAX

    def is_over() -> bool:
        return time.monotonic() > ends

    advisor = Advisor(schema, statistics)
    try:
        found: dict[Index, list[tuple[Ran, Advice]]] = {}
        for ran in costliest:
            for advice in advisor.advise(ran.query, is_over):
                found.setdefault(advice.index, []).append((ran, advice))
        _join_prefixes(found)
        touched = [(ran.rows_written, advisor.touched(ran.query)) for ran in writing]
        return [
            Proposal(
                index,
                advisor.index_sql(index),
                uses,
                sum(rows for rows, what in touched if what.writes(index)),
            )
            for index, uses in found.items()
        ]
    finally:
        advisor.close()


def _join_prefixes(found: dict[Index, list[tuple[Ran, Advice]]]) -> None:
    """An index on (a, b) is one on (a), too."""
    for index in list(found):
        longer = (
            other
            for other in found
            if other.table == index.table
            and len(other.columns) > len(index.columns)
            and other.columns[: len(index.columns)] == index.columns
        )
        if (whole := next(longer, None)) is not None:
            found[whole] += found.pop(index)


def sample_of(index: Index) -> Statement:
    """The query that a `Sample` is made from."""
    table, columns = quoted(index.table), ", ".join(map(quoted, index.columns))
    sampled = f"SELECT {columns} FROM {table} LIMIT {SAMPLED_MAX}"
    return Statement(
        f"SELECT (SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT {COUNTED_MAX})),"
        f" (SELECT count(*) FROM ({sampled})),"
        f" (SELECT count(*) FROM (SELECT DISTINCT {columns} FROM ({sampled})))"
    )


def insight_of(proposal: Proposal, sample: Sample, database: tuple[str, str]) -> Insight | None:
    """The recommendation, None if the index is not worth it; `database`: uuid and name."""
    if sample.rows < ROWS_MIN:
        return None
    rows_read, duration_ms = 0.0, 0.0
    impacted = []
    for ran, advice in proposal.uses:
        now, then = _rows_each(ran, advice, sample)
        if then > now * _USEFUL:  # also if a run reads less than a row: nothing is to be won
            continue
        rows_read += ran.runs * (then - now)
        duration_ms += ran.duration_ms * (then / now - 1)
        impacted.append((ran, advice))
    if not impacted:
        return None
    table, columns = proposal.index.table, ", ".join(proposal.index.columns)
    statements = "1 statement" if len(impacted) == 1 else f"{len(impacted)} statements"
    steps = impacted[0][1]
    at_least = "at least " if sample.rows == COUNTED_MAX else ""
    impact = CostImpact(round(rows_read), proposal.rows_written, round(duration_ms, 3))
    summary = f"Create an index on {table} ({columns})"
    return Insight(
        *database,
        summary=f"{statements} would find rows of {table} by an index on ({columns})",
        reasoning=f"The plan now: {steps.before}. With the index: {steps.after}. "
        f"{table} has {at_least}{sample.rows} rows; among {sample.sampled} of them the columns of "
        f"the index have {sample.values} different values.",
        suggestions=[Suggestion("index_creation", proposal.sql, summary, impact)],
        impacted_queries=[_impacted(ran) for ran, _ in impacted],
    )


def _rows_each(ran: Ran, advice: Advice, sample: Sample) -> tuple[float, float]:
    """Rows that one run reads now, and with the index."""
    now, returned = ran.rows_read / ran.runs, ran.rows_returned / ran.runs
    then = now
    if advice.equal:
        values = max(sample.values, 1)
        is_saturated = sample.sampled >= values * _SATURATED
        then = (sample.rows if is_saturated else sample.sampled) / values
    elif not advice.has_range:
        then = returned  # in order, up to the LIMIT
    if advice.has_range:
        then *= _RANGE
    return now, max(then, returned, 1.0)


def _impacted(ran: Ran) -> ImpactedQuery:
    key = hashlib.sha256(ran.query.encode("utf-8", "replace")).hexdigest()
    cost = QueryCost(ran.runs, ran.rows_read, ran.rows_written, round(ran.duration_ms, 3))
    return ImpactedQuery(key, ran.query, cost)
