"""Exports and imports over HTTP: D1's calls, and the signed URLs that they lead to."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.web.real_nodes import open_pair

REST = "/client/v4/accounts/any/d1/database/shop"


class Caller:
    """A client of one node."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def post(self, path: str, body: object) -> Any:
        """Return `result` of a call that must succeed."""
        async with self.session.post(path, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer["result"]

    async def sql(self, text: str, db: str = "shop") -> list[list[Any]]:
        result = await self.post(f"/db/{db}/raw", {"sql": text})
        rows: list[list[Any]] = result[-1]["results"]["rows"]
        return rows

    async def finished(self, path: str, body: dict[str, Any]) -> Any:
        """Poll to the end, as D1's clients do."""
        told = await self.post(path, body)
        while told["success"] and told["status"] == "active":
            told = await self.post(path, body | {"current_bookmark": told["at_bookmark"]})
        return told

    async def get(self, url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        async with self.session.get(url, headers=headers) as response:
            names = {name.lower(): value for name, value in response.headers.items()}
            return response.status, names, await response.read()

    async def put(
        self, url: str, data: bytes | AsyncIterator[bytes], **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        async with self.session.put(url, data=data, headers=headers) as response:
            names = {name.lower(): value for name, value in response.headers.items()}
            return response.status, names, await response.read()


@asynccontextmanager
async def open_callers(folder: Path) -> AsyncIterator[tuple[Caller, Caller]]:
    """A client of a primary and one of its replica, with a database `shop`."""
    async with open_pair(folder) as addresses:
        primary, replica = (aiohttp.ClientSession(f"http://{address}") for address in addresses)
        async with primary, replica:
            await Caller(primary).post("/db", {"name": "shop"})
            yield Caller(primary), Caller(replica)


async def test_an_export_is_fetched_by_its_signed_url(tmp_path: Path) -> None:
    """Any node takes the call; the URL needs no token, and is good for that file only."""
    async with open_callers(tmp_path) as (primary, replica):
        await primary.sql("CREATE TABLE t(a TEXT); INSERT INTO t VALUES ('x'), ('é')")
        told = await replica.finished(REST + "/export", {"output_format": "polling"})
        assert told["status"] == "complete", told
        url = told["result"]["signed_url"]
        status, headers, body = await primary.get(url)
        assert status == 200
        assert headers["content-type"] == "application/sql"
        text = body.decode()
        assert text.startswith("PRAGMA defer_foreign_keys=TRUE;\nCREATE TABLE t(a TEXT);\nINSERT")
        assert text.endswith("VALUES('é');\n")

        status, headers, rest = await primary.get(url, Range="bytes=10-")
        assert (status, rest) == (206, body[10:])
        assert headers["content-range"] == f"bytes 10-{len(body) - 1}/{len(body)}"
        for bad in (
            url.replace("signature=", "signature=0"),
            url.replace("expires=", "expires=9"),
            url.replace("exports/", "exports/0"),
            url.partition("?")[0],
            url.partition("?")[0] + "?expires=x&signature=%ff",
        ):
            status, _, refusal = await primary.get(bad)
            assert status == 403
            assert b"7403" in refusal
        assert (await replica.get(url.partition("/signed")[1] + url.partition("/signed")[2]))[
            0
        ] == 404


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


async def test_a_file_is_uploaded_and_imported(tmp_path: Path) -> None:
    """As wrangler does it, through the replica: init, upload, ingest, poll."""
    async with open_callers(tmp_path) as (primary, replica):
        lines = [f"INSERT INTO t VALUES ({n}, '{n * 'é'}');" for n in range(1000)]
        data = ("CREATE TABLE t(a, b);\n" + "\n".join(lines)).encode()
        path, etag = REST + "/import", md5(data)
        told = await replica.post(path, {"action": "init", "etag": etag})
        assert told["uploaded_bytes"] == 0
        status, headers, _ = await primary.put(told["upload_url"], data)
        assert (status, headers["etag"]) == (200, f'"{etag}"')
        ingest = {"action": "ingest", "etag": etag, "filename": told["filename"]}
        told = await replica.finished(path, ingest)
        assert told["status"] == "complete", told
        assert told["result"]["num_queries"] == 1001
        assert await primary.sql("SELECT count(*), max(length(b)) FROM t") == [[1000, 999]]


async def test_an_upload_is_checked(tmp_path: Path) -> None:
    """Wrong bytes, a wrong URL: the file is not there, and can be sent again."""
    async with open_callers(tmp_path) as (primary, replica):
        data, path = b"CREATE TABLE t(a);", "/db/shop/import"
        told = await primary.post(path, {"action": "init", "etag": md5(data)})
        url = told["upload_url"]
        status, _, body = await primary.put(url, b"DROP TABLE t;" + data)
        assert (status, b"MD5" in body) == (400, True)
        ingest = {"action": "ingest", "etag": md5(data), "filename": told["filename"]}
        async with primary.session.post(path, json=ingest) as response:
            assert response.status == 400
        for bad in (
            url.replace("signature=", "signature=0"),
            url.replace("/imports/", "/exports/"),
            url.replace(md5(data), "0" * 32),
            url.partition("?")[0],
        ):
            status, _, body = await primary.put(bad, data)
            assert status in (403, 405), body
        status, _, _ = await replica.put("/signed/" + url.partition("/signed/")[2], data)
        assert status == 404
        assert (await primary.put(url, data))[0] == 200
        assert (await primary.finished(path, ingest))["status"] == "complete"


async def test_an_upload_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    """What has come is kept, also when the connection broke; the MD5 is that of the whole."""
    async with open_callers(tmp_path) as (primary, _):
        path = "/db/shop/import"
        data = b"CREATE TABLE t(a);\n" + b"INSERT INTO t VALUES (1);\n" * 100_000
        init = {"action": "init", "etag": md5(data)}
        url = (await primary.post(path, init))["upload_url"]

        async def broken() -> AsyncIterator[bytes]:
            yield data[:1_500_000]
            here = 0
            while not here:
                await asyncio.sleep(0.01)
                here = (await primary.post(path, init))["uploaded_bytes"]
            raise ConnectionResetError("on purpose")

        with pytest.raises(aiohttp.ClientError):
            await primary.put(url, broken(), **{"Content-Length": str(len(data))})
        await primary.put(url, b"", **{"Content-Range": "bytes 9999999-9999999/9999999"})
        have = (await primary.post(path, init))["uploaded_bytes"]
        assert 0 < have <= 1_500_000
        size, middle = len(data), (have + len(data)) // 2
        status, _, body = await primary.put(
            url, data[middle:], **{"Content-Range": f"bytes {middle}-{size - 1}/{size}"}
        )
        assert (status, b"go on from there" in body) == (400, True)
        status, _, body = await primary.put(
            url, data[have:middle], **{"Content-Range": f"bytes {have}-{middle - 1}/{size}"}
        )
        assert (status, b'"uploaded_bytes": %d' % middle in body) == (202, True)
        status, headers, _ = await primary.put(
            url, data[middle:], **{"Content-Range": f"bytes {middle}-{size - 1}/{size}"}
        )
        assert (status, headers["etag"]) == (200, f'"{md5(data)}"')
        told = await primary.finished(path, init)  # it is here: init begins
        assert told["result"]["num_queries"] == 100_001


async def test_wrong_bytes_of_an_interrupted_upload_are_found(tmp_path: Path) -> None:
    async with open_callers(tmp_path) as (primary, _):
        data = b"SELECT 1;" * 1000
        init = {"action": "init", "etag": md5(data)}
        url = (await primary.post("/db/shop/import", init))["upload_url"]
        piece = {"Content-Range": "bytes 0-99/9000"}
        assert (await primary.put(url, b"x" * 100, **piece))[0] == 202
        rest = {"Content-Range": "bytes 100-8999/9000"}
        status, _, body = await primary.put(url, data[100:], **rest)
        assert (status, b"MD5" in body) == (400, True)
        assert (await primary.post("/db/shop/import", init))["uploaded_bytes"] == 0
