"""A cluster of real node processes on the loopback, to be killed, paused, wiped and compared.

    async with open_cluster(folder, replicas=2) as cluster:
        await cluster.primary.kill()
        await cluster.primary.start()
        await cluster.wait_ready()

Nodes are children of this process and die with it. Each writes what it prints to
`<folder>/<name>.log`; the folder is the caller's, who keeps it when something is wrong.
"""

import asyncio
import contextlib
import ctypes
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import apsw
import msgspec

from tests.torture.comparison import differing_pages

START_S_MAX = 120.0  # a start replays the log since the last base
STOP_S_MAX = 30.0  # a clean stop is promised within 5 s, on a machine with nothing else to do
CATCH_UP_S_MAX = 120.0
POLL_S = 0.02
LOG_BYTES_MAX = "8MiB"  # so that logs are trimmed, and replicas that were away copy the file
REPLICA_REGIONS = ("WEUR", "APAC", "OC")
PORTS = range(21_000, 29_000)  # below the ports that the system gives to outgoing connections
REPO = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1


class Trouble(Exception):
    """The cluster did not do what it must: a violation, reported with the run."""


class Differs(Trouble):
    """A replica has other pages than its primary."""


class DatabaseStatus(msgspec.Struct, frozen=True):
    """One database in a node's `/status`."""

    head: str | None = None
    applied: str | None = None
    durable: str | None = None
    checksum: str | None = None


class NodeStatus(msgspec.Struct, frozen=True):
    """A node's `/status`, as far as it is of use here."""

    role: str
    pid: int
    databases: dict[str, DatabaseStatus]


_status = msgspec.json.Decoder(NodeStatus)


class NodeProcess:
    """One node: its command line, its folder, and its process while there is one."""

    def __init__(self, name: str, folder: Path, port: int, arguments: list[str]) -> None:
        self.name = name
        self.data_dir = folder / name
        self.log = folder / f"{name}.log"
        self.url = f"http://127.0.0.1:{port}"
        self._arguments = [*arguments, "--data-dir", str(self.data_dir)]
        self._process: asyncio.subprocess.Process | None = None

    async def start(
        self, *, wrapper: tuple[str, ...] = (), file_bytes_max: int | None = None
    ) -> None:
        """Start the process, perhaps under `wrapper` or with a limit on the size of files."""
        assert self._process is None, f"{self.name} is running"
        command = [*wrapper, sys.executable, "-m", "d1server", *self._arguments]
        with self.log.open("ab") as log:
            log.write(f"--- {time.strftime('%H:%M:%S')} {' '.join(command)}\n".encode())
            log.flush()
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=REPO,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONFAULTHANDLER": "1"},
                preexec_fn=_child_setup(file_bytes_max),
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process ended by itself."""
        return self._process is not None and self._process.returncode is not None

    def assert_alive(self) -> None:
        """Raise Trouble if the process ended by itself."""
        if self._process is not None and self.has_ended:
            raise Trouble(
                f"{self.name} ended by itself with {self._process.returncode}:\n{self.log_tail()}"
            )

    async def kill(self) -> None:
        """Kill it with SIGKILL and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()

    async def abort(self) -> str:
        """End a node that hangs; return where its threads are, by its own word."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGABRT)
            await process.wait()
        return self.log_tail(60)

    async def stop(self) -> float:
        """Stop it with SIGTERM and return how long that took. Raises Trouble if it ends badly."""
        self.assert_alive()
        process = self._process
        assert process is not None
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                code = await process.wait()
        except TimeoutError:
            where = await self.abort()
            raise Trouble(f"{self.name} did not stop in {STOP_S_MAX} s:\n{where}") from None
        self._process = None
        if code != 0:
            raise Trouble(f"{self.name} stopped with {code}:\n{self.log_tail()}")
        return time.monotonic() - started

    def pause(self) -> None:
        """Freeze it with SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Remove the data directory of a node that is not running."""
        assert self._process is None, f"{self.name} is running"
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def log_tail(self, lines: int = 30) -> str:
        """The end of what it printed."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


class Cluster:
    """One primary and its replicas."""

    def __init__(self, folder: Path, primary: NodeProcess, replicas: list[NodeProcess]) -> None:
        self.folder = folder
        self.primary = primary
        self.replicas = replicas
        self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10.0))

    @property
    def nodes(self) -> list[NodeProcess]:
        return [self.primary, *self.replicas]

    async def start(self) -> None:
        """Start whatever is not running, and wait until all are ready."""
        for node in self.nodes:
            if not node.is_running:
                await node.start()
        await self.wait_ready()

    async def stop(self) -> None:
        """Stop all cleanly, replicas first."""
        for node in [*self.replicas, self.primary]:
            if node.is_running:
                await node.stop()

    async def wait_ready(self, *nodes: NodeProcess) -> None:
        """Wait until `nodes`, or all, say that they may be sent requests."""
        deadline = time.monotonic() + START_S_MAX
        for node in nodes or self.nodes:
            reason = "no answer"
            while (reason := await self._not_ready(node)) != "":
                node.assert_alive()
                if time.monotonic() > deadline:
                    where = await node.abort()
                    raise Trouble(
                        f"{node.name} is not ready after {START_S_MAX} s ({reason}):\n{where}"
                    )
                await asyncio.sleep(POLL_S)

    async def _not_ready(self, node: NodeProcess) -> str:
        try:
            async with self.http.get(f"{node.url}/readyz") as response:
                return (
                    "" if response.status == 200 else (await response.text())[:300] or "not ready"
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return type(exc).__name__

    async def status(self, node: NodeProcess) -> NodeStatus:
        """Ask a node for its `/status`."""
        async with self.http.get(f"{node.url}/status") as response:
            return _status.decode(await response.read())

    async def create(self, database: str) -> None:
        """Create a database, on the primary."""
        body = msgspec.json.encode({"name": database})
        async with self.http.post(f"{self.primary.url}/db", data=body) as response:
            if response.status != 200:
                raise Trouble(f"create {database}: {response.status} {await response.text()}")

    async def delete(self, database: str) -> None:
        """Delete a database, on the primary."""
        async with self.http.delete(f"{self.primary.url}/db/{database}") as response:
            if response.status != 200:
                raise Trouble(f"delete {database}: {response.status} {await response.text()}")

    async def vacuum(self, database: str) -> bool:
        """Ask for a VACUUM; False if the primary went away meanwhile."""
        try:
            async with self.http.post(f"{self.primary.url}/db/{database}/vacuum") as response:
                await response.read()
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def wait_equal(self) -> Mapping[str, DatabaseStatus]:
        """Wait until every replica has applied all; return the primary's databases.

        Raises Trouble for a replica that does not arrive, and for one that arrives with
        other pages. Nothing may write meanwhile.
        """
        deadline = time.monotonic() + CATCH_UP_S_MAX
        for replica in self.replicas:
            while (behind := await self._difference(replica)) != "":
                replica.assert_alive()
                self.primary.assert_alive()
                if time.monotonic() > deadline:
                    raise Trouble(f"{replica.name} does not become equal: {behind}")
                await asyncio.sleep(POLL_S)
        return (await self.status(self.primary)).databases

    async def _difference(self, replica: NodeProcess) -> str:
        """What a replica lacks yet, or ''. Raises Trouble at once where pages differ."""
        ours = (await self.status(replica)).databases
        theirs = (await self.status(self.primary)).databases
        if missing := theirs.keys() ^ ours.keys():
            return f"databases {sorted(missing)}"
        for name, wanted in theirs.items():
            if ours[name].applied != wanted.head:
                return f"{name} has {ours[name].applied} of {wanted.head}"
            if ours[name].checksum != wanted.checksum:
                raise Differs(
                    f"{replica.name} differs in {name} at {wanted.head}: "
                    f"checksum {ours[name].checksum}, the primary's {wanted.checksum}"
                )
        return ""

    def compare_files(self) -> int:
        """Compare every replica's database files with the primary's, page by page.

        All nodes must be stopped. Returns how many files were compared; raises Trouble where
        pages differ.
        """
        compared = 0
        for file in sorted((self.primary.data_dir / "databases").glob("*/db.sqlite")):
            for replica in self.replicas:
                other = replica.data_dir / "databases" / file.parent.name / file.name
                try:
                    pages = differing_pages(file, other)
                except apsw.Error as exc:
                    raise Differs(f"{other} or {file} cannot be opened: {exc}") from exc
                if pages:
                    raise Differs(f"{other} differs from {file} in pages {pages[:20]}")
                compared += 1
        return compared

    def log_marks(self, *words: str) -> list[str]:
        """The lines of all nodes' logs that contain one of `words`."""
        return [
            f"{node.name}: {line}"
            for node in self.nodes
            if node.log.exists()
            for line in node.log.read_text(errors="replace").splitlines()
            if any(word in line for word in words)
        ]


def _child_setup(file_bytes_max: int | None) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def setup() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if file_bytes_max is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))

    return setup


def free_ports(count: int, rng: random.Random) -> list[int]:
    """Return ports that nobody listens on now."""
    ports: list[int] = []
    for port in rng.sample(PORTS, len(PORTS)):
        with contextlib.closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise Trouble("no free ports")


def plan_cluster(folder: Path, replicas: int, log_bytes_max: str = LOG_BYTES_MAX) -> Cluster:
    """Return a cluster in `folder` on free ports, with nothing started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    http, link, *others = free_ports(2 + replicas, random.Random(os.getpid() ^ time.time_ns()))
    at = "127.0.0.1"
    limit = ("--log-bytes-max", log_bytes_max)
    served = ["primary", "--listen", f"{at}:{http}", "--replication", f"{at}:{link}"]
    primary = NodeProcess("primary", folder, http, [*served, "--region", "ENAM", *limit])
    following = []
    for index, (port, region) in enumerate(zip(others, REPLICA_REGIONS, strict=False), 1):
        follows = ["replica", "--listen", f"{at}:{port}", "--primary", f"{at}:{link}"]
        arguments = [*follows, "--region", region, *limit]
        following.append(NodeProcess(f"replica-{index}", folder, port, arguments))
    return Cluster(folder, primary, following)


@asynccontextmanager
async def open_cluster(
    folder: Path, *, replicas: int = 2, log_bytes_max: str = LOG_BYTES_MAX
) -> AsyncIterator[Cluster]:
    """Start a cluster in `folder`; kill what is left of it at the end."""
    cluster = plan_cluster(folder, replicas, log_bytes_max)
    try:
        await cluster.start()
        yield cluster
    finally:
        for node in cluster.nodes:
            node.resume()
            await node.kill()
        await cluster.http.close()
