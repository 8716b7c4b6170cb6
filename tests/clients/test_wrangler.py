"""wrangler's d1 commands against this server: databases, statements, migrations, insights."""

import json
from pathlib import Path

import pytest

from tests.clients.nodes import Nodes, post
from tests.clients.wrangler import Wrangler

PAGE = 10  # databases in a page of wrangler's list


@pytest.fixture
def wrangler(nodes: Nodes, tmp_path: Path) -> Wrangler:
    return Wrangler(tmp_path, nodes.primary)


def test_databases_are_made_listed_and_deleted(nodes: Nodes, wrangler: Wrangler) -> None:
    assert "Successfully created DB 'near'" in wrangler.d1("create", "near", "--location", "weur")
    wrangler.d1("create", "europe", "--jurisdiction", "eu")
    assert "A database with that name already exists" in wrangler.refused("create", "near")
    for number in range(PAGE):
        post(f"{nodes.primary}/db", {"name": f"one-of-many-{number}"})

    listed = {database["name"]: database for database in wrangler.d1_json("list")}
    assert listed["near"]["jurisdiction"] is None
    assert listed["europe"]["jurisdiction"] == "eu"
    assert listed.keys() >= {f"one-of-many-{number}" for number in range(PAGE)}

    assert "Deleted 'europe' successfully" in wrangler.d1("delete", "europe", "-y")
    assert "Couldn't find a D1 DB" in wrangler.refused("info", "europe")


def test_commands_are_executed(nodes: Nodes, wrangler: Wrangler) -> None:
    nodes.create("commands")
    sql = "CREATE TABLE t (a UNIQUE, b); INSERT INTO t VALUES (1, 'one; \"or\" so'), (2, NULL)"
    printed = wrangler.d1("execute", "commands", "--remote", "--command", sql)
    assert "Executed 2 commands" in printed

    sql = "SELECT * FROM t; SELECT count(*) AS n FROM t;"
    first, second = wrangler.d1_json("execute", "commands", "--remote", "--command", sql)
    assert first["results"] == [{"a": 1, "b": 'one; "or" so'}, {"a": 2, "b": None}]
    assert second["results"] == [{"n": 2}]
    assert first["success"] is True
    assert first["meta"]["served_by_primary"] is True


def test_mistakes_are_told_and_change_nothing(nodes: Nodes, wrangler: Wrangler) -> None:
    nodes.create("mistakes")
    nodes.query("mistakes", "CREATE TABLE t (a UNIQUE); INSERT INTO t VALUES (1)")
    execute = ("execute", "mistakes", "--remote", "--command")
    printed = wrangler.refused(*execute, "INSERT INTO t VALUES (2); INSERT INTO t VALUES (1)")
    assert "UNIQUE constraint failed: t.a: SQLITE_CONSTRAINT" in printed
    assert "[code: 7500]" in printed

    printed = wrangler.refused(*execute, "DROP TABLE t; SELECT * FROM nope", "--json")
    error = json.loads(printed)["error"]
    assert error["code"] == 7500
    assert error["notes"] == [{"text": "no such table: nope: SQLITE_ERROR [code: 7500]"}]
    assert nodes.query("mistakes", "SELECT a FROM t")[0] == [{"a": 1}]


def test_info_tells_what_there_is(nodes: Nodes, wrangler: Wrangler) -> None:
    nodes.create("known")
    nodes.query("known", "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(100000))")
    nodes.query("known", "SELECT length(a) FROM t")
    info = wrangler.d1_json("info", "known")
    assert (info["name"], info["num_tables"]) == ("known", 1)
    assert info["database_size"] > 100_000
    assert info["running_in_region"] == "ENAM"
    assert info["read_replication"] == {"mode": "auto"}
    assert info["read_queries_24h"] >= 1
    assert info["write_queries_24h"] >= 2
    assert info["rows_read_24h"] >= 1
    assert info["rows_written_24h"] >= 1


def test_insights_show_the_statements_that_ran(nodes: Nodes, wrangler: Wrangler) -> None:
    nodes.create("watched")
    nodes.query("watched", "CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3)")
    for value in range(4):
        nodes.query("watched", "SELECT a FROM t WHERE a <> ?", value)
    nodes.query("watched", "DELETE FROM t WHERE a = 3")

    by_count = ("insights", "watched", "--sort-by", "count", "--limit", "1")
    most = wrangler.d1_json(*by_count)
    assert [one["query"] for one in most] == ["SELECT a FROM t WHERE a <> ?"]
    assert wrangler.at(nodes.replica).d1_json(*by_count) == most
    assert most[0]["numberOfTimesRun"] == 4
    assert most[0]["totalRowsRead"] > most[0]["avgRowsRead"] > 0
    assert most[0]["totalDurationMs"] > 0

    sort = ("--sort-by", "writes", "--sort-type", "avg", "--sort-direction", "DESC")
    writes = wrangler.d1_json("insights", "watched", *sort, "--time-period", "1h", "--limit", "20")
    averages = [one["avgRowsWritten"] for one in writes]
    assert averages == sorted(averages, reverse=True)
    assert writes[0]["query"].startswith("INSERT INTO t VALUES")
    assert "DELETE FROM t WHERE a = ?" in [one["query"] for one in writes]


def test_migrations_are_applied_one_by_one(nodes: Nodes, wrangler: Wrangler) -> None:
    """Each file is one transaction: of the one that fails nothing stays, and it can be mended."""
    wrangler = wrangler.at(nodes.replica)
    nodes.create("migrated")
    (wrangler.folder / "wrangler.json").write_text(
        json.dumps({"d1_databases": [{"binding": "DB", "database_name": "migrated"}]})
    )
    wrangler.d1("migrations", "create", "migrated", "add ratings")
    folder = wrangler.folder / "migrations"
    ratings = folder / "0001_add_ratings.sql"
    ratings.write_text("CREATE TABLE ratings (stars);\nINSERT INTO ratings VALUES (5);\n")
    broken = folder / "0002_add_more.sql"
    broken.write_text("INSERT INTO ratings VALUES (4); INSERT INTO rating VALUES (3);")
    assert "0002_add_more.sql" in wrangler.d1("migrations", "list", "migrated", "--remote")

    printed = wrangler.refused("migrations", "apply", "migrated", "--remote")
    assert "no such table: rating: SQLITE_ERROR" in printed
    assert nodes.query("migrated", "SELECT stars FROM ratings")[0] == [{"stars": 5}]

    broken.write_text("INSERT INTO ratings VALUES (4);")
    wrangler.d1("migrations", "apply", "migrated", "--remote")
    rows, _ = nodes.query("migrated", "SELECT id, name FROM d1_migrations ORDER BY id")
    assert rows == [{"id": 1, "name": ratings.name}, {"id": 2, "name": broken.name}]
    assert "No migrations to apply" in wrangler.d1("migrations", "list", "migrated", "--remote")


def test_a_replica_takes_commands(nodes: Nodes, wrangler: Wrangler) -> None:
    far = wrangler.at(nodes.replica)
    far.d1("create", "far", "--location", "apac")
    (far.folder / "far.sql").write_text("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);")
    far.d1("execute", "far", "--remote", "--yes", "--file", "far.sql")
    sql = "INSERT INTO t VALUES (3) RETURNING a; SELECT count(*) AS n FROM t"
    inserted, counted = far.d1_json("execute", "far", "--remote", "--command", sql)
    assert inserted["results"] == [{"a": 3}]
    assert counted["results"] == [{"n": 3}]
    far.d1("export", "far", "--remote", "--output", "out.sql")
    assert 'INSERT INTO "t" ("a") VALUES(3);' in (far.folder / "out.sql").read_text()
    far.d1("delete", "far", "-y")
    assert "far" not in [database["name"] for database in far.d1_json("list")]


@pytest.mark.parametrize("command", ["info", "restore"])
def test_time_travel_is_refused(nodes: Nodes, wrangler: Wrangler, command: str) -> None:
    """It is not there. wrangler says so, and the database stays as it is."""
    nodes.create(f"past-{command}")
    _, bookmark = nodes.query(f"past-{command}", "CREATE TABLE t (a)")
    flags = ("--bookmark", bookmark) if command == "restore" else ()
    printed = wrangler.refused("time-travel", command, f"past-{command}", *flags)
    assert "Time Travel is not available here" in printed
    assert "[code: 7404]" in printed
    rows, _ = nodes.query(f"past-{command}", "SELECT name FROM sqlite_schema")
    assert rows == [{"name": "t"}]
