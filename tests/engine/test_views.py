"""Views that SQLite would copy without end are refused when they are made; others are not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from engine.errors import StatementRefused
from engine.limits import SqlLimits
from engine.transaction import SqlConnection, steps_of, write
from engine.views import COPIES_MAX, copies
from proto.api import Statement, StatementResult
from tests.stopwatch import Stopwatch

Session: TypeAlias = Callable[[str], list[StatementResult]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Session]:
    """Runs a text as one request, on the writer of a new database."""
    connection = SqlConnection.writer(tmp_path / "db", SqlLimits())

    def run(sql: str) -> list[StatementResult]:
        return write(connection, steps_of([Statement(sql)]), budget_s=5.0)

    run("CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE VIEW v0 AS SELECT a FROM t")
    yield run
    connection.close()


def refusal(run: Session, level: int, uses: str) -> str:
    """Make one more view; the text of its refusal, empty if there is none."""
    try:
        run(f"CREATE VIEW v{level} AS {uses.replace('{v}', f'v{level - 1}')}")
    except StatementRefused as exc:
        return exc.message
    return ""


@pytest.mark.parametrize(
    "uses",
    [
        "SELECT x.a FROM {v} x, {v} y",
        "SELECT x.a FROM {v} x JOIN ({v} AS y)",
        "SELECT a FROM {v} UNION ALL SELECT a FROM main . {v}",
        "SELECT (SELECT max(a) FROM {v}) + a AS a FROM {v}",
        'SELECT a FROM "{v}" WHERE a IN/**/`{v}`',
        "SELECT a FROM t WHERE a IN {v} OR EXISTS (SELECT 1 FROM\n[{v}])",
        "WITH c AS (SELECT a FROM {v}) SELECT x.a FROM c x, c y",
    ],
)
def test_views_that_double_are_refused_in_time(run: Session, uses: str) -> None:
    """Every spelling of a use counts; what is let through is prepared soon.

    Method: views over views until one is refused; use the last one.
    """
    level = 1
    while (said := refusal(run, level, uses)) == "":
        level += 1
    assert said == "views are nested too deeply: SQLITE_ERROR"
    assert 5 <= level <= 10
    watch = Stopwatch()
    try:
        run(f"SELECT 1 FROM v{level - 1}")
    except StatementRefused:
        pass  # more tables than a join may have
    assert watch.seconds < 1.0


def test_the_order_of_making_does_not_matter(run: Session) -> None:
    """A view may be made before those that it uses, and it is the one between that is too much."""
    for level in (*range(14, 7, -1), *range(6, 0, -1)):
        run(f"CREATE VIEW w{level} AS SELECT x.a FROM w{level - 1} x, w{level - 1} y")
    between = "SELECT x.a FROM w6 x, w6 y"
    with pytest.raises(StatementRefused, match="nested too deeply"):
        run(f"CREATE VIEW w7 AS {between}")
    assert run("SELECT count(*) FROM sqlite_schema WHERE name = 'w7'")[0].rows == [(0,)]


def test_a_circle_of_views_ends(run: Session) -> None:
    """SQLite makes it, and refuses to use it; a long one is no trouble either."""
    for name, other in (("one", "two"), ("two", "one")):
        run(f"CREATE VIEW {name} AS SELECT * FROM {other}")
    with pytest.raises(StatementRefused, match="circularly defined"):
        run("SELECT * FROM one")
    ring = {f"r{n}": f"CREATE VIEW r{n} AS SELECT 1 FROM r{(n + 1) % 5000}" for n in range(5000)}
    assert copies(ring) <= COPIES_MAX + 1


def test_ordinary_views_are_few_copies() -> None:
    """Names of columns, aliases, strings and comments are no uses."""
    views = {
        "customers": "CREATE VIEW customers AS SELECT * FROM people WHERE kind = 'customers'",
        "orders": "CREATE VIEW orders AS SELECT customers.id, o.*, orders.x AS orders"
        " FROM sales o JOIN customers ON customers.id = o.who -- customers, customers",
        "report": "CREATE VIEW report AS SELECT orders.name, count(*) AS orders, 'FROM orders'"
        " FROM orders GROUP BY orders.name /* FROM orders, orders */",
    }
    assert copies(views) == 3
    assert copies({}) == 0


def test_a_database_of_many_views_is_quick() -> None:
    """A thousand of them are looked through in little time, each time one is made."""
    views = {f"v{n}": f"CREATE VIEW v{n} AS SELECT {'a, ' * 50} b FROM t{n}" for n in range(1000)}
    copies(views)
    watch = Stopwatch()
    copies(views)
    assert watch.seconds < 0.5
