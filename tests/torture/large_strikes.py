"""The primary killed with -9 in the middle of an upload, and in the middle of an import.

After each kill everything is started again, and then nothing of the file is to be seen: both
nodes have the tables, rows and checksum from before. What was uploaded is still there, so the
next try goes on behind it. Only a kill in the last moments, when the commit is on its way into
the log, may also find all of it afterwards; half of it never.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from tests.torture.cluster import Cluster, NodeProcess, NodeStatus, Trouble
from tests.torture.large_file import MIB, OBJECTS, LargeFile

DATABASE: Final = "first"
BEFORE: Final = "CREATE TABLE kept(id INTEGER PRIMARY KEY, text); INSERT INTO kept VALUES (1, 'a')"
UPLOAD_S_MAX: Final = 120.0
IMPORT_S_MAX: Final = 3600.0
_AHEAD: Final = 4 * MIB  # sent beyond what must have arrived: the node writes block by block
_POLL_S: Final = 0.02
_NAMES: Final = (
    "SELECT name FROM sqlite_schema WHERE substr(name, 1, 4) != '_d1_' "
    "AND substr(name, 1, 7) != 'sqlite_' ORDER BY name"
)
_KEPT: Final = "SELECT * FROM kept"


@dataclass(slots=True)
class Strikes:
    """Kills of the primary, one after the other."""

    cluster: Cluster
    http: aiohttp.ClientSession
    file: LargeFile
    rng: random.Random
    before_kill: Callable[[], None]
    say: Callable[[str], None]
    in_uploads: int = 0
    in_imports: int = 0
    _checksum: str | None = None

    async def prepare(self) -> None:
        """Put a table into the database, which every strike must leave as it is."""
        body = {"sql": BEFORE}
        async with self.http.post(self._path("query"), json=body) as response:
            if response.status != 200:
                raise Trouble(await response.text())
        await self.cluster.wait_equal()
        self._checksum = _checksum_of(await self.cluster.status(self.cluster.primary))

    async def in_upload(self) -> int:
        """Strike when the upload has come to a random place; how many bytes had arrived."""
        told = await self.call(action="init", etag=self.file.md5)
        start = told["uploaded_bytes"]
        wanted = start + self.rng.randrange(MIB, max(MIB + 1, (self.file.size - start) // 2))
        sending = asyncio.create_task(self._send(told["upload_url"], start, wanted + _AHEAD))
        try:
            async with asyncio.timeout(UPLOAD_S_MAX):
                while told["uploaded_bytes"] < wanted:
                    if sending.done():
                        raise Trouble(f"the upload ended early: {sending}")
                    await asyncio.sleep(_POLL_S)
                    told = await self.call(action="init", etag=self.file.md5)
            await self._kill()
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        await self._start_again()
        self.in_uploads += 1
        if not await self.has_nothing():
            raise Trouble("the file is there, and nobody imported it")
        told = await self.call(action="init", etag=self.file.md5)
        here: int = told["uploaded_bytes"]
        if here < wanted:
            raise Trouble(f"{wanted} bytes had arrived, {here} are left of them")
        self.say(f"killed in the upload: {here} bytes are kept, nothing is to be seen")
        return here

    async def in_import(self, share: float) -> bool:
        """Strike when about this share of the file has run, 1: all of it; whether it was undone."""
        if not await self._reached(share):
            return False
        await asyncio.sleep(self.rng.random() * 0.3)
        await self._kill()
        await self._start_again()
        self.in_imports += 1
        is_undone = await self.has_nothing()
        self.say(
            f"killed in the import at {share:.0%}: {'nothing' if is_undone else 'all'} is there"
        )
        return is_undone

    async def has_nothing(self) -> bool:
        """Whether both nodes are as before; False: both have all of the file.

        Raises Trouble for anything between.
        """
        found = {await self._has_nothing(node) for node in self.cluster.nodes}
        if len(found) > 1:  # it was done meanwhile: then the replica has it in a moment
            await self.cluster.wait_equal()
            return await self.has_nothing()
        return found.pop()

    async def call(self, **body: str) -> Any:
        """Make a call of the import protocol; `result` of the answer."""
        async with self.http.post(self._path("import"), json=body) as response:
            answer = await response.json()
            if response.status != 200:
                raise Trouble(f"import: {response.status} {answer}")
            return answer["result"]

    async def _has_nothing(self, node: NodeProcess) -> bool:
        checksum = _checksum_of(await self.cluster.status(node))
        names = [row[0] for row in await self._rows(node, _NAMES)]
        if await self._rows(node, _KEPT) != [[1, "a"]]:
            raise Trouble(f"{node.name} has lost a row that it had")
        if names == ["kept"]:
            if checksum not in (self._checksum, None):  # None: not opened yet
                raise Trouble(f"{node.name} has the checksum {checksum}, not {self._checksum}")
            return True
        if names != sorted(("kept", *OBJECTS)):
            raise Trouble(f"{node.name} has half of the file: {names}")
        await self._check_rows(node)
        return False

    async def _check_rows(self, node: NodeProcess) -> None:
        sql = "SELECT (SELECT count(*) FROM customers), count(*), sum(length(data)) FROM orders"
        wanted = [self.file.customers, self.file.orders, 50 * self.file.orders]
        if (found := await self._rows(node, sql)) != [wanted]:
            raise Trouble(f"{node.name} has {found[0]} customers, orders, bytes, not {wanted}")

    async def _rows(self, node: NodeProcess, sql: str) -> list[list[Any]]:
        headers = {"x-d1-bookmark": "first-unconstrained"}
        url = f"{node.url}/db/{DATABASE}/raw"
        async with self.http.post(url, json={"sql": sql}, headers=headers) as response:
            answer = await response.json()
            if response.status != 200:
                raise Trouble(f"{node.name}: {response.status} {answer}")
            rows: list[list[Any]] = answer["result"][0]["results"]["rows"]
            return rows

    async def _reached(self, share: float) -> bool:
        """Wait until so much of the file has run; False: it is through already."""
        async with asyncio.timeout(IMPORT_S_MAX):
            while True:
                told = await self.call(action="poll")
                if told.get("status") == "complete":
                    return False
                progress = told.get("progress", {"bytes_done": 0, "bytes_total": 0})
                done, total = progress["bytes_done"], progress["bytes_total"]
                if told.get("status") == "active" and total and done >= share * total:
                    return True
                await asyncio.sleep(_POLL_S)

    async def _send(self, url: str, start: int, end: int) -> None:
        """Upload the file from `start` to about `end`, and then hang."""
        headers = {"Content-Length": str(self.file.size - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{self.file.size - 1}/{self.file.size}"
        with contextlib.suppress(aiohttp.ClientError, OSError):  # it is killed under us
            async with self.http.put(url, data=self._pieces(start, end), headers=headers):
                pass

    async def _pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        with self.file.path.open("rb") as file:
            file.seek(start)
            while file.tell() < min(end, self.file.size - MIB):
                yield file.read(MIB // 4)
        await asyncio.sleep(UPLOAD_S_MAX)

    async def _kill(self) -> None:
        self.before_kill()
        await self.cluster.primary.kill()

    async def _start_again(self) -> None:
        await asyncio.sleep(self.rng.random() * 0.2)
        await self.cluster.start()

    def _path(self, call: str) -> str:
        return f"{self.cluster.primary.url}/db/{DATABASE}/{call}"


def _checksum_of(status: NodeStatus) -> str | None:
    return status.databases[DATABASE].checksum
