"""The error texts that D1's clients match."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import StatementRefused
from engine.sandbox import SqlLimits
from tests.engine.sql_session import SqlSession, open_session

SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b NOT NULL DEFAULT 1 CHECK(b<100));
CREATE TABLE u(id INTEGER PRIMARY KEY);
CREATE TABLE c(now REFERENCES u(id), later REFERENCES u(id) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE s(a INTEGER) STRICT;
INSERT INTO t(id, a) VALUES (1, 1);
"""

GOLDEN = {
    "SELEC": 'near "SELEC": syntax error at offset 0: SQLITE_ERROR',
    "SELECT * FROM nope": "no such table: nope: SQLITE_ERROR",
    "SELECT id FROM t, u": "ambiguous column name: id at offset 7: SQLITE_ERROR",
    "SELECT foo(1)": "no such function: foo at offset 7: SQLITE_ERROR",
    "SELECT count(1, 2)": (
        "wrong number of arguments to function count() at offset 7: SQLITE_ERROR"
    ),
    "INSERT INTO t(a) VALUES (1)": (
        "UNIQUE constraint failed: t.a: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_UNIQUE)"
    ),
    "INSERT INTO t(a, b) VALUES (5, NULL)": (
        "NOT NULL constraint failed: t.b: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_NOTNULL)"
    ),
    "INSERT INTO t(a, b) VALUES (5, 200)": (
        "CHECK constraint failed: b<100: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_CHECK)"
    ),
    "INSERT INTO t(id, a) VALUES (1, 7)": (
        "UNIQUE constraint failed: t.id: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_PRIMARYKEY)"
    ),
    "INSERT INTO c(now) VALUES (77)": (
        "FOREIGN KEY constraint failed: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_FOREIGNKEY)"
    ),
    "INSERT INTO c(later) VALUES (77)": (  # at COMMIT
        "FOREIGN KEY constraint failed: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_FOREIGNKEY)"
    ),
    "INSERT INTO s VALUES ('x')": (
        "cannot store TEXT value in INTEGER column s.a: "
        "SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_DATATYPE)"
    ),
    "ATTACH ':memory:' AS x": "not authorized: SQLITE_AUTH",
    "CREATE TEMP TABLE x(a)": "not authorized: SQLITE_AUTH",
    "PRAGMA journal_mode": "not authorized: SQLITE_AUTH",
    "CREATE TABLE _cf_x(a)": "not authorized: SQLITE_AUTH",
    "CREATE VIRTUAL TABLE v USING nope(a)": "not authorized: SQLITE_AUTH",
    "SELECT sqlite_version()": (
        "not authorized to use function: sqlite_version at offset 7: SQLITE_ERROR"
    ),
    "CREATE TABLE sqlite_x(a)": "object name reserved for internal use: sqlite_x: SQLITE_ERROR",
    "DELETE FROM sqlite_master": "table sqlite_master may not be modified: SQLITE_ERROR",
    f"SELECT {','.join('?' * 101)}": "too many SQL variables at offset 207: SQLITE_ERROR",
    f"CREATE TABLE w({','.join(f'c{n}' for n in range(101))})": (
        "too many columns on w: SQLITE_ERROR"
    ),
    f"SELECT '{'x' * 100_000}'": "statement too long: SQLITE_TOOBIG",
    f"SELECT '{'é' * 50_000}'": "statement too long: SQLITE_TOOBIG",
    "SELECT zeroblob(2000001)": "string or blob too big: SQLITE_TOOBIG",
    f"SELECT 'a' LIKE '{'%' * 51}'": "LIKE or GLOB pattern too complex: SQLITE_ERROR",
    f"SELECT 'a' GLOB '{'*' * 51}'": "LIKE or GLOB pattern too complex: SQLITE_ERROR",
    " UNION ".join(["SELECT 1"] * 6): "too many terms in compound SELECT: SQLITE_ERROR",
    f"SELECT {'+'.join('1' * 202)}": (
        "Expression tree is too large (maximum depth 200): SQLITE_ERROR"
    ),
    "VACUUM": "cannot VACUUM from within a transaction: SQLITE_ERROR",
    "SELECT json('{')": "malformed JSON: SQLITE_ERROR",
    "SELECT abs(-9223372036854775808)": "integer overflow: SQLITE_ERROR",
    "INSERT INTO t(a) VALUES (": "incomplete input: SQLITE_ERROR",
    "SELECT ?": "Wrong number of parameter bindings for SQL query.",
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlSession]:
    with open_session(tmp_path_factory.mktemp("errors")) as session:
        session.write(SCHEMA)
        yield session


@pytest.mark.parametrize("sql", GOLDEN, ids=lambda sql: sql[:40])
def test_error_text_is_d1s(session: SqlSession, sql: str) -> None:
    """Each text is D1's own to the letter, and nothing of the statement remains."""
    before = session.rows("SELECT count(*) FROM t")
    with pytest.raises(StatementRefused) as refused:
        session.write(sql)
    assert refused.value.message == GOLDEN[sql]
    assert session.rows("SELECT count(*) FROM t") == before


@pytest.mark.parametrize(
    ("sql", "params"), [("SELECT 1", (1,)), ("SELECT ?, ?", (1,)), ("SELECT ?2", (1,))]
)
def test_wrong_number_of_parameters(session: SqlSession, sql: str, params: tuple[int, ...]) -> None:
    """Too many and too few have one text; the hint has the numbers."""
    with pytest.raises(StatementRefused, match=r"^Wrong number of parameter bindings") as refused:
        session.write(sql, *params)
    assert str(len(params)) in refused.value.hint


@pytest.mark.parametrize(
    "sql",
    [
        *("BEGIN", "begin immediate", "COMMIT", "END", "ROLLBACK", "SAVEPOINT x", "RELEASE x"),
        *("ROLLBACK TO x", "EXPLAIN BEGIN", "/* hello */ BEGIN"),
    ],
)
def test_transactions_are_refused_with_advice(session: SqlSession, sql: str) -> None:
    """The text says what to do instead: a batch."""
    with pytest.raises(StatementRefused, match=r"^To execute a transaction, .*batch"):
        session.write(sql)
    assert not session.writer.connection.in_transaction


def test_depth_of_d1_gives_d1s_text(tmp_path: Path) -> None:
    """The limit is a setting; at D1's own value the text is D1's."""
    with (
        open_session(tmp_path, SqlLimits(expression_depth_max=100)) as session,
        pytest.raises(StatementRefused) as refused,
    ):
        session.write(f"SELECT {'+'.join('1' * 102)}")
    assert refused.value.message == (
        "Expression tree is too large (maximum depth 100): SQLITE_ERROR"
    )


def test_statement_of_too_many_instructions_says_to_split_it(tmp_path: Path) -> None:
    """SQLite calls that "out of memory", which would send the reader the wrong way."""
    with open_session(tmp_path, SqlLimits(instructions_max=500)) as session:
        session.write("CREATE TABLE t(a)")
        with pytest.raises(StatementRefused, match="SQLITE_NOMEM") as refused:
            session.write(f"INSERT INTO t VALUES {','.join(['(1)'] * 1000)}")
    assert "split" in refused.value.hint


def test_large_insert_fits(session: SqlSession) -> None:
    """A statement of nearly 100,000 bytes is not refused for its number of instructions."""
    session.write("CREATE TABLE large(a, b)")
    result = session.write(f"INSERT INTO large VALUES {','.join(['(1,2)'] * 16_000)}")[0]
    assert result.changes == 16_000
