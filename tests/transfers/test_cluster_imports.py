"""Imports into real nodes: one transaction each, whatever happens meanwhile."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from d1server.transfers import jobs
from d1server.transfers.bodies import IMPORT_BUSY, NOT_IMPORTING
from d1server.transfers.import_job import INTERRUPTED
from tests.cluster.running_cluster import Cluster, NodeUnderTest, running_cluster
from tests.transfers.test_cluster_exports import exported, text_of
from tests.waiting import until


async def call(node: NodeUnderTest, body: object, db: str = "shop") -> dict[str, Any]:
    """One call; what stands in `result`."""
    reply = await node.administer("import", db, body)
    assert reply.status == 200, reply
    told: dict[str, Any] = json.loads(reply.answer.body)["result"]
    return told


async def uploaded(node: NodeUnderTest, sql: str, db: str = "shop") -> dict[str, Any]:
    """Ask where to, and put the file there as HTTP would; the body that ingests it."""
    data = sql.encode()
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    told = await call(node, {"action": "init", "etag": etag}, db)
    assert told["upload_url"].partition("?")[0].endswith(told["filename"])

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 100_000):
            yield data[at : at + 100_000]

    uploads = node.primary.transfers.imports.uploads
    await uploads.receive(told["filename"], etag, chunks(), at=0, is_last=True)
    return {"action": "ingest", "etag": etag, "filename": told["filename"]}


async def polled(node: NodeUnderTest, told: dict[str, Any], db: str = "shop") -> dict[str, Any]:
    while told["success"] and told["status"] == "active":
        told = await call(node, {"action": "poll", "current_bookmark": told["at_bookmark"]}, db)
    return told


async def imported(node: NodeUnderTest, sql: str, db: str = "shop") -> dict[str, Any]:
    """Import to the end, as D1's clients do."""
    return await polled(node, await call(node, await uploaded(node, sql, db), db), db)


def many_rows(count: int) -> str:
    lines = [f"INSERT INTO t VALUES ({n}, 'row {n}');" for n in range(count)]
    return "CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT);\n" + "\n".join(lines)


async def test_an_import_is_one_commit_everywhere(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        await cluster.add_primary()
        await cluster.add_replica()
        await cluster.create()
        before = cluster.primary.database().durable
        told = await imported(cluster.primary, many_rows(2000))
        assert (told["status"], told["errors"]) == ("complete", [])
        assert "error" not in told
        assert told["messages"] == ["Processed 2001 queries."]
        assert told["at_bookmark"] == before.text
        result = told["result"]
        head = cluster.primary.database().durable
        assert (result["num_queries"], result["final_bookmark"]) == (2001, head.text)
        assert head.seq == before.seq + 1
        meta = result["meta"]
        assert (meta["changes"], meta["served_by"]) == (2000, "primary")
        assert (meta["rows_read"], meta["rows_written"]) == (2001, 2002)  # with those of the schema
        assert meta["size_after"] == cluster.primary.shown()["size_bytes"]
        assert isinstance(meta["duration"], float)
        await cluster.equal()
        assert not list((tmp_path / "primary" / "imports").iterdir())
        # The answer stays: a poll whose answer was lost is asked again.
        again = await call(
            cluster.primary, {"action": "poll", "current_bookmark": told["at_bookmark"]}
        )
        assert again == told


async def test_what_is_exported_imports_to_equal_content(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create("one")
        await cluster.create("two")
        await imported(primary, many_rows(500), "one")
        await primary.run("CREATE VIEW v AS SELECT * FROM t; CREATE INDEX i ON t(text)", db="one")
        await primary.run("INSERT INTO t(text) VALUES (CAST(x'61ff62' AS TEXT)), (x'ff')", db="one")

        async def dump(db: str) -> str:
            reply = await primary.administer("export", db, {})
            return text_of(cluster, json.loads(reply.answer.body)["result"])

        text = await dump("one")
        told = await imported(primary, text, "two")
        assert told["status"] == "complete", told
        assert await dump("two") == text
        assert (await primary.sql("SELECT count(*) FROM v", db="two")).value == 502
        odd = "SELECT group_concat(typeof(text) || hex(text)) FROM t WHERE id >= 500"
        assert (await primary.sql(odd, db="two")).value == "text61FF62,blobFF"


@pytest.mark.parametrize(
    ("sql", "error", "hint"),
    [
        ("CREATE TABLE t(a);\nSELEC 1;", 'near "SELEC": syntax error', "statement 2, line 2"),
        ("CREATE TABLE t(a); INSERT INTO no VALUES (1)", "no such table: no", "statement 2, line"),
        ("-- nothing", "No SQL statements detected.", "line 0"),
        ("CREATE TABLE _cf_x(a)", "not authorized: SQLITE_AUTH", "statement 1, line 1: "),
    ],
)
async def test_a_refused_file_leaves_nothing(
    tmp_path: Path, sql: str, error: str, hint: str
) -> None:
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        before = primary.database().durable
        told = await imported(primary, sql)
        assert told["status"] == "error"
        assert told["error"].startswith(error)
        assert told["errors"] == [told["error"]]
        assert told["messages"][-1].startswith(hint)
        assert primary.database().durable == before
        assert not list((tmp_path / "primary" / "imports").iterdir())
        assert (await imported(primary, many_rows(1)))["status"] == "complete"


async def test_calls_out_of_turn_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One import at a time; files of other databases and names that nobody gave are refused."""
    monkeypatch.setattr(jobs, "HOLD_S", 0.0)
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        await cluster.create("other")
        assert (await call(primary, {"action": "poll"}))["error"] == NOT_IMPORTING
        first = await uploaded(primary, many_rows(30_000))
        second = await uploaded(primary, "SELECT 1")
        bad: list[object] = [
            {"action": "ingest", "filename": "../../node.toml"},
            {"action": "ingest", "filename": first["filename"].replace(".sql", "")},
            {"action": "ingest", "filename": first["filename"].replace(".", "/../", 1)},
            {"action": "init", "etag": "xyz"},
            {"action": "init"},
            {"action": "other"},
            {},
        ]
        for body in bad:
            assert (await primary.administer("import", "shop", body)).status == 400, body
        assert (await primary.administer("import", "other", first)).status == 400
        told = await call(primary, first)
        assert told["status"] == "active"
        assert (await call(primary, second))["error"] == IMPORT_BUSY
        assert (await call(primary, first))["at_bookmark"] == told["at_bookmark"]  # the same one
        monkeypatch.setattr(jobs, "HOLD_S", 1.0)
        assert (await polled(primary, told))["status"] == "complete"
        assert (await polled(primary, await call(primary, second)))["status"] == "complete"


async def test_a_file_that_is_ingested_twice_at_once_runs_once(tmp_path: Path) -> None:
    """A client that asks again at once, before the first import of a database is noted."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        await primary.run("CREATE TABLE u(a)")
        body = await uploaded(primary, "INSERT INTO u VALUES (1);" * 1000)
        twice = await asyncio.gather(call(primary, body), call(primary, body))
        assert twice[0]["filename"] == twice[1]["filename"]
        for told in twice:
            assert (await polled(primary, told))["status"] == "complete"
        assert (await primary.sql("SELECT count(*) FROM u")).value == 1000


async def test_an_import_that_cannot_be_noted_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room in `node.db` when it begins: refused, and the next one is not told to wait for it."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        body = await uploaded(primary, many_rows(10))

        async def full(*_: object) -> None:
            raise aiosqlite.OperationalError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(primary.primary.transfers.imports.db, "run", full)
            reply = await primary.administer("import", "shop", body)
            assert (reply.status, "disk is full" in reply.message) == (503, True)
        assert (await polled(primary, await call(primary, body)))["status"] == "complete"


async def test_writes_wait_for_an_import_and_reads_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that has waited as long as a request may take is told that nothing was done."""
    monkeypatch.setattr(jobs, "HOLD_S", 0.0)
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary(query_deadline_s=2.0)
        await cluster.create()
        await primary.run("CREATE TABLE u(a)")
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        body = await uploaded(primary, f"DELETE FROM u; {endless} SELECT max(i) FROM n;")
        await call(primary, body)
        imports = primary.primary.transfers.imports
        job = imports._newest[primary.database().uuid]
        await until(lambda: job.source is not None and job.source.line > 0, "the import has begun")
        late = await primary.sql("INSERT INTO u VALUES (1)")
        assert late.status == 503
        assert late.message == "D1 DB is overloaded. Requests queued for too long."
        assert late.answer.should_retry is True
        assert (await primary.sql("SELECT count(*) FROM u")).value == 0
        reply = await primary.administer("delete", "shop")  # does not wait for the import's end
        assert reply.status == 200
        assert not list((tmp_path / "primary" / "imports").iterdir())


async def test_a_stop_interrupts_an_import_and_the_next_try_begins_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle: nothing is there, the client is told, the file is still here."""
    monkeypatch.setattr(jobs, "HOLD_S", 0.0)
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        body = await uploaded(primary, many_rows(60_000))
        told = await call(primary, body)
        await asyncio.sleep(0.05)
        await primary.stop()
        await primary.start()
        ended = await call(primary, {"action": "poll", "current_bookmark": told["at_bookmark"]})
        assert (ended["status"], ended["error"]) == ("error", INTERRUPTED)
        assert (await primary.sql("SELECT name FROM sqlite_schema")).rows == []
        told = await call(primary, {"action": "init", "etag": body["etag"]})
        assert "upload_url" not in told
        monkeypatch.setattr(jobs, "HOLD_S", 1.0)
        assert (await polled(primary, told))["status"] == "complete"
        assert (await primary.sql("SELECT count(*) FROM t")).value == 60_000


async def test_an_import_that_nobody_heard_of_was_done(tmp_path: Path) -> None:
    """The server ends between the commit and the note of it: the database itself knows.

    Method: take the note back, as if the process had ended before it was written.
    """
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        body = await uploaded(primary, many_rows(10))
        done = await polled(primary, await call(primary, body))
        db = primary.primary.transfers.imports.db
        await db.run("UPDATE imports SET status = 'active', result = 'null'")
        await primary.stop()
        await primary.start()
        told = await call(primary, {"action": "init", "etag": body["etag"]})
        assert (told["status"], told["result"]["num_queries"]) == ("complete", 11)
        assert told["result"]["final_bookmark"] == done["result"]["final_bookmark"]
        again = await call(primary, {"action": "init", "etag": body["etag"]})
        assert "upload_url" in again  # now it is another import


async def test_damaged_bookkeeping_is_put_aside(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        await primary.stop()
        (tmp_path / "primary" / "node.db").write_bytes(b"no database" * 1000)
        await primary.start()
        assert (tmp_path / "primary" / "node.db.damaged").exists()
        assert (await imported(primary, "CREATE TABLE t(a)"))["status"] == "complete"


async def test_a_replica_hands_the_calls_on(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        await cluster.add_primary(public_url="https://db.example.com")
        replica = await cluster.add_replica()
        await cluster.create()
        body = await uploaded(cluster.primary, "CREATE TABLE t(a)")
        await cluster.caught_up()
        told = await call(replica, {"action": "init", "etag": "0" * 32})
        assert told["upload_url"].startswith("https://db.example.com/signed/imports/")
        assert (await polled(replica, await call(replica, body)))["status"] == "complete"
        assert (await exported(replica))["status"] == "complete"
        _assert_no_upload_left(cluster)


def _assert_no_upload_left(cluster: Cluster) -> None:
    assert not list((cluster.folder / "primary" / "imports").iterdir())
