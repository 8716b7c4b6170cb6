"""The `filter` argument of D1's datasets: which samples are wanted.

    {AND: [{datetimeHour_geq: "...", databaseId: "..."}], query_like: "SELECT%"}

All members hold, AND and OR join more of them. A member that is null is as one that is not there:
a variable that was not given. Pure.

Bounds: `_TESTS_MAX` members, `_DEPTH_MAX` levels; each sample is asked all of them.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeAlias

from d1server.graphql import GraphqlRefused

HOUR_S: Final = 3600
TIMES: Final = (
    "datetime",
    "datetimeMinute",
    "datetimeFiveMinutes",
    "datetimeFifteenMinutes",
    "datetimeHour",
)
"""Dimensions that all tell the hour's beginning."""

_TEXTS: Final = ("databaseId", "query", "date")
_TESTS_MAX: Final = 100
_DEPTH_MAX: Final = 16


class Filtered(Protocol):
    """What a filter looks at."""

    @property
    def hour(self) -> int:
        """Since 1970."""

    def dimension(self, name: str) -> str:
        """What stands in the dimension of this name."""


Test: TypeAlias = Callable[[Filtered], bool]

_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "": lambda found, wanted: found == wanted,
    "neq": lambda found, wanted: found != wanted,
    "geq": lambda found, wanted: found >= wanted,
    "leq": lambda found, wanted: found <= wanted,
    "gt": lambda found, wanted: found > wanted,
    "lt": lambda found, wanted: found < wanted,
    "in": lambda found, wanted: found in wanted,
    "notin": lambda found, wanted: found not in wanted,
    "like": lambda found, wanted: wanted.fullmatch(found) is not None,
    "notlike": lambda found, wanted: wanted.fullmatch(found) is None,
}
_LISTS: Final = ("in", "notin")
_PATTERNS: Final = ("like", "notlike")


def read_filter(asked: object) -> Test:
    """What a sample must be like. Raises `GraphqlRefused`."""
    return _FilterReader().all_of(asked, _DEPTH_MAX)


class _FilterReader:
    """Counts what it reads."""

    def __init__(self) -> None:
        self._left = _TESTS_MAX

    def all_of(self, asked: object, depth: int) -> Test:
        if asked is None:
            return lambda _: True
        if not isinstance(asked, Mapping):
            raise GraphqlRefused("filter: wants an object")
        tests = [
            self._test(str(name), wanted, depth)
            for name, wanted in asked.items()
            if wanted is not None
        ]
        return lambda sample: all(test(sample) for test in tests)

    def _test(self, name: str, wanted: object, depth: int) -> Test:
        self._left -= 1
        if self._left < 0 or depth == 0:
            raise GraphqlRefused(f"filter: more than {_TESTS_MAX} members, or nested too deeply")
        if name in ("AND", "OR"):
            members = wanted if isinstance(wanted, list) else [wanted]
            tests = [self.all_of(one, depth - 1) for one in members]
            join = all if name == "AND" else any
            return lambda sample: join(test(sample) for test in tests)
        dimension, _, how = name.partition("_")
        compare = _COMPARISONS.get(how)
        is_time = dimension in TIMES
        if compare is None or not (is_time or dimension in _TEXTS):
            raise GraphqlRefused(f"filter: {name!r} is not known")
        if is_time:
            if how in _PATTERNS:
                raise GraphqlRefused(f"filter: {name!r}: a time is like nothing")
            times = _each(name, wanted, how, _seconds)
            return lambda sample: compare(sample.hour * HOUR_S, times)
        texts = _each(name, wanted, how, str)
        return lambda sample: compare(sample.dimension(dimension), texts)


def _each(name: str, wanted: object, how: str, read: Callable[[str], Any]) -> object:
    """The value or values to compare with."""
    if how in _LISTS:
        values = wanted if isinstance(wanted, list) else [wanted]
        return {read(_text(name, value)) for value in values}
    text = _text(name, wanted)
    return _pattern(text) if how in _PATTERNS else read(text)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise GraphqlRefused(f"filter: {name} wants text")
    return value


def _pattern(text: str) -> re.Pattern[str]:
    """Of LIKE: `%` is any text, `_` any character. Parts are found one after the other."""
    if text.count("%") > 2:
        raise GraphqlRefused("filter: a pattern has at most two %")
    parts = [".*" if one == "%" else "." if one == "_" else re.escape(one) for one in text]
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


def _seconds(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as exc:
        raise GraphqlRefused(
            f"filter: {text[:40]!r} is no time such as 2026-01-31T00:00:00Z"
        ) from exc
