"""A database as SQL text, in the form of D1's exports.

First line `PRAGMA defer_foreign_keys=TRUE;`, then each table in the order of its creation with
its rows, `sqlite_sequence` last, then indexes, triggers and views. The server's own tables
are left out; virtual tables are refused, as D1 does. One statement a line, unless the schema
itself has line ends.

It differs from D1's where D1's text cannot be loaded, or loads as something else: triggers
on views follow the views, reals keep their point, and `tables` takes their indexes and
triggers along.

The caller sees to it that all of it is read from one snapshot.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import apsw

from engine.errors import StatementRefused
from engine.literals import literal, name_literal, text_of_bytes
from engine.permissions import HIDDEN_PREFIXES
from engine.sandbox import Sandbox

VIRTUAL_TABLE: Final = "D1 Export error: cannot export databases with Virtual Tables (fts5)"

_TABLES: Final = (
    "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL "
    "ORDER BY tbl_name = 'sqlite_sequence', rowid"
)
_OTHERS: Final = (
    "SELECT type, name, tbl_name, sql, tbl_name IN "
    "(SELECT name FROM sqlite_schema WHERE type = 'view') FROM sqlite_schema "
    "WHERE sql IS NOT NULL AND type IN ('index', 'trigger', 'view') ORDER BY type, rowid"
)
_SEQUENCE: Final = "sqlite_sequence"
_QUOTED_TABLE: Final = ("CREATE TABLE '", 'CREATE TABLE "')


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """What of the database is wanted."""

    has_schema: bool = True
    has_data: bool = True
    tables: frozenset[str] = field(default_factory=frozenset)  # empty: all

    def wants(self, *names: str) -> bool:
        """Whether something that belongs to one of these names is wanted."""
        return not self.tables or not self.tables.isdisjoint(names)


def dump(sandbox: Sandbox, options: DumpOptions) -> Generator[str, None, None]:
    """Yield the lines, without their ends, within `Sandbox.limit_time` and a transaction.

    Raises `StatementRefused`, and what `Sandbox.refusal` makes of apsw's errors.
    """
    try:
        yield "PRAGMA defer_foreign_keys=TRUE;"
        yield from _tables(sandbox, options)
        if options.has_schema:
            yield from _others(sandbox, options)
    except apsw.Error as exc:
        raise sandbox.refusal(exc) from exc


def _tables(sandbox: Sandbox, options: DumpOptions) -> Iterator[str]:
    found = _rows(sandbox, _TABLES)
    missing = options.tables.difference(name for name, _ in found if not _is_hidden(name))
    if missing:
        raise StatementRefused(f"no such table: {min(missing)}: SQLITE_ERROR")
    for name, sql in found:
        if not options.wants(name) or _is_hidden(name):
            continue
        if sql.startswith("CREATE VIRTUAL TABLE"):
            raise StatementRefused(
                VIRTUAL_TABLE, "name the tables to export; theirs can be built again from them"
            )
        if name == _SEQUENCE:
            yield f"DELETE FROM {_SEQUENCE};"
        elif name.startswith("sqlite_stat"):
            yield "ANALYZE sqlite_schema;"
        elif options.has_schema:
            yield _created(sql)
        if options.has_data:
            yield from _inserts(sandbox, name)


def _created(sql: str) -> str:
    if sql.startswith(_QUOTED_TABLE):
        sql = "CREATE TABLE IF NOT EXISTS " + sql.removeprefix("CREATE TABLE ")
    return _ended(sql)


def _ended(sql: str) -> str:
    """A statement and its semicolon, which a comment at its end must not hide."""
    is_safe = "--" not in sql[sql.rfind("\n") + 1 :]
    return sql + (";" if is_safe else "\n;")


def _inserts(sandbox: Sandbox, table: str) -> Iterator[str]:
    columns = [column[1] for column in _rows(sandbox, f"PRAGMA table_info({name_literal(table)})")]
    names = [name_literal(column) for column in columns]
    begin = f"INSERT INTO {name_literal(table)} ({','.join(names)}) VALUES("
    source = f"FROM {name_literal(table)} NOT INDEXED"
    count = 0
    try:
        with _cursor(sandbox) as cursor:
            for row in cursor.execute(f"SELECT {','.join(names)} {source}"):
                yield begin + ",".join([literal(value) for value in row]) + ");"
                count += 1
    except UnicodeDecodeError:  # this row has text that is not UTF-8
        yield from _inserts_as_bytes(sandbox, begin, names, f"{source} LIMIT -1 OFFSET {count}")


def _inserts_as_bytes(
    sandbox: Sandbox, begin: str, names: Iterable[str], source: str
) -> Iterator[str]:
    """The same for any text, with two columns for each."""
    wanted = ",".join(
        f"typeof({name}), CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END"
        for name in names
    )
    with _cursor(sandbox) as cursor:
        for row in cursor.execute(f"SELECT {wanted} {source}"):
            values = [
                text_of_bytes(value) if kind == "text" else literal(value)
                for kind, value in zip(row[::2], row[1::2], strict=True)
            ]
            yield begin + ",".join(values) + ");"


def _others(sandbox: Sandbox, options: DumpOptions) -> Iterator[str]:
    after_views = []
    for kind, name, table, sql, is_on_view in _rows(sandbox, _OTHERS):
        if not options.wants(name, table) or _is_hidden(name) or _is_hidden(table):
            continue
        if kind == "trigger" and is_on_view:
            after_views.append(_ended(sql))
        else:
            yield _ended(sql)
    yield from after_views


def _rows(sandbox: Sandbox, sql: str) -> list[tuple[Any, ...]]:
    with _cursor(sandbox) as cursor:
        return list(cursor.execute(sql))


@contextmanager
def _cursor(sandbox: Sandbox) -> Iterator[apsw.Cursor]:
    """A cursor that holds no snapshot open when the block has ended, however it ended."""
    cursor = sandbox.connection.cursor()
    try:
        yield cursor
    finally:
        cursor.close(True)


def _is_hidden(name: str) -> bool:
    if name.lower().startswith(HIDDEN_PREFIXES):
        return True
    return name.startswith("sqlite_") and not name.startswith(("sqlite_stat", _SEQUENCE))
