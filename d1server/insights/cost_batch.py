"""What queries cost by the hour, as rows; and the batches of them that a replica sends.

A batch is told by its source and number: the primary counts a number of a source only if it
is greater than the last one, so that a batch may be sent again when its answer was lost.

Pure. Bounds: `ROWS_MAX` rows of each kind in a batch, each value within what its type says.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Final, NamedTuple

import msgspec

from d1server.insights.durations import BUCKETS
from d1server.insights.query_costs import DatabaseCosts
from d1server.insights.statement_text import SHOWN_CHARS_MAX
from proto.errors import RequestInvalid

QUERY_COSTS_OP: Final = "query-costs"  # on the link: a replica's own word, no client's
ROWS_MAX: Final = 200
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024  # ROWS_MAX texts of four bytes a character fit
KEPT_HOURS: Final = 31 * 24

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Ms = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
_Uuid = Annotated[str, msgspec.Meta(max_length=36)]
_Text = Annotated[str, msgspec.Meta(max_length=SHOWN_CHARS_MAX)]
_SomeBuckets = Annotated[tuple[_Count, ...], msgspec.Meta(max_length=BUCKETS)]
_Buckets = Annotated[list[_Count], msgspec.Meta(min_length=BUCKETS, max_length=BUCKETS)]


class QueryRow(NamedTuple):
    """What one statement cost in one hour."""

    database: _Uuid
    hour: _Count  # since 1970
    query: _Text
    runs: _Count
    duration_ms: _Ms
    rows_read: _Count
    rows_written: _Count
    rows_returned: _Count
    last_seen: _Count  # s since 1970
    buckets: _SomeBuckets = ()  # of the times of its runs; none from an older version


class UsageRow(NamedTuple):
    """What all statements of one database cost in one hour."""

    database: _Uuid
    hour: _Count
    reads: _Count
    writes: _Count
    rows_read: _Count
    rows_written: _Count
    duration_ms: _Ms
    response_bytes: _Count
    buckets: _Buckets  # of the times of batches, as in `durations.py`

    def plus(self, more: "UsageRow") -> "UsageRow":
        """The sum of two of the same hour."""
        return UsageRow(
            self.database,
            self.hour,
            self.reads + more.reads,
            self.writes + more.writes,
            self.rows_read + more.rows_read,
            self.rows_written + more.rows_written,
            self.duration_ms + more.duration_ms,
            self.response_bytes + more.response_bytes,
            [one + other for one, other in zip(self.buckets, more.buckets, strict=True)],
        )


class HourlyCosts(NamedTuple):
    """Rows of both kinds."""

    queries: Annotated[list[QueryRow], msgspec.Meta(max_length=ROWS_MAX)]
    usage: Annotated[list[UsageRow], msgspec.Meta(max_length=ROWS_MAX)]


class CostBatch(msgspec.Struct, array_like=True, frozen=True):
    """See the module's head."""

    source: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    number: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    costs: HourlyCosts


def rows_of(database: str, costs: DatabaseCosts, now: int) -> HourlyCosts:
    """What was counted of one database, as costs of the hour that it is now."""
    hour = now // 3600
    statements = list(costs.statements)
    queries = [
        QueryRow(
            *(database, hour, one.query, one.count, one.duration_ms),
            *(one.rows_read, one.rows_written, one.rows_returned, now, tuple(one.buckets)),
        )
        for one in statements
    ]
    usage = UsageRow(
        database,
        hour,
        sum(one.count - one.writes for one in statements),
        sum(one.writes for one in statements),
        sum(one.rows_read for one in statements),
        sum(one.rows_written for one in statements),
        sum(one.duration_ms for one in statements),
        costs.response_bytes,
        list(costs.buckets),
    )
    return HourlyCosts(queries, [usage])


def acceptable(costs: HourlyCosts, now: int, is_known: Callable[[str], bool]) -> HourlyCosts:
    """What of a replica's costs is counted: known databases, hours that are kept.

    Its clock may be ahead of ours: what it saw later than now, it saw now.
    """
    oldest, newest = now // 3600 - KEPT_HOURS, now // 3600
    return HourlyCosts(
        [
            row._replace(hour=min(row.hour, newest), last_seen=min(row.last_seen, now))
            for row in costs.queries
            if row.hour >= oldest and is_known(row.database)
        ],
        [
            row._replace(hour=min(row.hour, newest))
            for row in costs.usage
            if row.hour >= oldest and is_known(row.database)
        ],
    )


def summed(rows: Iterable[UsageRow]) -> dict[tuple[str, int], UsageRow]:
    """One row for each database and hour."""
    sums: dict[tuple[str, int], UsageRow] = {}
    for row in rows:
        key = row.database, row.hour
        sums[key] = sums[key].plus(row) if key in sums else row
    return sums


def encode_batch(batch: CostBatch) -> bytes:
    """The body of QUERY_COSTS_OP."""
    return msgspec.msgpack.encode(batch)


def decode_batch(body: bytes) -> CostBatch:
    """Read it. Raises `RequestInvalid`."""
    if len(body) > BATCH_BYTES_MAX:
        raise RequestInvalid(f"{len(body)} bytes of query costs, at most {BATCH_BYTES_MAX}")
    try:
        return msgspec.msgpack.decode(body, type=CostBatch)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise RequestInvalid(f"these are no query costs: {exc}") from exc
