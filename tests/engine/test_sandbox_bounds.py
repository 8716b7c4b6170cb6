"""No statement takes more time, memory or room than it was given."""

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    ResultTooLarge,
    StatementRefused,
)
from engine.functions import install_bounded
from engine.limits import MIB, SqlLimits
from engine.sandbox import HEAP_HARD_BYTES, INLINE_S_MAX
from engine.transaction import SqlConnection, read, steps_of, write, writes, writes_in_time
from proto.api import Statement
from tests.engine.sql_session import SqlSession, open_session
from tests.stopwatch import Stopwatch

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
GROUPED = "(SELECT json_group_array(x) FROM (SELECT x FROM n LIMIT 5000))"
BOMBS = {
    "recursion": f"{ENDLESS} SELECT count(*) FROM n",
    "no rows": f"{ENDLESS} SELECT x FROM n WHERE x < 0",
    "cross join": "SELECT count(*) FROM t a, t b, t c, t d",
    "sort": f"{ENDLESS} SELECT x FROM n ORDER BY x DESC",
    "distinct": f"{ENDLESS} SELECT count(DISTINCT x) FROM n",
    "union": f"{ENDLESS} SELECT x FROM n UNION SELECT x FROM n",
    "window": f"{ENDLESS} SELECT sum(x) OVER (ORDER BY x) FROM n",
    "large values": f"{ENDLESS} SELECT max(length(randomblob(1900000))) FROM n",
    "like": f"{ENDLESS} SELECT count(*) FROM n WHERE x || hex(zeroblob(90000)) LIKE '%0%0%0%0%a'",
    "glob": f"{ENDLESS} SELECT count(*) FROM n WHERE x || hex(zeroblob(90000)) GLOB '*0*0*0*[a]'",
    "printf": f"{ENDLESS} SELECT count(printf('%1900000d', x)) FROM n",
    "json": f"{ENDLESS} SELECT sum(j.value) FROM n, json_each('[1,2,3,4,5,6,7,8]') AS j",
    "correlated": "SELECT (SELECT count(*) FROM t a, t b WHERE a.id <> c.id) FROM t c",
    "trim": f"{ENDLESS} SELECT count(trim(x, hex(zeroblob(90000)))) FROM n",
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlSession]:
    with open_session(tmp_path_factory.mktemp("bounds")) as session:
        session.write(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a);"
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000)"
            "INSERT INTO t SELECT x, x FROM n"
        )
        yield session


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_ends_at_the_deadline(session: SqlSession, name: str) -> None:
    """On a thread's budget: stopped by the timer, and the connection goes on."""
    watch = Stopwatch()
    with pytest.raises(BudgetExceeded):
        session.read(BOMBS[name], budget_s=0.3)
    assert watch.seconds < 1.0
    assert session.rows("SELECT count(*) FROM t") == [(2000,)]


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_leaves_the_event_loop_soon(session: SqlSession, name: str) -> None:
    """With the loop's budget of a millisecond: twice that, and one instruction, is the most."""
    watch = Stopwatch()
    with pytest.raises(BudgetExceeded):
        session.read(f"{BOMBS[name]} -- inline", budget_s=0.001)
    assert watch.seconds < 1.0


@pytest.mark.parametrize(
    "sql",
    [
        f"INSERT INTO t(a) {ENDLESS} SELECT x FROM n",
        "UPDATE t SET a = (SELECT count(*) FROM t b, t c, t d)",
        f"CREATE TABLE big AS {ENDLESS} SELECT x FROM n",
    ],
)
def test_interrupted_write_leaves_nothing(session: SqlSession, sql: str) -> None:
    """SQLite itself rolls the transaction back."""
    with pytest.raises(BudgetExceeded):
        session.write(sql, budget_s=0.2)
    assert not session.writer.connection.in_transaction
    assert session.rows("SELECT count(*), sum(a) FROM t") == [(2000, 2001000)]


def test_interrupt_from_another_thread(session: SqlSession) -> None:
    """A client that hangs up stops its query."""
    timer = threading.Timer(0.1, session.reader.interrupt)
    timer.start()
    watch = Stopwatch()
    with pytest.raises(DeadlineExceeded):
        session.read(BOMBS["recursion"], budget_s=30.0)
    timer.join()
    assert watch.seconds < 2.0


def test_interrupt_between_statements_hits_nobody(session: SqlSession) -> None:
    """It is for the statement that runs, not for the next one."""
    session.reader.interrupt()
    assert session.rows("SELECT count(*) FROM t") == [(2000,)]


def test_deadline_of_one_request_does_not_hit_the_next(session: SqlSession) -> None:
    """Many short requests, each with a timer that could fire late.

    Method: budgets of a few milliseconds over the event loop's, and statements that take
    about as long; a request without a bound follows each, which must never be stopped.
    """
    for _ in range(20):
        try:
            session.read("SELECT count(*) FROM t a, t b LIMIT 1", budget_s=INLINE_S_MAX * 1.01)
        except BudgetExceeded:
            pass
        assert len(session.read("SELECT * FROM t").rows) == 2000


def test_statement_too_slow_for_the_loop_is_not_tried_there_again(session: SqlSession) -> None:
    """The second try is refused at once, without a millisecond of the loop's time."""
    sql = "SELECT count(*) FROM t a, t b WHERE a.id < 50"
    with pytest.raises(BudgetExceeded):
        session.read(sql, budget_s=0.0001)
    watch = Stopwatch()
    for _ in range(10):
        with pytest.raises(BudgetExceeded, match="too slow for the event loop"):
            session.read(sql, budget_s=0.04)
    assert watch.seconds < 0.05
    assert session.read(sql, budget_s=5.0).rows == [(49 * 2000,)]


@pytest.mark.parametrize("call", ["replace('a', 'b', 'c')", "instr('a', 'b')"])
def test_function_that_no_clock_stops_stays_off_the_loop(session: SqlSession, call: str) -> None:
    """One call of these can take half a minute; a thread may take that long, the loop not."""
    with pytest.raises(BudgetExceeded):
        session.read(f"SELECT {call}", budget_s=0.04)
    assert len(session.read(f"SELECT {call}", budget_s=5.0).rows) == 1


def test_memory_of_a_statement_is_bounded(tmp_path: Path) -> None:
    """JSON aggregates gather a text without limit; SQLite would see it only at the end."""
    sql = f"{ENDLESS} SELECT json_group_array(hex(zeroblob(500000))) FROM n"
    with open_session(tmp_path, SqlLimits(memory_bytes_max=64 * MIB)) as session:
        apsw.memory_high_water(True)
        with pytest.raises((StatementRefused, BudgetExceeded)) as stopped:
            session.read(sql, budget_s=20.0)
        assert isinstance(stopped.value, StatementRefused)
        assert "memory" in stopped.value.message


def test_room_for_temporary_files_is_bounded(tmp_path: Path) -> None:
    """A DISTINCT over endless rows spills to disk until the limit, not until the disk is full."""
    sql = f"{ENDLESS} SELECT count(*) FROM (SELECT DISTINCT randomblob(1000) FROM n)"
    with (
        open_session(tmp_path, SqlLimits(spill_bytes_max=16 * MIB)) as session,
        pytest.raises(StatementRefused, match="temporary files"),
    ):
        session.read(sql, budget_s=20.0)


def test_result_is_bounded_while_it_is_stepped(tmp_path: Path) -> None:
    """Rows are counted as they come: an endless result ends soon, and its snapshot with it."""
    with open_session(tmp_path, SqlLimits(result_bytes_max=1 * MIB)) as session:
        watch = Stopwatch()
        for sql in (
            f"{ENDLESS} SELECT x FROM n",
            f"{ENDLESS} SELECT hex(zeroblob(900000)) FROM n",
            f"SELECT {','.join(['hex(zeroblob(20000))'] * 100)}",
        ):
            with pytest.raises(ResultTooLarge, match="1048576 bytes"):
                session.read(sql, budget_s=20.0)
        assert watch.seconds < 2.0
        session.write("CREATE TABLE t(a)")
        busy, _, _ = session.writer.execute_internal("PRAGMA wal_checkpoint(TRUNCATE)")[0]
        assert busy == 0, "a reader still holds its snapshot"


def test_results_of_one_request_count_together(tmp_path: Path) -> None:
    """A batch cannot have the limit once for each of its statements."""
    with open_session(tmp_path, SqlLimits(result_bytes_max=1 * MIB)) as session:
        session.write("SELECT hex(zeroblob(300000))")
        with pytest.raises(ResultTooLarge):
            session.write("SELECT hex(zeroblob(300000)); SELECT hex(zeroblob(300000))")
        session.write("SELECT hex(zeroblob(300000))")


def test_names_of_columns_count_for_each_row(tmp_path: Path) -> None:
    """A row is written as an object, with each name: a long one makes a long answer of numbers."""
    with open_session(tmp_path, SqlLimits(result_bytes_max=1 * MIB)) as session:
        sql = f'{ENDLESS} SELECT x AS "{"n" * 50_000}" FROM n LIMIT 10'
        assert len(session.read(sql).rows) == 10
        with pytest.raises(ResultTooLarge):
            session.read(sql.replace("LIMIT 10", "LIMIT 30"))


def test_statements_without_rows_count_too(tmp_path: Path) -> None:
    """Each has its place in the answer."""
    connection = SqlConnection.writer(tmp_path / "db", SqlLimits(result_bytes_max=1 * MIB))
    steps = steps_of([Statement("SELECT 1 WHERE 0")] * 10_000)
    with pytest.raises(ResultTooLarge):
        read(connection, steps, budget_s=20.0)
    assert len(read(connection, steps[:1000], budget_s=20.0)) == 1000
    wide = steps_of([Statement(f'SELECT 1 AS "{"n" * 50_000}" WHERE 0')] * 30)
    with pytest.raises(ResultTooLarge):  # the names of its columns stand there, rows or none
        read(connection, wide, budget_s=20.0)
    assert len(read(connection, wide[:10], budget_s=20.0)) == 10
    connection.close()


def test_many_short_statements_do_not_hold_the_event_loop(tmp_path: Path) -> None:
    """None of them comes to SQLite's own look at the clock; the time is over all the same."""
    connection = SqlConnection.writer(tmp_path / "db", SqlLimits())
    steps = steps_of([Statement(f"SELECT {number}") for number in range(20_000)])
    for work in (read, write):
        watch = Stopwatch()
        with pytest.raises(BudgetExceeded):
            work(connection, steps, budget_s=0.004)
        assert watch.seconds < 1.0
    watch = Stopwatch()
    with pytest.raises(BudgetExceeded):
        writes(connection, steps)
    assert watch.seconds < 1.0
    assert not writes_in_time(connection, steps, budget_s=20.0)
    with pytest.raises(BudgetExceeded):
        writes_in_time(connection, steps, budget_s=0.1)
    connection.close()


def test_explain_stays_off_the_event_loop(session: SqlSession) -> None:
    """SQLite lists a long program without a look at the clock."""
    sql = f"EXPLAIN INSERT INTO t(a) VALUES {','.join(['(1)'] * 2000)}"
    with pytest.raises(BudgetExceeded):
        session.read(sql, budget_s=0.04)
    assert len(session.read(sql, budget_s=5.0).rows) > 4000


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT a FROM {'(SELECT a + a AS a FROM ' * 8}(SELECT 1 AS a){')' * 8}",
        (
            f"SELECT a FROM (SELECT {'+'.join('a' * 150)} AS a FROM"
            f" (SELECT {'+'.join('a' * 150)} AS a FROM (SELECT 1 AS a))) -- {'-' * 2000}"
        ),
        f"SELECT 1 IN ({','.join(['(SELECT 1)'] * 100)})",
    ],
    ids=["many levels", "wide levels", "many"],
)
def test_what_is_long_to_plan_is_planned_on_a_thread(tmp_path: Path, sql: str) -> None:
    """By its text alone, whatever it is asked for; a thread runs it as ever."""
    connection = SqlConnection.writer(tmp_path / "db", SqlLimits())
    steps = steps_of([Statement(sql)])
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            writes(connection, steps)
        for work in (read, write):
            with pytest.raises(BudgetExceeded):
                work(connection, steps, budget_s=0.004)
    assert not writes_in_time(connection, steps, budget_s=20.0)
    assert len(read(connection, steps, budget_s=20.0)[0].rows) == 1
    connection.close()


def test_planning_of_many_joins_is_quick(session: SqlSession) -> None:
    """64 tables is SQLite's own limit; the planner must not take its time with them."""
    joins = ", ".join(f"t AS t{n}" for n in range(64))
    watch = Stopwatch()
    session.reads.plan(f"SELECT 1 FROM {joins}")
    session.reads.plan(
        f"SELECT 1 FROM {joins} WHERE " + " AND ".join(f"t{n}.a = t{n + 1}.id" for n in range(63))
    )
    assert watch.seconds < 2.0


def test_huge_texts_are_refused_soon(session: SqlSession) -> None:
    """100,000 elements, parentheses or terms: refused or run, but at once."""
    texts = [
        f"SELECT 1 WHERE 1 IN ({','.join(['1'] * 100_000)})",
        f"SELECT {'(' * 40_000}1{')' * 40_000}",
        f"SELECT {'-' * 90_000}1",
        f"SELECT {'NOT ' * 20_000}1",
        " UNION ALL ".join(["SELECT 1"] * 5_000),
        f"SELECT 1 {'UNION SELECT 1 ' * 6_000}",
        f"SELECT {'case when 1 then ' * 5_000}1{' end' * 5_000}",
        f"SELECT * FROM {'(SELECT * FROM ' * 5_000}t{')' * 5_000}",
        f"WITH {','.join(f'c{n} AS (SELECT 1)' for n in range(4_000))} SELECT 1",
    ]
    for text in texts:
        watch = Stopwatch()
        try:
            session.read(text)
        except StatementRefused:
            pass
        assert watch.seconds < 2.0, text[:40]


NAMES = ["trim", "ltrim", "rtrim", "unhex"]
VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text("ab01 xé\U0001f600\0", max_size=120),
    st.binary(max_size=8).map(lambda value: value.hex().encode()),
)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(NAMES), first=VALUES, second=VALUES)
def test_bounded_functions_give_sqlites_values(
    name: str, first: str | None, second: str | None
) -> None:
    """The replacements are not told from the originals by their values."""
    original, bounded = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    install_bounded(bounded)
    sql = f"SELECT {name}(?, ?), typeof({name}(?1, ?2))"
    assert bounded.execute(sql, (first, second)).get == original.execute(sql, (first, second)).get


def test_bounded_functions_serve_schemas(session: SqlSession) -> None:
    """They stand in indexes, generated columns and CHECK constraints as SQLite's own do."""
    session.write(
        "CREATE TABLE trimmed(a, b AS (trim(a, 'x')), CHECK (ltrim(a, 'x') <> 'no'));"
        "CREATE INDEX trimmed_b ON trimmed(rtrim(a, 'x'));"
        "INSERT INTO trimmed(a) VALUES ('xyesx')"
    )
    assert session.rows("SELECT b FROM trimmed WHERE rtrim(a, 'x') = 'xyes'") == [("yes",)]
    with pytest.raises(StatementRefused, match="CHECK constraint failed"):
        session.write("INSERT INTO trimmed(a) VALUES ('xno')")


@pytest.mark.parametrize(
    "sql",
    [
        f"{ENDLESS} SELECT json_pretty({GROUPED}, hex(zeroblob(900000)))",
        f"SELECT json_array({','.join(['z'] * 127)}) FROM (SELECT hex(zeroblob(999999)) AS z)",
        f"SELECT concat({','.join(['z'] * 127)}) FROM (SELECT hex(zeroblob(999999)) AS z)",
    ],
)
def test_one_instruction_cannot_take_all_memory(session: SqlSession, sql: str) -> None:
    """No watchdog is that quick; the heap's own limit refuses, and the process goes on."""
    apsw.memory_high_water(True)
    with pytest.raises(StatementRefused, match=r"SQLITE_(NOMEM|TOOBIG|INTERRUPT)"):
        session.read(sql)
    assert apsw.memory_high_water() <= HEAP_HARD_BYTES
    assert session.rows("SELECT count(*) FROM t") == [(2000,)]
