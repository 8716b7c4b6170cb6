"""What a statement is by SQLite's word, and what running it gives."""

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from engine.errors import BudgetExceeded, DatabaseDamaged, StatementRefused
from engine.limits import SqlLimits
from engine.sandbox import INLINE_S_MAX, Sandbox, open_guard
from engine.statements import Planner, run
from tests.engine.sql_session import SqlSession, open_session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[SqlSession]:
    with open_session(tmp_path) as session:
        session.write(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b);"
            "INSERT INTO t(a, b) VALUES ('x', 1), ('y', 2);"
            "CREATE INDEX t_a ON t(a)"
        )
        yield session


READS = [
    "SELECT * FROM t",
    "WITH x AS (SELECT 1) SELECT * FROM x",
    "VALUES (1), (2)",
    "EXPLAIN SELECT 1",
    "EXPLAIN QUERY PLAN DELETE FROM t",
    "EXPLAIN INSERT INTO t(a) VALUES (1)",
    "PRAGMA table_info(t)",
    "PRAGMA quick_check",
    "PRAGMA data_version",
    "SELECT * FROM pragma_table_info('t')",
    "SELECT last_insert_rowid()",
    "/* INSERT */ SELECT 'DELETE FROM t'",
]
WRITES = [
    "INSERT INTO t(a) VALUES (1)",
    "INSERT INTO t(a) VALUES (1) RETURNING *",
    "UPDATE t SET a = 1 WHERE 0",
    "WITH x AS (SELECT 1) DELETE FROM t WHERE id IN x",
    "REPLACE INTO t(id) VALUES (1)",
    "CREATE TABLE x(a)",
    "CREATE TABLE IF NOT EXISTS t(a)",
    "DROP INDEX t_a",
    "ALTER TABLE t ADD COLUMN c",
    "ANALYZE",
    "REINDEX",
    "REINDEX t",
    "PRAGMA optimize",
    "PRAGMA main.optimize(0x10002)",
    "VACUUM",
]


@pytest.mark.parametrize("again", [False, True], ids=["first time", "prepared before"])
@pytest.mark.parametrize("sql", READS + WRITES)
def test_read_or_write_is_sqlites_word(session: SqlSession, sql: str, again: bool) -> None:
    """Also where SQLite says read-only of what writes, and where it has it prepared already."""
    if again:
        Planner(session.writer, 10).plan(sql)
    assert session.writes.plan(sql).writes is (sql in WRITES)


def test_planning_runs_nothing(session: SqlSession) -> None:
    """Not one step: neither a row is written nor a transaction begun."""
    for sql in [*WRITES, "DELETE FROM t", "DROP TABLE t"]:
        session.writes.plan(sql)
    assert session.rows("SELECT count(*) FROM t") == [(2,)]
    assert not session.writer.connection.in_transaction


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT 1", 0),
        ("SELECT '?', \"?\" FROM (SELECT 1 AS [?]) -- ?", 0),
        ("SELECT ?, ?", 2),
        ("SELECT ?3", 3),
        ("SELECT ?2, ?", 3),
        ("SELECT :a, :a, @b, $c, ?", 4),
    ],
)
def test_parameters_are_counted_by_sqlite(session: SqlSession, sql: str, parameters: int) -> None:
    """Whatever a question mark in the text may mean."""
    assert session.reads.plan(sql).parameters == parameters


def test_plans_are_remembered_within_a_bound(session: SqlSession) -> None:
    """What is used stays, what is not goes; long texts are not kept at all."""
    planner = Planner(session.reader, plans_max=2)
    first, second = planner.plan("SELECT 1"), planner.plan("SELECT 2")
    for other in range(3, 9):
        planner.plan(f"SELECT {other}")
        assert planner.plan("SELECT 1") is first
    assert planner.plan("SELECT 2") is not second
    long = f"SELECT '{'x' * 20_000}'"
    assert planner.plan(long) is not planner.plan(long)


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "SELECT ?; DROP TABLE t"])
def test_a_plan_is_one_statement(session: SqlSession, sql: str) -> None:
    """Whoever forgets to split gets a refusal, not the first statement."""
    with pytest.raises(StatementRefused, match="only one statement"):
        session.writes.plan(sql)
    assert session.rows("SELECT count(*) FROM t") == [(2,)]


def test_result_of_a_read(session: SqlSession) -> None:
    result = session.read("SELECT a, b AS a, b + 1 FROM t WHERE b > ?", 1)
    assert result.columns == ("a", "a", "b + 1")
    assert result.rows == [("y", 2, 3)]
    assert (result.changes, result.rows_written, result.changed_db) == (0, 0, False)
    assert result.rows_read >= 1
    assert result.duration_ms > 0.0


def test_result_of_a_write(session: SqlSession) -> None:
    """Rows read are never 0 for an UPDATE that found rows: a client takes that for a miss."""
    inserted, updated, missed, created = session.write(
        "INSERT INTO t(a) VALUES ('z') RETURNING id, a; UPDATE t SET b = 5;"
        "UPDATE t SET b = 5 WHERE id = 99; CREATE TABLE u(a)"
    )
    assert (inserted.columns, inserted.rows) == (("id", "a"), [(3, "z")])
    assert (inserted.changes, inserted.last_row_id, inserted.changed_db) == (1, 3, True)
    assert (updated.changes, updated.rows_written, updated.changed_db) == (3, 3, True)
    assert updated.rows_read >= 3
    assert (missed.changes, missed.rows_read, missed.changed_db) == (0, 0, False)
    assert (created.changes, created.changed_db) == (0, True)


def test_columns_of_no_rows(session: SqlSession) -> None:
    """`/raw` names the columns of an empty result too."""
    for _ in range(2):
        assert session.read("SELECT id, a FROM t WHERE 0").columns == ("id", "a")
        assert session.write("DELETE FROM t WHERE 0 RETURNING b, id")[0].columns == ("b", "id")


@pytest.mark.parametrize("where", ["1", "0"], ids=["rows", "no rows"])
def test_columns_follow_the_schema(session: SqlSession, where: str) -> None:
    """A plan outlives changes of the schema, also those of other connections.

    Method: the reader plans and runs `*`; the writer adds, renames and drops columns.
    """
    sql = f"SELECT * FROM t WHERE {where}"
    assert session.read(sql).columns == ("id", "a", "b")
    session.write("ALTER TABLE t ADD COLUMN c")
    assert session.read(sql).columns == ("id", "a", "b", "c")
    session.write("ALTER TABLE t RENAME COLUMN c TO d")
    assert session.read(sql).columns == ("id", "a", "b", "d")
    session.write("DROP INDEX t_a; ALTER TABLE t DROP COLUMN a")
    assert session.read(sql).columns == ("id", "b", "d")


def test_changes_of_columns_are_judged_by_the_newest_schema(session: SqlSession) -> None:
    """Also where SQLite itself would judge by the schema that the connection knows.

    Method: the reader, which is what judges, runs none of them; the writer does.
    """
    for sql in (
        "DROP INDEX t_a",
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t ADD COLUMN a",
        "ALTER TABLE t RENAME COLUMN a TO c",
        "ALTER TABLE t RENAME COLUMN c TO d",
        "INSERT INTO t VALUES (9, 'b', 'd')",
        "ALTER TABLE t DROP COLUMN d",
        "INSERT INTO t VALUES (10, 'b')",
        "ALTER TABLE t RENAME COLUMN b TO d",
    ):
        assert session.reads.plan(sql).writes, sql
        session.write(sql)
    for sql in ("ALTER TABLE t DROP COLUMN c", "ALTER TABLE t ADD COLUMN d", "SELECT c FROM t"):
        for _ in range(2):
            with pytest.raises(StatementRefused):
                session.reads.plan(sql)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 32, 33, 1000])
def test_every_row_arrives(session: SqlSession, count: int) -> None:
    """Rows are stepped in groups; none is lost or doubled at their edges."""
    sql = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n LIMIT ?"
    assert session.rows(sql, count) == [(n,) for n in range(1, count + 1)]


def test_values_of_every_type(session: SqlSession) -> None:
    """In as bound, out as stored."""
    values = (None, 2**63 - 1, -(2**63), 0.1, float("inf"), "é\0\U0001f600", b"\0\xff", "")
    session.write("CREATE TABLE v(a)")
    for value in values:
        session.write("INSERT INTO v VALUES (?)", value)
    assert session.rows("SELECT a FROM v ORDER BY rowid") == [(value,) for value in values]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "\ud800"])
def test_values_that_sqlite_has_not(session: SqlSession, value: int | str) -> None:
    """Refused with a message, and the next statement works."""
    with pytest.raises(StatementRefused):
        session.read("SELECT ?", value)
    assert session.rows("SELECT 1") == [(1,)]


def test_a_large_result_is_not_for_the_event_loop(session: SqlSession) -> None:
    """Only that run of the statement: its next value may be a small one."""
    session.write("CREATE TABLE v(id INTEGER PRIMARY KEY, a)")
    session.write("INSERT INTO v(a) VALUES (zeroblob(300000)), (zeroblob(1000))")
    sql = "SELECT a FROM v WHERE id = ?"
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            session.read(sql, 1, budget_s=INLINE_S_MAX)
        assert session.read(sql, 2, budget_s=INLINE_S_MAX).rows == [(bytes(1000),)]
    assert session.rows(sql, 1) == [(bytes(300_000),)]


def test_snapshot_is_let_go_after_an_error(session: SqlSession) -> None:
    """A statement that failed in its middle does not hold up checkpoints."""
    with pytest.raises(StatementRefused):
        session.read("SELECT a, json(CASE id WHEN 2 THEN '{' ELSE '1' END) FROM t")
    session.write("INSERT INTO t(a) VALUES (3)")
    assert session.writer.execute_internal("PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]


@pytest.mark.parametrize(
    "name", ["case_sensitive_like", "reverse_unordered_selects", "recursive_triggers"]
)
def test_setting_lasts_for_its_request(session: SqlSession, name: str) -> None:
    """The connection is everybody's. Also planning alone sets: SQLite does it at once."""
    pragma = f"{name} = 1"
    sql = "SELECT 'A' LIKE 'a', (SELECT group_concat(id) FROM t)"
    before = session.write(sql)[0].rows
    inside = session.write(f"PRAGMA {pragma}; {sql}")[1].rows
    if name != "recursive_triggers":
        assert inside != before
    session.writes.plan(f"PRAGMA {pragma}")
    assert session.write(sql)[0].rows == before
    if name != "case_sensitive_like":
        assert session.writer.execute_internal(f"PRAGMA {name}") == [(0,)]
    assert session.write(f"PRAGMA {pragma}; {sql}")[1].rows == inside


def test_foreign_keys_stay_on(session: SqlSession) -> None:
    """Neither a write nor a plan outside of any transaction turns them off."""
    session.write("CREATE TABLE c(t REFERENCES t(id)); PRAGMA foreign_keys = off")
    session.writes.plan("PRAGMA foreign_keys = 0")
    with pytest.raises(StatementRefused, match="FOREIGN KEY"):
        session.write("PRAGMA foreign_keys = off; INSERT INTO c VALUES (77)")


def test_deferred_foreign_keys_end_with_the_transaction(session: SqlSession) -> None:
    """The order within a batch is free, the end is not."""
    session.write("CREATE TABLE c(t REFERENCES t(id))")
    ordered = "INSERT INTO c VALUES (7); INSERT INTO t(id) VALUES (7)"
    with pytest.raises(StatementRefused, match="FOREIGN KEY"):
        session.write(ordered)
    session.write(f"PRAGMA defer_foreign_keys = on; {ordered}")
    with pytest.raises(StatementRefused, match="FOREIGN KEY"):
        session.write("PRAGMA defer_foreign_keys = on; INSERT INTO c VALUES (8)")
    with pytest.raises(StatementRefused, match="FOREIGN KEY"):
        session.write("INSERT INTO c VALUES (9); INSERT INTO t(id) VALUES (9)")


def test_conflict_that_rolls_back_ends_the_whole_request(session: SqlSession) -> None:
    """OR ROLLBACK is the one way in which SQL ends a transaction; nothing runs after it."""
    session.write("CREATE UNIQUE INDEX t_b ON t(b)")
    with pytest.raises(StatementRefused, match="UNIQUE"):
        session.write("INSERT INTO t(b) VALUES (50); INSERT OR ROLLBACK INTO t(b) VALUES (1)")
    assert session.rows("SELECT count(*) FROM t") == [(2,)]


def test_reader_cannot_write(session: SqlSession) -> None:
    """A plan that was wrong about a statement would still not write on a reader."""
    with pytest.raises(StatementRefused, match="SQLITE_READONLY"):
        session.read("INSERT INTO t(a) VALUES (1)")


def test_vacuum_is_the_servers(session: SqlSession) -> None:
    """It runs on the writer, and leaves no way for anybody to attach."""
    session.write("INSERT INTO t(a) SELECT hex(zeroblob(2000)) FROM t, t AS u, t AS v")
    session.write("DELETE FROM t WHERE id > 2")
    session.writer.vacuum()
    assert session.rows("SELECT count(*) FROM t") == [(2,)]
    assert session.writer.connection.limit(apsw.SQLITE_LIMIT_ATTACHED) == 0
    with pytest.raises(StatementRefused):
        session.write("ATTACH ':memory:' AS x")


def test_plan_belongs_to_its_connection(session: SqlSession) -> None:
    """Column names of one connection's snapshot must not appear on another."""
    plan = session.writes.plan("SELECT 1")
    with session.reader.limit_time(1.0), pytest.raises(AssertionError):
        run(session.reader, plan, ())


def test_damaged_file_is_not_the_statements_fault(tmp_path: Path) -> None:
    """The catcher must stop the database; a 400 would blame the caller."""
    with open_session(tmp_path) as session:
        session.write("CREATE TABLE t(a)")
        for _ in range(10):
            session.write("INSERT INTO t VALUES (hex(zeroblob(1000)))")
        session.writer.execute_internal("PRAGMA wal_checkpoint(TRUNCATE)")
        size = session.path.stat().st_size
        with session.path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
        reader = Sandbox.open_reader(session.path, SqlLimits())
        try:
            with reader.limit_time(1.0), pytest.raises(DatabaseDamaged, match="SQLITE_CORRUPT"):
                run(reader, Planner(reader, 1).plan("SELECT * FROM t"), ())
        finally:
            reader.close()


def test_fts_index_out_of_step_is_the_statements_fault(session: SqlSession) -> None:
    """A caller can make an FTS index contradict its content; that damages nobody else."""
    session.write(
        "CREATE VIRTUAL TABLE f USING fts5(a, content='t', content_rowid='id');"
        "INSERT INTO f(rowid, a) VALUES (900, 'nowhere')"
    )
    with pytest.raises(StatementRefused):
        session.read("SELECT * FROM f WHERE f MATCH 'nowhere'")
    assert session.rows("SELECT count(*) FROM t") == [(2,)]


def test_guard_leaves_checkpoints_to_its_owner(tmp_path: Path) -> None:
    """Closing it must not checkpoint: the log may not hold those commits durably."""
    path = tmp_path / "db.sqlite"
    guard = open_guard(path)
    guard.execute("CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    frames = (tmp_path / "db.sqlite-wal").stat().st_size
    assert frames > 0
    guard.close()
    assert (tmp_path / "db.sqlite-wal").stat().st_size == frames


def test_sandbox_moves_between_threads(session: SqlSession) -> None:
    """One thread at a time, but any."""
    results: list[int] = []

    def work() -> None:
        results.append(len(session.rows("SELECT * FROM t")))

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        work()
    assert results == [2] * 6
