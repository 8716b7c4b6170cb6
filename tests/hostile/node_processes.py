"""A primary and a replica as processes of their own, watched while somebody is hostile to them.

Watched are the files in and around their folders, how soon `/livez` answers, and their memory.
"""

import asyncio
import io
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
import orjson
import psutil

from tests.stopwatch import Stopwatch
from tests.waiting import EVENT_S_MAX
from tests.web.real_nodes import free_addresses

DEADLINE_S = 0.6  # of a query, as the nodes are told
LATE_S = 1.5  # for which a node may work on an answer after it
LIVEZ_S_MAX = 2.0  # of work, too: what the machine does otherwise counts for nothing
RSS_BYTES_MAX = 1000 * 2**20
TEXT_MAX = 2**20
KEPT = {"node.toml", "node.db", "node.db-journal", "lock", "transfer.key"}
ROOT = Path(__file__).parents[2]


class Reply(NamedTuple):
    """One answer, and how long the node worked for it."""

    status: int
    json: Any
    took_s: float
    bookmark: str = ""


class NodeProcess:
    """One node, its folder and its address."""

    def __init__(self, folder: Path, role: str, port: int, http: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.role = role
        self.address = ("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes]
        self.livez_s_max = 0.0
        self.rss_bytes_max = 0
        self._http = http

    def start(self, *flags: str) -> Self:
        """Start it, in an empty working directory with a folder of its own for temporary files."""
        for name in ("cwd", "tmp"):
            (self.folder / name).mkdir(parents=True)
        command = [sys.executable, "-m", "d1server", self.role, "--data-dir"]
        command += [str(self.folder / "data"), "--listen", self.url.removeprefix("http://")]
        command += ["--query-deadline-s", str(DEADLINE_S), *flags]
        temporary = str(self.folder / "tmp")
        env = {**os.environ, "TMPDIR": temporary, "SQLITE_TMPDIR": temporary}
        if self.role == "replica":
            env["AIOHTTP_NO_EXTENSIONS"] = "1"  # aiohttp's other parser, where it cannot be built
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder / "cwd",
                env={**env, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(EVENT_S_MAX) == 0

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    async def post(
        self, path: str, body: object, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send JSON, or bytes as they are."""
        data = io.BytesIO(body if isinstance(body, bytes) else orjson.dumps(body))
        watch = self.watch()
        async with self._http.post(self.url + path, data=data, headers=headers) as response:
            text = await response.read()
            took_s = watch.seconds
            # Taking a long one apart would hold up this process, which looks at the nodes.
            found = orjson.loads(text) if len(text) <= TEXT_MAX else {"success": True}
            return Reply(response.status, found, took_s, response.headers.get("x-d1-bookmark", ""))

    def watch(self) -> Stopwatch:
        """Begin to count what the node works."""
        return Stopwatch(self.process.pid)

    async def rows(self, sql: str) -> Any:
        """Read as anybody would; the rows."""
        reply = await self.post("/db/shop/query", {"sql": sql})
        assert reply.status == 200, reply
        return reply.json["result"][-1]["results"]

    def strange_files(self) -> set[str]:
        """Files that a node does not make."""
        found = {path for path in self.folder.rglob("*") if path.is_file()}
        data = self.folder / "data"
        expected = {data / name for name in KEPT} | {self.folder / "log"}
        databases = {path for path in found if _is_of_a_database(path.relative_to(self.folder))}
        return {str(path.relative_to(self.folder)) for path in found - expected - databases}

    async def look(self) -> None:
        """Ask whether the node is alive, and note how long that took and how large it is."""
        watch = self.watch()
        async with self._http.get(self.url + "/livez") as response:
            assert response.status == 200
        self.livez_s_max = max(self.livez_s_max, watch.seconds)
        rss = psutil.Process(self.process.pid).memory_info().rss
        self.rss_bytes_max = max(self.rss_bytes_max, rss)

    async def until_ready(self) -> None:
        ends = time.monotonic() + EVENT_S_MAX
        while True:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < ends, self.log
            try:
                async with self._http.get(self.url + "/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # not listening yet
            await asyncio.sleep(0.05)


def _is_of_a_database(path: Path) -> bool:
    parts = path.parts
    if parts[:2] != ("data", "databases") or len(parts) < 4:
        return False
    return parts[3] in ("db.sqlite", "db.sqlite-wal", "db.sqlite-shm", "base", "log")


class Pair(NamedTuple):
    """The two nodes."""

    primary: NodeProcess
    replica: NodeProcess

    async def unharmed(self) -> None:
        """Both answer a read, no strange file is there, and nothing took too long or too much."""
        for node in self:
            assert await node.rows("SELECT a FROM t ORDER BY id") == [{"a": "one"}, {"a": "two"}]
            strange = node.strange_files()
            assert not strange, (node.role, strange)
            slowest, node.livez_s_max = node.livez_s_max, 0.0
            assert slowest < LIVEZ_S_MAX, node.role
            assert node.rss_bytes_max < RSS_BYTES_MAX, node.role
            assert "Traceback" not in node.log, node.log[-4000:]


@asynccontextmanager
async def node_pair(folder: Path) -> AsyncIterator[Pair]:
    """Run both, looked at all the time."""
    primary_at, link_at, replica_at = free_addresses(3)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        primary = NodeProcess(folder / "primary", "primary", primary_at.port, http)
        replica = NodeProcess(folder / "replica", "replica", replica_at.port, http)
        pair = Pair(primary, replica)
        primary.start("--replication", str(link_at))
        try:
            await primary.until_ready()
            replica.start("--primary", str(link_at))
            try:
                await replica.until_ready()
                looking = asyncio.create_task(_look_on(pair))
                yield pair
                looking.cancel()
                await asyncio.wait([looking])
                assert looking.cancelled(), looking.exception()
            finally:
                replica.stop()
        finally:
            primary.stop()


async def _look_on(pair: Pair) -> None:
    while True:
        await asyncio.gather(*[node.look() for node in pair])
        await asyncio.sleep(0.05)
