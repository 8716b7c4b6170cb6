"""Queries over D1's REST API: bodies, values, envelopes, at any node."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.rest.http_cluster import ACCOUNT, REST, HttpCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

META = {
    "served_by",
    "served_by_region",
    "served_by_primary",
    "duration",
    "timings",
    "changes",
    "last_row_id",
    "changed_db",
    "size_after",
    "rows_read",
    "rows_written",
    "total_attempts",
}


async def test_one_element_per_statement(nodes: HttpCluster) -> None:
    """Also for statements in one text; a semicolon at the end adds none; each has its meta."""
    await nodes.create("elements", "CREATE TABLE t(a)")
    for node in nodes.nodes:
        for body, count in (
            ({"sql": "SELECT 1"}, 1),
            ({"sql": "SELECT 1;"}, 1),
            ({"sql": "SELECT 1; SELECT 2; -- done"}, 2),
            ({"sql": "SELECT 1; SELECT ? AS a", "params": ["x"]}, 2),
            ({"batch": [{"sql": "SELECT 1; SELECT 2"}, {"sql": "SELECT ?", "params": [1]}]}, 3),
            ({"sql": "INSERT INTO t VALUES (1); SELECT * FROM t; DELETE FROM t"}, 3),
            ({"sql": "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; END;"}, 1),
            ({"sql": "DROP TRIGGER r"}, 1),
        ):
            for route in ("query", "raw", "raw/"):
                if route != "query" and "TRIGGER" in str(body):
                    continue
                elements = (await node.rest("POST", f"/elements/{route}", body)).result
                assert len(elements) == count
                for element in elements:
                    assert element["success"] is True
                    assert element["meta"].keys() >= META


async def test_shapes(nodes: HttpCluster) -> None:
    """`query` keeps the last of equal names, in the order of SELECT; `raw` keeps all."""
    await nodes.create("shapes")
    body = {"sql": "SELECT 2 AS b, 1 AS a, 3 AS b"}
    empty = {"sql": "SELECT 1 AS a, 2 AS b WHERE 0"}
    for node in nodes.nodes:
        objects = (await node.rest("POST", "/shapes/query", body)).result[0]["results"]
        assert [list(row.items()) for row in objects] == [[("b", 3), ("a", 1)]]
        raw = (await node.rest("POST", "/shapes/raw", body)).result[0]["results"]
        assert raw == {"columns": ["b", "a", "b"], "rows": [[2, 1, 3]]}
        raw = (await node.rest("POST", "/shapes/raw", empty)).result[0]["results"]
        assert raw == {"columns": ["a", "b"], "rows": []}
        assert (await node.rest("POST", "/shapes/query", empty)).result[0]["results"] == []


async def test_values_follow_d1s_rules(nodes: HttpCluster) -> None:
    """Every JSON number is a double, unlike on this server's own surface."""
    await nodes.create(
        "values", "CREATE TABLE t(i INTEGER, x TEXT, n, s BLOB); CREATE TABLE u(i INTEGER) STRICT"
    )
    for node in nodes.nodes:
        kinds = await node.rows(
            "values",
            "SELECT typeof(?1) AS a, typeof(?2) AS b, typeof(?3) AS c, typeof(?4) AS d,"
            " typeof(?5) AS e, ?1/2 AS f, json_array(?1) AS g, ?4 AS h, ?2 AS i",
            *(5, True, "5", [0, 255], None),
        )
        expected = ("real", "real", "text", "blob", "null", 2.5, "[5.0]", [0, 255], 1)
        assert kinds == [dict(zip("abcdefghi", expected, strict=True))]
        await node.rows("values", "DELETE FROM t")
        await node.rows("values", "INSERT INTO t VALUES (?1, ?1, ?1, ?1)", 5)
        stored = await node.rows("values", "SELECT typeof(i) AS i, x, typeof(n) AS n FROM t")
        assert stored == [{"i": "integer", "x": "5.0", "n": "real"}]
        await node.rows("values", "INSERT INTO u VALUES (?)", 5)
        reply = await node.rest(
            "POST", "/values/query", {"sql": "INSERT INTO u VALUES (?)", "params": [5.5]}
        )
        assert reply.error[2].startswith("cannot store REAL value in INTEGER column u.i")
        limited = await node.rows("values", "SELECT 1 AS a UNION SELECT 2 LIMIT ?", 1)
        assert limited == [{"a": 1}]


async def test_values_that_json_cannot_hold(nodes: HttpCluster) -> None:
    """Large integers are rounded as a double is, infinities null, NUL stays in the text."""
    await nodes.create("odd")
    sql = (
        "SELECT 9007199254740993 AS a, 9223372036854775807 AS b, -9223372036854775807 - 1 AS c,"
        " 1e999 AS d, -1e999 AS e, 'x' || char(0) || 'y' AS f, 2.0 AS g, 0.1 AS h, x'' AS i"
    )
    expected: tuple[object, ...] = (
        *(9007199254740992, 9223372036854776000, -9223372036854776000),
        *(None, None, "x\0y", 2, 0.1, []),
    )
    for node in nodes.nodes:
        reply = await node.rest("POST", "/odd/raw", {"sql": sql})
        assert reply.result[0]["results"]["rows"] == [list(expected)]
        assert (await node.rows("odd", sql)) == [dict(zip("abcdefghi", expected, strict=True))]
        halves = b'{"sql":"SELECT ? AS a, length(?) AS n","params":["\\ud800x","\\udfff"]}'
        reply = await node.rest("POST", "/odd/query", halves)
        assert reply.result[0]["results"] == [{"a": "\ufffd" * 3 + "x", "n": 3}]


@pytest.mark.parametrize(
    ("value", "text"),
    [("CAST(x'41ff' AS TEXT)", "A\ufffd"), ("char(55296)", "\ufffd" * 3), ("x'41ff'", [65, 255])],
)
async def test_text_that_is_no_text_has_replacement_characters(
    nodes: HttpCluster, value: str, text: object
) -> None:
    """As at D1, at every node and on every surface; blobs and other rows are as ever."""
    if nodes.primary.node.node.find("bytes") is None:
        await nodes.create("bytes")
    sql = f"SELECT 1 AS a, 'é' AS b UNION ALL SELECT 2, {value} ORDER BY 1"
    for node in nodes.nodes:
        for _ in range(2):  # the first time in the event loop, then on a thread
            reply = await node.rest("POST", "/bytes/query", {"sql": sql})
            assert reply.result[0]["results"] == [{"a": 1, "b": "é"}, {"a": 2, "b": text}]
        assert await node.rows("bytes", f"SELECT {value} AS a") == [{"a": text}]
        found = await node.rows("bytes", f"SELECT hex(CAST({value} AS BLOB)) AS a")
        assert found[0]["a"] in ("41FF", "EDA080")


async def test_bodies_in_chunks_and_without_a_type(nodes: HttpCluster) -> None:
    """What the body is, is known: no header needs to say it; unknown headers change nothing."""
    await nodes.create("chunks")

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"sql":', b'"SELECT ', b'1 AS a"}'):
            yield piece
            await asyncio.sleep(0)

    for node in nodes.nodes:
        async with node._http.post(
            f"{node.url}{REST}/chunks/query",
            data=pieces(),
            headers={
                "content-type": "text/plain",
                "authorization": "Bearer of-nothing",
                "api-version": "1",
                "x-stainless-retry-count": "0",
            },
        ) as response:
            assert response.status == 200
            assert (await response.json())["result"][0]["results"] == [{"a": 1}]


async def test_a_bookmark_is_honoured(nodes: HttpCluster) -> None:
    """REST has no sessions; whoever sends a bookmark all the same gets one, on replicas too."""
    await nodes.create("marks", "CREATE TABLE t(a)")
    for at in range(5):
        reply = await nodes.replica.rest(
            "POST", "/marks/query", {"sql": "INSERT INTO t VALUES (?)", "params": [at]}
        )
        assert reply.result[0]["meta"]["served_by_primary"] is True
        mark = reply.headers["x-d1-bookmark"]
        for name in ("x-d1-bookmark", "x-cf-d1-session-commit-token"):
            reply = await nodes.replica.call(
                "POST", f"{REST}/marks/query", {"sql": "SELECT count(*) AS n FROM t"}, {name: mark}
            )
            assert reply.result[0]["results"] == [{"n": at + 1}]
            assert reply.result[0]["meta"]["served_by_primary"] is False
            assert reply.headers[name] >= mark
    plain = await nodes.replica.rest("POST", "/marks/query", {"sql": "SELECT 1"})
    assert plain.result[0]["meta"]["served_by_primary"] is True


async def test_a_key_is_for_one_form_of_answer(nodes: HttpCluster) -> None:
    """A repeated write is done once; under the other route its answer would be another one."""
    await nodes.create("keys", "CREATE TABLE t(a)")
    body, key = {"sql": "INSERT INTO t VALUES (1) RETURNING a"}, {"idempotency-key": "k"}
    replies = [await node.call("POST", f"{REST}/keys/query", body, key) for node in nodes.nodes * 2]
    assert [reply.result[0]["results"] for reply in replies] == [[{"a": 1}]] * 4
    status, code, message = (await nodes.primary.call("POST", f"{REST}/keys/raw", body, key)).error
    assert (status, code) == (400, 7400)
    assert "another request" in message
    assert await nodes.replica.rows("keys", "SELECT count(*) AS n FROM t") == [{"n": 1}]


@pytest.mark.parametrize("prefix", ["", "/client/v4"])
async def test_whatever_is_wrong_the_envelope_is_right(nodes: HttpCluster, prefix: str) -> None:
    """Paths, methods, sizes and bodies: 4xx, JSON, D1's members."""
    if nodes.primary.node.node.find("wrong") is None:
        await nodes.create("wrong")
    base = prefix + ACCOUNT
    for node in nodes.nodes:
        for method, path, body, status in (
            ("GET", f"{base}/wrong/nope", None, 404),
            ("POST", f"{base}/wrong/query/more", {}, 404),
            ("POST", f"{prefix}/accounts//d1/database", {}, 404),
            ("GET", f"{prefix}/zones", None, 404),
            ("DELETE", base, None, 405),
            ("POST", f"{base}/wrong", {}, 405),
            ("GET", f"{base}/wrong/query", None, 405),
            ("PUT", f"{base}/wrong/raw", {}, 405),
            ("POST", base, b" " * 70_000, 413),
            ("POST", f"{base}/wrong/query", b"", 400),
            ("POST", f"{base}/wrong/query", b"{", 400),
            ("POST", f"{base}/wrong/query", [], 400),
            ("POST", f"{base}/wrong/query", {"sql": 1}, 400),
            ("POST", f"{base}/wrong/query", {"params": []}, 400),
            ("POST", f"{base}/wrong/query", {"sql": "SELECT ?", "params": {}}, 400),
            ("POST", f"{base}/wrong/query", {"sql": "SELECT ?", "params": [{}]}, 400),
            ("POST", f"{base}/wrong/query", {"sql": "a", "batch": []}, 400),
        ):
            reply = await node.call(method, path, body)
            assert reply.error[0] == status, (method, path, reply)
            assert "x-should-retry" not in reply.headers
