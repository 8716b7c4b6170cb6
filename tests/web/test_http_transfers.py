"""Exports and imports over HTTP: D1's calls, and the signed URLs that they lead to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

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
