"""Exports of real nodes: one snapshot, one at a time, stopped when nobody asks."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from d1server.transfers import exports, jobs
from d1server.transfers.bodies import EXPORT_BUSY, NOT_EXPORTING
from engine.dump import VIRTUAL_TABLE
from primary.database import PrimaryDatabase
from tests.cluster.running_cluster import Cluster, NodeUnderTest, running_cluster
from tests.waiting import EVENT_S_MAX, until


async def call(node: NodeUnderTest, body: object, db: str = "shop") -> dict[str, Any]:
    """One call; what stands in `result`."""
    reply = await node.administer("export", db, body)
    assert reply.status == 200, reply
    told: dict[str, Any] = json.loads(reply.answer.body)["result"]
    return told


async def exported(node: NodeUnderTest, **options: object) -> dict[str, Any]:
    """Export to the end, as D1's clients do."""
    body: dict[str, object] = {"output_format": "polling", "dump_options": options}
    told = await call(node, body)
    while told["success"] and told["status"] == "active":
        told = await call(node, body | {"current_bookmark": told["at_bookmark"]})
    return told


def text_of(cluster: Cluster, told: dict[str, Any]) -> str:
    """The file behind the signed URL."""
    name = told["result"]["signed_url"].rpartition("/")[2].partition("?")[0]
    found = cluster.primary.primary.transfers.exports.find(name)
    assert found is not None
    return found.file.read_text()


def is_later(marks: list[str], bookmark: str) -> bool:
    return bool(marks) and marks[-1] > bookmark


async def test_an_export_is_the_state_of_its_bookmark(tmp_path: Path) -> None:
    """An export beside writes holds exactly what was committed up to its bookmark.

    Method: write numbered rows all the time, each with its bookmark; export meanwhile; the
    rows in the file are those whose bookmarks are not newer than the export's.
    """
    async with running_cluster(tmp_path) as cluster:
        await cluster.add_primary()
        await cluster.create()
        await cluster.primary.run("CREATE TABLE t(n INTEGER PRIMARY KEY, filler TEXT)")
        marks: list[str] = []
        stops = asyncio.Event()

        async def write() -> None:
            while not stops.is_set():
                mark = await cluster.primary.run(
                    "INSERT INTO t(filler) VALUES (?)", f"row {len(marks)}" + "x" * 2000
                )
                marks.append(mark.text)

        writing = asyncio.create_task(write())
        for _ in range(4):
            told = await exported(cluster.primary)
            assert told["status"] == "complete", told
            assert told["result"]["filename"] == told["at_bookmark"] + ".sql"
            rows = text_of(cluster, told).count("INSERT INTO")
            await until(partial(is_later, marks, told["at_bookmark"]), "a later write")
            assert rows == sum(mark <= told["at_bookmark"] for mark in marks)
        stops.set()
        await writing


async def test_one_export_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second export of a database is refused with D1's text, until the first has ended.

    Method: answers are not held; the table takes longer to dump than the calls do.
    """
    monkeypatch.setattr(jobs, "HOLD_S", 0.0)
    async with running_cluster(tmp_path) as cluster:
        await cluster.add_primary()
        await cluster.create()
        await cluster.primary.run("CREATE TABLE t(a)")
        await cluster.primary.run(
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            " WHERE i < 300000) SELECT i FROM n"
        )
        first = await call(cluster.primary, {})
        assert first["status"] == "active"
        assert await call(cluster.primary, {}) == {
            "success": False,
            "error": EXPORT_BUSY,
            "errors": [EXPORT_BUSY],
            "messages": [],
        }
        told = first
        while told["status"] == "active":
            told = await call(cluster.primary, {"current_bookmark": first["at_bookmark"]})
            await asyncio.sleep(0.01)
        assert told["status"] == "complete", told
        assert text_of(cluster, told).count("INSERT INTO") == 300_000
        assert (await exported(cluster.primary, no_data=True))["status"] == "complete"
        wrong = await call(cluster.primary, {"current_bookmark": "0" * 59})
        assert wrong["error"] == NOT_EXPORTING


async def test_an_export_goes_an_hour_after_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file with it: nobody else removes that before the next start."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        assert (await exported(primary))["status"] == "complete"
        kept = primary.primary.transfers.exports
        (file,) = (tmp_path / "primary" / "exports").iterdir()
        kept.sweep()
        assert kept.find(file.name) is not None
        monkeypatch.setattr(exports, "KEPT_S", -1.0)
        kept.sweep()
        assert kept.find(file.name) is None
        assert not file.exists()


async def test_a_node_makes_few_exports_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes one of the few threads for long reads, for minutes."""
    monkeypatch.setattr(jobs, "HOLD_S", 0.0)
    monkeypatch.setattr(exports, "_ACTIVE_MAX", 1)
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        await cluster.create("other")
        await primary.run("CREATE TABLE t(a)")
        await primary.run(
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            " WHERE i < 500000) SELECT i FROM n"
        )
        assert (await call(primary, {}))["status"] == "active"
        reply = await primary.administer("export", "other", {})
        assert (reply.status, "try again later" in reply.message) == (503, True)
        assert (await primary.administer("delete", "shop")).status == 200
        assert (await call(primary, {}, "other"))["success"] is True


async def test_an_export_that_nobody_asks_about_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not keep its snapshot: a stop of the node, or a delete, does not wait for it."""
    monkeypatch.setattr(jobs, "HOLD_S", 0.0)
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        await cluster.primary.run("CREATE TABLE t(a)")
        await cluster.primary.run(
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            " WHERE i < 500000) SELECT i FROM n"
        )
        told = await call(primary, {})
        assert told["status"] == "active"
        monkeypatch.setattr(exports, "_UNASKED_S_MAX", 0.0)
        await asyncio.sleep(0.01)
        primary.primary.transfers.exports.sweep()
        poll = {"current_bookmark": told["at_bookmark"]}
        folder = tmp_path / "primary" / "exports"
        await until(lambda: not list(folder.iterdir()), "no file is left")
        ended = await call(primary, poll)
        assert (ended["status"], ended["error"]) == ("error", "the export was stopped")
        monkeypatch.setattr(exports, "_UNASKED_S_MAX", 60.0)
        assert (await call(primary, {}))["status"] == "active"
        reply = await primary.administer("delete", "shop")
        assert reply.status == 200
        assert not list(folder.iterdir())


async def test_an_export_that_is_stopped_before_it_begins_is_told(tmp_path: Path) -> None:
    """Its database is deleted in the same moment: whoever asked for it gets an answer."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        kept = primary.primary.transfers.exports
        database = primary.database()
        assert isinstance(database, PrimaryDatabase)
        asking = asyncio.create_task(kept.answer(database, b"{}"))
        forgetting = asyncio.create_task(kept.forget(database.uuid))
        await asyncio.wait([asking, forgetting], timeout=EVENT_S_MAX)
        assert asking.done()
        told = json.loads(asking.result().body)["result"]
        assert (told["status"], told["error"]) == ("error", "the export was stopped")


async def test_errors_are_told_as_d1_does(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        await cluster.create()
        await primary.run("CREATE VIRTUAL TABLE docs USING fts5(body)")
        told = await exported(primary)
        assert told["status"] == "error"
        assert told["error"] == VIRTUAL_TABLE
        assert (await exported(primary, tables=["nope"]))["error"].startswith("no such table: nope")
        bodies: list[object] = [{"output_format": "csv"}, {"dump_options": {"tables": "t"}}, []]
        for bad in bodies:
            assert (await primary.administer("export", "shop", bad)).status == 400
        assert (await primary.administer("export", "no-such", {})).status == 404


async def test_a_replica_hands_the_call_on(tmp_path: Path) -> None:
    """Any node takes the call; the URL in the answer is the primary's."""
    async with running_cluster(tmp_path) as cluster:
        await cluster.add_primary(public_url="https://db.example.com/d1")
        replica = await cluster.add_replica()
        await cluster.create()
        await cluster.primary.run("CREATE TABLE t(a)")
        await cluster.caught_up()
        told = await exported(replica)
        assert told["status"] == "complete"
        url = told["result"]["signed_url"]
        assert url.startswith("https://db.example.com/d1/signed/exports/")
        assert "CREATE TABLE t(a);" in text_of(cluster, told)
