"""D1's rules on every surface, at either node, and judged by the replica itself.

The limit on the depth of expressions is 200 here, 100 at D1: its text has our number.

What SQLite has that D1 has not is taken from SQLite's own lists, so a newer SQLite cannot bring
a function, a pragma or a module in unnoticed.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from engine.limits import SqlLimits
from engine.permissions import FUNCTIONS, MODULES, PRAGMAS, Argument
from proto.api import NO_STATEMENTS
from tests.engine.golden_errors import FITS, GOLDEN, NOTHING, SCHEMA
from tests.rest.every_door import Door, doors
from tests.rest.http_cluster import HttpCluster, http_cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTH = "not authorized: SQLITE_AUTH"
BOOLEANS = sorted(name for name, kind in PRAGMAS.items() if kind is Argument.SETTING)
TABLE_FUNCTIONS = sorted(
    {"table_info", "table_xinfo", "foreign_key_list", "index_info", "index_list", "index_xinfo"}
)
PRAGMAS_ALLOWED = [
    *("table_list", "table_info(t)", "table_xinfo(t)", "foreign_key_list(c)", "table_info('t')"),
    *("foreign_key_check", "foreign_key_check(c)", "index_list(t)", "index_info(t_b)"),
    *("index_xinfo(t_b)", "quick_check", "quick_check(5)", "quick_check(t)", "optimize"),
    *("optimize(0xfffe)", "data_version", "page_size", "main.table_info(t)", "TABLE_INFO(T)"),
    *BOOLEANS,
    *(f"{name} = {value}" for name in BOOLEANS for value in ("on", "off")),
]

CHANGES = [
    "ALTER TABLE t DROP COLUMN b",
    "ALTER TABLE t ADD COLUMN b",
    "INSERT INTO t VALUES (1, 2)",
    "ALTER TABLE t RENAME COLUMN b TO c",
    "ALTER TABLE t RENAME COLUMN c TO d; ALTER TABLE t RENAME COLUMN d TO e",
    "ALTER TABLE t ADD COLUMN twice AS (a * 2)",
    "ALTER TABLE t RENAME COLUMN twice TO doubled",
    "ALTER TABLE t DROP COLUMN doubled",
    "ALTER TABLE t DROP COLUMN e",
    "INSERT INTO t VALUES (3)",
    "ALTER TABLE t ADD COLUMN b",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ways(nodes: HttpCluster) -> AsyncIterator[list[Door]]:
    await nodes.create("rules", f"{SCHEMA}; CREATE INDEX t_b ON t(b)")
    yield list(doors(nodes, "rules"))


@pytest.fixture(scope="module")
def sqlite() -> apsw.Connection:
    """SQLite as it comes, which says what it has."""
    return apsw.Connection(":memory:")


@pytest.mark.parametrize("sql", GOLDEN, ids=lambda sql: sql[:40])
async def test_golden_error(ways: list[Door], sql: str) -> None:
    """D1's text to the letter; at the end nothing of the statement remains."""
    for door in ways:
        assert (await door.ask(sql)).error == GOLDEN[sql], door.name
    assert (await ways[0].ask("SELECT count(*) FROM t")).rows == [[1]]


async def test_a_text_without_a_statement(ways: list[Door]) -> None:
    for door in ways:
        for sql in NOTHING:
            assert (await door.ask(sql)).error == NO_STATEMENTS, door.name


@pytest.mark.parametrize("sql", FITS, ids=lambda sql: sql[:40])
async def test_what_is_just_within_a_limit_runs(ways: list[Door], sql: str) -> None:
    for door in ways:
        said = await door.ask(sql)
        assert said.error == "", door.name
        assert said.rows is not None
        assert said.rows[0][0] == FITS[sql], door.name


async def test_a_hundred_parameters(ways: list[Door]) -> None:
    """The limit of parameters counts; the values arrive."""
    for door in ways:
        said = await door.ask(f"SELECT {','.join('?' * 100)}", *["x"] * 100)
        assert said.rows in ([["x"] * 100], [["x"]]), door.name  # equal names: an object keeps one


@pytest.mark.usefixtures("ways")
async def test_the_name_of_an_expression_is_its_text(nodes: HttpCluster) -> None:
    for node in nodes.nodes:
        reply = await node.rest("POST", "/rules/query", {"sql": "SELECT 1+1, max(2,3), 'a' AS b"})
        assert reply.result[0]["results"] == [{"1+1": 2, "max(2,3)": 3, "b": "a"}]


@pytest.mark.parametrize("pragma", PRAGMAS_ALLOWED)
async def test_allowed_pragma(ways: list[Door], pragma: str) -> None:
    for door in ways:
        said = await door.ask(f"PRAGMA {pragma}")
        assert said.error == "", (door.name, said)


async def test_settings_end_with_their_request(ways: list[Door]) -> None:
    """And foreign keys cannot be switched off: a request is a transaction."""
    for door in ways:
        await door.ask("PRAGMA case_sensitive_like = on; PRAGMA foreign_keys = off; SELECT 1")
        assert (await door.ask("SELECT 'a' LIKE 'A' AS a")).rows == [[1]], door.name
        assert (await door.ask("PRAGMA foreign_keys")).rows == [[1]], door.name


async def test_every_other_pragma_is_denied(ways: list[Door], sqlite: apsw.Connection) -> None:
    """Of SQLite's own list: as a statement, with a value, and as a table-valued function."""
    known = {name for (name,) in sqlite.execute("PRAGMA pragma_list")}
    denied = sorted(known - PRAGMAS.keys())
    assert len(denied) > 40
    assert {"journal_mode", "user_version", "integrity_check", "encoding"} <= set(denied)
    for door in ways:
        for name in denied:
            assert (await door.ask(f"PRAGMA {name}")).error == AUTH, (door.name, name)
            assert (await door.ask(f"PRAGMA main.{name} = 1")).error == AUTH, (door.name, name)
            error = (await door.ask(f"SELECT * FROM pragma_{name}")).error
            assert error.endswith(": SQLITE_AUTH") or error.startswith("no such table"), door.name
        for name in ("data_version", "page_size"):
            assert (await door.ask(f"PRAGMA {name} = 8192")).error == AUTH, (door.name, name)
        for name in TABLE_FUNCTIONS:
            said = await door.ask(f"SELECT * FROM pragma_{name}('t')")
            assert said.error == "", (door.name, name)
            said = await door.ask(f"SELECT * FROM pragma_{name}('_cf_KV')")
            assert said.error == AUTH, (door.name, name)


async def test_functions_are_d1s(ways: list[Door], sqlite: apsw.Connection) -> None:
    """Of SQLite's own list: what D1 has is never "not authorized", all the rest always is."""
    listed = set(sqlite.execute("SELECT name, narg FROM pragma_function_list"))
    internal = {name for name, _ in listed if name.startswith("sqlite_") and name in FUNCTIONS}
    for door in ways[::3]:
        for name, count in sorted(listed):
            if not name.isidentifier() or name in internal:
                continue
            call = f"{name}({','.join(['1'] * max(count, 1 if count else 0))})"
            error = (await door.ask(f"SELECT {call}")).error
            is_denied = error.startswith(("not authorized to use function", "no such function"))
            assert is_denied == (name not in FUNCTIONS), (door.name, call, error)


async def test_modules_are_d1s(ways: list[Door], sqlite: apsw.Connection) -> None:
    """Of SQLite's own list, a virtual table can be made with four."""
    listed = {name for (name,) in sqlite.execute("SELECT name FROM pragma_module_list")}
    made = {
        "fts5": "fts5(a)",
        "fts5vocab": "fts5vocab(made_fts5, row)",
        "rtree": "rtree(id, a, b)",
        "rtree_i32": "rtree_i32(id, a, b)",
    }
    assert made.keys() == MODULES
    for door in ways:
        for name in [*sorted(listed - MODULES), "csv", "zipfile", "fts3", "dbstat", "nope"]:
            said = await door.ask(f"CREATE VIRTUAL TABLE x USING {name}(a)")
            assert said.error == AUTH, (door.name, name)
        for name, module in made.items():
            said = await door.ask(f"CREATE VIRTUAL TABLE made_{name} USING {module}")
            assert said.error == "", (door.name, name)
        for name in reversed(made):
            assert (await door.ask(f"DROP TABLE made_{name}")).error == ""


async def test_limits_are_settings_of_the_node(tmp_path: Path) -> None:
    """Documented values that D1 does not keep itself, and a database that is full."""
    limits = SqlLimits(
        function_arguments_max=32, expression_depth_max=100, database_bytes_max=256 * 1024
    )
    async with http_cluster(tmp_path, sql=limits) as nodes:
        await nodes.create("small", "CREATE TABLE t(a)")
        for door in doors(nodes, "small"):
            for sql, text in (
                (f"SELECT max({','.join(['1'] * 32)})", ""),
                (
                    f"SELECT max({','.join(['1'] * 33)})",
                    "too many arguments on function max at offset 7: SQLITE_ERROR",
                ),
                (
                    f"SELECT {'+'.join('1' * 101)}",
                    "Expression tree is too large (maximum depth 100): SQLITE_ERROR",
                ),
                ("INSERT INTO t VALUES (zeroblob(300000))", "Exceeded maximum DB size."),
                ("INSERT INTO t VALUES (1)", ""),
            ):
                assert (await door.ask(sql)).error == text, door.name


async def test_columns_come_and_go(nodes: HttpCluster) -> None:
    """A change of a table is judged by what the changes before it left, whoever made these.

    SQLite's own word for what a connection does not know yet would be "no such column".
    """
    await nodes.create("changing", "CREATE TABLE t(a, b)")
    for door in doors(nodes, "changing"):
        for sql in CHANGES:
            assert (await door.ask(sql)).error == "", (door.name, sql)
            await nodes.cluster.caught_up("changing")  # a replica judges by what it has
        assert (await door.ask("DELETE FROM t")).error == "", door.name


async def test_rows_are_counted_alike(nodes: HttpCluster) -> None:
    """What a statement cost does not depend on who ran it, and how often before."""
    await nodes.create(
        "counted",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b); CREATE INDEX t_a ON t (a); "
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 500) "
        "INSERT INTO t (a, b) SELECT x % 10, x % 7 FROM n",
    )
    for sql, expected in {
        "SELECT * FROM t WHERE id = 7": (1, 0),
        "SELECT id FROM t WHERE b = 8": (500, 0),
        "SELECT id FROM t WHERE a = 3 AND b = 5 LIMIT 20": (51, 0),
        "SELECT count(*) FROM t": (500, 0),
        "SELECT count(*) FROM t WHERE b > 2": (500, 0),
        "SELECT x.id FROM t x JOIN t y ON y.id = x.b WHERE x.a = 4": (101, 0),
        "UPDATE t SET a = 3 WHERE id = 7": (1, 2),
        "UPDATE t SET b = -1 WHERE b = -1": (500, 0),
    }.items():
        for door in doors(nodes, "counted"):
            for _ in range(2):
                assert await door.counts(sql) == expected, (door.name, sql)
