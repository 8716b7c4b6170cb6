"""The datasets of D1's GraphQL: filtered, grouped by the dimensions that are selected, ordered.

Pure. A `Sample` is what one hour of one database cost, or of one of its statements, or its size
now. Rows are sums of samples; a row's `avg` is its sum by its count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from d1server.graphql import Field, GraphqlRefused
from d1server.query_costs import quantile

ROWS_MAX: Final = 10_000
_HOUR_S: Final = 3600
_DATES: Final = (
    "datetime",
    "datetimeMinute",
    "datetimeFiveMinutes",
    "datetimeFifteenMinutes",
    "datetimeHour",
)


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
        at = datetime.fromtimestamp(self.hour * _HOUR_S, UTC)
        if name == "date":
            return at.strftime("%Y-%m-%d")
        if name in _DATES:
            return at.strftime("%Y-%m-%dT%H:%M:%SZ")
        raise GraphqlRefused(f"unknown dimension {name!r}")


def rows(samples: Sequence[Sample], asked: Field) -> list[dict[str, Any]]:
    """The rows of one dataset for a field with D1's arguments. Raises `GraphqlRefused`."""
    is_wanted = _filter(asked.arguments.get("filter"))
    dimensions = sorted({one.name for part in asked.fields if part.name == "dimensions"
                         for one in part.fields})  # fmt: skip
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
            f"queryBatchTimeMsP{share}": quantile(buckets, share / 100)
            for share in (25, 50, 75, 90, 95, 99)
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


_COMPARISONS: Final[Mapping[str, Callable[[str, Any], bool]]] = {
    "": lambda found, wanted: found == wanted,
    "neq": lambda found, wanted: found != wanted,
    "geq": lambda found, wanted: found >= wanted,
    "leq": lambda found, wanted: found <= wanted,
    "gt": lambda found, wanted: found > wanted,
    "lt": lambda found, wanted: found < wanted,
    "in": lambda found, wanted: found in wanted,
}


def _filter(asked: object) -> Callable[[Sample], bool]:
    """What a sample must be like: all members hold, AND and OR join more of them."""
    if asked is None:
        return lambda _: True
    if not isinstance(asked, Mapping):
        raise GraphqlRefused("filter: wants an object")
    tests = [_test(str(name), wanted) for name, wanted in asked.items()]
    return lambda sample: all(test(sample) for test in tests)


def _test(name: str, wanted: object) -> Callable[[Sample], bool]:
    if name in ("AND", "OR"):
        if not isinstance(wanted, list):
            raise GraphqlRefused(f"filter: {name} wants a list")
        tests = [_filter(one) for one in wanted]
        join = all if name == "AND" else any
        return lambda sample: join(test(sample) for test in tests)
    dimension, _, how = name.partition("_")
    compare = _COMPARISONS.get(how)
    if compare is None or dimension not in ("databaseId", "query", "date", *_DATES):
        raise GraphqlRefused(f"filter: {name!r} is not known")
    kinds = list if how == "in" else str
    if not isinstance(wanted, kinds):
        raise GraphqlRefused(f"filter: {name} wants {'a list' if how == 'in' else 'text'}")
    return lambda sample: compare(sample.dimension(dimension), wanted)
