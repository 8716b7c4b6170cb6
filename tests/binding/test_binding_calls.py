"""The binding's calls against real nodes: forms of bodies and answers, values, errors."""

import pytest

from tests.binding.binding_client import ROWS, Binding, batch, error_of, statement, taken
from tests.engine.golden_errors import GOLDEN, SCHEMA
from tests.rest.http_cluster import HttpCluster, HttpNode
from tests.rest.test_rest_errors import BODIES, TRANSACTION
from tests.web.raw_client import connected

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def bindings(nodes: HttpCluster, name: str, schema: str = "") -> list[Binding]:
    """A new database, bound by name at the primary and by uuid at the replica; on both ways."""
    await nodes.create(name, schema)
    uuid = (await nodes.primary.rest("GET", f"/{name}")).result["uuid"]
    return [
        Binding(nodes.primary, name),
        Binding(nodes.replica, uuid),
        Binding(nodes.primary, uuid, slash="/"),
        Binding(nodes.replica, name, slash="/"),
    ]


async def test_objects_and_arrays_in_both_forms(nodes: HttpCluster) -> None:
    """`/query` and `/execute` take one statement or an array; the form decides the rows' shape."""
    for db in await bindings(nodes, "forms"):
        one = statement("SELECT 2 AS b, ? AS a, 3 AS b", "é")
        spaced = b' \n[ {"sql":"SELECT 2 AS b, \'\\u00e9\' AS a, 3 AS b"} ]'
        rows = {"columns": ["b", "a", "b"], "rows": [[2, "é", 3]]}
        objects = [{"b": 3, "a": "é"}]
        for path in ("/query", "/execute"):
            for body in (one, [one], spaced):
                assert taken(await db.call(path, ROWS, body)).results == [rows]
                for form in ("NONE", "ARRAY_OF_OBJECTS", "", "rows_and_columns"):
                    assert taken(await db.call(path, form, body)).results == [objects]
        sent = {"x-d1-database": db.database}
        assert taken(await db.node.call("POST", "/query", one, sent)).results == [objects]
        assert taken(await db.node.call("POST", "/query/", one, sent)).results == [objects]


async def test_run_returns_rows_too(nodes: HttpCluster) -> None:
    """Users of `run()` read its results: an INSERT ... RETURNING has some."""
    for db in await bindings(nodes, "runs", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)"):
        answer = await db.execute(statement("INSERT INTO t(a) VALUES (?) RETURNING a", "x"))
        assert answer.results == [[{"a": "x"}]]
        assert answer.meta["changes"] == 1
        assert answer.meta["last_row_id"] > 0
        assert answer.meta["changed_db"] is True
        assert answer.meta["served_by_primary"] is True
        answer = await db.execute(statement("UPDATE t SET a = 'y'"))
        assert answer.results == [[]]
        assert answer.meta["rows_written"] > 0
        assert answer.meta["rows_read"] > 0


async def test_a_batch_is_one_transaction(nodes: HttpCluster) -> None:
    """A failing member undoes all, and its error replaces the whole array."""
    for db in await bindings(nodes, "batches", "CREATE TABLE t(a UNIQUE)"):
        await db.execute(statement("DELETE FROM t"))
        insert = statement("INSERT INTO t VALUES (?)", 1)
        text = await db.error("/query", batch(insert, insert))
        assert text.startswith("UNIQUE constraint failed: t.a: SQLITE_CONSTRAINT")
        count = statement("SELECT count(*) AS n FROM t")
        answer = await db.query(batch(insert, count, statement("DELETE FROM t")))
        assert answer.results[1] == {"columns": ["n"], "rows": [[1]]}
        assert len(answer.elements) == 3
        assert (await db.query(count)).results[0]["rows"] == [[0]]


async def test_one_element_per_member(nodes: HttpCluster) -> None:
    """The client pairs elements with statements by their place.

    A member of several statements has the rows of the last and the sums of all.
    """
    for db in await bindings(nodes, "members", "CREATE TABLE t(a)"):
        await db.execute(statement("DELETE FROM t"))
        answer = await db.query(
            batch(
                statement("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); SELECT a FROM t"),
                statement("SELECT 7; SELECT ?", "p"),
                statement("INSERT INTO t VALUES (3); SELECT 0 AS none WHERE 0"),
            )
        )
        assert [result["rows"] for result in answer.results] == [[[1], [2]], [["p"]], []]
        first, second, third = [element["meta"] for element in answer.elements]
        assert (first["changes"], second["changes"], third["changes"]) == (2, 0, 1)
        assert (first["changed_db"], second["changed_db"]) == (True, False)
        assert (first["rows_read"], first["rows_written"]) == (2, 2)
        one = await db.query(statement("DROP TABLE IF EXISTS u; CREATE TABLE u(a); SELECT 5 AS a"))
        assert one.results == [{"columns": ["a"], "rows": [[5]]}]
        assert one.meta["changed_db"] is True


async def test_exec_takes_lines(nodes: HttpCluster) -> None:
    """One element per line; a line may hold several statements, none may span two."""
    for db in await bindings(nodes, "lines"):
        text = "\nDROP TABLE IF EXISTS e;\nCREATE TABLE e(x)\nINSERT INTO e VALUES (1); SELECT 2\n"
        answer = await db.exec(text)
        assert len(answer.elements) == 3
        assert (await db.exec("SELECT count(*) AS n FROM e")).results == [[{"n": 1}]]
        lines = [{"sql": "INSERT INTO e VALUES (1)"}, {"sql": "INSERT INTO"}]
        assert await db.error("/execute", lines) == "incomplete input: SQLITE_ERROR"
        for blank in ("", "-- a comment"):
            lines = [{"sql": "INSERT INTO e VALUES (1)"}, {"sql": blank}]
            assert await db.error("/execute", lines) == "No SQL statements detected."
        assert (await db.exec("SELECT count(*) AS n FROM e")).results == [[{"n": 1}]]


async def test_values_follow_d1s_rules(nodes: HttpCluster) -> None:
    for db in await bindings(nodes, "values"):
        sql = "SELECT typeof(?1) AS a, ?1 AS b, ?1/2 AS c, json_array(?1) AS d, typeof(?2) AS e"
        answer = await db.query(statement(sql, 5, [1, 2, 255]))
        assert answer.results[0]["rows"] == [["real", 5, 2.5, "[5.0]", "blob"]]
        sql = "SELECT 9007199254740993, 9223372036854775807, 1e999, x'0102', 'a'||char(0), ?, ?"
        answer = await db.query(statement(sql, [], None))
        expected = [9007199254740992, 9223372036854776000, None, [1, 2], "a\0", [], None]
        assert answer.results[0]["rows"] == [expected]
        halves = b'{"sql":"SELECT ? AS a","params":["\\ud800x"]}'
        answer = taken(await db.call("/query", ROWS, halves))
        assert answer.results[0]["rows"] == [["\ufffd\ufffd\ufffdx"]]
        answer = await db.query(statement("SELECT CAST(x'61ff' AS TEXT) AS a, x'61ff' AS b"))
        assert answer.results[0]["rows"] == [["a\ufffd", [97, 255]]]


async def test_an_error_in_a_batch_replaces_it(nodes: HttpCluster) -> None:
    """Whatever stands before it has no element of its own."""
    for db in await bindings(nodes, "golden", SCHEMA):
        for sql, text in list(GOLDEN.items())[:20]:
            assert await db.error("/query", [{"sql": "SELECT 1"}, {"sql": sql}]) == text


@pytest.mark.parametrize(("body", "text"), BODIES, ids=lambda value: str(value)[:40])
async def test_texts_of_whole_bodies(nodes: HttpCluster, body: object, text: str) -> None:
    assert isinstance(body, dict)
    if nodes.primary.node.node.find("bodies") is None:
        await nodes.create("bodies")
    for node in nodes.nodes:
        db = Binding(node, "bodies")
        if text:
            assert await db.error("/query", body.get("batch", body)) == text
        else:
            await db.query(body)


async def test_transactions_are_refused(nodes: HttpCluster) -> None:
    """D1's text names classes that do not exist here; ours begins alike and says what to do."""
    for db in await bindings(nodes, "begin"):
        for sql in ("BEGIN", "COMMIT", "SAVEPOINT a"):
            assert (await db.error("/query", statement(sql))).startswith(TRANSACTION)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"5",
        b"[",
        b"[5]",
        b'[{"sql":5}]',
        b"{}",
        b'{"sql":"SELECT ?","params":{}}',
        b'[{"sql":"SELECT ?","params":[{}]}]',
        b'[{"sql":"SELECT ?","params":[[256]]}]',
        b'{"sql":"SELECT ?","params":[1e999]}',
        b'{"sql":"\xff"}',
        b"[" * 50_000,
        b"[{}]]",
        b'[{"sql":"SELECT 1"}],"sql":"x"',
    ],
    ids=lambda body: str(body[:40]),
)
async def test_bad_bodies_are_errors_of_the_binding(nodes: HttpCluster, body: bytes) -> None:
    """Never D1's other envelope, at which the client would throw a TypeError."""
    if nodes.primary.node.node.find("bad") is None:
        await nodes.create("bad")
    for node in nodes.nodes:
        for path in ("/query", "/execute", "/query/"):
            assert error_of(await Binding(node, "bad").call(path, ROWS, body))


async def named_raw(node: HttpNode, name: str) -> bool:
    """Whether a call for a database of this name, as bytes in its header, is an error in JSON."""
    host, port = node.url.removeprefix("http://").split(":")
    body = b'{"sql":"SELECT 1"}'
    async with connected((host, int(port))) as client:
        response = await client.exchange(
            b"POST /query?resultsFormat=NONE HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n",
            b"x-d1-database: %b\r\n\r\n" % name.encode("utf-8", "surrogateescape"),
            body,
        )
    assert response.status in (200, 400), response  # 400: a header that is no header
    assert response.json()["success"] is False
    return "internal error" not in response.body.decode()


async def test_bad_heads_are_errors_of_the_binding(nodes: HttpCluster) -> None:
    """No database, an unknown one, garbage for a token: a text that says what to do."""
    await nodes.create("heads")
    one = statement("SELECT 1")
    for node in nodes.nodes:
        assert "x-d1-database" in error_of(await node.call("POST", "/query", one))
        assert "'nope'" in await Binding(node, "nope").error("/query", one)
        for name in ("b\udcff", "\u202enope", "a\x01b", "é", "../heads", "x" * 2000):
            assert await named_raw(node, name)
        db = Binding(node, "heads")
        for token in ("garbage", "00000001", "x" * 5000):
            assert "first-primary" in await db.error("/query", one, token)
        large = {"sql": "SELECT 1", "params": ["x" * (33 * 1024 * 1024)]}
        assert "larger than" in await db.error("/query", large)
        reply = await db.call("/dump", ROWS, b"")
        assert reply.status == 400  # the client looks at nothing else
        assert reply.json["success"] is False
        for method in ("GET", "PUT"):
            assert (await node.call(method, "/query")).status == 405
