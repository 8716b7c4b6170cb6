"""Prepared statements: SQL with its parameters, ready to be run or put into a batch.

Nothing is prepared on the server ahead of a run; the name is D1's. A statement is a
value: `bind` returns a new one, and the same statement may run any number of times.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeAlias

from d1client.errors import D1Refused, D1TypeError
from d1client.readonly import is_surely_read
from d1client.results import D1Result, JsonValue, RawResult, Row

SqlParam: TypeAlias = bool | int | float | str | bytes | bytearray | memoryview | None
WireParam: TypeAlias = bool | int | float | str | list[int] | None

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Runner(Protocol):
    """What runs a statement: a database without a session, or a session."""

    async def run_rows(
        self, statement: D1PreparedStatement, *, repeatable: bool, idempotency_key: str | None
    ) -> D1Result:
        """Run it and return rows as objects."""

    async def run_table(self, statement: D1PreparedStatement, *, repeatable: bool) -> RawResult:
        """Run it and return rows as arrays."""


class D1PreparedStatement:
    """One SQL statement of one database or session, with its parameters."""

    __slots__ = ("_runner", "params", "sql")

    def __init__(self, runner: Runner, sql: str, params: tuple[WireParam, ...] = ()) -> None:
        self._runner = runner
        self.sql = sql
        self.params = params  # as they go on the wire

    def bind(self, *params: SqlParam) -> D1PreparedStatement:
        """Return this statement with `params` in the place of any that it had.

        Bytes become a list of integers on the wire, and NaN and the infinities become NULL,
        as in D1. Raises D1TypeError for a value that SQL cannot hold.
        """
        return D1PreparedStatement(
            self._runner, self.sql, tuple(_wire(param, i) for i, param in enumerate(params, 1))
        )

    async def run(self, *, idempotency_key: str | None = None) -> D1Result:
        """Run it and return rows and meta; the method for writes.

        A lost answer is never retried here, unless an `idempotency_key` makes the server
        execute the write once however often it comes.
        """
        return await self._runner.run_rows(self, repeatable=False, idempotency_key=idempotency_key)

    async def all(self) -> D1Result:
        """Run it and return all rows and meta; a sure read is repeated if its answer is lost."""
        return await self._runner.run_rows(
            self, repeatable=is_surely_read(self.sql), idempotency_key=None
        )

    async def first(self, column: str | None = None) -> Row | JsonValue:
        """Return the first row, or the value of one `column` of it; None if there is no row.

        Raises D1Refused if there is a row and it has no such column.
        """
        rows = (await self.all()).results
        if not rows:
            return None
        if column is None:
            return rows[0]
        if column not in rows[0]:
            raise D1Refused(f"D1_COLUMN_NOTFOUND: no column {column!r}, there are {list(rows[0])}")
        return rows[0][column]

    async def raw(self, *, column_names: bool = False) -> list[list[JsonValue]]:
        """Return rows as arrays; with `column_names`, the names come first as a row."""
        answer = await self._runner.run_table(self, repeatable=is_surely_read(self.sql))
        rows = answer.results.rows
        return [list(answer.results.columns), *rows] if column_names else rows


def _wire(param: object, position: int) -> WireParam:
    """Translate one parameter for JSON; the check is at run time because callers are untyped."""
    if param is None or isinstance(param, bool):
        return param
    if isinstance(param, int):
        if not INT64_MIN <= param <= INT64_MAX:
            raise D1TypeError(f"D1_TYPE_ERROR: parameter {position}: {param} exceeds 64 bits")
        return int(param)
    if isinstance(param, float):
        return float(param) if math.isfinite(param) else None
    if isinstance(param, str):
        if not param.isascii() and _has_lone_surrogate(param):
            raise D1TypeError(f"D1_TYPE_ERROR: parameter {position}: text is not valid Unicode")
        return str(param)
    if isinstance(param, bytes | bytearray | memoryview):
        return list(bytes(param))
    raise D1TypeError(
        f"D1_TYPE_ERROR: parameter {position}: {type(param).__name__} is not supported; "
        "bind None, bool, int, float, str or bytes"
    )


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
