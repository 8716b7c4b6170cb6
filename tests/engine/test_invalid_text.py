"""TEXT that is not valid UTF-8 can be read, whatever the query is around it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import BudgetExceeded, ResultTooLarge, StatementRefused
from engine.limits import SqlLimits
from engine.sandbox import INLINE_S_MAX
from proto.api import SqlValue
from tests.engine.sql_session import SqlSession, open_session

BAD = "CAST(x'61ff62' AS TEXT)"
READ = "a\ufffdb"


@pytest.fixture(name="session")
def a_session(tmp_path: Path) -> Iterator[SqlSession]:
    with open_session(tmp_path) as session:
        session.write("CREATE TABLE v(id INTEGER PRIMARY KEY, a)")
        session.write(f"INSERT INTO v(a) VALUES ('é'), ({BAD}), (x'61ff'), (NULL), (1.5), ('')")
        yield session


ALL: list[SqlValue] = ["é", READ, b"a\xff", None, 1.5, ""]


@pytest.mark.parametrize(
    ("sql", "params", "rows"),
    [
        ("SELECT a FROM v", (), [(value,) for value in ALL]),
        ("SELECT a, a FROM v ORDER BY id DESC", (), [(value, value) for value in ALL[::-1]]),
        ("SELECT a AS x, id AS x FROM v WHERE id = ?", (2.0,), [(READ, 2)]),
        ("SELECT ?2, a FROM v WHERE id > ?1 LIMIT 1", (1, "z"), [("z", READ)]),
        ("WITH w AS (SELECT a FROM v) SELECT * FROM w LIMIT 2", (), [("é",), (READ,)]),
        (f"VALUES (1, {BAD}), (2, x'00')", (), [(1, READ), (2, b"\0")]),
        ("SELECT a FROM v WHERE id = 2 -- the end", (), [(READ,)]),
        ("SELECT a FROM v WHERE id = 1 UNION SELECT a FROM v WHERE id < 3", (), [(READ,), ("é",)]),
        ("SELECT CAST(x'fe00ff' AS TEXT), CAST(x'c3' AS TEXT)", (), [("\ufffd\0\ufffd", "\ufffd")]),
        (f"SELECT {','.join([BAD] * 100)}", (), [(READ,) * 100]),
    ],
)
def test_rows_are_what_they_are_but_for_what_is_no_text(
    session: SqlSession, sql: str, params: tuple[SqlValue, ...], rows: list[tuple[SqlValue, ...]]
) -> None:
    assert session.rows(sql, *params) == rows
    assert session.rows("SELECT 1") == [(1,)]


def test_values_are_computed_once(session: SqlSession) -> None:
    """Method: values whose type is another one each time that they are computed."""
    random = f"CASE abs(random()) % 2 WHEN 1 THEN {BAD} ELSE x'61' END"
    assert {row[0] for row in session.rows(f"SELECT {random} FROM v, v, v")} == {READ, b"a"}


def test_it_is_not_done_in_the_event_loop(session: SqlSession) -> None:
    with pytest.raises(BudgetExceeded):
        session.read("SELECT a FROM v", budget_s=INLINE_S_MAX)
    assert session.rows("SELECT a FROM v WHERE id = 2") == [(READ,)]


def test_limits_hold(tmp_path: Path) -> None:
    """Values of the largest size and results of the largest; then the limits are as before."""
    limits = SqlLimits(value_bytes_max=10_000, result_bytes_max=100_000)
    with open_session(tmp_path, limits) as session:
        large = "CAST(zeroblob(9990) || x'ff' AS TEXT)"
        [row] = session.rows(f"SELECT {large}, {large}, zeroblob(10000)")
        assert row == ("\0" * 9990 + "\ufffd", "\0" * 9990 + "\ufffd", bytes(10_000))
        with pytest.raises(ResultTooLarge):
            session.rows(f"SELECT {large} FROM json_each('[1,2,3,4,5,6,7,8,9,10,11]')")
        with pytest.raises(StatementRefused, match="TOOBIG"):
            session.rows("SELECT zeroblob(10001)")
        with pytest.raises(StatementRefused, match="string or blob too big: SQLITE_TOOBIG"):
            session.rows("SELECT CAST(x'ff' AS TEXT) UNION ALL SELECT zeroblob(10001)")
        with pytest.raises(StatementRefused, match="TOOBIG"):
            session.rows(f"SELECT 1 /*{'x' * limits.statement_bytes_max}*/")


@pytest.mark.parametrize("is_writer", [False, True])
def test_the_snapshot_is_let_go(session: SqlSession, is_writer: bool) -> None:
    if is_writer:
        assert session.write("SELECT a FROM v WHERE id = 2")[0].rows == [(READ,)]
    else:
        session.rows("SELECT a FROM v")
    session.write("INSERT INTO v(a) VALUES (1)")
    assert session.writer.execute_internal("PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]


def test_what_a_write_returns_is_told_to_be_read_as_bytes(session: SqlSession) -> None:
    """A write cannot run within another statement: nothing of it is done."""
    with pytest.raises(StatementRefused, match="not valid UTF-8") as refused:
        session.write("UPDATE v SET a = a WHERE id = 2 RETURNING a")
    assert "BLOB" in refused.value.hint
    found = session.write("UPDATE v SET a = a WHERE id = 2 RETURNING CAST(a AS BLOB)")
    assert found[0].rows == [(b"a\xffb",)]
