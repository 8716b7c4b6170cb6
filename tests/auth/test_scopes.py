"""What each kind of token may do, at every door, on both nodes.

The one promise above all: who may only read changes nothing, whatever the statement looks like
and whichever way it comes.
"""

import json
from collections.abc import Callable

import pytest

from tests.auth.guarded_cluster import Answer, Caller, GuardedCluster

REST = "/client/v4/accounts/a/d1/database"

WRITES = [
    "INSERT INTO t VALUES (2, 'two')",
    "insert or ignore into t values (1, 'x')",
    "REPLACE INTO t VALUES (1, 'x')",
    "UPDATE t SET v = 'x'",
    "UPDATE t SET v = 'x' WHERE 0",
    "UPDATE t SET v = 'x' RETURNING v",
    "DELETE FROM t WHERE id = 77",
    "INSERT INTO t SELECT 9, 'x' WHERE 0",
    "INSERT INTO t VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = 'y'",
    "WITH x(i) AS (SELECT 5) INSERT INTO t SELECT i, 'x' FROM x",
    "WITH RECURSIVE x(i) AS (SELECT 1) DELETE FROM t WHERE id IN x",
    "/* SELECT */ INSERT INTO t VALUES (3, 'x')",
    "-- SELECT 1\nINSERT INTO t VALUES (3, 'x')",
    "CREATE TABLE u (a)",
    "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v)",
    "CREATE TABLE u AS SELECT * FROM t",
    "CREATE VIEW w AS SELECT 1",
    "CREATE INDEX i ON t (v)",
    "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END",
    "CREATE VIRTUAL TABLE f USING fts5(a)",
    "DROP TABLE IF EXISTS t",
    "ALTER TABLE t ADD COLUMN w",
    "ALTER TABLE t RENAME TO s",
    "ANALYZE",
    "REINDEX t",
    "PRAGMA optimize",
    "PRAGMA optimize(0x10002)",
]
HIDDEN = [
    "SELECT 1; INSERT INTO t VALUES (2, 'x')",
    "SELECT 1;;;\n;DELETE FROM t",
    "SELECT ';'; SELECT 1; DROP TABLE t; SELECT 2",
    "INSERT INTO t VALUES (2, 'x'); SELECT 1",
    "CREATE TABLE u (a); INSERT INTO u VALUES (1); DROP TABLE u",
    "EXPLAIN SELECT 1; DELETE FROM t",
]
# Refused to everybody: by the sandbox, not for the token. They must not change anything either.
NOT_FOR_ANYBODY = [
    "VACUUM",
    "VACUUM INTO 'x'",
    "REINDEX",
    "ATTACH 'x' AS y",
    "PRAGMA user_version = 5",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = ON",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "BEGIN; INSERT INTO t VALUES (2, 'x'); COMMIT",
    "SAVEPOINT a; DELETE FROM t; RELEASE a",
    "UPDATE sqlite_schema SET sql = ''",
    "DELETE FROM _d1server_idempotency",
    "INSERT INTO _cf_kv VALUES (1, 2)",
]

Send = Callable[[Caller, str], Answer]


def one(path: str, *, chunked: bool = False, **headers: str) -> Send:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda caller, sql: caller.call(
        "POST", path, {"sql": sql}, headers=named, chunked=chunked
    )


def batch(path: str) -> Send:
    """The statement between two that read."""
    read = {"sql": "SELECT * FROM t WHERE id = ?", "params": [1]}
    return lambda caller, sql: caller.call("POST", path, {"batch": [read, {"sql": sql}, read]})


def binding(path: str, *, many: bool) -> Send:
    def send(caller: Caller, sql: str) -> Answer:
        body: object = {"sql": sql}
        if many:
            body = [{"sql": "SELECT 1"}, {"sql": sql}]
        return caller.call("POST", path, body, headers={"x-d1-database": "shop"})

    return send


def proxied(caller: Caller, sql: str) -> Answer:
    headers = {"MF-URL": "http://x/query", "x-d1-database": "shop"}
    return caller.call("POST", "/", {"sql": sql}, headers=headers)


DOORS: dict[str, Send] = {
    "query": one("/db/shop/query"),
    "raw": one("/db/shop/raw"),
    "query, aiohttp": one("/db/shop/query", chunked=True),
    "session": one("/db/shop/query", x_d1_bookmark="first-unconstrained"),
    "session of the primary": one("/db/shop/raw", x_d1_bookmark="first-primary"),
    "key": one("/db/shop/query", Idempotency_Key="the-same"),
    "stale": one("/db/shop/query", x_d1_bookmark="first-unconstrained", x_d1_on_timeout="stale"),
    "batch": batch("/db/shop/query"),
    "batch, raw": batch("/db/shop/raw"),
    "rest": one(f"{REST}/shop/query"),
    "rest, raw": one("/accounts/a/d1/database/shop/raw"),
    "rest, batch": batch(f"{REST}/shop/query"),
    "rest, aiohttp": one(f"{REST}/shop/raw", chunked=True),
    "binding": binding("/query?resultsFormat=ROWS_AND_COLUMNS", many=False),
    "binding, execute": binding("/execute", many=False),
    "binding, batch": binding("/query", many=True),
    "binding, proxied": proxied,
}


def state(guarded: GuardedCluster) -> tuple[str, str]:
    """Where the shop's history is, and what its pages are."""
    with guarded.caller(kind="admin") as admin:
        shown = admin.call("GET", "/status").json["databases"]["shop"]
    return shown["head"], shown["checksum"]


@pytest.fixture(scope="module", autouse=True)
def remembered(guarded: GuardedCluster) -> None:
    """An answer is kept for the key that readers will try."""
    with guarded.caller(kind="edit") as editor:
        sql = "INSERT INTO t VALUES (1000, 'kept')"
        assert DOORS["key"](editor, sql).status == 200


@pytest.mark.parametrize("node", ["primary", "replica"])
@pytest.mark.parametrize("door", DOORS)
def test_reader_changes_nothing(guarded: GuardedCluster, node: str, door: str) -> None:
    before = state(guarded)
    with guarded.caller(node, "read") as reader:
        for sql in (*WRITES, *HIDDEN):
            answer = DOORS[door](reader, sql)
            assert answer.status == 403, (sql, answer)
            assert b"scope edit" in answer.body
        for sql in NOT_FOR_ANYBODY:
            answer = DOORS[door](reader, sql)
            assert answer.status in (400, 403) or b'"success":false' in answer.body, (sql, answer)
    assert state(guarded) == before


@pytest.mark.parametrize("node", ["primary", "replica"])
@pytest.mark.parametrize("door", DOORS)
def test_reader_reads(guarded: GuardedCluster, node: str, door: str) -> None:
    with guarded.caller(node, "read") as reader:
        for sql in ("SELECT v FROM t WHERE id = 1", "EXPLAIN DELETE FROM t"):
            answer = DOORS[door](reader, sql)
            assert answer.status == 200, (sql, answer)
        assert b"one" in DOORS[door](reader, "SELECT v FROM t WHERE id = 1").body


def test_reader_gets_no_kept_answer_of_a_write(guarded: GuardedCluster) -> None:
    """An idempotency key of somebody else's write opens nothing."""
    sql = "INSERT INTO t VALUES (1000, 'kept')"
    for node in guarded.nodes:
        with guarded.caller(node, "read") as reader, guarded.caller(node, "edit") as editor:
            assert DOORS["key"](reader, sql).status == 403
            assert DOORS["key"](editor, sql).status == 200


@pytest.mark.parametrize("node", ["primary", "replica"])
@pytest.mark.parametrize("door", DOORS)
def test_token_of_another_database_opens_nothing(
    guarded: GuardedCluster, node: str, door: str
) -> None:
    before = state(guarded)
    told = []
    for kind in ("read other", "edit other", "admin other", "replicate"):
        with guarded.caller(node, kind) as caller:
            for sql in ("SELECT 1", WRITES[0], "no SQL at all"):
                answer = DOORS[door](caller, sql)
                assert answer.status == 403, (kind, sql, answer)
                told.append(answer.body)
    assert len(set(told)) == 1
    assert state(guarded) == before


@pytest.mark.parametrize("node", ["primary", "replica"])
def test_databases_of_others_are_not_told_of(guarded: GuardedCluster, node: str) -> None:
    """Whether it exists, by whichever name, the answer is the same."""
    with guarded.caller(node, "edit other") as caller:
        told = {
            caller.query("SELECT 1", db=db).message
            for db in ("shop", guarded.uuids["shop"], "none", "_catalog")
        }
        assert len(told) == 1
        infos = {caller.call("GET", f"/db/{db}").message for db in ("shop", "none")}
        assert len(infos) == 1
        for path in ("/db", f"{REST}?per_page=10&page=1"):
            assert [one["name"] for one in caller.call("GET", path).json["result"]] == ["other"]
        assert caller.call("GET", "/status").json.get("databases") is None
        assert caller.call("GET", "/metrics").status == 403


@pytest.mark.parametrize("node", ["primary", "replica"])
def test_token_for_one_database_names_it_for_the_binding(
    guarded: GuardedCluster, node: str
) -> None:
    with guarded.caller(node, "edit other") as caller:
        assert b"one" in caller.call("POST", "/query", {"sql": "SELECT v FROM t"}).body
    with guarded.caller(node, "edit") as caller:
        assert b"which database?" in caller.call("POST", "/query", {"sql": "SELECT v FROM t"}).body


ADMIN_CALLS = {
    "list": ("GET", "/db", None),
    "rest list": ("GET", REST, None),
    "info": ("GET", "/db/{db}", None),
    "rest info": ("GET", REST + "/{db}", None),
    "vacuum": ("POST", "/db/{db}/vacuum", {}),
    "export": ("POST", REST + "/{db}/export", {"output_format": "polling"}),
    "import": ("POST", REST + "/{db}/import", {"action": "init", "etag": "0" * 32}),
    "update": ("PATCH", REST + "/{db}", {"read_replication": {"mode": "auto"}}),
    "replace": ("PUT", REST + "/{db}", {"read_replication": {"mode": "auto"}}),
    "create": ("POST", "/db", {"name": "made"}),
    "rest create": ("POST", REST, {"name": "made"}),
    "delete": ("DELETE", "/db/made", None),
    "tokens": ("GET", "/tokens", None),
    "new token": ("POST", "/tokens", {"name": "n", "scopes": ["read"]}),
    "end token": ("DELETE", "/tokens/none", None),
}
READS = {"list", "rest list", "info", "rest info", "export"}
WRITES_ONE = READS | {"vacuum", "import"}
EDITS = WRITES_ONE | {"update", "replace", "create", "rest create", "delete"}
MAY = {  # what is let through, which may still be refused for another reason
    ("read", "shop"): READS,
    ("read other", "other"): READS,
    ("read other", "shop"): {"list", "rest list"},
    ("edit", "shop"): EDITS,
    ("edit other", "other"): WRITES_ONE,
    ("edit other", "shop"): {"list", "rest list"},
    ("admin other", "other"): WRITES_ONE | {"update", "replace"},
    ("admin other", "shop"): {"list", "rest list"},
    ("admin", "shop"): set(ADMIN_CALLS),
    ("replicate", "shop"): set(),
}


@pytest.mark.parametrize("node", ["primary", "replica"])
@pytest.mark.parametrize(("kind", "db"), MAY, ids=str)
def test_administration_by_scope(guarded: GuardedCluster, node: str, kind: str, db: str) -> None:
    with guarded.caller(node, kind) as caller:
        let_through = set()
        for name, (method, path, body) in ADMIN_CALLS.items():
            answer = caller.call(method, path.format(db=db), body)
            if answer.status != 403:
                let_through.add(name)
                assert answer.status in (200, 400, 404), (name, answer)
            else:
                assert answer.code == 7403
    assert let_through == MAY[kind, db]


@pytest.mark.parametrize("node", ["primary", "replica"])
def test_token_is_shown_once_and_its_hash_never(guarded: GuardedCluster, node: str) -> None:
    text = guarded.make_token("shown", "read", databases=["shop", "other"], expires_in_s=3600)
    assert text.startswith("d1s_")
    assert len(text) == len("d1s_") + 43
    with guarded.caller(node, "admin") as admin:
        listed = admin.call("GET", "/tokens")
    assert text.encode() not in listed.body
    shown = next(one for one in listed.json["result"] if one["id"] == guarded.ids["shown"])
    assert shown["databases"] == ["other", "shop"]
    assert (shown["state"], shown["scopes"]) == ("live", ["read"])
    assert "hash" not in json.dumps(listed.json)
    states = {one["name"]: one["state"] for one in listed.json["result"]}
    assert (states["revoked"], states["expired"]) == ("revoked", "expired")


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "x"},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["write"]},
        {"name": "", "scopes": ["read"]},
        {"name": "a\nb", "scopes": ["read"]},
        {"name": "x", "scopes": ["read"], "databases": []},
        {"name": "x", "scopes": ["read"], "databases": ["none"]},
        {"name": "x", "scopes": ["read"], "database": "shop"},  # a slip must not mean: all
        {"name": "x", "scopes": ["replicate"], "databases": ["shop"]},
        {"name": "x", "scopes": ["read"], "expires_in_s": 0},
        {"name": "x", "scopes": ["read"], "expires_in_s": 1e18},
    ],
    ids=str,
)
def test_wishes_that_are_not_understood_make_no_token(
    guarded: GuardedCluster, asked: dict[str, object]
) -> None:
    with guarded.caller(kind="admin") as admin:
        before = len(admin.call("GET", "/tokens").json["result"])
        assert admin.call("POST", "/tokens", asked).status == 400
        assert len(admin.call("GET", "/tokens").json["result"]) == before
