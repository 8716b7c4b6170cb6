"""D1's error texts for whole bodies over the REST API; for statements see `test_every_door.py`."""

import pytest

from tests.rest.http_cluster import HttpCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONLY_THE_LAST = (
    "When executing multiple SQL statements in a single call, "
    "only the last statement can have parameters."
)
NO_STATEMENTS = "No SQL statements detected."
WRONG_BINDINGS = "Wrong number of parameter bindings for SQL query."

# What a statement alone cannot bring about: whole bodies.
BODIES: list[tuple[object, str]] = [
    ({"sql": "SELECT ?", "params": []}, WRONG_BINDINGS),
    ({"sql": "SELECT ?", "params": [1, 2]}, WRONG_BINDINGS),
    ({"sql": "SELECT 1", "params": [1]}, WRONG_BINDINGS),
    ({"sql": "SELECT ?; SELECT 1", "params": [1]}, ONLY_THE_LAST),
    ({"sql": "SELECT ?; SELECT ?", "params": [1]}, ONLY_THE_LAST),
    ({"sql": ""}, NO_STATEMENTS),
    ({"sql": " ;; "}, NO_STATEMENTS),
    ({"sql": "-- a comment"}, NO_STATEMENTS),
    ({"sql": "/* a comment */"}, NO_STATEMENTS),
    ({"batch": []}, NO_STATEMENTS),
    ({"batch": [{"sql": "SELECT 1"}, {"sql": ";"}]}, NO_STATEMENTS),
    ({"sql": "SELECT abs(?)", "params": [9007199254740993]}, ""),  # a double: no overflow
]

# D1's own text names classes of its runtime that do not exist here; ours says what to send
# instead, and begins with the same words.
TRANSACTION = "To execute a transaction, please "


@pytest.mark.parametrize(("body", "text"), BODIES, ids=lambda value: str(value)[:40])
async def test_texts_of_whole_bodies(nodes: HttpCluster, body: object, text: str) -> None:
    if nodes.primary.node.node.find("bodies") is None:
        await nodes.create("bodies")
    for node in nodes.nodes:
        reply = await node.rest("POST", "/bodies/query", body)
        if not text:
            assert reply.result
            continue
        status, code, message = reply.error
        assert (status, message) == (400, text)
        assert code in (7400, 7500)


@pytest.mark.parametrize("sql", ["BEGIN", "COMMIT", "SAVEPOINT x", "begin transaction"])
async def test_transactions_are_refused(nodes: HttpCluster, sql: str) -> None:
    if nodes.primary.node.node.find("begin") is None:
        await nodes.create("begin")
    for node in nodes.nodes:
        status, code, message = (await node.rest("POST", "/begin/query", {"sql": sql})).error
        assert (status, code) == (400, 7500)
        assert message.startswith(TRANSACTION)


async def test_a_failing_member_undoes_the_batch(nodes: HttpCluster) -> None:
    """As a batch, and as several statements in one text."""
    await nodes.create("undone", "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1)")
    insert, fails = "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (1)"
    for node in nodes.nodes:
        for body in (
            {"batch": [{"sql": insert}, {"sql": fails}]},
            {"sql": f"{insert}; {fails};"},
        ):
            status, code, message = (await node.rest("POST", "/undone/query", body)).error
            assert (status, code) == (400, 7500)
            assert message.startswith("UNIQUE constraint failed: t.a: SQLITE_CONSTRAINT")
        assert await node.rows("undone", "SELECT a FROM t") == [{"a": 1}]


@pytest.mark.parametrize(
    ("method", "call"), [("GET", "bookmark?timestamp=2026-01-31T00:00:00Z"), ("POST", "restore")]
)
async def test_time_travel_says_that_it_is_not_there(
    nodes: HttpCluster, method: str, call: str
) -> None:
    """These words are all that wrangler shows to somebody who wants a database back."""
    for node in nodes.nodes:
        status, code, message = (await node.rest(method, f"/any/time_travel/{call}")).error
        assert (status, code) == (404, 7404)
        assert message.startswith("Time Travel is not available here: nothing was changed.")
