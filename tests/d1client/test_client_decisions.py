"""The client's pure decisions: what is a sure read, what may be repeated, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d1client.readonly import is_surely_read
from d1client.retry import Outcome, RetryPolicy, may_repeat, outcome_of_answer


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "  select * from t where a = 'x; DELETE FROM t';  ",
        "SELECT 'it''s'; ",
        'SELECT "a;b" FROM [odd;name] -- the end; really',
        "/* why; not */ SELECT 1",
        "-- note\nSELECT 1",
        "EXPLAIN QUERY PLAN DELETE FROM t",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "WITH a AS (SELECT 'INSERT') SELECT * FROM a",
        "SELECT `x` FROM t",
        "SELECT replace('a', 'a', 'b')",
    ],
)
def test_sure_reads_are_recognised(sql: str) -> None:
    assert is_surely_read(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";",
        "-- SELECT 1",
        "INSERT INTO t VALUES (1)",
        "SELECT 1; DELETE FROM t",
        "SELECT 1;; SELECT 2",
        "SELECTED",
        "(SELECT 1)",
        "PRAGMA optimize",
        "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
        "with a as (select 1) delete from t",
        "WITH a AS (SELECT 1) /* */ REPLACE INTO t SELECT * FROM a",
        "SELECT 'never closed; DELETE FROM t",
        "SELECT 1 /* never closed ; DELETE FROM t",
        'SELECT "never closed',
    ],
)
def test_every_doubt_is_not_a_read(sql: str) -> None:
    assert not is_surely_read(sql)


@given(st.text(alphabet="SELECTWIHINSR;'\"`[]-/* \n()1", max_size=60))
def test_a_second_statement_never_hides(text: str) -> None:
    """Whatever stands before it, `; DELETE FROM t` outside quotes and comments is seen.

    Method: close whatever `text` may have opened, then add a second statement.
    """
    for closing in ("", "'", '"', "`", "]", "*/", "\n"):
        sql = f"{text}{closing}; DELETE FROM t"
        if is_surely_read(sql):  # then the semicolon must be inside a quote or a comment
            assert not is_surely_read(f"{sql}\n; DELETE FROM t") or _swallows(sql)


def _swallows(sql: str) -> bool:
    """Tell whether `sql` plus a semicolon still ends inside something opaque (by the rules)."""
    quote = None
    i = 0
    while i < len(sql):
        if quote is None:
            if sql[i] in "'\"`[":
                quote = "]" if sql[i] == "[" else sql[i]
            elif sql.startswith("--", i):
                end = sql.find("\n", i)
                if end < 0:
                    return False
                i = end
            elif sql.startswith("/*", i):
                end = sql.find("*/", i + 2)
                if end < 0:
                    return True
                i = end + 1
        elif sql[i] == quote:
            quote = None
        i += 1
    return quote is not None


@pytest.mark.parametrize(
    ("status", "should_retry", "outcome"),
    [
        (200, None, Outcome.DONE),
        (400, None, Outcome.REFUSED),
        (404, False, Outcome.REFUSED),
        (429, None, Outcome.NOT_DONE),
        (429, False, Outcome.REFUSED),
        (503, True, Outcome.NOT_DONE),
        (409, True, Outcome.NOT_DONE),
        (503, False, Outcome.FINAL_UNKNOWN),
        (500, None, Outcome.UNKNOWN),
        (502, None, Outcome.UNKNOWN),
    ],
)
def test_an_answer_is_classified_by_status_and_header(
    status: int, should_retry: bool | None, outcome: Outcome
) -> None:
    assert outcome_of_answer(status, should_retry=should_retry) is outcome


def test_only_what_cannot_happen_twice_is_repeated() -> None:
    """The whole table: outcome x repeatable."""
    allowed = {
        (outcome, repeatable)
        for outcome in Outcome
        for repeatable in (False, True)
        if may_repeat(outcome, repeatable=repeatable)
    }
    assert allowed == {
        (Outcome.NOT_DONE, False),
        (Outcome.NOT_DONE, True),
        (Outcome.UNKNOWN, True),
    }


def test_delays_double_up_to_their_bound_and_end() -> None:
    policy = RetryPolicy(tries_max=6, total_s_max=100.0, delay_s_first=0.1, delay_s_max=0.5)
    ceilings = [
        policy.next_delay_s(tries, elapsed_s=0.0, retry_after_s=None, chance=1.0)
        for tries in range(1, 7)
    ]
    assert ceilings == [0.1, 0.2, 0.4, 0.5, 0.5, None]


@given(st.integers(1, 40), st.floats(0, 1, exclude_max=True), st.floats(0, 60))
def test_a_try_never_begins_after_the_total_time(
    tries: int, chance: float, elapsed_s: float
) -> None:
    policy = RetryPolicy(tries_max=50, total_s_max=20.0)
    delay_s = policy.next_delay_s(tries, elapsed_s=elapsed_s, retry_after_s=None, chance=chance)
    if delay_s is not None:
        assert 0.0 < delay_s <= policy.delay_s_max
        assert elapsed_s + delay_s <= policy.total_s_max


def test_the_servers_retry_after_is_a_lower_bound() -> None:
    policy = RetryPolicy()
    assert policy.next_delay_s(1, elapsed_s=0.0, retry_after_s=3.0, chance=0.0) == 3.0
    assert policy.next_delay_s(1, elapsed_s=0.0, retry_after_s=30.0, chance=0.0) is None
