"""Rows with TEXT that is not valid UTF-8: what cannot be read becomes U+FFFD, as in JavaScript.

SQLite stores any bytes as TEXT; apsw gives up a row that it cannot decode. Such a query is run
once more, as the inner part of one that gives text out as bytes, with a letter in front that
tells them from a blob's. It costs about twice the query, and only where it is needed.
"""

import secrets
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import apsw

from engine.errors import StatementRefused
from engine.sandbox import Sandbox
from proto.api import SqlValue

_WRAPPED: Final = (
    "CASE typeof({0}) WHEN 'text' THEN CAST('t' || {0} AS BLOB) "
    "WHEN 'blob' THEN CAST('b' || CAST({0} AS TEXT) AS BLOB) ELSE {0} END"
)
_WRAPPED_CHARS: Final = 200  # no column of `_WRAPPED` is longer
_LETTER: Final = ord("t")


def rows_of_any_text(
    sandbox: Sandbox, sql: str, params: Sequence[SqlValue], width: int
) -> Generator[tuple[SqlValue, ...], None, None]:
    """Yield the rows of a statement that only reads, and has `width` columns; to be closed.

    Raises apsw's errors: `SQLError` if the statement cannot be part of another one;
    `StatementRefused` for a value that is too large.
    """
    table = f"t{secrets.token_hex(8)}"  # a name that no statement uses
    names = [f"c{number}" for number in range(width)]
    wrapped = ",".join([_WRAPPED.format(name) for name in names])
    # Materialized: each value is computed once, whatever it is made of.
    inner = f"{table}({','.join(names)}) AS MATERIALIZED ({sql}\n)"
    text = f"WITH {inner} SELECT {wrapped} FROM {table}"
    with _more_room(sandbox, width):
        most = sandbox.limits.value_bytes_max
        for row in sandbox.cursor.execute(text, params, can_cache=False):
            yield tuple(
                [_readable(value, most) if type(value) is bytes else value for value in row]
            )


def _readable(value: bytes, most: int) -> str | bytes:
    content = value[1:]
    if len(content) > most:
        raise StatementRefused("string or blob too big: SQLITE_TOOBIG")
    return content.decode("utf-8", "replace") if value[0] == _LETTER else content


@contextmanager
def _more_room(sandbox: Sandbox, width: int) -> Iterator[None]:
    """Within this, limits hold for the inner statement with what is around it.

    A row of it is stored as one record, whose values may each be as large as is allowed.
    """
    limits, limit = sandbox.limits, sandbox.connection.limit
    length, sql = apsw.SQLITE_LIMIT_LENGTH, apsw.SQLITE_LIMIT_SQL_LENGTH
    limit(length, (limits.value_bytes_max + _WRAPPED_CHARS) * max(1, width))
    limit(sql, limits.statement_bytes_max + _WRAPPED_CHARS * (width + 1))
    try:
        yield
    finally:
        limit(length, limits.value_bytes_max)
        limit(sql, limits.statement_bytes_max)
