"""The client against a real HTTP server that follows a script: API, sessions, faults."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from d1client import (
    D1Client,
    D1OutcomeUnknown,
    D1Refused,
    D1TypeError,
    D1Unavailable,
    RetryPolicy,
    connect,
)
from tests.d1client.scripted_node import (
    Answer,
    ScriptedNode,
    failure,
    open_scripted_node,
    rows,
    table,
)
from tests.free_ports import free_ports
from tests.waiting import EVENT_S_MAX

QUICK = RetryPolicy(
    tries_max=3, total_s_max=3 * EVENT_S_MAX, delay_s_first=0.001, delay_s_max=0.002
)
B1 = "00000001-00000000-00000001-" + "a" * 32
B2 = "00000001-00000000-00000002-" + "0" * 32
DROP = Answer(drop=True)


@pytest_asyncio.fixture
async def node() -> AsyncIterator[ScriptedNode]:
    async with open_scripted_node() as scripted:
        yield scripted


@pytest_asyncio.fixture
async def client(node: ScriptedNode) -> AsyncIterator[D1Client]:
    async with connect(node.url, retry=QUICK, timeout_s=EVENT_S_MAX) as opened:
        yield opened


async def test_rows_and_meta_come_back(node: ScriptedNode, client: D1Client) -> None:
    node.will(rows([{"id": 1, "photo": [1, 255]}]))
    result = await client.database("shop").prepare("SELECT * FROM t WHERE id = ?").bind(1).all()
    assert result.success
    assert result.results == [{"id": 1, "photo": [1, 255]}]
    assert (result.meta.served_by, result.meta.last_row_id, result.meta.rows_read) == ("n1", 7, 2)
    assert node.seen[0].path == "/db/shop/query"
    assert node.seen[0].body == {"sql": "SELECT * FROM t WHERE id = ?", "params": [1]}
    assert "x-d1-bookmark" not in node.seen[0].headers, "no session: the primary answers"


async def test_bind_gives_a_new_statement_and_translates_values(
    node: ScriptedNode, client: D1Client
) -> None:
    statement = client.database("a/b ä").prepare("INSERT INTO t VALUES (?,?,?,?,?,?,?)")
    bound = statement.bind(None, True, -5, 1.5, "é\0", b"\x00\xff", math.nan)
    assert statement.params == ()
    node.will(rows([]))
    await bound.run()
    assert node.seen[0].body["params"] == [None, True, -5, 1.5, "é\0", [0, 255], None]
    assert node.seen[0].path == "/db/a/b ä/query", "the name travels percent-encoded"


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "\ud800", object(), [1], {"a": 1}, 1j])
async def test_values_sql_cannot_hold_are_refused_before_sending(
    node: ScriptedNode, client: D1Client, value: object
) -> None:
    statement = client.database("shop").prepare("SELECT ?")
    with pytest.raises(D1TypeError, match="D1_TYPE_ERROR: parameter 2"):
        statement.bind(1, value)  # type: ignore[arg-type]
    assert node.seen == []


async def test_first_gives_a_row_a_value_or_none(node: ScriptedNode, client: D1Client) -> None:
    statement = client.database("shop").prepare("SELECT id, n FROM t")
    node.will(rows([{"id": 1, "n": "x"}]), rows([{"id": 1, "n": "x"}]), rows([]), rows([{"id": 1}]))
    assert await statement.first() == {"id": 1, "n": "x"}
    assert await statement.first("n") == "x"
    assert await statement.first("n") is None
    with pytest.raises(D1Refused, match="D1_COLUMN_NOTFOUND"):
        await statement.first("n")


async def test_raw_keeps_equal_names_and_can_name_the_columns(
    node: ScriptedNode, client: D1Client
) -> None:
    statement = client.database("shop").prepare("SELECT 1 AS a, 2 AS a")
    node.will(table(["a", "a"], [1, 2]), table(["a", "a"], [1, 2]))
    assert await statement.raw() == [[1, 2]]
    assert await statement.raw(column_names=True) == [["a", "a"], [1, 2]]
    assert node.seen[0].path == "/db/shop/raw"


async def test_batch_is_one_request_and_one_result_each(
    node: ScriptedNode, client: D1Client
) -> None:
    db = client.database("shop")
    insert = db.prepare("INSERT INTO t VALUES (?)")
    node.will(rows([], [{"n": 2}]))
    results = await db.batch([insert.bind(1), db.prepare("SELECT count(*) AS n FROM t")])
    assert [result.results for result in results] == [[], [{"n": 2}]]
    assert node.seen[0].body == {
        "batch": [
            {"sql": "INSERT INTO t VALUES (?)", "params": [1]},
            {"sql": "SELECT count(*) AS n FROM t", "params": []},
        ]
    }


async def test_exec_counts_statements_and_sums_their_time(
    node: ScriptedNode, client: D1Client
) -> None:
    node.will(rows([], []))
    done = await client.database("shop").exec("CREATE TABLE a (x);\nCREATE TABLE b (x)")
    assert (done.count, done.duration) == (2, 0.5)
    assert node.seen[0].body == {"sql": "CREATE TABLE a (x);\nCREATE TABLE b (x)"}


async def test_a_session_sends_the_largest_bookmark_it_has_seen(
    node: ScriptedNode, client: D1Client
) -> None:
    """Answers may come in any order; the session never goes back."""
    session = client.database("shop").with_session()
    assert session.get_bookmark() is None
    node.will(rows([], bookmark=B2), rows([], bookmark=B1), rows([]), rows([]))
    for _ in range(4):
        await session.prepare("SELECT 1").all()
    sent = [seen.headers["x-d1-bookmark"] for seen in node.seen]
    assert sent == ["first-unconstrained", B2, B2, B2]
    assert session.get_bookmark() == B2


async def test_a_session_continues_from_a_bookmark(node: ScriptedNode, client: D1Client) -> None:
    session = client.database("shop").with_session(B1)
    assert session.get_bookmark() == B1
    node.will(rows([], bookmark=B2))
    await session.batch([session.prepare("SELECT 1")])
    assert node.seen[0].headers["x-d1-bookmark"] == B1
    assert session.get_bookmark() == B2


@pytest.mark.parametrize("blank", ["", "  ", None])
async def test_a_blank_constraint_is_first_unconstrained(
    node: ScriptedNode, client: D1Client, blank: str | None
) -> None:
    node.will(rows([]))
    await client.database("shop").with_session(blank).prepare("SELECT 1").all()
    assert node.seen[0].headers["x-d1-bookmark"] == "first-unconstrained"


async def test_a_session_states_its_patience(node: ScriptedNode, client: D1Client) -> None:
    db = client.database("shop")
    session = db.with_session("first-primary", max_wait_s=0.25, on_timeout="error")
    node.will(rows([]))
    await session.prepare("SELECT 1").all()
    headers = node.seen[0].headers
    assert headers["x-d1-max-wait-ms"] == "250"
    assert headers["x-d1-on-timeout"] == "error"
    with pytest.raises(D1Refused, match="on_timeout"):
        db.with_session(on_timeout="never")


async def test_the_bookmark_of_an_error_counts_too(node: ScriptedNode, client: D1Client) -> None:
    session = client.database("shop").with_session()
    refusal = failure(400, "UNIQUE constraint failed: t.a: SQLITE_CONSTRAINT")
    refusal.headers["x-d1-bookmark"] = B1
    node.will(refusal)
    with pytest.raises(D1Refused, match=r"^UNIQUE constraint failed: t\.a") as caught:
        await session.prepare("INSERT INTO t VALUES (1)").run()
    assert caught.value.code == 7500
    assert session.get_bookmark() == B1


async def test_without_a_session_no_bookmark_is_kept(node: ScriptedNode, client: D1Client) -> None:
    db = client.database("shop")
    node.will(rows([], bookmark=B1), rows([]))
    await db.prepare("SELECT 1").all()
    await db.prepare("SELECT 1").all()
    assert "x-d1-bookmark" not in node.seen[1].headers


@pytest.mark.parametrize("sql", ["SELECT 1", "INSERT INTO t VALUES (1)"])
async def test_not_executed_is_repeated_even_for_a_write(
    node: ScriptedNode, client: D1Client, sql: str
) -> None:
    node.will(failure(503, "no primary", retry="true"), rows([{"a": 1}]))
    result = await client.database("shop").prepare(sql).run()
    assert result.results == [{"a": 1}]
    assert len(node.seen) == 2


async def test_retries_are_bounded_and_end_in_unavailable(
    node: ScriptedNode, client: D1Client
) -> None:
    node.will(*[failure(503, "no primary", retry="true") for _ in range(9)])
    with pytest.raises(D1Unavailable, match="no primary"):
        await client.database("shop").prepare("SELECT 1").all()
    assert len(node.seen) == QUICK.tries_max


async def test_the_server_has_the_last_word_against_retries(
    node: ScriptedNode, client: D1Client
) -> None:
    node.will(failure(503, "quorum timeout", retry="false"))
    with pytest.raises(D1OutcomeUnknown, match="quorum timeout"):
        await client.database("shop").prepare("SELECT 1").all()
    assert len(node.seen) == 1


async def test_a_lost_answer_of_a_read_is_asked_for_again(
    node: ScriptedNode, client: D1Client
) -> None:
    statement = client.database("shop").prepare("SELECT 1 AS a")
    node.will(DROP, rows([{"a": 1}]), DROP, rows([{"a": 1}]), DROP, table(["a"], [1]))
    assert (await statement.all()).results == [{"a": 1}]
    assert await statement.first("a") == 1
    assert await statement.raw() == [[1]]


@pytest.mark.parametrize(
    "sql",
    ["INSERT INTO t VALUES (1)", "SELECT 1; DELETE FROM t", "WITH a AS (SELECT 1) DELETE FROM t"],
)
async def test_a_lost_answer_of_a_write_is_reported_as_unknown(
    node: ScriptedNode, client: D1Client, sql: str
) -> None:
    """Whichever method the caller used: sending it again could do it twice."""
    node.will(DROP, DROP)
    statement = client.database("shop").prepare(sql)
    with pytest.raises(D1OutcomeUnknown, match=r"Network connection lost\."):
        await statement.run()
    with pytest.raises(D1OutcomeUnknown, match=r"Network connection lost\."):
        await statement.all()
    assert len(node.seen) == 2


async def test_run_of_a_read_is_not_repeated_after_a_lost_answer(
    node: ScriptedNode, client: D1Client
) -> None:
    node.will(DROP)
    with pytest.raises(D1OutcomeUnknown):
        await client.database("shop").prepare("SELECT 1").run()
    assert len(node.seen) == 1


async def test_an_idempotency_key_makes_a_write_repeatable(
    node: ScriptedNode, client: D1Client
) -> None:
    db = client.database("shop")
    insert = db.prepare("INSERT INTO t VALUES (1)")
    node.will(DROP, rows([]), DROP, rows([], []))
    await insert.run(idempotency_key="order-1")
    await db.batch([insert, insert], idempotency_key="order-2")
    keys = [seen.headers["idempotency-key"] for seen in node.seen]
    assert keys == ["order-1", "order-1", "order-2", "order-2"]


async def test_a_batch_of_reads_is_repeatable_and_one_with_a_write_is_not(
    node: ScriptedNode, client: D1Client
) -> None:
    db = client.database("shop")
    read, write = db.prepare("SELECT 1"), db.prepare("DELETE FROM t")
    node.will(DROP, rows([], []), DROP)
    await db.batch([read, read])
    with pytest.raises(D1OutcomeUnknown):
        await db.batch([read, write])
    assert len(node.seen) == 3


async def test_a_refused_connection_is_retried_until_the_node_is_back() -> None:
    """Nothing was sent, so even a write goes out again.

    Method: call a port where nobody listens, and open the node there while the client retries.
    """
    (port,) = free_ports(1)
    patient = RetryPolicy(
        tries_max=6000, total_s_max=EVENT_S_MAX, delay_s_first=0.01, delay_s_max=0.01
    )
    async with connect(f"http://127.0.0.1:{port}", retry=patient) as client:
        write = client.database("shop").prepare("INSERT INTO t VALUES (1)")
        written = asyncio.create_task(write.run())
        await asyncio.sleep(0.05)
        assert not written.done()
        async with open_scripted_node(port) as node:
            node.will(rows([]))
            await written
            assert len(node.seen) == 1


async def test_a_connection_refused_to_the_end_is_unavailable() -> None:
    """The caller learns that a write was surely not done."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with connect(url, retry=QUICK) as client:
            with pytest.raises(D1Unavailable, match=r"Network connection lost\."):
                await client.database("shop").prepare("INSERT INTO t VALUES (1)").run()


async def test_a_timeout_is_an_unknown_outcome_for_a_write(node: ScriptedNode) -> None:
    node.will(Answer(stall=True))
    async with connect(node.url, retry=QUICK, timeout_s=1.0) as client:
        with pytest.raises(D1OutcomeUnknown):
            await client.database("shop").prepare("DELETE FROM t").run()
    assert len(node.seen) == 1


async def test_an_answer_that_is_not_d1s_is_an_unknown_outcome(
    node: ScriptedNode, client: D1Client
) -> None:
    node.will(
        Answer(b"<html>"), Answer(b"<html>", status=418), Answer({"result": []}), Answer(b"\xff")
    )
    statement = client.database("shop").prepare("DELETE FROM t")
    with pytest.raises(D1OutcomeUnknown, match="not D1's JSON"):
        await statement.run()
    with pytest.raises(D1Refused, match="status 418"):
        await statement.run()
    with pytest.raises(D1OutcomeUnknown, match="no result"):
        await statement.run()
    with pytest.raises(D1OutcomeUnknown):
        await statement.run()


async def test_concurrent_queries_of_one_session_share_its_bookmark(
    node: ScriptedNode, client: D1Client
) -> None:
    session = client.database("shop").with_session("first-primary")
    node.will(*[rows([], bookmark=B1) for _ in range(8)])
    await asyncio.gather(*[session.prepare("SELECT 1").all() for _ in range(8)])
    assert session.get_bookmark() == B1


async def test_a_closed_client_can_be_used_again(node: ScriptedNode, client: D1Client) -> None:
    node.will(rows([]), rows([]))
    await client.database("shop").prepare("SELECT 1").all()
    await client.close()
    await client.database("shop").prepare("SELECT 1").all()
