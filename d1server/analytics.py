"""The datasets of D1's GraphQL: filtered, grouped by the dimensions that are selected, ordered.

Pure. A `Sample` is what one hour of one database cost, or of one of its statements, or its size
now. Rows are sums of samples; a row's `avg` is its sum by its count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from d1server.analytics_filter import HOUR_S, TIMES, read_filter
from d1server.graphql import TYPENAME, Field, GraphqlRefused
from d1server.query_costs import quantile

ROWS_MAX: Final = 10_000
SHARES: Final = (25, 50, 75, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Sample:
    """Costs of one kind at one time; see the module's head."""

    database: str  # uuid
    hour: int  # since 1970
    sums: Mapping[str, float]
    count: int = 0
    query: str | None = None
    buckets: Sequence[int] = ()
    most: Mapping[str, float] = field(default_factory=dict)

    def dimension(self, name: str) -> str:
        """What stands in the dimension of this name. Raises `GraphqlRefused`."""
        if name == "databaseId":
            return self.database
        if name == "query" and self.query is not None:
            return self.query
        at = datetime.fromtimestamp(self.hour * HOUR_S, UTC)
        if name == "date":
            return at.strftime("%Y-%m-%d")
        if name in TIMES:
            return at.strftime("%Y-%m-%dT%H:%M:%SZ")
        raise GraphqlRefused(f"unknown dimension {name!r}")


def rows(samples: Sequence[Sample], asked: Field) -> list[dict[str, Any]]:
    """The rows of one dataset for a field with D1's arguments. Raises `GraphqlRefused`."""
    is_wanted = read_filter(asked.arguments.get("filter"))
    parts = [part for part in asked.fields if part.name == "dimensions"]
    dimensions = sorted({one.name for part in parts for one in part.fields} - {TYPENAME})
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        if is_wanted(sample):
            key = tuple([sample.dimension(name) for name in dimensions])
            groups.setdefault(key, []).append(sample)
    found = [_row(dict(zip(dimensions, key, strict=True)), group) for key, group in groups.items()]
    for order in reversed(_orders(asked.arguments.get("orderBy"))):
        found.sort(key=order.key, reverse=order.is_down)
    limit = asked.arguments.get("limit", ROWS_MAX)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise GraphqlRefused("limit: wants a whole number")
    return found[: min(limit, ROWS_MAX)]


def _row(dimensions: dict[str, str], group: Sequence[Sample]) -> dict[str, Any]:
    sums: dict[str, float] = {}
    most: dict[str, float] = {}
    for sample in group:
        for name, value in sample.sums.items():
            sums[name] = sums.get(name, 0) + value
        for name, value in sample.most.items():
            most[name] = max(most.get(name, 0), value)
    count = sum(sample.count for sample in group)
    buckets = [sum(values) for values in zip(*(s.buckets for s in group if s.buckets), strict=True)]
    return {
        "count": count,
        "sum": sums,
        "avg": {name: value / count if count else 0 for name, value in sums.items()},
        "max": most,
        "quantiles": {
            **{f"queryBatchTimeMsP{one}": quantile(buckets, one / 100) for one in SHARES},
            **{f"queryDurationMsP{one}": None for one in SHARES},  # not counted for each statement
        },
        "dimensions": dimensions,
    }


@dataclass(frozen=True, slots=True)
class _Order:
    """`sum_rowsRead_DESC`, `count_ASC`, `datetimeHour_ASC`."""

    path: tuple[str, ...]
    is_down: bool

    def key(self, row: Mapping[str, Any]) -> Any:
        value: Any = row
        for name in self.path:
            value = value.get(name, 0) if isinstance(value, Mapping) else 0
        return value


def _orders(asked: object) -> list[_Order]:
    if asked is None:
        return []
    orders = []
    for text in asked if isinstance(asked, list) else [asked]:
        words = text.split("_") if isinstance(text, str) else []
        if not 2 <= len(words) <= 3 or words[-1] not in ("ASC", "DESC"):
            raise GraphqlRefused(f"orderBy: {text!r} is none of sum_<field>_DESC, count_ASC, ...")
        path = tuple(words[:-1])
        if len(path) == 1 and path[0] != "count":
            path = ("dimensions", *path)
        orders.append(_Order(path, words[-1] == "DESC"))
    return orders
