"""A file as one transaction: all of it or nothing, by the rules of requests."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from engine.errors import BudgetExceeded, DeadlineExceeded, StatementRefused
from engine.load import STATEMENT_BYTES_MAX, SqlLoad, load
from proto.api import StatementResult
from tests.engine.sql_session import SqlSession, open_session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[SqlSession]:
    with open_session(tmp_path) as session:
        session.write("CREATE TABLE kept(a); INSERT INTO kept VALUES (1)")
        yield session


def source_of(session: SqlSession, sql: str | bytes) -> SqlLoad:
    path = session.folder / "file.sql"
    path.write_bytes(sql if isinstance(sql, bytes) else sql.encode())
    return SqlLoad(path)


def loaded(
    session: SqlSession, sql: str | bytes, *, budget_s: float = 20.0
) -> tuple[StatementResult, SqlLoad]:
    source = source_of(session, sql)
    result = load(session.writer, source, budget_s=budget_s, before_commit=lambda _: None)
    return result, source


def refused(session: SqlSession, sql: str | bytes) -> tuple[StatementRefused, SqlLoad]:
    """Load what must be refused, and see to it that nothing of it is there."""
    source = source_of(session, sql)
    with pytest.raises(StatementRefused) as caught:
        load(session.writer, source, budget_s=20.0, before_commit=lambda _: None)
    assert session.rows("SELECT name FROM sqlite_schema WHERE name NOT LIKE '%d1%'") == [("kept",)]
    assert session.rows("SELECT * FROM kept") == [(1,)]
    assert session.rows("PRAGMA foreign_keys") == [(1,)]
    return caught.value, source


def test_a_file_is_one_transaction(session: SqlSession) -> None:
    result, source = loaded(
        session,
        "-- a dump of SQLite's own shell\nPRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n"
        "CREATE TABLE t(a);\nINSERT INTO t VALUES ('x;y'), (2);\nSELECT * FROM t;\n"
        "CREATE TRIGGER g AFTER DELETE ON t BEGIN DELETE FROM kept; SELECT 1; END;\n"
        "UPDATE kept SET a = 2;\nCOMMIT;\n",
    )
    assert session.rows("SELECT a FROM t UNION ALL SELECT a FROM kept") == [("x;y",), (2,), (2,)]
    assert (source.statements, source.bytes_read) == (6, source.path.stat().st_size)
    assert (result.changes, result.rows_written, result.rows_read) == (3, 6, 5)
    assert session.read("PRAGMA foreign_keys").rows == [(1,)]


FOREIGN = """CREATE TABLE p(a PRIMARY KEY); CREATE TABLE c(a REFERENCES p);
PRAGMA defer_foreign_keys=1; INSERT INTO c VALUES (1)"""


@pytest.mark.parametrize(
    ("sql", "message", "statement", "line"),
    [
        ("CREATE TABLE t(a);\n\nINSERT INTO nope VALUES (1);", "no such table: nope", 1, 3),
        ("CREATE TABLE t(a); SELEC 1;", 'near "SELEC": syntax error at offset 0', 1, 1),
        ("CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1), (1)", "UNIQUE constraint", 1, 1),
        ("UPDATE kept SET a = 3; INSERT INTO kept VALUES (?)", "Wrong number of param", 1, 1),
        ("DELETE FROM kept; ROLLBACK;", "To execute a transaction", 1, 1),
        ("DELETE FROM kept; SAVEPOINT a;", "To execute a transaction", 1, 1),
        ("DELETE FROM kept; VACUUM;", "cannot VACUUM from within a transaction", 1, 1),
        ("DELETE FROM kept; ATTACH 'x' AS y", "not authorized", 1, 1),
        ("DELETE FROM kept; SELECT * FROM _d1_secret", "access to _d1_secret.key is", 1, 1),
        ("DELETE FROM kept; CREATE TABLE t(a REFERENCES _d1_secret)", "not authorized", 1, 1),
        ("DELETE FROM kept; ALTER TABLE kept RENAME TO _cf_x", "not authorized", 1, 1),
        ("DELETE FROM kept; PRAGMA journal_mode=DELETE", "not authorized", 1, 1),
        ("DELETE FROM kept; SELECT '\0'", "unrecognized token", 1, 1),
        ("DELETE FROM kept;\nSELECT 'open", "unrecognized token", 1, 2),
        (FOREIGN, "FOREIGN KEY constraint failed", None, 2),
        ("CREATE TABLE c(a REFERENCES n); INSERT INTO c VALUES (1)", "no such table: main.n", 1, 1),
        (b"DELETE FROM kept;\nSELECT '\xff';", "not UTF-8 text", None, 2),
        ("", "No SQL statements detected.", None, 0),
        (" ;; -- nothing\n", "No SQL statements detected.", None, 0),
    ],
)
def test_whatever_is_refused_undoes_the_file(
    session: SqlSession, sql: str | bytes, message: str, statement: int | None, line: int
) -> None:
    error, source = refused(session, sql)
    assert error.message.startswith(message)
    assert (error.statement, source.line) == (statement, line)


def test_a_table_may_be_filled_before_the_one_that_it_refers_to(session: SqlSession) -> None:
    """Dumps are in the order of creation; keys are checked before the commit all the same."""
    sql = (
        "PRAGMA defer_foreign_keys=TRUE; CREATE TABLE c(id REFERENCES p(id));"
        "INSERT INTO c VALUES (1); CREATE TABLE p(id INT); INSERT INTO p VALUES ({});"
        "CREATE UNIQUE INDEX i ON p(id);"
    )
    assert refused(session, sql.format(2))[0].message == "no such table: main.p: SQLITE_ERROR"
    loaded(session, sql.format(1))
    assert session.rows("SELECT * FROM c") == [(1,)]
    with pytest.raises(StatementRefused, match="FOREIGN KEY"):
        session.write("DELETE FROM p")


def test_long_statements_are_for_files_only(session: SqlSession) -> None:
    """A row of 2 MB is a statement of 4 MB; after the load a request has its own limit."""
    value = b"\0\xff" * 990_000
    loaded(session, f"UPDATE kept SET a = X'{value.hex()}';")
    assert session.rows("SELECT a FROM kept") == [(value,)]
    with pytest.raises(StatementRefused, match=r"too long|too big"):
        loaded(session, f"SELECT '{'x' * STATEMENT_BYTES_MAX}';")
    with pytest.raises(StatementRefused, match="statement too long"):
        session.write(f"SELECT '{'x' * 200_000}'")
    session.writer.connection.cache_flush()
    with pytest.raises(apsw.TooBigError):
        session.writer.connection.execute(f"SELECT '{'x' * 200_000}'")


def test_a_load_ends_in_time_and_when_asked(session: SqlSession) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    sql = f"DELETE FROM kept; INSERT INTO kept {endless} SELECT i FROM n;"
    with pytest.raises(BudgetExceeded):
        loaded(session, sql, budget_s=0.1)
    assert session.rows("SELECT * FROM kept") == [(1,)]
    source = source_of(session, "DELETE FROM kept;")
    source.stop()
    with pytest.raises(DeadlineExceeded):
        load(session.writer, source, budget_s=60.0, before_commit=lambda _: None)
    assert session.rows("SELECT * FROM kept") == [(1,)]


def test_what_fails_before_the_commit_undoes_all(session: SqlSession) -> None:
    """The caller's own part belongs to the transaction."""
    source = source_of(session, "DELETE FROM kept;")

    def fail(_result: StatementResult) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        load(session.writer, source, budget_s=60.0, before_commit=fail)
    assert session.rows("SELECT * FROM kept") == [(1,)]


def test_rows_are_counted_as_in_requests(session: SqlSession) -> None:
    """Also where a table gets an index between two INSERTs of the same form."""
    statements = [
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a)",
        "INSERT INTO t VALUES (1, 'x')",
        "INSERT INTO t VALUES (2, 'y'), (3, 'z')",
        "CREATE INDEX t_a ON t(a)",
        "INSERT INTO t VALUES (4, 'x')",
        "INSERT INTO t (a) VALUES (upper('u'))",
        "UPDATE t SET a = 'v' WHERE id > 2 AND a <> 'u'",
        "SELECT a FROM t WHERE a = 'v'",
        "DELETE FROM t WHERE a = 'x'",
        "DROP TABLE t",
    ]
    result, _ = loaded(session, ";\n".join(statements))
    each = [session.write(sql)[0] for sql in statements]
    assert result.rows_read == sum(one.rows_read for one in each)
    assert result.rows_written == sum(one.rows_written for one in each)


def test_views_of_a_file_are_bounded(session: SqlSession) -> None:
    """What would have SQLite copy views without end is refused here too."""
    views = [f"CREATE VIEW v{n} AS SELECT x.a FROM v{n - 1} x, v{n - 1} y;" for n in range(1, 20)]
    error, _ = refused(session, f"CREATE VIEW v0 AS SELECT a FROM kept; {' '.join(views)}")
    assert error.message == "views are nested too deeply: SQLITE_ERROR"


def test_long_lists_of_columns_are_not_kept(session: SqlSession) -> None:
    """Memory does not grow with a file, whatever its INSERTs look like: each has its own blanks."""
    session.write("CREATE TABLE t(a, b)")
    inserts = [f"INSERT INTO t(a,{' ' * 500_000}{' ' * n}b) VALUES (1, 2);" for n in range(30)]
    source = source_of(session, "".join(inserts))
    inserts.clear()
    tracemalloc.start()
    try:
        result = load(session.writer, source, budget_s=20.0, before_commit=lambda _: None)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert (result.changes, result.rows_written) == (30, 30)
