"""SQL functions of which one call could run for hours, replaced by bounded ones.

SQLite looks at the clock between the instructions of its virtual machine, and one call of a
function is one instruction. trim(X, Y) and unhex(X, Y) compare each character of X with each
of Y: with strings at the limit of 2,000,000 bytes that takes hours. Here they give the same
values in bounded time, or refuse.

What stays unbounded and why: `instr`, `replace` (half a minute at the limit), `json_patch`
(a quarter of an hour; its result carries a mark "this is JSON" that only SQLite can set) and
`snippet`. `engine/permissions.py` keeps those out of the event loop.
"""

from collections.abc import Callable, Mapping
from typing import Final

import apsw

from engine.errors import StatementRefused

_STRIP_SET_MAX: Final = 64  # characters; more are looked up in a set
_COMPARISONS_MAX: Final = 100_000_000  # about a tenth of a second

Value = int | float | str | bytes | None

_STRIPS: Final[Mapping[str, Callable[[str, str], str]]] = {
    "trim": str.strip,
    "ltrim": str.lstrip,
    "rtrim": str.rstrip,
}


def install_bounded(connection: apsw.Connection) -> None:
    """Replace the two-argument forms of trim, ltrim, rtrim and unhex."""
    for name in _STRIPS:
        _install(connection, name, _Trim(name))
    _install(connection, "unhex", _Guarded("unhex"))


def _install(connection: apsw.Connection, name: str, function: Callable[..., Value]) -> None:
    # Innocuous: also in views, triggers, indexes and CHECK constraints, as the built-in ones.
    connection.create_scalar_function(
        name, function, 2, deterministic=True, flags=apsw.SQLITE_INNOCUOUS
    )


class _Guarded:
    """SQLite's own function of two arguments, refused for a pair that would take too long."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._query = f"SELECT {name}(?, ?)"
        self._connection: apsw.Connection | None = None  # without the replacements

    def __call__(self, first: Value, second: Value) -> Value:
        comparisons = _length(first) * _length(second)
        if comparisons > _COMPARISONS_MAX:
            raise StatementRefused(
                f"{self._name}() of {_length(first)} by {_length(second)} bytes would take too "
                "long: SQLITE_TOOBIG",
                "shorten the second argument",
            )
        if self._connection is None:
            self._connection = apsw.Connection(":memory:")
        row = self._connection.execute(self._query, (first, second)).fetchone()
        assert row is not None, "a SELECT without FROM has one row"
        value: Value = row[0]
        return value


class _Trim(_Guarded):
    """`trim` and its one-sided forms; text is trimmed here, other types as SQLite does."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._strip = _STRIPS[name]

    def __call__(self, first: Value, second: Value) -> Value:
        if not isinstance(first, str) or not isinstance(second, str):
            return super().__call__(first, second)
        unwanted = second.partition("\0")[0]  # SQLite ends the set there
        if len(unwanted) <= _STRIP_SET_MAX:
            return self._strip(first, unwanted)
        return self._strip_many(first, frozenset(unwanted))

    def _strip_many(self, text: str, unwanted: frozenset[str]) -> str:
        start, end = 0, len(text)
        if self._name != "rtrim":
            while start < end and text[start] in unwanted:
                start += 1
        if self._name != "ltrim":
            while start < end and text[end - 1] in unwanted:
                end -= 1
        return text[start:end]


def _length(value: Value) -> int:
    return len(value) if isinstance(value, (str, bytes)) else 1
