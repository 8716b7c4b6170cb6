"""`python -m tests.torture.large_import --mib N`: a large file in, out, and in again.

A primary and a replica. A file of N MiB is made and sent; the primary is killed with -9 in
the middle of the upload, K times (`large_strikes.py`). Then `d1server execute --file` runs on a
terminal: it goes on where the upload broke off, and lives through K more kills in the middle of
the import. `d1server export` takes the database out, and its file goes into a second database
while short reads go on at both nodes; the export of that must be the same text.

Prints progress, and the figures as one line of JSON. Exits with 1 if a promise is broken: after
a kill something of the file is to be seen, the content differs, a bar did not move, or a process
(primary, replica, client) held more than MEMORY_BYTES_MAX in RAM.
"""

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import msgspec

from tests.torture import large_client
from tests.torture.cluster import Cluster, NodeProcess, Trouble, open_cluster
from tests.torture.large_client import CommandRun
from tests.torture.large_file import MIB, LargeFile, forget_peak, make_file, md5_of, memory_of
from tests.torture.large_strikes import DATABASE, Strikes

MEMORY_BYTES_MAX = 300 * MIB
CAUGHT_UP_S_MAX = 1800.0
READ_EVERY_S = 0.05
LINES_FROM_S = 30.0  # a command without a terminal that took so long has told of it
SECOND = "second"


@dataclass(slots=True)
class Figures:
    """What a run came to. Peaks are of RAM, in MiB, since the nodes were up."""

    mib: int
    statements: int = 0
    upload_kills: int = 0
    import_kills: int = 0
    killed_import_s: float = 0.0  # with everything that was killed in it
    import_s: float = 0.0  # of the second one, which nobody disturbed: MD5, upload, import
    replica_s: float = 0.0  # from its end until the replica has it
    export_s: float = 0.0
    start_mib: dict[str, int] = field(default_factory=dict)
    peak_mib: dict[str, int] = field(default_factory=dict)
    slowest_read_s: dict[str, float] = field(default_factory=dict)
    reads: int = 0
    problems: list[str] = field(default_factory=list)


class Run:
    """One run on a cluster."""

    def __init__(self, cluster: Cluster, file: LargeFile, figures: Figures, seed: int) -> None:
        self.cluster = cluster
        self.file = file
        self.figures = figures
        self.started = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
        self.http = aiohttp.ClientSession(timeout=timeout)
        self.strikes = Strikes(
            cluster,
            self.http,
            file,
            random.Random(seed),
            before_kill=self.note_peaks,
            say=self.say,
        )

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:7.1f} s] {text}", flush=True)

    async def killed_import(self, kills: int) -> None:
        """Import the file into the first database, through kills."""
        for _ in range(kills):
            await self.strikes.in_upload()
        url = self.cluster.primary.url
        command = large_client.execute(url, DATABASE, self.file.path, is_on_terminal=True)
        running = asyncio.create_task(self.command(command))
        try:
            for strike in range(1, kills + 1):
                # The last one when all has run, and the commit is on its way into the log.
                share = 1.0 if strike == kills else self.strikes.rng.random() * 0.9
                if not await self.strikes.in_import(share):
                    break
            await running
        finally:
            running.cancel()
            await asyncio.wait([running])
        self.figures.killed_import_s = command.took_s
        self.figures.upload_kills = self.strikes.in_uploads
        self.figures.import_kills = self.strikes.in_imports
        command.progress.check_moved("uploading", 1)
        command.progress.check_moved("importing", 2)
        if kills and not self.strikes.in_imports:
            raise Trouble("the import was through before it could be killed")
        await self.equal()
        if await self.strikes.has_nothing():
            raise Trouble("imported, the client said, but nothing is there")

    async def out_and_in(self, folder: Path) -> None:
        """Export the first database, import that into the second, and compare."""
        url, (out, again) = self.cluster.primary.url, (folder / "first.sql", folder / "second.sql")
        command = large_client.export(url, DATABASE, out, is_on_terminal=True)
        await self.command(command)
        self.figures.export_s = command.took_s
        command.progress.check_moved("downloading", 1)
        await self.cluster.create(SECOND)
        async with self.reading():
            command = large_client.execute(url, SECOND, out, is_on_terminal=False)
            await self.command(command)
            self.figures.import_s, ended = command.took_s, time.monotonic()
            if command.took_s > LINES_FROM_S:
                command.progress.check_moved("importing", 1)
            await self.equal()
            self.figures.replica_s = time.monotonic() - ended
        await self.command(large_client.export(url, SECOND, again, is_on_terminal=False))
        if md5_of(out) != md5_of(again):
            raise Trouble("the export of the imported export differs")

    async def command(self, command: CommandRun) -> None:
        """Run a command of the client, and note its memory."""
        await command.run()
        shown = {label: len(values) for label, values in command.progress.shown.items()}
        self.say(f"{' '.join(command.words[:2])}: {command.took_s:.1f} s; seen to move: {shown}")
        self._note("client", command.peak_mib)

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
                    f"{node.url}/db/{SECOND}/query", json={"sql": "SELECT 1"}, headers=headers
                ) as response:
                    await response.read()
            took = round(time.monotonic() - began, 3)
            slowest[node.name] = max(slowest.get(node.name, 0.0), took)
            self.figures.reads += 1
            await asyncio.sleep(READ_EVERY_S)

    def note_peaks(self) -> None:
        """Note the most RAM that each process has held; to be called before it ends, too."""
        for node in self.cluster.nodes:
            self._note(node.name, memory_of(node.pid, "VmHWM"))

    def forget_peaks(self) -> None:
        """Begin to watch."""
        for node in self.cluster.nodes:
            forget_peak(node.pid)
            self.figures.start_mib[node.name] = memory_of(node.pid, "VmRSS")

    def _note(self, name: str, mib: int) -> None:
        peaks = self.figures.peak_mib
        peaks[name] = max(mib, peaks.get(name, 0))
        if mib * MIB > MEMORY_BYTES_MAX:
            self.figures.problems.append(f"{name} held {mib} MiB")


async def run(folder: Path, figures: Figures, *, kills: int, seed: int, is_whole: bool) -> None:
    """Do all of it in `folder`; raises Trouble, or notes problems in the figures."""
    async with open_cluster(folder, replicas=1, log_bytes_max="1GiB") as cluster:
        file = make_file(folder / "file.sql", figures.mib * MIB, seed)
        figures.statements = file.statements
        one = Run(cluster, file, figures, seed)
        async with one.http:
            one.say(f"made {file.size} bytes, {file.statements} statements")
            await cluster.create(DATABASE)
            await one.strikes.prepare()
            one.forget_peaks()
            await one.killed_import(kills)
            file.path.unlink()
            if is_whole:
                await one.out_and_in(folder)
            one.note_peaks()


def main() -> int:
    """Run what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.large_import")
    parser.add_argument("--mib", type=int, default=64, help="size of the file")
    parser.add_argument("--kills", type=int, default=3, help="in the upload, and in the import")
    parser.add_argument("--only-import", action="store_true", help="no export, no second import")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's choices")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    figures = Figures(options.mib)
    folder = Path(tempfile.mkdtemp(prefix="d1-large-import-"))
    print(f"seed {seed}, in {folder}", flush=True)
    try:
        asyncio.run(
            run(folder, figures, kills=options.kills, seed=seed, is_whole=not options.only_import)
        )
    except (Trouble, TimeoutError) as exc:
        figures.problems.append(str(exc) or type(exc).__name__)
    finally:
        if not figures.problems:
            shutil.rmtree(folder, ignore_errors=True)
    print(msgspec.json.encode(asdict(figures)).decode(), flush=True)
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
