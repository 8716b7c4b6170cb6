"""Every route with every scope: who is let in stands in one table, which leaves nothing out."""

import pytest

from d1server.openapi.document import document
from d1server.web.binding_call import DATABASE_HEADER
from tests.auth.guarded_cluster import Caller, GuardedCluster

SQL = {"sql": "SELECT 1"}
READERS = {"read", "edit", "admin", "read other", "edit other", "admin other"}
EDITORS = {"edit", "admin", "edit other", "admin other"}
EVERYBODY = READERS | {"replicate"}
OF_DATABASES = {
    "POST": {"edit", "admin"},
    "GET": READERS,
    "GET {database}": READERS,
    "DELETE {database}": {"edit", "admin"},
    "PUT {database}": {"edit", "admin", "admin other"},
    "PATCH {database}": {"edit", "admin", "admin other"},
    "POST {database}/query": READERS,
    "POST {database}/raw": READERS,
    "POST {database}/export": READERS,
    "POST {database}/import": EDITORS,
    "POST {database}/vacuum": EDITORS,
    "GET {database}/insights": READERS,
}
OF_THE_NODE = {
    "GET /tokens": {"admin"},
    "POST /tokens": {"admin"},
    "DELETE /tokens/{id}": {"admin"},
    "GET /accounts/{account}/d1/insights": READERS,
    "POST /graphql": READERS,
    "POST /query": READERS,
    "POST /execute": READERS,
    "POST /dump": EVERYBODY,  # who is told that it is not there
    "POST /": EVERYBODY,
    "GET /signed/exports/{file}": set(),
    "PUT /signed/imports/{file}": set(),
    "GET /metrics": {"read", "edit", "admin", "replicate"},
    "GET /status": EVERYBODY,
    "GET /livez": EVERYBODY,
    "GET /readyz": EVERYBODY,
    "GET /openapi.json": EVERYBODY,
}
METHODS = {"get", "post", "put", "patch", "delete"}
PREFIXES = ("/db", "/accounts/{account}/d1/database")


def may_come(door: str) -> set[str]:
    """Whom a route lets in: with a token for one database, asked about that."""
    method, path = door.split(" ")
    for prefix in PREFIXES:
        if path == prefix or path.startswith(prefix + "/"):
            rest = path.removeprefix(prefix).removeprefix("/")
            return OF_DATABASES[f"{method} {rest}".rstrip()]
    return OF_THE_NODE[door]


@pytest.mark.parametrize("node", ["primary", "replica"])
@pytest.mark.parametrize("kind", sorted(EVERYBODY))
def test_every_route_by_scope(guarded: GuardedCluster, node: str, kind: str) -> None:
    """What the document describes, and nothing else, is in the table; a new route needs a line.

    A token for another database opens no route of this one.
    """
    doors = {
        f"{method.upper()} {path}"
        for path, methods in document()["paths"].items()
        for method in methods
        if method in METHODS
    }
    assert {door.split(" ")[1] for door in OF_THE_NODE} < {door.split(" ")[1] for door in doors}
    with guarded.caller(node, kind) as caller:
        for door in sorted(doors):
            wanted = kind in may_come(door)
            for db in ("other", "shop") if kind.endswith("other") else ("shop",):
                is_about_it = "{database}" in door or door in ("POST /query", "POST /execute")
                if is_about_it and db == "shop" and kind.endswith("other"):
                    wanted = False
                assert is_let_in(caller, door, db) == wanted, (door, db)


def is_let_in(caller: Caller, door: str, db: str) -> bool:
    """Whether a call is answered with anything else than: not for you."""
    method, path = door.split(" ")
    database = "gone" if method == "DELETE" else db  # which is said behind the door
    path = path.format(database=database, account="any", id="none", file="none.sql")
    bodies = {"export": {"output_format": "polling"}, "import": {"action": "poll"}, "query": SQL}
    body = bodies.get(path.rsplit("/", 1)[-1], SQL if path.endswith(("raw", "execute")) else {})
    answer = caller.call(
        method, path, body if method != "GET" else None, headers={DATABASE_HEADER: db}
    )
    assert answer.status < 500, (door, answer)
    if path == "/execute":  # which tells of errors with status 200
        return b"not authorized" not in answer.body
    if path.startswith("/signed/"):  # a replica without a URL of its own has none
        return answer.status not in (403, 404)
    return answer.status != 403
