"""kill -9 in the middle of an import: all of the file is there afterwards, or nothing."""

import asyncio
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from d1server.transfers.bodies import NOT_IMPORTING
from d1server.transfers.import_job import INTERRUPTED
from tests.torture.cluster import Cluster, open_cluster
from tests.waiting import EVENT_S_MAX

ROWS = 80_000
PATH = "/client/v4/accounts/any/d1/database/shop/import"


async def call(cluster: Cluster, path: str, body: object) -> Any:
    async with cluster.http.post(cluster.primary.url + path, json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
        return answer["result"]


async def rows_there(cluster: Cluster) -> int | None:
    """Rows of the file's table; None if it is not there."""
    body = {"sql": "SELECT name FROM sqlite_schema WHERE name IN ('t', 'by_text')"}
    found = (await call(cluster, "/db/shop/raw", body))[0]["results"]["rows"]
    if not found:
        return None
    assert len(found) == 2
    counted = await call(cluster, "/db/shop/raw", {"sql": "SELECT count(*) FROM t"})
    count: int = counted[0]["results"]["rows"][0][0]
    return count


async def finished(cluster: Cluster, body: dict[str, str]) -> Any:
    told = await call(cluster, PATH, body)
    while told["status"] == "active":
        poll = {"action": "poll", "current_bookmark": told["at_bookmark"]}
        told = await call(cluster, PATH, poll)
    return told


@pytest.mark.timeout(300)
async def test_a_primary_killed_in_an_import_has_all_of_it_or_nothing(tmp_path: Path) -> None:
    """The client is told which, the second try needs no upload, and the replica agrees.

    Method: wrangler's calls over REST. Upload once; begin, first with `ingest`, and kill the
    primary after ever longer times: until it had begun, and once when it had come further.
    """
    lines = [f"INSERT INTO t VALUES ({n}, 'this is row {n}');" for n in range(ROWS)]
    sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, text);\n" + "\n".join(lines)
    data = (sql + "\nCREATE INDEX by_text ON t(text);").encode()
    init = {"action": "init", "etag": hashlib.md5(data, usedforsecurity=False).hexdigest()}
    async with open_cluster(tmp_path, replicas=1) as cluster:
        await cluster.create("shop")
        told = await call(cluster, PATH, init)
        async with cluster.http.put(told["upload_url"], data=io.BytesIO(data)) as response:
            assert (response.status, response.headers["ETag"]) == (200, f'"{init["etag"]}"')
        ingest = {"action": "ingest", "filename": told["filename"], "etag": init["etag"]}
        after_s, begin, interrupted = 0.05, ingest, 0
        while interrupted < 2:
            assert after_s < EVENT_S_MAX, "it never begins"
            beginning = asyncio.create_task(call(cluster, PATH, begin))
            await asyncio.sleep(after_s)
            await cluster.primary.kill()
            await asyncio.wait([beginning])
            beginning.exception()  # most often the connection was lost
            await cluster.start()
            told = await call(cluster, PATH, {"action": "poll"})
            if told["success"] and told["status"] == "complete":
                break
            assert told["error"] in (INTERRUPTED, NOT_IMPORTING)
            assert await rows_there(cluster) is None
            if told["error"] == INTERRUPTED:
                interrupted += 1
                after_s, begin = 4 * after_s, init
            else:
                after_s *= 1.5
        assert interrupted
        if not told["success"] or told["status"] != "complete":
            told = await finished(cluster, init)
        assert told["status"] == "complete", told
        assert await rows_there(cluster) == ROWS
        await cluster.wait_equal()
