"""wrangler's `execute --file` (an import) and `export`: files go in and come out equal."""

from pathlib import Path

import pytest

from tests.clients.nodes import Nodes
from tests.clients.wrangler import Wrangler

SHOP = """\
PRAGMA defer_foreign_keys=TRUE;
CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, product REFERENCES products (id), at);
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL, photo BLOB);
INSERT INTO orders (product, at) VALUES (2, '2026-11-21'), (1, NULL);
INSERT INTO products VALUES (1, 'Cup; "big"', 3.5, X'0001FF'), (2, 'Grinder''s', 0.1, NULL);
INSERT INTO products VALUES (3, 'two
lines; é', 1e300, x'');
CREATE INDEX products_by_name ON products (name);
CREATE TRIGGER stamped AFTER INSERT ON orders BEGIN
  UPDATE orders SET at = 'now; or then' WHERE id = new.id AND at IS NULL;
END;
CREATE VIEW cheap AS SELECT name FROM products WHERE price < 1;
"""


@pytest.fixture
def wrangler(nodes: Nodes, tmp_path: Path) -> Wrangler:
    return Wrangler(tmp_path, nodes.primary)


def test_file_goes_in_comes_out_and_in_again(nodes: Nodes, wrangler: Wrangler) -> None:
    """Method: the export of the copy must be the very text that it was made from."""
    nodes.create("filed")
    nodes.create("copied")
    (wrangler.folder / "shop.sql").write_text(SHOP)
    printed = wrangler.d1("execute", "filed", "--remote", "--yes", "--file", "shop.sql")
    assert "Uploading complete" in printed
    assert "Processed 9 queries" in printed
    rows, _ = nodes.query("filed", "SELECT name, price FROM products WHERE id = 3")
    assert rows == [{"name": "two\nlines; é", "price": 1e300}]

    wrangler.d1("export", "filed", "--remote", "--output", "first.sql")
    flags = ("execute", "copied", "--remote", "--yes", "--json", "--file", "first.sql")
    wrangler.d1(*flags)
    wrangler.d1("export", "copied", "--remote", "--output", "second.sql")
    first = (wrangler.folder / "first.sql").read_text()
    assert first.startswith("PRAGMA defer_foreign_keys=TRUE;\n")
    assert first == (wrangler.folder / "second.sql").read_text()
    assert first.count("INSERT INTO") == 6  # five rows, and the sequence of orders
    for table in ("orders", "products", "sqlite_schema", "sqlite_sequence"):
        columns = "type, name, sql" if table == "sqlite_schema" else "*"
        sql = f"SELECT {columns} FROM {table} ORDER BY 1, 2"
        assert nodes.query("filed", sql)[0] == nodes.query("copied", sql)[0]


def test_parts_come_out(nodes: Nodes, wrangler: Wrangler) -> None:
    nodes.create("parted")
    nodes.query("parted", "CREATE TABLE a (x); CREATE TABLE b (y); CREATE TABLE c (z)")
    nodes.query("parted", "INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)")
    export = ("export", "parted", "--remote", "--output", "part.sql")
    part = wrangler.folder / "part.sql"

    wrangler.d1(*export, "--table", "a", "--table", "c", "--no-data")
    head = "PRAGMA defer_foreign_keys=TRUE;\n"
    assert part.read_text() == f"{head}CREATE TABLE a (x);\nCREATE TABLE c (z);\n"
    wrangler.d1(*export, "--no-schema")
    rows = 'INSERT INTO "a" ("x") VALUES(1);\nINSERT INTO "b" ("y") VALUES(2);\n'
    assert part.read_text() == f"{head}{rows}"


def test_file_that_fails_leaves_nothing(nodes: Nodes, wrangler: Wrangler) -> None:
    nodes.create("failed")
    (wrangler.folder / "bad.sql").write_text("CREATE TABLE t (a);\nINSERT INTO nope VALUES (1);\n")
    printed = wrangler.refused("execute", "failed", "--remote", "--yes", "--file", "bad.sql")
    assert "no such table: nope: SQLITE_ERROR" in printed
    assert "statement 2, line 2" in printed
    assert nodes.query("failed", "SELECT name FROM sqlite_schema")[0] == []


def test_virtual_tables_do_not_come_out(nodes: Nodes, wrangler: Wrangler) -> None:
    nodes.create("searched")
    nodes.query("searched", "CREATE VIRTUAL TABLE words USING fts5(word)")
    printed = wrangler.refused("export", "searched", "--remote", "--output", "out.sql")
    assert "cannot export databases with Virtual Tables (fts5)" in printed
