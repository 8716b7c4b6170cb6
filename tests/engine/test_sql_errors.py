"""The error texts that D1's clients match."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import StatementRefused
from engine.limits import SqlLimits
from tests.engine.golden_errors import GOLDEN, SCHEMA
from tests.engine.sql_session import SqlSession, open_session


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
