"""The text of an export: D1's form, and every value comes back."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.dump import VIRTUAL_TABLE, DumpOptions, dump
from engine.errors import StatementRefused
from engine.literals import LITERAL_BYTES_MAX, literal, name_literal, text_of_bytes
from engine.load import SqlLoad, load
from engine.sandbox import Sandbox
from primary.idempotency import IdempotencyKey, store_answer
from proto.api import SqlValue
from tests.engine.sql_session import SqlSession, open_session


def dumped(session: SqlSession, **options: object) -> list[str]:
    reader = session.reader
    with reader.limit_time(10.0):
        reader.execute_internal("BEGIN")
        try:
            return list(dump(reader, DumpOptions(**options)))  # type: ignore[arg-type]
        finally:
            reader.execute_internal("ROLLBACK")


SHOP = """
CREATE TABLE customers(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE "order lines"(id INTEGER PRIMARY KEY, customer REFERENCES customers(id), what BLOB);
INSERT INTO customers(name) VALUES ('Ann'), ('O''Hara'), ('two
lines');
INSERT INTO "order lines" VALUES (7, 1, X'00FF'), (8, 2, NULL), (9, 3, 1.5), (10, 1, 9e999);
CREATE INDEX by_customer ON "order lines"(customer);
CREATE VIEW totals AS SELECT customer, count(*) AS n FROM "order lines" GROUP BY customer;
CREATE TRIGGER note AFTER DELETE ON customers BEGIN DELETE FROM "order lines"; SELECT 1; END;
CREATE TRIGGER instead INSTEAD OF INSERT ON totals BEGIN SELECT 1; END;
"""


SHOP_DUMP = r"""
PRAGMA defer_foreign_keys=TRUE;
CREATE TABLE customers(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
INSERT INTO "customers" ("id","name") VALUES(1,'Ann');
INSERT INTO "customers" ("id","name") VALUES(2,'O''Hara');
INSERT INTO "customers" ("id","name") VALUES(3,replace('two\nlines','\n',char(10)));
CREATE TABLE IF NOT EXISTS "order lines"(id INTEGER PRIMARY KEY, customer REFERENCES customers(id), what BLOB);
INSERT INTO "order lines" ("id","customer","what") VALUES(7,1,X'00ff');
INSERT INTO "order lines" ("id","customer","what") VALUES(8,2,NULL);
INSERT INTO "order lines" ("id","customer","what") VALUES(9,3,1.5);
INSERT INTO "order lines" ("id","customer","what") VALUES(10,1,9e999);
DELETE FROM sqlite_sequence;
INSERT INTO "sqlite_sequence" ("name","seq") VALUES('customers',3);
CREATE INDEX by_customer ON "order lines"(customer);
CREATE TRIGGER note AFTER DELETE ON customers BEGIN DELETE FROM "order lines"; SELECT 1; END;
CREATE VIEW totals AS SELECT customer, count(*) AS n FROM "order lines" GROUP BY customer;
CREATE TRIGGER instead INSTEAD OF INSERT ON totals BEGIN SELECT 1; END;
"""  # noqa: E501


def test_text_of_a_dump(tmp_path: Path) -> None:
    """D1's form, line by line."""
    with open_session(tmp_path) as session:
        session.write(SHOP)
        assert dumped(session) == SHOP_DUMP.strip().splitlines()


def test_options_choose_schema_data_and_tables(tmp_path: Path) -> None:
    with open_session(tmp_path) as session:
        session.write(SHOP)
        assert not [line for line in dumped(session, has_data=False) if "INSERT INTO" in line[:12]]
        assert not [line for line in dumped(session, has_schema=False) if "CREATE" in line]
        lines = dumped(session, tables=frozenset({"order lines"}))
        assert not [line for line in lines if "CREATE TABLE customers" in line]
        assert 'CREATE INDEX by_customer ON "order lines"(customer);' in lines
        with pytest.raises(StatementRefused, match="no such table: nope"):
            dumped(session, tables=frozenset({"nope", "customers"}))
        with pytest.raises(StatementRefused, match="no such table: _d1_secret"):
            dumped(session, tables=frozenset({"_d1_secret"}))


def test_the_server_s_own_tables_stay_here_with_all_that_is_theirs(tmp_path: Path) -> None:
    """An index on a table that is not in the text could not be loaded."""
    with open_session(tmp_path) as session:
        session.write(SHOP)
        before = dumped(session)
        session.writer.execute_internal("BEGIN")
        store_answer(session.writer, IdempotencyKey.of("key", "query", b""), b"{}")
        session.writer.execute_internal("COMMIT")
        assert dumped(session) == before


def test_virtual_tables_are_refused(tmp_path: Path) -> None:
    with open_session(tmp_path) as session:
        session.write("CREATE TABLE t(a); CREATE VIRTUAL TABLE docs USING fts5(body)")
        with pytest.raises(StatementRefused) as caught:
            dumped(session)
        assert caught.value.message == VIRTUAL_TABLE
        assert len(dumped(session, tables=frozenset({"t"}))) == 2


def reloaded(session: SqlSession, folder: Path, lines: list[str]) -> SqlSession:
    """A second database made of a dump's lines, as an import makes it; the caller closes it."""
    other = SqlSession(folder, session.writer.limits)
    source = SqlLoad(folder / "dump.sql")
    source.path.write_text("\n".join(lines) + "\n", newline="")
    load(other.writer, source, budget_s=20.0, before_commit=lambda _: None)
    return other


def content(sandbox: Sandbox) -> dict[str, object]:
    """All that a database holds, text as its bytes."""
    run = sandbox.execute_internal
    schema = run(
        "SELECT type, name, tbl_name, replace(sql, 'CREATE TABLE IF NOT EXISTS', 'CREATE TABLE')"
        " FROM sqlite_schema WHERE name NOT LIKE '\\_d1%' ESCAPE '\\' ORDER BY type, name"
    )
    found: dict[str, object] = {"schema": schema}
    for kind, name, *_ in schema:
        if kind == "table":
            table = name_literal(str(name))
            columns = [name_literal(str(row[1])) for row in run(f"PRAGMA table_xinfo({table})")]
            wanted = ",".join(f"typeof({c}), CAST({c} AS BLOB)" for c in columns)
            found[str(name)] = sorted(run(f"SELECT {wanted} FROM {table}"), key=repr)
    return found


EVERYTHING = """
CREATE TABLE strict_one(a INTEGER PRIMARY KEY, b TEXT, c BLOB, d REAL, e ANY) STRICT;
CREATE TABLE "quo""ted"('x y' TEXT, [select] INT, "new
line" NUMERIC DEFAULT (1 + 1), PRIMARY KEY('x y', [select])) WITHOUT ROWID;
CREATE TABLE generated(a, b AS (a * 2) STORED, c AS (a || 'x'), CHECK (a != 1000));
CREATE TABLE loose(a, b);
CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, v);
CREATE TABLE child(id PRIMARY KEY, parent REFERENCES later(id) ON DELETE CASCADE);
CREATE TABLE later(id INTEGER PRIMARY KEY, self REFERENCES later(id));
INSERT INTO strict_one VALUES (1, 'a', X'', 1, 1), (2, '', NULL, -0.5, X'00'), (3, NULL, X'FF', 1e300, 'e');
INSERT INTO "quo""ted"('x y', [select]) VALUES ('it''s', 1), (char(10, 13, 92, 110), 2), ('', 3);
INSERT INTO generated(a) VALUES (1), ('2'), (NULL);
INSERT INTO loose VALUES (5.0, 5), (char(0, 65, 0), CAST(X'FF41' AS TEXT)), (-9223372036854775808, 9223372036854775807);
INSERT INTO loose VALUES (9e999, -9e999), ('after', CAST(X'C3' AS TEXT)), (char(13), '--'), ('/*', ';');
INSERT INTO counted VALUES (10, 'x'), (20, 'y'); DELETE FROM counted WHERE id = 20;
PRAGMA defer_foreign_keys=1;
INSERT INTO later VALUES (1, 2), (2, 1);
INSERT INTO child VALUES ('c', 1);
CREATE UNIQUE INDEX part ON loose(a COLLATE NOCASE DESC) WHERE b IS NOT NULL;
CREATE INDEX expr ON loose(length(b));
CREATE VIEW seen(n) AS SELECT a FROM loose;
CREATE VIEW onview AS SELECT * FROM seen;
CREATE TRIGGER into_view INSTEAD OF INSERT ON seen BEGIN INSERT INTO loose VALUES (new.n, ';'); END;
CREATE TRIGGER counts AFTER UPDATE OF v ON counted WHEN new.v > 1 BEGIN SELECT CASE WHEN 1 THEN 2 END; END;
ANALYZE;
"""  # noqa: E501


def test_every_kind_of_object_and_value_comes_back(tmp_path: Path) -> None:
    """Method: dump, load into a new database, compare all bytes; the second dump is equal."""
    with open_session(tmp_path) as session:
        session.write(EVERYTHING)
        lines = dumped(session)
        (tmp_path / "2").mkdir()
        other = reloaded(session, tmp_path / "2", lines)
        try:
            assert content(other.writer) == content(session.writer)
            assert dumped(other) == lines
        finally:
            other.close()


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=64),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
    st.text("\n\r\\nr'\0\"a", max_size=12),
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with open_session(tmp_path_factory.mktemp("literals")) as session:
        yield session.writer


@settings(max_examples=200, deadline=None)
@given(value=VALUES)
@example(value="\\n\n")
@example(value="\\" + "\n")
@example(value="\\\r\\r")
@example(value=5e-324)
@example(value=1.7976931348623157e308)
def test_any_value_comes_back_from_its_literal(sandbox: Sandbox, value: SqlValue) -> None:
    (back,) = sandbox.execute_internal(f"SELECT {literal(value)}")[0]
    assert back == value
    assert type(back) is type(value)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=20))
def test_any_rows_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[SqlValue, ...]]
) -> None:
    """Whatever the values are, as they stand in the file: a dump and its import are equal."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "2").mkdir()
    with open_session(folder) as session:
        session.write("CREATE TABLE t(a, b TEXT, c BLOB)")
        for row in rows:
            session.write("INSERT INTO t VALUES (?, ?, ?)", *row)
        other = reloaded(session, folder / "2", dumped(session))
        try:
            assert content(other.writer) == content(session.writer)
        finally:
            other.close()


@pytest.mark.parametrize(
    "value",
    ["'" * 1_900_000, "\n" * 1_999_000, "\u00e9\n" * 600_000, "x" * 1_999_000, b"\0\xff" * 999_000],
    ids=["quotes", "lines", "accents", "plain", "blob"],
)
def test_large_values_come_back(sandbox: Sandbox, value: str | bytes) -> None:
    """A literal is refused if it is longer than a value may be, also where the value is not."""
    form = literal(value)
    assert len(form) <= 2 * LITERAL_BYTES_MAX + 64
    sandbox.connection.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, 8_000_000)
    try:
        (back,) = sandbox.execute_internal(f"SELECT {form} AS value")[0]
    finally:
        sandbox.connection.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, sandbox.limits.statement_bytes_max)
    assert back == value


def test_bytes_that_are_no_text_come_back(sandbox: Sandbox) -> None:
    for value in (b"\xff", b"a\0b", b"plain", "\u00e9\n".encode()):
        form = text_of_bytes(value)
        found = sandbox.execute_internal(f"SELECT typeof({form}), CAST({form} AS BLOB)")
        assert found == [("text", value)]
