"""The datasets of D1's GraphQL: filtered, grouped by the dimensions that are selected, ordered.

Pure. A `Sample` is what one hour of one database cost, or of one of its statements, or its size
now. Rows are sums of samples; a row's `avg` is its sum by its count.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from d1server.insights.analytics_filter import HOUR_S, Test
from d1server.insights.durations import quantile, read, summed

QUERIES: Final = "d1QueriesAdaptiveGroups"
ANALYTICS: Final = "d1AnalyticsAdaptiveGroups"
STORAGE: Final = "d1StorageAdaptiveGroups"
DATASETS: Final = (QUERIES, ANALYTICS, STORAGE)

ROWS_MAX: Final = 10_000
SHARES: Final[Mapping[str, float]] = {
    **{f"P{percent}": percent / 100 for percent in (25, 50, 75, 90, 95, 99)},
    "P999": 0.999,
}
TIMES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("datetime", "datetimeMinute", "datetimeFiveMinutes"), 1),
    **dict.fromkeys(("datetimeFifteenMinutes", "datetimeHour"), 1),
    "datetimeSixHours": 6,
}
"""Dimensions that are times, and how many hours each holds: all tell the beginning of one."""
UNTOLD: Final = ("databaseRole", "servedByInstance", "servedByRegion")
"""Dimensions of D1 that nothing is counted by: null."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Costs of one kind at one time; see the module's head."""

    database: str  # uuid
    hour: int  # since 1970
    sums: Mapping[str, float]
    count: int = 0
    query: str = ""
    buckets: Sequence[int] | str = ()  # of durations; as text, as they are stored
    most: Mapping[str, float] = field(default_factory=dict)

    def dimension(self, name: str) -> str | None:
        """What stands in the dimension of this name."""
        if name in TIMES:
            at = datetime.fromtimestamp(self.seconds(name), UTC)
            return at.strftime("%Y-%m-%dT%H:%M:%SZ")
        if name == "date":
            return datetime.fromtimestamp(self.hour * HOUR_S, UTC).strftime("%Y-%m-%d")
        if name in UNTOLD:
            return None
        # What failed is not counted, so no row has an error.
        return {"databaseId": self.database, "query": self.query, "error": ""}[name]

    def seconds(self, name: str) -> int:
        """The same for one of TIMES, since 1970."""
        return (self.hour - self.hour % TIMES[name]) * HOUR_S


@dataclass(frozen=True, slots=True)
class Order:
    """How rows are ordered: by what stands under `path`."""

    path: tuple[str, ...]
    is_down: bool

    def key(self, row: Mapping[str, Any]) -> Any:
        """What a row is ordered by; of something that it does not have, nothing."""
        value: Any = row
        for name in self.path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return (value is not None, value if value is not None else 0)


def rows(
    samples: Sequence[Sample],
    *,
    is_wanted: Test,
    selected: Mapping[str, Collection[str]],
    orders: Sequence[Order] = (),
    limit: int = ROWS_MAX,
) -> list[dict[str, Any]]:
    """The rows of one dataset; `selected`: fields of `dimensions` and `quantiles`."""
    names = sorted(selected.get("dimensions", ()))
    quantiles = {*selected.get("quantiles", ())}
    quantiles |= {order.path[1] for order in orders if order.path[0] == "quantiles"}
    groups: dict[tuple[str | None, ...], list[Sample]] = {}
    for sample in samples:
        if is_wanted(sample):
            key = tuple([sample.dimension(name) for name in names])
            groups.setdefault(key, []).append(sample)
    found = [
        {**_row(group, quantiles), "dimensions": dict(zip(names, key, strict=True))}
        for key, group in groups.items()
    ]
    for order in reversed(orders):
        found.sort(key=order.key, reverse=order.is_down)
    return found[: min(limit, ROWS_MAX)]


def _row(group: Sequence[Sample], quantiles: Collection[str]) -> dict[str, Any]:
    sums: dict[str, float] = {}
    most: dict[str, float] = {}
    for sample in group:
        for name, value in sample.sums.items():
            sums[name] = sums.get(name, 0) + value
        for name, value in sample.most.items():
            most[name] = max(most.get(name, 0), value)
    count = sum(sample.count for sample in group)
    averages = {name: value / count if count else 0 for name, value in sums.items()}
    return {
        "count": count,
        "sum": sums,
        "avg": averages | {"sampleInterval": 1},  # nothing is left out
        "max": most,
        "quantiles": _quantiles(group, quantiles) if quantiles else {},
    }


def _quantiles(group: Sequence[Sample], names: Collection[str]) -> dict[str, float | None]:
    """Of the one thing whose times are counted in a dataset."""
    parts = [read(one.buckets) if isinstance(one.buckets, str) else one.buckets for one in group]
    buckets = summed(parts)
    return {name: quantile(buckets, SHARES["P" + name.rpartition("P")[2]]) for name in names}
