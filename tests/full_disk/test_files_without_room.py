"""No room for an upload, an import, an export: a clear error, and the room is given back."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from engine.files import ROOM_KEPT_BYTES
from tests.full_disk.small_disk import MIB, call, run, small_disk
from tests.torture.cluster import Cluster, open_cluster

DISK_MIB = 96
SLACK_BYTES = 3 * MIB  # logs, their next segments, SQLite's files


def file_of(mib: int) -> bytes:
    """A file of SQL that makes the table `large`."""
    row = "INSERT INTO large(data) VALUES ('" + "x" * 8000 + "');\n"
    sql = "CREATE TABLE large(id INTEGER PRIMARY KEY, data);\n" + row * (mib * MIB // len(row))
    return sql.encode()


async def uploaded(cluster: Cluster, data: bytes) -> tuple[int, Any, dict[str, str]]:
    """Send a file: status, answer, and the call that will ingest it."""
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    _, answer = await call(cluster, "import", {"action": "init", "etag": etag})
    told = answer["result"]
    async with cluster.http.put(told["upload_url"], data=io.BytesIO(data)) as response:
        ingest = {"action": "ingest", "etag": etag, "filename": told["filename"]}
        return response.status, await response.json(), ingest


async def ended(cluster: Cluster, kind: str, body: dict[str, Any]) -> Any:
    """Poll to the end."""
    told = (await call(cluster, kind, body))[1]["result"]
    poll = {"action": "poll"} if kind == "import" else body
    while told["status"] == "active":
        asked = poll | {"current_bookmark": told["at_bookmark"]}
        told = (await call(cluster, kind, asked))[1]["result"]
    return told


@pytest.mark.timeout(120)
async def test_files_for_which_there_is_no_room(tmp_path: Path) -> None:
    """Method: one node on a small disk; each time take the room that the next thing would need."""
    with small_disk(tmp_path / "nodes" / "primary", DISK_MIB) as disk:
        async with open_cluster(tmp_path / "nodes", replicas=1) as cluster:
            await cluster.create("shop")
            await run(cluster, "CREATE TABLE t(a)")
            data = file_of(14)

            disk.fill(leave=ROOM_KEPT_BYTES + 7 * MIB)
            before = disk.free_bytes
            status, answer, _ = await uploaded(cluster, data)
            assert status == 503, answer
            assert "no room for this file" in answer["errors"][0]["message"]
            assert disk.free_bytes > before - SLACK_BYTES
            await run(cluster, "INSERT INTO t VALUES (1)")
            disk.empty()

            status, answer, ingest = await uploaded(cluster, data)
            assert status == 200, answer
            disk.fill(leave=7 * MIB)
            before = disk.free_bytes
            told = await ended(cluster, "import", ingest)
            assert told["status"] == "error", told
            assert "full" in told["error"]
            assert await run(cluster, "SELECT name FROM sqlite_schema WHERE name = 'large'") == []
            assert disk.free_bytes > before - SLACK_BYTES
            await run(cluster, "INSERT INTO t VALUES (2)")
            disk.empty()

            told = await ended(cluster, "import", ingest)  # the file is still there
            assert told["status"] == "complete", told
            disk.fill(leave=ROOM_KEPT_BYTES + 7 * MIB)
            before = disk.free_bytes
            told = await ended(cluster, "export", {"output_format": "polling"})
            assert told["status"] == "error", told
            assert "no room for the export" in told["error"]
            assert disk.free_bytes > before - SLACK_BYTES
            await run(cluster, "INSERT INTO t VALUES (3)")
            disk.empty()

            told = await ended(cluster, "export", {"output_format": "polling"})
            assert told["status"] == "complete", told
            assert await run(cluster, "SELECT * FROM t") == [[1], [2], [3]]
            await cluster.wait_equal()
            assert "Traceback" not in cluster.primary.log.read_text()
