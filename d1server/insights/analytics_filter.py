"""The `filter` argument of D1's datasets: which samples are wanted.

    {AND: [{datetimeHour_geq: "...", databaseId: "..."}], query_like: "SELECT%"}

All members hold, AND and OR join more of them. A member that is null is as one that is not there:
a variable that was not given. What a member may be called and hold, the schema says
(`analytics_schema.py`). Pure.

Bounds: `_TESTS_MAX` members, `_DEPTH_MAX` levels; each sample is asked all of them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

HOUR_S: Final = 3600
_TESTS_MAX: Final = 100
_DEPTH_MAX: Final = 16


class FilterRefused(Exception):
    """A filter that would cost too much; the message says why."""


class Filtered(Protocol):
    """What a filter looks at."""

    def dimension(self, name: str) -> str | None:
        """What stands in the dimension of this name."""

    def seconds(self, name: str) -> int:
        """The same for a time, since 1970."""


Test: TypeAlias = Callable[[Filtered], bool]

COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
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
"""What stands behind a dimension's name and `_`."""
LISTS: Final = ("in", "notin")
PATTERNS: Final = ("like", "notlike")


def read_filter(asked: Mapping[str, Any] | None) -> Test:
    """What a sample must be like; times are seconds here. Raises `FilterRefused`."""
    return _FilterReader().all_of(asked, _DEPTH_MAX)


class _FilterReader:
    """Counts what it reads."""

    def __init__(self) -> None:
        self._left = _TESTS_MAX

    def all_of(self, asked: Mapping[str, Any] | None, depth: int) -> Test:
        tests = [
            self._test(name, wanted, depth)
            for name, wanted in (asked or {}).items()
            if wanted is not None
        ]
        return lambda sample: all(test(sample) for test in tests)

    def _test(self, name: str, wanted: Any, depth: int) -> Test:
        self._left -= 1
        if self._left < 0 or depth == 0:
            raise FilterRefused(f"filter: more than {_TESTS_MAX} members, or nested too deeply")
        if name in ("AND", "OR"):
            tests = [self.all_of(one, depth - 1) for one in wanted]
            join = all if name == "AND" else any
            return lambda sample: join(test(sample) for test in tests)
        dimension, _, how = name.partition("_")
        compare = COMPARISONS[how]
        if how in LISTS:
            wanted = frozenset(wanted)
        if how in PATTERNS:
            wanted = _pattern(wanted)
        if dimension.startswith("datetime"):
            return lambda sample: compare(sample.seconds(dimension), wanted)
        return lambda sample: compare(sample.dimension(dimension), wanted)


def _pattern(text: str) -> re.Pattern[str]:
    """Of LIKE: `%` is any text, `_` any character. Parts are found one after the other."""
    if text.count("%") > 2:
        raise FilterRefused("filter: a pattern has at most two %")
    parts = [".*" if one == "%" else "." if one == "_" else re.escape(one) for one in text]
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)
