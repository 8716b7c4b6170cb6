"""D1's REST API when nodes and links fail, and over a catalog of an older program."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from d1server.catalog import SELECT_COLUMNS, missing_columns
from d1server.web.serve import serving
from engine.transaction import steps_of
from proto.api import Statement, StatementResult
from tests.rest.http_cluster import REST, http_cluster
from tests.waiting import until
from tests.web.memory_node import MemoryNode


async def test_without_a_primary_nothing_is_done_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, `x-should-retry: true`: official clients then send the request again, writes too.

    Reads that any state satisfies are served all the same.
    """
    monkeypatch.setattr("replica.redial.HELD_S", 0.3)  # it does not come back
    async with http_cluster(tmp_path) as nodes:
        await nodes.create("shop", "CREATE TABLE t(a)")
        await nodes.cluster.primary.stop()
        replica = nodes.replica
        await until(lambda: not replica.node.is_following, "the replica misses its primary")
        for method, path, body in (
            ("POST", "", {"name": "x"}),
            ("GET", "", None),
            ("GET", "/shop", None),
            ("PATCH", "/shop", {}),
            ("DELETE", "/shop", None),
            ("POST", "/shop/query", {"sql": "INSERT INTO t VALUES (1)"}),
            ("POST", "/shop/raw", {"sql": "SELECT 1"}),
        ):
            reply = await replica.rest(method, path, body)
            assert reply.error[:2] == (503, 7500), (method, path)
            assert reply.headers["x-should-retry"] == "true"
            assert reply.headers["retry-after"] == "1"
        stale = {"x-d1-bookmark": "first-unconstrained"}
        body = {"sql": "SELECT count(*) AS n FROM t"}
        reply = await replica.call("POST", f"{REST}/shop/query", body, stale)
        assert reply.result[0]["results"] == [{"n": 0}]


async def test_a_lost_answer_is_not_to_be_sent_again(tmp_path: Path) -> None:
    """The write may have been done: 503, `x-should-retry: false`."""
    async with http_cluster(tmp_path) as nodes:
        await nodes.create("shop", "CREATE TABLE t(a)")
        link = nodes.replica.node.link
        forwarder = nodes.replica.node.replica._receiver.forwarder
        with link.held(to_primary=False):
            insert = {"sql": "INSERT INTO t VALUES (1)"}
            asking = asyncio.create_task(nodes.replica.rest("POST", "/shop/query", insert))
            await until(lambda: forwarder.waiting > 0, "the write is on its way")
            link.break_connections()
            reply = await asking
        assert reply.error[:2] == (503, 7500)
        assert reply.headers["x-should-retry"] == "false"


async def test_a_catalog_of_an_older_program_is_altered_when_the_primary_starts(
    tmp_path: Path,
) -> None:
    """Its databases stay, replicas follow it before and after, and new ones have it all."""
    async with http_cluster(tmp_path) as nodes:
        await nodes.create("old", "CREATE TABLE t AS SELECT 1 AS a")
        primary = nodes.cluster.primary.primary
        empty = StatementResult((), [], 0, 0, 0, 0, 0.0, False)
        columns = [statement.sql.split()[5] for statement in missing_columns(empty)]
        assert len(columns) == 5
        for column in columns:
            await primary.change_catalog(Statement(f"ALTER TABLE databases DROP COLUMN {column}"))
        old = (await nodes.replica.rest("GET", "/old")).result
        assert old["read_replication"] == {"mode": "auto"}
        assert old["version"] == "production"
        assert await nodes.replica.rows("old", "SELECT a FROM t") == [{"a": 1}]

        await nodes.cluster.primary.stop()
        await nodes.cluster.start_primary()
        again = nodes.cluster.primary.primary
        catalog = again.find_uuid(again._catalog_uuid)
        assert catalog is not None
        async with catalog.demand.used() as opened:
            known = (await opened.reads.run(steps_of([SELECT_COLUMNS])))[0]
        assert missing_columns(known) == []
        assert again.catalog.by_name["old"].id == old["uuid"]
        made = await nodes.cluster.primary.administer("create", body={"name": "new"})
        assert made.status == 200
        await until(lambda: nodes.replica.node.node.find("new") is not None, "the replica has it")
        assert nodes.replica.node.node.find("old") is not None


async def test_a_bug_is_told_to_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    """500 in D1's envelope, not to be sent again; the binding's client gets it as an error."""
    node = MemoryNode()
    async with (
        serving(node, "127.0.0.1", 0) as front,
        aiohttp.ClientSession(f"http://{front.address[0]}:{front.address[1]}") as http,
    ):
        for path in ("query", "raw"):
            async with http.post(f"{REST}/shop/{path}", json={"sql": "BUG"}) as response:
                assert response.status == 500
                assert response.headers["x-should-retry"] == "false"
                error = (await response.json())["errors"][0]
                assert error["code"] == 7500
                assert error["message"].startswith("internal error; reference = ")
        named = {"x-d1-database": "shop"}
        async with http.post("/query", json={"sql": "BUG"}, headers=named) as response:
            assert response.status == 200
            assert (await response.json())["error"].startswith("internal error; reference = ")
        assert "ZeroDivisionError" in caplog.text
    node.close()
