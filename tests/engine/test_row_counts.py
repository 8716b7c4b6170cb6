"""Rows read and written, against D1's own numbers and against what must hold for any statement."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BudgetExceeded, ResultTooLarge, StatementRefused
from engine.sqltext import first_row, head_of_insert
from proto.api import StatementResult
from tests.engine.d1_row_counts import CASES
from tests.engine.sql_session import SqlSession, open_session

NUMBERS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT {}) "


@pytest.fixture
def session(tmp_path: Path) -> Iterator[SqlSession]:
    with open_session(tmp_path) as session:
        yield session


def counted(result: StatementResult) -> tuple[int, int]:
    return result.rows_read, result.rows_written


def filled(session: SqlSession, count: int) -> None:
    """A table of `count` rows: `a` has ten values, `b` seven, `c` is unique."""
    session.write(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c UNIQUE); CREATE INDEX t_a ON t (a)"
    )
    session.write(
        NUMBERS.format(count) + "INSERT INTO t (a, b, c) SELECT x % 10, x % 7, x FROM n WHERE ?",
        count,
    )


def test_counts_are_d1s(session: SqlSession) -> None:
    """Each statement of the script has D1's counts, or those that we say differ."""
    session.writer.execute_internal("DROP TABLE _d1_secret")  # D1 reads its schema here and there
    found = [counted(session.write(case.sql)[0]) for case in CASES]
    wrong = [
        (case.sql, case.expected, got)
        for case, got in zip(CASES, found, strict=True)
        if got != case.expected
    ]
    assert wrong == []


def test_most_counts_are_d1s_and_none_is_far() -> None:
    """What differs is said case by case; here is how many and how much."""
    queries = [
        case for case in CASES if case.sql.startswith(("SELECT", "WITH", "UPDATE", "DELETE"))
    ]
    near = [case for case in queries if abs(case.expected[0] - case.d1[0]) <= 1 + case.d1[0] // 20]
    far = [
        case.sql
        for case in queries
        if case.d1[0] > 1 and not 0.33 <= case.expected[0] / case.d1[0] <= 2
    ]
    assert len(near) >= len(queries) * 0.85
    assert far == []


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(0, 60), min_size=2, max_size=2),
    where=st.sampled_from(["a = 3", "b = 3", "b < 3 AND a > 1", "c % 2", "a IN (1, 2)", "1"]),
    what=st.sampled_from(["*", "a, b", "count(*)", "sum(b)", "DISTINCT b"]),
    order=st.sampled_from(["", " ORDER BY b", " ORDER BY a", " ORDER BY id DESC"]),
    limit=st.sampled_from(["", " LIMIT 3", " LIMIT 3 OFFSET 2"]),
)
def test_any_read(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    where: str,
    what: str,
    order: str,
    limit: str,
) -> None:
    """At least the rows returned, the whole table for a full scan, more for a larger table."""
    sql = f"SELECT {what} FROM t WHERE {where}{order}{limit}"
    read = []
    for count in sorted(counts):
        with open_session(tmp_path_factory.mktemp("counts")) as session:
            filled(session, count)
            plan = session.rows(f"EXPLAIN QUERY PLAN {sql}")
            result = session.read(sql)
            read.append(result.rows_read)
            assert count == 0 or result.rows_read >= len(result.rows) * (what in ("*", "a, b"))
            if count and not limit and any(str(step[3]).startswith("SCAN t") for step in plan):
                assert result.rows_read >= count
                assert session.read(f"SELECT a FROM t WHERE b = {count % 7}").rows_read == count
            assert result.rows_read <= 3 * count + 8
    assert limit or read[0] <= read[1]


@settings(max_examples=15, deadline=None)
@given(
    where=st.sampled_from(
        ["a = 3", "b = 3", "id < 20 AND b = 1", "c = 7", "id = 9", "1", "c = -1"]
    ),
    verb=st.sampled_from(["UPDATE t SET b = 1", "UPDATE t SET a = 77, b = 2", "DELETE FROM t"]),
    returning=st.sampled_from(["", " RETURNING id"]),
    ignore=st.booleans(),
)
def test_what_matched_was_read_and_written(
    tmp_path_factory: pytest.TempPathFactory, where: str, verb: str, returning: str, ignore: bool
) -> None:
    """Clients take 0 rows read for a miss; each changed row is written once for each entry."""
    if ignore:
        verb = verb.replace("UPDATE", "UPDATE OR IGNORE")
    with open_session(tmp_path_factory.mktemp("counts")) as session:
        filled(session, 40)
        result = session.write(f"{verb} WHERE {where}{returning}")[0]
        assert result.rows_read >= result.changes
        assert result.rows_written == result.changes * (2 if "a = 77" in verb else 1)


@pytest.mark.parametrize("budget_s", [0.05, 5.0], ids=["inline", "on a thread"])
def test_counts_are_the_same_inline_and_on_a_thread(session: SqlSession, budget_s: float) -> None:
    """The connections differ in how they watch the clock, not in what they count."""
    filled(session, 200)
    for sql in ("SELECT a FROM t WHERE b = 3", "SELECT a FROM t WHERE c = 3"):
        first, again = (session.read(sql, budget_s=budget_s) for _ in range(2))
        assert counted(first) == counted(again) == ((200 if "b =" in sql else 1), 0)
    written = session.write("UPDATE t SET a = 1 WHERE b = 3", budget_s=budget_s)[0]
    assert counted(written) == (200, 2 * written.changes)


def test_counts_follow_the_schema(session: SqlSession) -> None:
    """Also those of another connection.

    A run that was not measured, as it was not a scan before, counts the rows that it returns.
    """
    filled(session, 100)
    read, insert = "SELECT b FROM t WHERE b = 3", "INSERT INTO t (a) VALUES (1)"
    assert session.read(read).rows_read == 100
    assert session.write(insert)[0].rows_written == 3
    session.write("CREATE INDEX t_b ON t (b)")
    assert session.read(read).rows_read == len(session.rows(read))
    assert session.write(insert)[0].rows_written == 4
    session.write("DROP INDEX t_b; DROP INDEX t_a")
    assert [session.read(read).rows_read for _ in range(2)] == [14, 102]
    assert session.write(insert)[0].rows_written == 2


@pytest.mark.parametrize(
    ("sql", "budget_s"),
    [
        ("SELECT json(CASE c WHEN 60 THEN '{' ELSE '1' END) FROM t WHERE b >= 0", 5.0),
        ("SELECT count(*) FROM t x, t y, t z, t w WHERE x.b + y.b = z.b + w.b", 0.01),
        ("SELECT count(*) FROM t x, t y, t z, t w WHERE x.b + y.b = z.b + w.b", 0.1),
        ("SELECT hex(zeroblob(900000)) FROM t WHERE b >= 0", 5.0),
    ],
    ids=["refused", "too slow inline", "too slow", "too large"],
)
def test_nothing_is_counted_after_an_error(session: SqlSession, sql: str, budget_s: float) -> None:
    """SQLite counts for one statement, whatever becomes of it: the next ones do not pay for it."""
    filled(session, 100)
    lookup = "SELECT a FROM t WHERE id = 1"
    session.read("SELECT a FROM t WHERE b = 1")
    assert session.reader.counters is not None
    with pytest.raises((StatementRefused, BudgetExceeded, ResultTooLarge)):
        session.read(sql, budget_s=budget_s)
    session.reader.counters = None
    assert session.read(lookup).rows_read == 1
    assert session.reader.counters is None
    assert session.read("SELECT a FROM t WHERE b = 1").rows_read == 100


def test_long_inserts_are_counted_by_their_first_row(session: SqlSession) -> None:
    """Nobody lists a hundred thousand instructions to count a thousand rows."""
    filled(session, 1)
    rows = ", ".join(f"({n}, 'it''s (', {n})" for n in range(10, 1010))
    result = session.write(f"INSERT INTO t (a, b, c) VALUES {rows}")[0]
    assert (result.changes, *counted(result)) == (1000, 0, 3000)
    long = session.write(f"UPDATE t SET b = 'it' WHERE b <> '{'x' * 5000}'")[0]
    assert (long.changes, *counted(long)) == (1001, 1001, 1001)


def test_texts_that_differ_in_literals_may_be_planned_apart(session: SqlSession) -> None:
    """What one text's program says is not believed of another that scans."""
    filled(session, 100)
    session.write("CREATE INDEX t_b ON t (b) WHERE b = 3")
    found = [session.read(f"SELECT b FROM t WHERE b = {value}") for value in (3, 3, 4, 4, 3)]
    assert [result.rows_read == 100 for result in found] == [False, False, True, True, False]
    written = [session.write(f"DELETE FROM t WHERE b = {value}")[0] for value in (3, 4, 3)]
    assert [result.rows_read > 80 for result in written] == [False, True, False]
    assert [result.rows_written for result in written] == [14, 14, 0]


def test_values_that_decide_between_index_and_scan(session: SqlSession) -> None:
    """After ANALYZE, SQLite prepares some statements for the values of each run."""
    filled(session, 1000)
    session.write("UPDATE t SET a = 3 WHERE id > 10; ANALYZE")
    sql = "SELECT b FROM t WHERE a = ? AND b >= 0"
    results = [session.read(sql, value) for value in (5, 3, 5, 3, 3, 5)]
    assert [result.rows_read == 1000 for result in results[1:]] == [True, False, True, True, False]


def test_a_full_text_search_is_not_measured(session: SqlSession) -> None:
    """It would take several times as long; tables made of JSON are measured."""
    filled(session, 200)
    session.write("CREATE VIRTUAL TABLE f USING fts5(x)")
    session.write("INSERT INTO f SELECT 'word ' || c FROM t")
    search = "SELECT x FROM f WHERE f MATCH 'word' AND x LIKE '%7'"
    assert [session.read(search).rows_read for _ in range(2)] == [20, 20]
    assert session.reader.counters is None
    lookups = "SELECT t.a FROM json_each(?) j JOIN t ON t.id = j.value WHERE t.b = 3"
    assert session.read(lookups, "[1, 2, 3, 4, 5]").rows_read in (10, 11)
    session.write("CREATE TRIGGER g AFTER UPDATE ON t BEGIN INSERT INTO f VALUES (new.a); END")
    session.writer.counters = None
    changed = session.write("UPDATE t SET a = 1 WHERE b = 3")[0]
    assert session.writer.counters is None
    assert changed.rows_read >= 28


@pytest.mark.parametrize(
    ("sql", "head", "first"),
    [
        (
            "INSERT INTO t VALUES (1, 'a'), (2)",
            "INSERT INTO t VALUES (",
            "INSERT INTO t VALUES (1, 'a')",
        ),
        (
            "insert or ignore into \"t\"(a, b)values(');'), (2)",
            'insert or ignore into "t"(a, b)values(',
            "insert or ignore into \"t\"(a, b)values(');')",
        ),
        ("REPLACE INTO main.[t] VALUES (abs(1)), (2)", "REPLACE INTO main.[t] VALUES (", None),
        ("INSERT INTO t SELECT 1", None, None),
        ("INSERT INTO t DEFAULT VALUES", None, None),
        ("SELECT 'INSERT INTO t VALUES (1)'", None, None),
    ],
)
def test_first_row_of_an_insert(sql: str, head: str | None, first: str | None) -> None:
    """The text that stands for an INSERT of many rows, and for many INSERTs."""
    assert (head_of_insert(sql), first_row(sql)) == (head, first)
