"""Starts and stops the nodes of a run: real processes, real links, loopback only."""

import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import workloads
from bench.client import NodeClient
from bench.placement import Placement, place

HOST = "127.0.0.1"
PORTS = range(29_000, 32_000)  # below those that systems give to outgoing connections
START_S_MAX = 120.0
STOP_S_MAX = 60.0
SCRATCH = Path(__file__).parent / "scratch"  # not /tmp: often a tmpfs, where fdatasync is free


class NodeFailed(Exception):
    """A node did not start, or ended by itself; the message holds the end of its log."""


@dataclass(slots=True)
class Node:
    """One running node."""

    role: str
    port: int
    folder: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The process that serves (there is no supervisor in between)."""
        return self.process.pid

    def client(self) -> NodeClient:
        """Return a new connection to this node."""
        return NodeClient(HOST, self.port)

    def check_alive(self) -> None:
        """Raise NodeFailed if the process has ended."""
        if self.process.poll() is not None:
            raise NodeFailed(f"the {self.role} ended ({self.process.returncode}):{self.log_end()}")

    def wait_ready(self) -> None:
        """Return once the node says that it is ready to serve."""
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            self.check_alive()
            client = self.client()
            try:
                if client.status_of("/readyz") == 200:
                    return
            except OSError:  # not listening yet
                pass
            finally:
                client.close()
            time.sleep(0.05)
        raise NodeFailed(f"the {self.role} is not ready after {START_S_MAX} s:{self.log_end()}")

    def stop(self) -> None:
        """Stop the node as an operator would; kill it if it does not obey."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_S_MAX)

    def log_end(self) -> str:
        """Return the last lines that the node wrote."""
        return "\n" + self.log.read_text(errors="replace")[-4000:]


@dataclass(slots=True)
class Cluster:
    """A primary and one replica that follows it."""

    folder: Path
    primary: Node
    replica: Node

    def check_equal(self, database: str) -> None:
        """Raise NodeFailed unless both nodes are at one bookmark with one checksum of all pages.

        Call it when nobody writes and the replica has caught up.
        """
        states = []
        for node in (self.primary, self.replica):
            with contextlib.closing(node.client()) as client:
                state = json.loads(client.text("/status"))["databases"][database]
            states.append((state["applied"], state["checksum"]))
        if states[0] != states[1]:
            raise NodeFailed(f"primary and replica differ in {database}: {states}")

    def wait_caught_up(
        self, database: str, bookmark: str, *, seconds_max: float = START_S_MAX
    ) -> None:
        """Return once the replica has applied `bookmark` (a read that carries it waits)."""
        client = self.replica.client()
        deadline = time.monotonic() + seconds_max
        try:
            while client.query(database, "SELECT 1", bookmark=bookmark).bookmark < bookmark:
                if time.monotonic() > deadline:
                    raise NodeFailed(f"the replica has not reached {bookmark}")
        finally:
            client.close()


@contextlib.contextmanager
def open_cluster(
    *,
    flags: Sequence[str] = (),
    primary_command: Sequence[str] = ("-m", "d1server"),
    replica_command: Sequence[str] = ("-m", "d1server"),
    checkout: Path | None = None,
) -> Iterator[Cluster]:
    """Start a primary and a replica with empty data directories; stop and erase them after.

    `flags` go to both nodes. The commands are what the interpreter is to run before the
    node's own arguments: the profiler puts itself in between there. `checkout` is whose
    code runs, if not the working directory's.
    """
    SCRATCH.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=SCRATCH))
    link = f"{HOST}:{free_port()}"
    nodes: list[Node] = []
    try:
        primary = _start(
            folder,
            "primary",
            [*primary_command, "primary", "--replication", link, "--region", "ENAM", *flags],
            checkout,
        )
        nodes.append(primary)
        primary.wait_ready()
        replica = _start(
            folder,
            "replica",
            [*replica_command, "replica", "--primary", link, "--region", "WEUR", *flags],
            checkout,
        )
        nodes.append(replica)
        replica.wait_ready()
        yield Cluster(folder, primary, replica)
    except Exception:
        for node in nodes:  # the reason is often in a log that is about to be erased
            print(f"end of the {node.role}'s log:{node.log_end()}", file=sys.stderr)
        raise
    finally:
        for node in reversed(nodes):
            node.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, role: str, command: Sequence[str], checkout: Path | None) -> Node:
    port = free_port()
    data, log = folder / role, folder / f"{role}.log"
    arguments = [*command, "--data-dir", str(data), "--listen", f"{HOST}:{port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, cwd=checkout
        )
    return Node(role, port, data, log, process)


def free_port() -> int:
    """Return a loopback port that nobody listens on now, and that no outgoing call gets."""
    chance = random.SystemRandom()
    for port in chance.sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise NodeFailed(f"a hundred ports of {HOST} are taken")


def fill(cluster: Cluster) -> str:
    """Create the database of the throughput runs; return the bookmark of its last row."""
    client = cluster.primary.client()
    try:
        client.create(workloads.DATABASE)
        made = (workloads.SCHEMA_SQL, workloads.ADDED_SQL, workloads.PROBE_ROW_SQL)
        client.batch(workloads.DATABASE, [(sql, ()) for sql in made])
        bookmark = ""
        last = workloads.FIRST_ID + workloads.ROWS
        for first in range(workloads.FIRST_ID, last, workloads.FILL_ROWS):
            bounds = (first, min(first + workloads.FILL_ROWS, last) - 1)
            bookmark = client.query(workloads.DATABASE, workloads.FILL_SQL, bounds).bookmark
    finally:
        client.close()
    cluster.wait_caught_up(workloads.DATABASE, bookmark)
    return bookmark


def place_cluster(cluster: Cluster, measured: Node, placement: Placement) -> None:
    """Give `measured` the server's cores and the other node the other cores."""
    for node in (cluster.primary, cluster.replica):
        cores = placement.server if node is measured else placement.other
        place(node.pid, cores)
