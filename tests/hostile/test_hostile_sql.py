"""Hostile SQL against real processes, through every door: refused or stopped, and soon.

The list is that of `tests/engine/test_sandbox_attacks.py`, the bombs of `test_sandbox_bounds.py`.
"""

import asyncio
import re

import pytest

from tests.engine.test_sandbox_attacks import REFUSED
from tests.engine.test_sandbox_bounds import BOMBS, ENDLESS
from tests.hostile.conftest import HIDDEN
from tests.hostile.node_processes import DEADLINE_S, LATE_S, NodeProcess, Pair, Reply
from tests.rest.http_cluster import REST

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

HERE = {"x-d1-bookmark": "first-unconstrained"}  # the replica itself reads
BOUND = {"x-d1-database": "shop"}
DOORS = {
    "/db": ("/db/shop/query", {}),
    "/db here": ("/db/shop/raw", HERE),
    "REST": (f"{REST}/shop/query", {}),
    "REST here": (f"{REST}/shop/raw", HERE),
    "binding": ("/query?resultsFormat=ROWS_AND_COLUMNS", BOUND),
    "binding exec": ("/execute?resultsFormat=NONE", BOUND | HERE),
}
BIG = ",".join(["1"] * 45_000)
HEAVY = {  # much work that is no endless statement: short ones, long answers, long texts
    "many statements": "SELECT 1;" * 100_000,
    "many different statements": ";".join(f"SELECT {number}" for number in range(20_000)),
    "many numbers": f"{ENDLESS} SELECT x FROM n LIMIT 400000",
    "many blobs": f"{ENDLESS} SELECT zeroblob(100000) FROM n LIMIT 60",
    "long names": f'{ENDLESS} SELECT x AS "{"n" * 60_000}" FROM n LIMIT 100000',
    "long list": f"SELECT 1 WHERE 1 IN ({BIG})",
    "long program": f"EXPLAIN SELECT 1 WHERE abs(1) IN ({BIG})",
    "doubling": "SELECT a FROM "
    + "(SELECT a + a + a + a AS a FROM " * 7
    + "(SELECT 1 AS a)"
    + ")" * 7,
}


def is_refused(reply: Reply) -> bool:
    """By a 400 and a text, or by the binding's one object."""
    if isinstance(reply.json, dict) and "error" in reply.json:
        return reply.status == 200 and bool(reply.json["error"])
    return reply.status == 400 and bool(reply.json["errors"][0]["message"])


@pytest.mark.parametrize("door", DOORS)
async def test_attacks_are_refused(pair: Pair, door: str) -> None:
    """At both nodes; each answer comes in time."""
    path, headers = DOORS[door]
    attacks = [re.sub("_(d|D)1_(?i:secret)", rf"_\g<1>{HIDDEN[2:]}", sql) for sql in REFUSED]
    for node in pair:
        texts = [sql.replace("{folder}", str(node.folder / "cwd")) for sql in attacks]
        for at in range(0, len(texts), 4):
            some = texts[at : at + 4]
            replies = await asyncio.gather(*[node.post(path, {"sql": t}, headers) for t in some])
            for sql, reply in zip(some, replies, strict=True):
                assert is_refused(reply), (node.role, sql[:100], reply)
                assert reply.took_s < DEADLINE_S + LATE_S, (node.role, sql[:100])
    await pair.unharmed()


@pytest.mark.parametrize("name", BOMBS)
async def test_bombs_end_at_the_deadline(pair: Pair, name: str) -> None:
    """At both nodes at once, over REST and by the replica itself."""
    body = {"sql": BOMBS[name].replace(" t ", " many ")}
    asked = [
        ended(pair.primary, f"{REST}/shop/query", body, {}),
        ended(pair.replica, "/db/shop/query", body, HERE),
    ]
    for reply in await asyncio.gather(*asked):
        assert is_refused(reply), reply
    await pair.unharmed()


async def ended(node: NodeProcess, path: str, body: object, headers: dict[str, str]) -> Reply:
    """Ask for what never ends; it does."""
    reply = await node.post(path, body, headers)
    assert reply.took_s < DEADLINE_S + LATE_S
    return reply


@pytest.mark.parametrize("name", HEAVY)
async def test_heavy_work_holds_nobody_else_up(pair: Pair, name: str) -> None:
    """Done or refused, never a 5xx; `/livez` is asked all the while."""
    for path, headers in (("/db/shop/query", HERE), (f"{REST}/shop/raw", {})):
        for node in pair:
            reply = await node.post(path, {"sql": HEAVY[name]}, headers)
            assert reply.status == 200 or is_refused(reply), (node.role, reply)
    await pair.unharmed()


async def test_writes_that_never_end_are_undone(pair: Pair) -> None:
    """Also through the replica; the next write goes on at once."""
    for sql in (
        f"INSERT INTO k(a) {ENDLESS} SELECT x FROM n",
        f"CREATE TABLE endless AS {ENDLESS} SELECT zeroblob(1000) FROM n",
        f"UPDATE many SET a = ({ENDLESS} SELECT count(*) FROM n)",
        f"DELETE FROM many WHERE a < ({ENDLESS} SELECT count(*) FROM n)",
    ):
        for node in pair:
            reply = await ended(node, f"{REST}/shop/query", {"sql": sql}, {})
            assert is_refused(reply), reply
            reply = await node.post("/db/shop/query", {"sql": "SELECT count(*) AS n FROM k"})
            assert reply.json["result"][0]["results"] == [{"n": 0}]
    await pair.unharmed()
