"""A disk that stays full: reads go on, writes are told so at once, and nothing told is lost."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.full_disk.small_disk import call, run, small_disk
from tests.torture.cluster import open_cluster
from tests.waiting import EVENT_S_MAX, SOON_S_MAX

DISK_MIB = 128
FULL_S = 3.0
MANY = (
    "INSERT INTO t(data) WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 50) "
    "SELECT hex(randomblob(10000)) FROM n"
)
COUNT = "SELECT count(*) FROM t"


@pytest.mark.timeout(300)
async def test_reads_go_on_and_writes_come_back(tmp_path: Path) -> None:
    """What was acknowledged is there afterwards, on both nodes.

    Method: fill the primary's disk when SQLite's WAL has been used once, so that the log is the
    first to find no room; write and read for a while; give the room back; kill and compare.
    """
    with small_disk(tmp_path / "nodes" / "primary", DISK_MIB) as disk:
        async with open_cluster(tmp_path / "nodes", replicas=1) as cluster:
            await cluster.create("shop")
            await run(cluster, "CREATE TABLE t(id INTEGER PRIMARY KEY, data)")
            for _ in range(24):
                await run(cluster, MANY)
            disk.fill()
            acknowledged, refused = 24 * 50, 0
            ends, until = time.monotonic() + EVENT_S_MAX, 0.0
            while time.monotonic() < (until or ends):
                body = {"sql": "INSERT INTO t(data) VALUES (?)", "params": ["x" * 100_000]}
                began = time.monotonic()
                status, answer = await call(cluster, "raw", body)
                assert status in (200, 503), answer
                acknowledged += status == 200
                refused += status == 503
                if refused and not until:
                    until = time.monotonic() + FULL_S
                assert (await run(cluster, COUNT))[0][0] >= acknowledged
                assert time.monotonic() - began < SOON_S_MAX
            assert refused
            disk.empty()
            ends = time.monotonic() + EVENT_S_MAX
            while (await call(cluster, "raw", {"sql": "INSERT INTO t VALUES (NULL, 1)"}))[0] != 200:
                assert time.monotonic() < ends, cluster.primary.log_tail()
                await asyncio.sleep(0.05)
            await cluster.primary.kill()
            await cluster.start()
            assert (await run(cluster, COUNT))[0][0] >= acknowledged + 1
            await cluster.wait_equal()
            log = cluster.primary.log.read_text()
            assert log.count("is fenced and rebuilt") <= 4, cluster.primary.log_tail()
            assert "Traceback" not in log
