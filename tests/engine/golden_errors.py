"""D1's error texts to the letter, by the SQL that brings them about."""

SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b NOT NULL DEFAULT 1 CHECK(b<100));
CREATE TABLE u(id INTEGER PRIMARY KEY);
CREATE TABLE c(now REFERENCES u(id), later REFERENCES u(id) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE s(a INTEGER) STRICT;
INSERT INTO t(id, a) VALUES (1, 1);
CREATE TABLE r(a);
CREATE TRIGGER r_again AFTER INSERT ON r BEGIN INSERT INTO r VALUES (new.a + 1); END;
CREATE TABLE wide(a, b);
"""

GOLDEN = {
    "SELEC": 'near "SELEC": syntax error at offset 0: SQLITE_ERROR',
    "SELECT * FROM nope": "no such table: nope: SQLITE_ERROR",
    "SELECT id FROM t, u": "ambiguous column name: id at offset 7: SQLITE_ERROR",
    "SELECT foo(1)": "no such function: foo at offset 7: SQLITE_ERROR",
    "SELECT count(1, 2)": (
        "wrong number of arguments to function count() at offset 7: SQLITE_ERROR"
    ),
    "INSERT INTO t(a) VALUES (1)": (
        "UNIQUE constraint failed: t.a: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_UNIQUE)"
    ),
    "INSERT INTO t(a, b) VALUES (5, NULL)": (
        "NOT NULL constraint failed: t.b: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_NOTNULL)"
    ),
    "INSERT INTO t(a, b) VALUES (5, 200)": (
        "CHECK constraint failed: b<100: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_CHECK)"
    ),
    "INSERT INTO t(id, a) VALUES (1, 7)": (
        "UNIQUE constraint failed: t.id: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_PRIMARYKEY)"
    ),
    "INSERT INTO c(now) VALUES (77)": (
        "FOREIGN KEY constraint failed: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_FOREIGNKEY)"
    ),
    "INSERT INTO c(later) VALUES (77)": (  # at COMMIT
        "FOREIGN KEY constraint failed: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_FOREIGNKEY)"
    ),
    "INSERT INTO s VALUES ('x')": (
        "cannot store TEXT value in INTEGER column s.a: "
        "SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_DATATYPE)"
    ),
    "ATTACH ':memory:' AS x": "not authorized: SQLITE_AUTH",
    "CREATE TEMP TABLE x(a)": "not authorized: SQLITE_AUTH",
    "PRAGMA journal_mode": "not authorized: SQLITE_AUTH",
    "CREATE TABLE _cf_x(a)": "not authorized: SQLITE_AUTH",
    "CREATE TABLE x(a); ALTER TABLE x RENAME TO _cf_x": "not authorized: SQLITE_AUTH",
    "ALTER TABLE t RENAME TO _CF_t": "not authorized: SQLITE_AUTH",
    "SELECT * FROM _cf_KV": "not authorized: SQLITE_AUTH",
    "SELECT * FROM main._Cf_METADATA": "not authorized: SQLITE_AUTH",
    "INSERT INTO _cf_KV VALUES (1)": "not authorized: SQLITE_AUTH",
    "DROP TABLE _cf_KV": "not authorized: SQLITE_AUTH",
    "PRAGMA table_info(_cf_KV)": "not authorized: SQLITE_AUTH",
    "DETACH x": "not authorized: SQLITE_AUTH",
    "PRAGMA user_version = 5": "not authorized: SQLITE_AUTH",
    "CREATE VIRTUAL TABLE v USING nope(a)": "not authorized: SQLITE_AUTH",
    "SELECT sqlite_version()": (
        "not authorized to use function: sqlite_version at offset 7: SQLITE_ERROR"
    ),
    "CREATE TABLE sqlite_x(a)": "object name reserved for internal use: sqlite_x: SQLITE_ERROR",
    "DELETE FROM sqlite_master": "table sqlite_master may not be modified: SQLITE_ERROR",
    f"SELECT {','.join('?' * 101)}": "too many SQL variables at offset 207: SQLITE_ERROR",
    f"CREATE TABLE w({','.join(f'c{n}' for n in range(101))})": (
        "too many columns on w: SQLITE_ERROR"
    ),
    f"SELECT '{'x' * 100_000}'": "statement too long: SQLITE_TOOBIG",
    f"SELECT '{'é' * 50_000}'": "statement too long: SQLITE_TOOBIG",
    "SELECT zeroblob(2000001)": "string or blob too big: SQLITE_TOOBIG",
    "SELECT hex(zeroblob(1000001))": "string or blob too big: SQLITE_TOOBIG",
    "INSERT INTO wide VALUES (zeroblob(1200000), zeroblob(1200000))": (  # a row
        "string or blob too big: SQLITE_TOOBIG"
    ),
    f"SELECT max({','.join(['1'] * 128)})": (
        "too many arguments on function max at offset 7: SQLITE_ERROR"
    ),
    f"SELECT {','.join(['1'] * 101)}": "too many columns in result set: SQLITE_ERROR",
    "PRAGMA recursive_triggers = on; INSERT INTO r VALUES (1)": (
        "triggers nested too deep: SQLITE_ERROR"
    ),
    f"SELECT 'a' LIKE '{'%' * 51}'": "LIKE or GLOB pattern too complex: SQLITE_ERROR",
    f"SELECT 'a' GLOB '{'*' * 51}'": "LIKE or GLOB pattern too complex: SQLITE_ERROR",
    " UNION ".join(["SELECT 1"] * 6): "too many terms in compound SELECT: SQLITE_ERROR",
    f"SELECT {'+'.join('1' * 202)}": (
        "Expression tree is too large (maximum depth 200): SQLITE_ERROR"
    ),
    "VACUUM": "cannot VACUUM from within a transaction: SQLITE_ERROR",
    "SELECT json('{')": "malformed JSON: SQLITE_ERROR",
    "SELECT abs(-9223372036854775808)": "integer overflow: SQLITE_ERROR",
    "INSERT INTO t(a) VALUES (": "incomplete input: SQLITE_ERROR",
    "SELECT ?": "Wrong number of parameter bindings for SQL query.",
}

NOTHING = ["", " ;; ", "-- a comment", "/* a comment */"]

# What still goes at each limit; the value of the first column.
FITS: dict[str, object] = {
    f"SELECT length('{'x' * 99_982}')": 99_982,  # 100,000 bytes
    "SELECT length(zeroblob(2000000))": 2_000_000,
    "SELECT length(hex(zeroblob(999999)))": 1_999_998,
    f"SELECT 'a' LIKE '{'%' * 50}'": 1,
    f"SELECT 'a' GLOB '{'*' * 50}'": 1,
    " UNION ALL ".join(["SELECT 1"] * 5): 1,
    f"SELECT {'+'.join('1' * 200)}": 200,
    f"SELECT max({','.join(['1'] * 32)})": 1,  # as D1's documentation has it
    f"SELECT max({','.join(['1'] * 127)})": 1,  # as D1 has it
    f"SELECT {','.join(['1'] * 100)}": 1,
}
