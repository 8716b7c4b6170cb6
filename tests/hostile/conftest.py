"""Two nodes for all tests of a file."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.engine.test_sandbox_attacks import SCHEMA
from tests.hostile.node_processes import Pair, node_pair

FILL = (
    "INSERT INTO many WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 2000)"
    " SELECT x, x FROM n"
)
HIDDEN = "_d1_idempotency"  # a table of the server that a node has


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with node_pair(tmp_path_factory.mktemp("hostile")) as pair:
        made = await pair.primary.post("/db", {"name": "shop"})
        assert made.status == 200, made
        one = {"idempotency-key": "one"}  # makes the hidden table
        reply = await pair.primary.post("/db/shop/query", {"sql": "CREATE TABLE k(a)"}, one)
        assert reply.status == 200, reply
        schema = {"sql": SCHEMA.replace("_d1_secret", HIDDEN)}
        reply = await pair.primary.post("/db/shop/query", schema)
        assert reply.status == 200, reply
        many = {"sql": "CREATE TABLE many(id INTEGER PRIMARY KEY, a)", "params": []}
        await pair.primary.post("/db/shop/query", many)
        reply = await pair.primary.post("/db/shop/query", {"sql": FILL})
        assert reply.status == 200, reply
        there = {"x-d1-bookmark": reply.bookmark, "x-d1-on-timeout": "error"}
        reply = await pair.replica.post("/db/shop/query", {"sql": "SELECT 1"}, there)
        assert reply.status == 200, reply
        await pair.unharmed()
        yield pair
        await pair.unharmed()
