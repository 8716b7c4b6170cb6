"""`python -m tests.torture.large_import --mib N`: a large file in, out, and in again.

A primary and a replica. A file of N MiB is made, uploaded and imported as one transaction
while short reads go on at both nodes; the replica must follow. Then it is exported, and the
export imported into a second database, whose own export must be the same text.

Prints progress, and the figures as one line of JSON. Exits with 1 if a promise is broken: the
content differs, or a process held more than MEMORY_BYTES_MAX in RAM.
"""

import argparse
import asyncio
import contextlib
import hashlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from tests.torture.cluster import Cluster, NodeProcess, Trouble, open_cluster

MIB = 1024 * 1024
MEMORY_BYTES_MAX = 300 * MIB
CAUGHT_UP_S_MAX = 1800.0
BLOCK_BYTES = 1 * MIB
READ_EVERY_S = 0.05
WORDS = ("alpha", "beta", "gamma", "it''s", "semi;colon", "line")

SCHEMA = """PRAGMA defer_foreign_keys=TRUE;
CREATE TABLE customers(id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, city TEXT);
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer REFERENCES customers(id), amount REAL,
  note TEXT, data BLOB);
"""
INDEXES = """CREATE INDEX orders_by_customer ON orders(customer);
CREATE VIEW totals AS SELECT customer, sum(amount) AS total FROM orders GROUP BY customer;
"""


@dataclass(slots=True)
class Figures:
    """What a run came to. Peaks are of RAM, in MiB, from just before the import on."""

    mib: int
    statements: int = 0
    upload_s: float = 0.0
    import_s: float = 0.0
    replica_s: float = 0.0  # from the import's end until the replica has it
    export_s: float = 0.0
    second_import_s: float = 0.0
    primary_start_mib: int = 0
    replica_start_mib: int = 0
    primary_peak_mib: int = 0
    replica_peak_mib: int = 0
    primary_peak_all_mib: int = 0  # with the export and the second import
    replica_peak_all_mib: int = 0
    slowest_read_s: dict[str, float] = field(default_factory=dict)
    reads: int = 0
    problems: list[str] = field(default_factory=list)


def make_file(path: Path, size: int, seed: int) -> int:
    """Write about `size` bytes of SQL; how many statements."""
    rng = random.Random(seed)
    customers = max(10, size // 20_000)
    with path.open("w", encoding="utf-8") as file:
        file.write(SCHEMA)
        for number in range(1, customers + 1):
            word = rng.choice(WORDS)
            file.write(
                f"INSERT INTO customers VALUES({number},'{rng.getrandbits(64):x}','{word}');\n"
            )
        number, written = 0, file.tell()
        while written < size:
            number += 1
            line = (
                f"INSERT INTO orders VALUES({number},{rng.randrange(customers) + 1},"
                f"{rng.random() * 1000!r},replace('{rng.choice(WORDS)}\\n{number}','\\n',char(10)),"
                f"X'{rng.getrandbits(400):0100x}');\n"
            )
            file.write(line)
            written += len(line)
        file.write(INDEXES)
    return 3 + customers + number + 2


def md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory_of(pid: int, what: str) -> int:
    """What the kernel says of a process's memory, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) // 1024
    raise Trouble(f"no {what} of process {pid}")


class Run:
    """One run on a cluster."""

    def __init__(self, cluster: Cluster, figures: Figures) -> None:
        self.cluster = cluster
        self.figures = figures
        self.started = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
        self.http = aiohttp.ClientSession(timeout=timeout)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:7.1f} s] {text}", flush=True)

    async def call(self, path: str, body: object) -> Any:
        """Send a call to the primary; `result` of its answer."""
        async with self.http.post(self.cluster.primary.url + path, json=body) as response:
            answer = await response.json()
            if response.status != 200 or not answer["result"]["success"]:
                raise Trouble(f"{path}: {response.status} {answer}")
            return answer["result"]

    async def polled(self, path: str, body: dict[str, Any], poll: dict[str, Any]) -> Any:
        """Call, then poll to the end."""
        told, shown = await self.call(path, body), 0.0
        while told["status"] == "active":
            if time.monotonic() > shown + 10:
                shown = time.monotonic()
                self.say(f"{told['messages']} {told.get('progress', '')}")
            told = await self.call(path, poll | {"current_bookmark": told["at_bookmark"]})
        if told["status"] != "complete":
            raise Trouble(f"{path}: {told}")
        return told

    async def load(self, database: str, path: Path) -> tuple[float, float]:
        """Upload and import a file; how long each took."""
        calls = f"/db/{database}/import"
        init = {"action": "init", "etag": md5_of(path)}
        told = await self.call(calls, init)
        started = time.monotonic()
        with path.open("rb") as file:
            async with self.http.put(told["upload_url"], data=file) as response:
                if response.status != 200:
                    raise Trouble(f"upload: {response.status} {await response.text()}")
        uploaded = time.monotonic()
        self.say(f"uploaded to {database}")
        told = await self.polled(calls, init, {"action": "poll"})
        self.say(f"imported: {told['result']}")
        return uploaded - started, time.monotonic() - uploaded

    async def export(self, database: str, path: Path) -> float:
        """Export a database to a file; how long that took."""
        started = time.monotonic()
        asked = {"output_format": "polling"}
        told = await self.polled(f"/db/{database}/export", asked, asked)
        async with self.http.get(told["result"]["signed_url"]) as response:
            with path.open("wb") as file:
                async for chunk in response.content.iter_chunked(BLOCK_BYTES):
                    file.write(chunk)
        self.say(f"exported {database}")
        return time.monotonic() - started

    async def equal(self) -> None:
        """Wait until the replica has all that the primary has, with the same checksum."""
        async with asyncio.timeout(CAUGHT_UP_S_MAX):
            while difference := await self.cluster._difference(self.cluster.replicas[0]):
                self.say(difference)
                await asyncio.sleep(0.5)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read a row from both nodes all the time; the slowest answer goes into the figures."""
        tasks = [asyncio.create_task(self._read(node)) for node in self.cluster.nodes]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _read(self, node: NodeProcess) -> None:
        slowest = self.figures.slowest_read_s
        headers = {"x-d1-bookmark": "first-unconstrained"}
        while True:
            began = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with self.http.post(
                    f"{node.url}/db/first/query", json={"sql": "SELECT 1"}, headers=headers
                ) as response:
                    await response.read()
            took = round(time.monotonic() - began, 3)
            slowest[node.name] = max(slowest.get(node.name, 0.0), took)
            self.figures.reads += 1
            await asyncio.sleep(READ_EVERY_S)

    async def peaks(self) -> list[int]:
        """The most RAM that each process has held since `forget_peaks`, in MiB."""
        return [await self._memory(node, "VmHWM") for node in self.cluster.nodes]

    async def forget_peaks(self) -> list[int]:
        """Begin to watch; the RAM held now."""
        now = []
        for node in self.cluster.nodes:
            pid = (await self.cluster.status(node)).pid
            forget_peak(pid)
            now.append(await self._memory(node, "VmRSS"))
        return now

    async def _memory(self, node: NodeProcess, what: str) -> int:
        pid = (await self.cluster.status(node)).pid
        return memory_of(pid, what)


async def run(folder: Path, figures: Figures, *, is_whole: bool) -> None:
    """Do all of it."""
    async with open_cluster(folder, replicas=1, log_bytes_max="1GiB") as cluster:
        one = Run(cluster, figures)
        async with one.http:
            file = folder / "file.sql"
            figures.statements = make_file(file, figures.mib * MIB, seed=figures.mib)
            one.say(f"made {file.stat().st_size} bytes, {figures.statements} statements")
            for name in ("first", "second"):
                await cluster.create(name)
            figures.primary_start_mib, figures.replica_start_mib = await one.forget_peaks()
            async with one.reading():
                figures.upload_s, figures.import_s = await one.load("first", file)
                imported = time.monotonic()
                await one.equal()
                figures.replica_s = time.monotonic() - imported
            figures.primary_peak_mib, figures.replica_peak_mib = await one.peaks()
            one.say(f"equal; slowest reads {figures.slowest_read_s}")
            file.unlink()
            if is_whole:
                figures.export_s = await one.export("first", folder / "first.sql")
                _, figures.second_import_s = await one.load("second", folder / "first.sql")
                await one.export("second", folder / "second.sql")
                await one.equal()
                if md5_of(folder / "first.sql") != md5_of(folder / "second.sql"):
                    figures.problems.append("the export of the imported export differs")
            figures.primary_peak_all_mib, figures.replica_peak_all_mib = await one.peaks()
    for peak in (figures.primary_peak_all_mib, figures.replica_peak_all_mib):
        if peak * MIB > MEMORY_BYTES_MAX:
            figures.problems.append(f"a process held {peak} MiB")


def main() -> int:
    """Run what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.large_import")
    parser.add_argument("--mib", type=int, default=64, help="size of the file")
    parser.add_argument("--only-import", action="store_true", help="no export, no second import")
    options = parser.parse_args()
    figures = Figures(options.mib)
    folder = Path(tempfile.mkdtemp(prefix="d1-large-import-"))
    try:
        asyncio.run(run(folder, figures, is_whole=not options.only_import))
    except Trouble as exc:
        figures.problems.append(str(exc))
    finally:
        if not figures.problems:
            shutil.rmtree(folder, ignore_errors=True)
    print(msgspec.json.encode(asdict(figures)).decode(), flush=True)
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
