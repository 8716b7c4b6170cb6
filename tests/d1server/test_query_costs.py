"""Query statistics: texts without values, counts that are stored."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d1server.insights.durations import BUCKETS, added, quantile, read, stored, summed
from d1server.insights.query_costs import OTHERS, TEXTS_MAX, QueryStatistics
from d1server.insights.statement_text import SHOWN_CHARS_MAX, normalised
from engine.transaction import Step
from proto.api import StatementResult


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("SELECT * FROM t1 WHERE a = 5 AND b='x''y'", "SELECT * FROM t1 WHERE a = ? AND b=?"),
        ("SELECT  a -- why\n  FROM t /* x */", "SELECT a FROM t"),
        ("SELECT ?1, :a, $b, @c1, 1.5e-3, .5, 0xff", "SELECT ?1, :a, $b, @c1, ?, ?, ?"),
        ("SELECT \"it's\", [1], `2`, t2.c3, x'00', xy", 'SELECT "it\'s", [1], `2`, t2.c3, ?, xy'),
        ("INSERT INTO t VALUES (1,'a'), (2,'b'), (3,'c')", "INSERT INTO t VALUES (?,?), ..."),
        ("SELECT a FROM t WHERE b IN (1,2,3,4,5,6,7,8,9)", "SELECT a FROM t WHERE b IN (?, ...)"),
        ("SELECT 'open", "SELECT ?"),
        ("SELECT 1_0.5_5, .5_5, 1e1_0, 0x1_F", "SELECT ?, ?, ?, ?"),
        (
            'SELECT "id", "t"."a" FROM "t" WHERE "t"."a" = "t"."b" AND "c" = "me@x.y"',
            'SELECT "id", "t"."a" FROM "t" WHERE "t"."a" = "t"."b" AND "c" = ?',
        ),
        (
            'INSERT INTO "t" ("a") VALUES ("x", 1, "y"), (?, "z") ON CONFLICT DO UPDATE SET a="b"',
            'INSERT INTO "t" ("a") VALUES (?, ?, ?), ... ON CONFLICT DO UPDATE SET a=?',
        ),
        (
            'SELECT "a" FROM t WHERE b IN ( "x" ,"y") AND c LIKE "s%" AND d BETWEEN "e" AND "f"',
            'SELECT "a" FROM t WHERE b IN ( ? ,?) AND c LIKE ? AND d BETWEEN ? AND ?',
        ),
        (
            'SELECT CASE a WHEN 1 THEN "s" ELSE "t" END FROM t WHERE a IS NOT "u" OR b=("v", "w")',
            "SELECT CASE a WHEN ? THEN ? ELSE ? END FROM t WHERE a IS NOT ? OR b=(?, ?)",
        ),
        ('INSERT INTO t VALUES (:a, "s", $b , "t")', "INSERT INTO t VALUES (:a, ?, $b , ?)"),
        ('SELECT "a""b", x ->> "$.k" || "v" FROM t', 'SELECT "a""b", x ->> ? || ? FROM t'),
        ("SELECT " + "a, " * 4000, ("SELECT " + "a, " * 4000)[: SHOWN_CHARS_MAX - 3] + "..."),
    ],
)
def test_texts_have_no_values(sql: str, shown: str) -> None:
    assert normalised(sql) == shown


@given(st.text(max_size=60), st.sampled_from(["", "x", "  ", "-- c\n", "/* ' */", '"q\'"']))
def test_nothing_within_quotes_is_shown(value: str, before: str) -> None:
    literal = "'" + value.replace("'", "''") + "'"
    shown = normalised(f"SELECT a{before} = {literal} OR b")
    assert shown.endswith(" = ? OR b")


def result(rows: int = 1, *, ms: float = 0.5, wrote: int = 0) -> StatementResult:
    return StatementResult(("a",), [(1,)] * rows, wrote, 0, rows + wrote, wrote, ms, wrote > 0)


def test_requests_are_counted_by_text() -> None:
    statistics = QueryStatistics()
    read, write = Step("SELECT a FROM t WHERE id = 1", ()), Step("DELETE FROM t", ())
    for number in range(3):
        other = Step(f"SELECT a FROM t WHERE id = {number}", ())
        statistics.note(b"db", [read, other, write], [result(), result(2), result(0, wrote=4)], 100)
    costs = statistics.take()[b"db"]
    found = {one.query: one for one in costs.statements}
    assert set(found) == {"SELECT a FROM t WHERE id = ?", "DELETE FROM t"}
    selects, deletes = found["SELECT a FROM t WHERE id = ?"], found["DELETE FROM t"]
    assert (selects.count, selects.rows_returned, selects.writes) == (6, 9, 0)
    assert (deletes.count, deletes.rows_written, deletes.writes) == (3, 12, 3)
    assert (costs.response_bytes, sum(costs.buckets)) == (300, 3)
    assert quantile(costs.buckets, 0.9) == pytest.approx(1.9)  # 3 of 1.5 ms: between 1 and 2
    assert (sum(selects.buckets), sum(deletes.buckets)) == (6, 3)
    assert quantile(selects.buckets, 0.5) == pytest.approx(0.75)  # of 0.5 ms: up to twice as much
    assert statistics.take() == {}


def test_many_texts_are_bounded() -> None:
    """What comes beyond the bound is counted together; nothing is lost."""
    statistics = QueryStatistics()
    for number in range(3 * TEXTS_MAX):
        step = Step(f"SELECT a{number} FROM t", ())
        statistics.note(b"db", [step], [result()], 1)
    costs = statistics.take()[b"db"]
    found = {one.query: one.count for one in costs.statements}
    assert len(found) == TEXTS_MAX + 1
    assert found[OTHERS] == 2 * TEXTS_MAX
    assert len(costs.by_text) == TEXTS_MAX


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=50), st.sampled_from([0.25, 0.5, 0.99]))
def test_a_quantile_is_within_a_factor_of_two(times: list[float], share: float) -> None:
    """Of what it is of the times themselves, however they are spread."""
    statistics = QueryStatistics()
    for ms in times:
        statistics.note(b"db", [Step("SELECT 1", ())], [result(ms=ms)], 1)
    (counted,) = statistics.take()[b"db"].statements
    told = quantile(counted.buckets, share)
    exact = sorted(times)[math.ceil(len(times) * share) - 1]
    assert told is not None
    assert exact / 2 <= told <= exact * 2


def test_counts_of_durations_are_added() -> None:
    one, other = [1] * BUCKETS, [0, 2]
    assert read(added(stored(one), stored(other))) == summed([one, other]) == [1, 3, *one[2:]]
    assert read(added("[]", stored(other))) == other
    assert quantile([], 0.5) is None
    assert quantile([0] * BUCKETS, 0.5) is None
