"""One request, one transaction: split rightly, undone whole, read in one snapshot."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from engine.errors import BudgetExceeded, StatementRefused
from engine.limits import SqlLimits
from engine.transaction import (
    SqlConnection,
    Step,
    read,
    steps_of,
    write,
    writes,
    writes_in_time,
)
from proto.api import Statement, StatementResult

FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SqlConnection]:
    connection = SqlConnection.writer(tmp_path / "db", SqlLimits())
    write(connection, steps("CREATE TABLE t (x UNIQUE)"), budget_s=60)
    yield connection
    connection.close()


@pytest.fixture
def reader(writer: SqlConnection, tmp_path: Path) -> Iterator[SqlConnection]:
    connection = SqlConnection.reader(tmp_path / "db", SqlLimits())
    yield connection
    connection.close()


def steps(*texts: str) -> list[Step]:
    return steps_of([Statement(text) for text in texts])


def count(connection: SqlConnection) -> object:
    return read(connection, steps("SELECT count(*) FROM t"), budget_s=60)[0].rows[0][0]


def test_values_belong_to_the_last_statement_of_a_text() -> None:
    made = steps_of([Statement("SELECT 1; SELECT ?", (2,)), Statement("SELECT ?", (3,))])
    assert [(step.sql.strip(), step.params) for step in made] == [
        ("SELECT 1", ()),
        ("SELECT ?", (2,)),
        ("SELECT ?", (3,)),
    ]


@pytest.mark.parametrize("sql", ["", " ; ;", "-- nothing", "/* nothing */ ;"])
def test_a_text_without_a_statement_is_refused(sql: str) -> None:
    with pytest.raises(StatementRefused, match="No SQL statements"):
        steps_of([Statement("SELECT 1"), Statement(sql)])


def test_sqlite_itself_says_what_writes(reader: SqlConnection) -> None:
    assert not writes(reader, steps("SELECT 1", "WITH q AS (SELECT 1) SELECT * FROM q"))
    assert not writes(reader, steps("EXPLAIN DELETE FROM t", "PRAGMA table_info(t)"))
    for text in (
        "INSERT INTO t VALUES (1)",
        "WITH q AS (SELECT 1) INSERT INTO t SELECT * FROM q",
        "CREATE TABLE other (x)",
        "PRAGMA optimize",
        "REINDEX",
        "ANALYZE",
    ):
        assert writes(reader, steps("SELECT 1", text)), text


def test_a_batch_may_use_what_it_makes(reader: SqlConnection, writer: SqlConnection) -> None:
    """The first writing statement decides; those behind it need not be known yet."""
    batch = steps("CREATE TABLE made (x)", "INSERT INTO made VALUES (1)", "SELECT * FROM made")
    assert writes(reader, batch)
    assert write(writer, batch, budget_s=60)[2].rows == [(1,)]


def test_a_statement_that_cannot_be_prepared_is_named(reader: SqlConnection) -> None:
    """Also one that is met before it is known whether the request writes; on a thread too."""
    for before in (1, 100):
        batch = steps(*["SELECT 1"] * before, "SELECT * FROM nope", "SELECT 2")
        for ask in (writes, partial(writes_in_time, budget_s=5)):
            with pytest.raises(StatementRefused, match="no such table") as refused:
                ask(reader, batch)
            assert refused.value.statement == before
    with pytest.raises(StatementRefused) as refused:
        writes(reader, steps("SELEC"))
    assert refused.value.statement is None  # there is no other


def test_a_failure_undoes_everything(writer: SqlConnection, reader: SqlConnection) -> None:
    batch = steps(
        "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (1)"
    )
    with pytest.raises(StatementRefused, match="UNIQUE") as refused:
        write(writer, batch, budget_s=60)
    assert refused.value.statement == 2
    assert count(reader) == 0
    assert not writer.sandbox.connection.in_transaction
    write(writer, steps("INSERT INTO t VALUES (1)"), budget_s=60)
    assert count(reader) == 1


@pytest.mark.parametrize("resolution", ["ROLLBACK", "ABORT", "FAIL"])
def test_conflict_clauses_undo_the_whole_request(
    writer: SqlConnection, reader: SqlConnection, resolution: str
) -> None:
    """Also OR ROLLBACK, which ends SQLite's transaction itself, and OR FAIL, which keeps rows."""
    write(writer, steps("INSERT INTO t VALUES (1)"), budget_s=60)
    batch = steps("INSERT INTO t VALUES (2)", f"INSERT OR {resolution} INTO t VALUES (3), (1), (4)")
    with pytest.raises(StatementRefused):
        write(writer, batch, budget_s=60)
    assert count(reader) == 1
    assert not writer.sandbox.connection.in_transaction


def test_an_exception_of_our_own_undoes_everything(
    writer: SqlConnection, reader: SqlConnection
) -> None:
    def fail(_results: object) -> None:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError):
        write(writer, steps("INSERT INTO t VALUES (1)"), budget_s=60, before_commit=fail)
    assert count(reader) == 0


def test_what_we_add_is_in_the_same_transaction(
    writer: SqlConnection, reader: SqlConnection
) -> None:
    def add(results: list[StatementResult]) -> None:
        assert len(results) == 1
        assert count(reader) == 0
        writer.sandbox.execute_internal("INSERT INTO t VALUES ('ours')")

    write(writer, steps("INSERT INTO t VALUES ('theirs')"), budget_s=60, before_commit=add)
    assert count(reader) == 2


def test_a_deferred_foreign_key_is_refused_at_commit(
    writer: SqlConnection, reader: SqlConnection
) -> None:
    write(writer, steps("CREATE TABLE p (id INTEGER PRIMARY KEY)"), budget_s=60)
    write(
        writer,
        steps("CREATE TABLE c (p REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED)"),
        budget_s=60,
    )
    with pytest.raises(StatementRefused, match="FOREIGN KEY constraint failed"):
        write(writer, steps("INSERT INTO t VALUES (1)", "INSERT INTO c VALUES (7)"), budget_s=60)
    assert count(reader) == 0
    assert not writer.sandbox.connection.in_transaction
    write(writer, steps("INSERT INTO t VALUES (1)"), budget_s=60)


def test_a_batch_of_reads_sees_one_snapshot(reader: SqlConnection, writer: SqlConnection) -> None:
    """A commit between two of its statements is not seen.

    Method: the commit is made by a function that the read itself calls.
    """

    def commit(*_nothing: object) -> int:
        write(writer, steps("INSERT INTO t VALUES (1)"), budget_s=60)
        return 0

    connection = reader.sandbox.connection
    connection.authorizer = None
    connection.create_scalar_function("commit_one", commit, 0)
    first, _, last = read(
        reader,
        steps("SELECT count(*) FROM t", "SELECT commit_one()", "SELECT count(*) FROM t"),
        budget_s=60,
    )
    assert first.rows == last.rows == [(0,)]
    assert count(reader) == 1


def test_a_budget_that_is_used_up_leaves_nothing_open(
    reader: SqlConnection, writer: SqlConnection
) -> None:
    for texts in ((FOREVER,), ("SELECT 1", FOREVER)):
        with pytest.raises(BudgetExceeded):
            read(reader, steps(*texts), budget_s=0.002)
        assert not reader.sandbox.connection.in_transaction
    with pytest.raises(BudgetExceeded):
        write(writer, steps("INSERT INTO t VALUES (1)", FOREVER), budget_s=0.002)
    assert count(reader) == 0


def test_one_request_has_one_budget(reader: SqlConnection) -> None:
    """Many statements, each within the time, are together over it."""
    some = FOREVER.replace("FROM n) SELECT", "FROM n WHERE i < 20000) SELECT")
    with pytest.raises(BudgetExceeded):
        read(reader, steps(*[some] * 200), budget_s=0.02)


def test_a_reader_cannot_write(reader: SqlConnection) -> None:
    with pytest.raises(StatementRefused):
        read(reader, steps("INSERT INTO t VALUES (1)"), budget_s=60)
