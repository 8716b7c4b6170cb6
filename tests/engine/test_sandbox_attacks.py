"""Hostile SQL: no statement reaches a file, a setting or a table that is not the caller's.

Each attack is refused, or stopped in time; afterwards no file was written, the server's own
table is as it was, and the database still answers.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import StatementRefused
from engine.sqltext import split
from tests.engine.sql_session import SqlSession, open_session
from tests.stopwatch import Stopwatch

SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b DEFAULT 1);
INSERT INTO t(a) VALUES ('one'), ('two');
CREATE VIRTUAL TABLE ft USING fts5(text);
INSERT INTO ft VALUES ('hello world');
CREATE VIRTUAL TABLE rt USING rtree(id, low, high);
INSERT INTO rt VALUES (1, 2, 3);
CREATE VIEW spy AS SELECT * FROM _d1_secret;
CREATE VIEW pragmas AS SELECT * FROM pragma_function_list;
CREATE TABLE bugged(a);
CREATE TRIGGER bug AFTER INSERT ON bugged BEGIN INSERT INTO _d1_secret VALUES ('x', 1); END;
CREATE VIRTUAL TABLE outside USING fts5(key, content='_d1_secret');
"""

REFUSED = [
    # Other files.
    "ATTACH '{folder}/evil.db' AS evil",
    "ATTACH ':memory:' AS evil",
    "EXPLAIN ATTACH '{folder}/evil.db' AS evil",
    "DETACH main",
    "VACUUM INTO '{folder}/evil.db'",
    "/**/ vAcUuM main iNtO '{folder}/evil.db'",
    "SELECT load_extension('{folder}/evil.so')",
    "SELECT readfile('/etc/passwd')",
    "SELECT writefile('{folder}/evil.db', 'x')",
    "SELECT edit('x', 'touch {folder}/evil.db')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT fts3_tokenizer('simple', x'00')",
    "SELECT fts5_source_id()",
    "SELECT sqlite_log(1, 'x')",
    "SELECT sqlite_compileoption_get(1)",
    "SELECT printf('%s', sqlite_source_id())",
    # Settings.
    "PRAGMA journal_mode = off",
    "PRAGMA main.journal_mode = delete",
    "PRAGMA synchronous = 0",
    "PRAGMA locking_mode = exclusive",
    "PRAGMA wal_checkpoint(truncate)",
    "PRAGMA wal_autocheckpoint = 1",
    "PRAGMA trusted_schema = on",
    "PRAGMA mmap_size = 1000000000",
    "PRAGMA max_page_count = 1",
    "PRAGMA hard_heap_limit = 1",
    "PRAGMA soft_heap_limit = 1",
    "PRAGMA temp_store_directory = '{folder}'",
    "PRAGMA temp_store = memory",
    "PRAGMA cache_size = -1000000000",
    "PRAGMA threads = 8",
    "PRAGMA query_only = off",
    "PRAGMA writable_schema = on",
    "PRAGMA writable_schema = reset",
    "PRAGMA user_version = 5",
    "PRAGMA application_id = 5",
    "PRAGMA auto_vacuum = full",
    "PRAGMA incremental_vacuum",
    "PRAGMA secure_delete = on",
    "PRAGMA busy_timeout = 100000",
    "PRAGMA shrink_memory",
    "PRAGMA data_version = 7",
    "PRAGMA page_size = 512",
    "PRAGMA temp.table_list",
    "PRAGMA integrity_check",
    "PRAGMA database_list",
    "PRAGMA function_list",
    "EXPLAIN PRAGMA synchronous = 0",
    "SELECT * FROM pragma_synchronous",
    "SELECT * FROM pragma_function_list",
    "SELECT * FROM PRAGMA_DATABASE_LIST",
    "SELECT * FROM pragma_compile_options()",
    'SELECT * FROM "pragma_module_list"',
    "SELECT (SELECT file FROM pragma_database_list)",
    "WITH x AS (SELECT * FROM pragma_journal_mode) SELECT * FROM x",
    "SELECT * FROM pragmas",
    "CREATE TABLE copy AS SELECT * FROM pragma_database_list",
    "REINDEX _d1_secret",
    "REINDEX main.[_D1_secret_value]",
    # SQLite's own tables and modules.
    "UPDATE sqlite_master SET sql = ''",
    "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x(a)')",
    "DELETE FROM sqlite_master",
    "DROP TABLE sqlite_master",
    "CREATE TRIGGER x AFTER INSERT ON sqlite_master BEGIN SELECT 1; END",
    "ALTER TABLE sqlite_master RENAME TO x",
    "CREATE TABLE sqlite_y(a)",
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM dbstat",
    "SELECT * FROM sqlite_stmt",
    "SELECT * FROM bytecode('SELECT 1')",
    "SELECT * FROM carray(1, 2)",
    "SELECT * FROM fts3tokenize('simple')",
    "CREATE VIRTUAL TABLE x USING dbstat",
    "CREATE VIRTUAL TABLE x USING fts4(a)",
    "CREATE VIRTUAL TABLE x USING fts3tokenize('simple')",
    "CREATE VIRTUAL TABLE x USING pragma_function_list",
    "CREATE VIRTUAL TABLE x USING csv(filename='/etc/passwd')",
    "DROP TABLE ft_data",
    "DELETE FROM ft_content",
    "INSERT INTO ft_data VALUES (1, x'00')",
    "UPDATE rt_node SET data = x'00'",
    "ALTER TABLE ft_data RENAME TO x",
    # Temporary objects.
    "CREATE TEMP TABLE x(a)",
    "CREATE TEMPORARY TABLE x AS SELECT 1",
    "CREATE TABLE temp.x(a)",
    "CREATE TABLE TEMP . x(a)",
    "CREATE TEMP VIEW x AS SELECT 1",
    "CREATE VIEW temp.x AS SELECT 1",
    "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE TRIGGER temp.x AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE temp.x USING fts5(a)",
    # Transactions.
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT x",
    "SELECT 1; COMMIT; SELECT 2",
    "BEGIN IMMEDIATE; INSERT INTO t(a) VALUES ('x'); COMMIT",
    # The server's own tables.
    "SELECT * FROM _d1_secret",
    'SELECT key FROM main."_D1_SECRET"',
    "SELECT value FROM [_d1_secret]",
    "SELECT count(*) FROM `_d1_Secret`",
    "SELECT 1 FROM t WHERE EXISTS (SELECT 1 FROM _d1_secret WHERE key > 'a')",
    "SELECT * FROM spy",
    "SELECT * FROM t NATURAL JOIN spy",
    "INSERT INTO _d1_secret VALUES ('x', 1)",
    "INSERT INTO _d1_secret VALUES ('x', 1) ON CONFLICT DO NOTHING RETURNING value",
    "UPDATE _d1_secret SET value = 1",
    "UPDATE t SET a = (SELECT value FROM _d1_secret)",
    "UPDATE t SET a = s.value FROM _d1_secret AS s",
    "DELETE FROM _d1_secret",
    "DROP TABLE _d1_secret",
    "DROP TABLE IF EXISTS main._D1_secret",
    "ALTER TABLE _d1_secret RENAME TO mine",
    "ALTER TABLE _d1_secret ADD COLUMN x",
    "ALTER TABLE _d1_secret DROP COLUMN value",
    "ALTER TABLE _d1_secret RENAME COLUMN value TO v",
    "CREATE INDEX x ON _d1_secret(value)",
    "CREATE TRIGGER x AFTER INSERT ON _d1_secret BEGIN DELETE FROM t; END",
    "CREATE TABLE mine AS SELECT * FROM _d1_secret",
    "CREATE TABLE _cf_kv(a)",
    "CREATE TABLE _d1_other(a)",
    "CREATE VIEW _d1_view AS SELECT 1",
    "CREATE INDEX _d1_index ON t(b)",
    "CREATE TRIGGER _d1_trigger AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE _d1_ft USING fts5(a)",
    "CREATE VIRTUAL TABLE _d1 USING fts5(a)",  # its shadow tables would be _d1_data ...
    "CREATE VIRTUAL TABLE _d1 USING rtree(id, low, high)",
    "ALTER TABLE t RENAME TO _cf_t",
    'ALTER TABLE t RENAME TO "_D1_t"',
    "/* x */ ALTER /* y */ TABLE t RENAME TO/**/_d1_t",
    "CREATE TABLE child(key REFERENCES _d1_secret)",
    "CREATE TABLE child(key REFERENCES/**/[_D1_secret](key))",
    "ALTER TABLE t ADD COLUMN key REFERENCES _d1_secret(key)",
    "PRAGMA table_info(_d1_secret)",
    "PRAGMA table_xinfo('_D1_secret')",
    'PRAGMA index_list("_d1_secret")',
    "PRAGMA foreign_key_list(_cf_x)",
    "PRAGMA foreign_key_check(_d1_secret)",
    "PRAGMA quick_check(_d1_secret)",
    "SELECT * FROM pragma_table_info('_d1_secret')",
    "SELECT * FROM pragma_table_xinfo('_D1_SECRET')",
    "SELECT p.* FROM sqlite_schema AS s, pragma_table_info(s.name) AS p",
    "INSERT INTO bugged VALUES (1)",
    "INSERT INTO bugged VALUES (1) RETURNING a",
    "SELECT * FROM outside",
    "INSERT INTO outside(outside) VALUES ('rebuild')",
    "CREATE VIRTUAL TABLE vocab USING fts5vocab(_d1_secret, row); SELECT * FROM vocab",
    # Denied functions where they would run later.
    "CREATE TABLE x(a, b AS (sqlite_version()))",
    "CREATE TABLE x(a DEFAULT (sqlite_version())); INSERT INTO x DEFAULT VALUES",
    "CREATE TABLE x(a CHECK (a < load_extension('x')))",
    "CREATE INDEX x ON t(sqlite_version())",
    "CREATE VIEW x AS SELECT sqlite_version(); SELECT * FROM x",
    "CREATE TRIGGER x AFTER DELETE ON t BEGIN SELECT sqlite_version(); END; DELETE FROM t",
    # SQLite's own functions behind ALTER TABLE.
    "SELECT sqlite_rename_table('main', 'table', 't', sql, 't', 'u', 0) FROM sqlite_schema",
    "SELECT sqlite_drop_column(0, 'CREATE TABLE t(a)', 1)",
    "SELECT sqlite_fail('x', 1)",
    # Too much in one value or one text.
    "SELECT length(randomblob(1000000000))",
    "SELECT length(zeroblob(2000001))",
    "SELECT length(printf('%1000000000d', 1))",
    "SELECT length(printf('%.*c', 1000000000, 'x'))",
    "SELECT length(replace(hex(zeroblob(900000)), '0', 'xxxxxxxxxx'))",
    "SELECT group_concat(hex(zeroblob(500000))) FROM (VALUES (1), (2), (3))",
    "SELECT 'a' LIKE '%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%b'",
    "SELECT 'a' GLOB '*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b'",
    "SELECT trim(zeroblob(900000), hex(zeroblob(900000)))",
    "SELECT unhex(hex(zeroblob(900000)), replace(hex(zeroblob(900000)), '0', 'z'))",
    # Odd texts.
    "SELECT 1\0; DROP TABLE t",
    "SELECT 'a\0b'",
    "SELECT \uffff",
    "\u200bSELECT 1",
    "SELECT\u00a0* FROM _d1_secret",  # no-break space
    "\u0405ELECT 1",  # a Cyrillic letter
]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlSession]:
    with open_session(tmp_path_factory.mktemp("attacks")) as session:
        session.write(SCHEMA)
        yield session


def read_all(session: SqlSession, sql: str) -> None:
    for piece in split(sql):
        session.read(piece)


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlSession]:
    """A database of the same make, for texts that may well change it."""
    with open_session(tmp_path_factory.mktemp("playground")) as session:
        session.write(SCHEMA)
        yield session


def assert_unharmed(session: SqlSession) -> None:
    """No file but the database's, and everything in it as before."""
    names = {path.name for path in session.folder.iterdir()}
    assert names <= {"db.sqlite", "db.sqlite-wal", "db.sqlite-shm"}
    assert session.hidden() == [("k", "hidden")]
    assert session.rows("SELECT a, b FROM t ORDER BY id") == [("one", 1), ("two", 1)]
    assert session.rows("SELECT * FROM ft WHERE ft MATCH 'hello'") == [("hello world",)]
    assert session.write("PRAGMA foreign_keys")[0].rows == [(1,)]
    assert session.writer.execute_internal("PRAGMA synchronous") == [(0,)]
    assert session.writer.execute_internal("PRAGMA journal_mode") == [("wal",)]
    assert session.writer.execute_internal("SELECT * FROM sqlite_temp_schema") == []


@pytest.mark.parametrize("attack", REFUSED, ids=lambda sql: sql[:60])
def test_attack_is_refused_on_the_writer(session: SqlSession, attack: str) -> None:
    """Within a transaction, as any write of a client runs."""
    sql = attack.replace("{folder}", str(session.folder))
    watch = Stopwatch()
    with pytest.raises(StatementRefused):
        session.write(sql)
    assert watch.seconds < 2.0
    assert_unharmed(session)


@pytest.mark.parametrize("attack", REFUSED, ids=lambda sql: sql[:60])
def test_attack_is_refused_on_the_reader(session: SqlSession, attack: str) -> None:
    """Outside of a transaction, as a single read runs: VACUUM INTO could work there."""
    sql = attack.replace("{folder}", str(session.folder))
    with pytest.raises(StatementRefused):
        read_all(session, sql)
    assert_unharmed(session)


def test_our_own_text_is_not_reached_by_its_words(session: SqlSession) -> None:
    """A caller's text that equals one of the server's is still a caller's.

    Method: run our statements, so that apsw has them prepared, then the same words as SQL
    from outside. The prepared statement must not be found, or the authorizer is skipped.
    """
    for sql in ("BEGIN IMMEDIATE", "COMMIT"):
        session.writer.execute_internal(sql)
    session.hidden()
    for sql in ("BEGIN IMMEDIATE", "COMMIT", "SELECT * FROM _d1_secret ORDER BY key"):
        for _ in range(3):
            with pytest.raises(StatementRefused):
                session.write(sql)
            with pytest.raises(StatementRefused):
                session.read(sql)
    assert_unharmed(session)


def test_view_over_pragma_function_is_no_way_in(session: SqlSession) -> None:
    """Also not over an allowed one: a view may not use pragma functions at all."""
    session.write("CREATE VIEW columns AS SELECT * FROM pragma_table_info('_d1_secret')")
    with pytest.raises(StatementRefused):
        session.rows("SELECT * FROM columns")
    session.write("DROP VIEW columns")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[SqlSession]:
    with open_session(tmp_path) as session:
        yield session


def test_what_d1_allows_runs(fresh: SqlSession) -> None:
    """The sandbox does not get in the way of ordinary programs."""
    session = fresh
    session.write(
        """
        CREATE VIRTUAL TABLE ft USING fts5(text); INSERT INTO ft VALUES ('hello world');
        CREATE VIRTUAL TABLE rt USING rtree(id, low, high); INSERT INTO rt VALUES (1, 2, 3);
        CREATE TABLE p(id INTEGER PRIMARY KEY, parent REFERENCES p(id), name TEXT);
        CREATE INDEX p_name ON p(lower(name)) WHERE name IS NOT NULL;
        CREATE VIEW names AS SELECT upper(name) AS name FROM p;
        CREATE TRIGGER p_insert AFTER INSERT ON p WHEN new.parent IS NULL
        BEGIN UPDATE p SET name = trim(new.name, ' x') WHERE id = new.id; END;
        INSERT INTO p VALUES (1, NULL, 'xx root '), (2, 1, 'leaf') RETURNING id;
        ALTER TABLE p ADD COLUMN my_d1_note DEFAULT 'none';
        ALTER TABLE p RENAME COLUMN my_d1_note TO note;
        ALTER TABLE p RENAME TO q;
        ALTER TABLE q DROP COLUMN note;
        CREATE VIRTUAL TABLE v USING fts5vocab(ft, row);
        ANALYZE; REINDEX; PRAGMA optimize; PRAGMA quick_check; PRAGMA table_list;
        PRAGMA table_xinfo(q); PRAGMA index_list(q); PRAGMA foreign_key_check;
        PRAGMA defer_foreign_keys = on;
        INSERT INTO q VALUES (3, 4, 'early'); INSERT INTO q VALUES (4, NULL, 'late');
        """
    )
    assert session.rows("SELECT name FROM names WHERE name LIKE 'r%'") == [("ROOT",)]
    assert session.rows(
        "WITH RECURSIVE up(id, n) AS (SELECT 3, 0 UNION ALL SELECT parent, n + 1 FROM up"
        " JOIN q USING (id) WHERE parent IS NOT NULL) SELECT max(n) FROM up"
    ) == [(1,)]
    assert session.rows("SELECT term FROM v ORDER BY term") == [("hello",), ("world",)]
    assert session.rows("SELECT rtreecheck('rt')") == [("ok",)]
    assert session.rows("SELECT json_group_array(value) FROM json_each('[1,2]')") == [("[1,2]",)]
    assert session.rows("SELECT sum(id) OVER (ORDER BY id) FROM q LIMIT 1") == [(1,)]
    assert session.rows(
        "SELECT highlight(ft, 0, '<', '>'), snippet(ft, 0, '', '', '', 5), bm25(ft) < 0 "
        "FROM ft WHERE ft MATCH 'hello' ORDER BY rank"
    ) == [("<hello> world", "hello world", 1)]


def test_reindex_of_all_passes_the_servers_own_tables(fresh: SqlSession) -> None:
    """It names none of them, and changes nothing."""
    fresh.writer.execute_internal("CREATE INDEX _d1_secret_value ON _d1_secret(value)")
    fresh.write("CREATE TABLE t(a); CREATE INDEX t_a ON t(a); REINDEX; REINDEX t; REINDEX nocase")
    assert fresh.hidden() == [("k", "hidden")]
    with pytest.raises(StatementRefused, match="not authorized"):
        fresh.write("REINDEX _d1_secret_value")


QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|/\*.*?\*/""")
GAPS = [" ", "\n", "\t", " /* ; ' */ ", "/**/", " -- x ' ;\n", "\r\n", "\f"]


def disguised(attack: str, choices: random.Random) -> str:
    """Write the same SQL differently: other cases, and comments for blanks."""
    pieces: list[str] = []
    at = 0
    for quoted in [*QUOTED.finditer(attack), None]:
        end = len(attack) if quoted is None else quoted.start()
        for character in attack[at:end]:
            if character == " ":
                pieces.append(choices.choice(GAPS))
            else:
                pieces.append(choices.choice([character.upper(), character.lower()]))
        if quoted is not None:
            pieces.append(quoted[0])
            at = quoted.end()
    return "".join(pieces)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([sql for sql in REFUSED if sql.isascii()]), st.randoms())
def test_disguised_attack_is_refused(
    session: SqlSession, attack: str, choices: random.Random
) -> None:
    """It is SQLite's parser that tells, not a pattern: how it is written does not matter."""
    sql = disguised(attack, choices).replace("{folder}", str(session.folder))
    with pytest.raises(StatementRefused):
        session.write(sql)
    assert session.hidden() == [("k", "hidden")]


FRAGMENTS = [
    *("SELECT", "*", "FROM", "INSERT INTO", "VALUES", "(", ")", ",", "UPDATE", "SET", "="),
    *("DELETE FROM", "WHERE", "CREATE", "TABLE", "VIEW", "TRIGGER", "INDEX", "ON", "TEMP", "AS"),
    *("DROP", "ALTER TABLE", "RENAME TO", "REFERENCES", "ATTACH", "DETACH", "VACUUM", "INTO"),
    *("PRAGMA", "BEGIN", "END", "COMMIT", "SAVEPOINT", "EXPLAIN", "WITH", "RETURNING", "UNION"),
    *("t", "_d1_secret", "_cf_x", "spy", "bugged", "ft", "rt", "outside", "pragma_table_info"),
    *("sqlite_master", "temp.", "main.", "a", "key", "value", "id", "1", "NULL", "?", ":x", "''"),
    *("'x'", '"_d1_secret"', "[t]", "'{folder}/evil.db'", "synchronous", "table_info", "optimize"),
    *("foreign_keys", "count(*)", "randomblob(9)", "load_extension('x')", "sqlite_version()"),
    *(";", ";", "--", "/*", "*/", "\n", "AFTER INSERT ON t BEGIN", "USING fts5(a)", "'", '"'),
]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14), st.booleans())
def test_heap_of_fragments_does_no_harm(
    playground: SqlSession, fragments: list[str], on_reader: bool
) -> None:
    """Any text gives results or a refusal; the server's table and the folder stay as they are."""
    session = playground
    sql = " ".join(fragments).replace("{folder}", str(session.folder))
    try:
        if on_reader:
            read_all(session, sql)
        else:
            session.write(f"{sql}; SELECT json('undo')")
    except StatementRefused:
        pass
    assert not session.writer.connection.in_transaction
    assert session.hidden() == [("k", "hidden")]
    names = {path.name for path in session.folder.iterdir()}
    assert names <= {"db.sqlite", "db.sqlite-wal", "db.sqlite-shm"}
