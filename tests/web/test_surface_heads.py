"""Heads of queries on D1's surfaces: REST and the binding, on the fast path."""

import pytest

from d1server.query import Constraint
from d1server.web.binding_call import Head, read_call
from d1server.web.head import HeadCache, may_be_query, read_head
from proto.api import Dialect, Shape
from proto.tokens import Bookmark, CommitToken

TOKEN = "x-cf-d1-session-commit-token"
ACCOUNT = "/accounts/0123456789abcdef/d1/database"
UUID = "0ec3a329-f940-4132-9ddb-903562b0390e"


def raw(target: str, *lines: str, length: int = 2) -> bytes:
    """The bytes of a head."""
    fixed = (f"POST {target} HTTP/1.1", "Host: d1", f"Content-Length: {length}")
    return "\r\n".join((*fixed, *lines, "", "")).encode("latin-1")


def bookmark(seq: int) -> str:
    return Bookmark(CommitToken(1, seq), bytes(16)).text


@pytest.mark.parametrize("prefix", ["", "/client/v4"])
@pytest.mark.parametrize("database", ["shop", UUID])
def test_rest(prefix: str, database: str) -> None:
    for route, shape in (("query", Shape.OBJECTS), ("raw", Shape.ARRAYS)):
        lines = ("Authorization: Bearer x", "Content-Type: application/json", "Idempotency-Key: k")
        head = read_head(raw(f"{prefix}{ACCOUNT}/{database}/{route}", *lines))
        assert head is not None
        assert (head.dialect, head.database, head.shape) == (Dialect.REST, database, shape)
        assert head.wishes.constraint is Constraint.NONE
        assert head.wishes.idempotency_key == "k"


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ("/query?resultsFormat=ROWS_AND_COLUMNS", Shape.ARRAYS),
        ("/query?resultsFormat=ARRAY_OF_OBJECTS", Shape.OBJECTS),
        ("/execute?resultsFormat=NONE", Shape.OBJECTS),
        ("/execute?resultsFormat=ROWS_AND_COLUMNS", Shape.ARRAYS),
        ("/query", Shape.OBJECTS),
        ("/execute", Shape.OBJECTS),
    ],
)
def test_the_binding(target: str, shape: Shape) -> None:
    """The fast path reads what the other one reads."""
    head = read_head(raw(target, "X-D1-Database: shop", f"{TOKEN}: first-unconstrained"))
    path, _, query = target.partition("?")
    pairs = [("resultsFormat", query.partition("=")[2])] if query else []
    slow = read_call(Head(path, pairs, [("x-d1-database", "shop"), (TOKEN, "first-unconstrained")]))
    assert head is not None
    for one in (head, slow):
        assert (one.dialect, one.database, one.shape) == (Dialect.BINDING, "shop", shape)
        assert one.wishes.constraint is Constraint.UNCONSTRAINED
        assert one.alias == TOKEN.encode()


NAMED = "x-d1-database: shop"
ODD = {
    "no database": raw("/query"),
    "two databases": raw("/query", NAMED, NAMED),
    "odd database": raw("/query", "x-d1-database: a b"),
    "empty database": raw("/query", "x-d1-database: "),
    "blank token": raw("/query", NAMED, f"{TOKEN}: "),
    "garbage token": raw("/query", NAMED, f"{TOKEN}: garbage"),
    "key on the binding": raw("/query", NAMED, "Idempotency-Key: k"),
    "other parameter": raw("/query?x=1", NAMED),
    "two parameters": raw("/query?resultsFormat=NONE&x=1", NAMED),
    "no format": raw("/query?resultsFormat=", NAMED),
    "percent": raw("/query?resultsFormat=%4EONE", NAMED),
    "slash": raw("/query/", NAMED),
    "dump": raw("/dump", NAMED),
    "longer": raw("/querying", NAMED),
    "proxied": raw("/", NAMED, "MF-URL: http://d1/query"),
    "slash at REST": raw(f"{ACCOUNT}/shop/query/"),
    "no account": raw("/accounts//d1/database/shop/query"),
    "odd account": raw("/accounts/a%20b/d1/database/shop/query"),
    "parameter at REST": raw(f"{ACCOUNT}/shop/query?x=1"),
    "creation": raw(ACCOUNT),
    "other version": raw(f"/client/v5{ACCOUNT}/shop/query"),
    "large": raw(f"{ACCOUNT}/shop/query", length=70_000),
    "both lengths": raw(f"{ACCOUNT}/shop/query", "Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_heads_go_to_aiohttp(name: str) -> None:
    assert read_head(ODD[name]) is None


def test_an_incomplete_head_is_waited_for() -> None:
    for target in (f"{ACCOUNT}/shop/raw", f"/client/v4{ACCOUNT}/shop/raw", "/query", "/execute"):
        whole = raw(target, NAMED)
        assert all(may_be_query(whole[:size]) for size in range(1, len(whole)))
    for other in (b"POST /dump", b"POST /client/v5", b"POST / ", b"PUT", b"GET /query"):
        assert not may_be_query(other)


def test_a_session_of_the_binding_is_read_by_its_template() -> None:
    """Each write brings another token; only the first head is read strictly."""
    cache = HeadCache()
    for seq in range(1, 20):
        line = f"{TOKEN}: {bookmark(seq)}"
        head = cache.read(raw("/query?resultsFormat=ROWS_AND_COLUMNS", NAMED, line))
        assert head is not None
        assert head.wishes.bookmark == Bookmark.parse(bookmark(seq))
        assert (head.dialect, head.shape) == (Dialect.BINDING, Shape.ARRAYS)
        assert head.alias == TOKEN.encode()
    assert cache.misses == 1
