"""Measures what databases cost in memory: many idle ones, and one large one with its VACUUM.

`python -m bench.memory` runs this part alone. *Idle*: create databases with a small table
through the HTTP API, wait until both nodes have closed them (they hold no file of them open
any more), and divide the growth of the RSS by their number; a few databases made before warm
up everything that is needed once. *Large*: fill one database by batches, VACUUM it, wait for
the replica, and read the peak RSS (`VmHWM`) of both processes.
"""

import argparse
import contextlib
import time
from dataclasses import dataclass

import msgspec

from bench import processes
from bench.cluster import Cluster, Node, open_cluster

MIB = 1024 * 1024
IDLE_CLOSE_S = 2.0
WARMUP_DATABASES = 40
SETTLE_S = 3.0  # no file closed for so long: the node has closed what it will
SETTLE_S_MAX = 180.0
CAUGHT_UP_S_MAX = 600.0
ROW_BYTES = 1000
ROWS_PER_STATEMENT = 1000
STATEMENTS_PER_BATCH = 4
LARGE_SQL = "CREATE TABLE large (id INTEGER PRIMARY KEY, body BLOB NOT NULL)"
LARGE_FILL_SQL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)"
    " INSERT INTO large (body) SELECT randomblob(?2) FROM n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySizes:
    """How many idle databases, and how large the large one is."""

    databases: int
    large_bytes: int


FULL = MemorySizes(databases=1000, large_bytes=1024 * MIB)
CI = MemorySizes(databases=100, large_bytes=48 * MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleDatabases:
    """The growth of each process, divided by the number of databases."""

    databases: int
    create_s: float
    primary_bytes_each: float
    replica_bytes_each: float
    files_left_open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeDatabase:
    """The most RAM that each process held while the large database passed through."""

    bytes: int
    fill_s: float
    vacuum_s: float
    replica_s: float  # from the end of the VACUUM until the replica has applied it
    primary_start_bytes: int
    replica_start_bytes: int
    primary_fill_peak_bytes: int
    replica_fill_peak_bytes: int
    primary_peak_bytes: int
    replica_peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryResult:
    """Both parts."""

    idle: IdleDatabases
    large: LargeDatabase


def measure(sizes: MemorySizes) -> MemoryResult:
    """Run both parts, each on a cluster of its own."""
    with open_cluster(flags=["--idle-close-s", str(IDLE_CLOSE_S)]) as nodes:
        idle = measure_idle(nodes, sizes.databases)
    print(
        f"{idle.databases} idle databases: primary {idle.primary_bytes_each / 1000:.1f} KB,"
        f" replica {idle.replica_bytes_each / 1000:.1f} KB each",
        flush=True,
    )
    with open_cluster() as nodes:
        large = measure_large(nodes, sizes.large_bytes)
    print(
        f"{large.bytes / MIB:.0f} MiB database: fill {large.fill_s:.1f} s, VACUUM"
        f" {large.vacuum_s:.1f} s; peak RSS primary {large.primary_peak_bytes / 1e6:.0f} MB,"
        f" replica {large.replica_peak_bytes / 1e6:.0f} MB",
        flush=True,
    )
    return MemoryResult(idle=idle, large=large)


def measure_idle(nodes: Cluster, count: int) -> IdleDatabases:
    """Create `count` databases and see what is left of them in memory once they are idle."""
    _create_small(nodes, "warmup", WARMUP_DATABASES)
    wait_settled(nodes)
    before = [processes.rss_bytes(node.pid) for node in (nodes.primary, nodes.replica)]
    started = time.monotonic()
    _create_small(nodes, "idle", count)
    create_s = time.monotonic() - started
    wait_settled(nodes)
    after = [processes.rss_bytes(node.pid) for node in (nodes.primary, nodes.replica)]
    primary, replica = ((b - a) / count for a, b in zip(before, after, strict=True))
    return IdleDatabases(
        databases=count,
        create_s=round(create_s, 2),
        primary_bytes_each=round(primary),
        replica_bytes_each=round(replica),
        files_left_open=_open_files(nodes.primary) + _open_files(nodes.replica),
    )


def _create_small(nodes: Cluster, prefix: str, count: int) -> None:
    with contextlib.closing(nodes.primary.client()) as client:
        names = [f"{prefix}-{index}" for index in range(count)]
        for name in names:
            client.create(name)
            client.batch(
                name,
                [
                    ("CREATE TABLE small (id INTEGER PRIMARY KEY, name TEXT)", ()),
                    ("INSERT INTO small (name) VALUES (?)", ("a row",)),
                ],
            )
        bookmark = client.query(names[-1], "SELECT 1", bookmark="first-primary").bookmark
    nodes.wait_caught_up(names[-1], bookmark)


def wait_settled(nodes: Cluster) -> None:
    """Return when both nodes have stopped closing files of idle databases."""
    started = changed = time.monotonic()
    least = 1 << 30
    while time.monotonic() - started < SETTLE_S_MAX:
        time.sleep(0.25)
        count = _open_files(nodes.primary) + _open_files(nodes.replica)
        if count < least:
            least, changed = count, time.monotonic()
        if time.monotonic() - changed > IDLE_CLOSE_S + SETTLE_S:
            return


def _open_files(node: Node) -> int:
    return processes.open_files_below(node.pid, node.folder)


def measure_large(nodes: Cluster, size: int) -> LargeDatabase:
    """Fill one database with about `size` bytes, rebuild it, and read the peaks."""
    name = "large"
    starts = [processes.peak_rss_bytes(node.pid) for node in (nodes.primary, nodes.replica)]
    with contextlib.closing(nodes.primary.client()) as client:
        client.create(name)
        client.query(name, LARGE_SQL)
        started = time.monotonic()
        statement = (LARGE_FILL_SQL, (ROWS_PER_STATEMENT, ROW_BYTES))
        per_batch = ROWS_PER_STATEMENT * ROW_BYTES * STATEMENTS_PER_BATCH
        for _ in range(max(1, size // per_batch)):
            client.batch(name, [statement] * STATEMENTS_PER_BATCH)
        bookmark = client.query(name, "SELECT 1", bookmark="first-primary").bookmark
        nodes.wait_caught_up(name, bookmark, seconds_max=CAUGHT_UP_S_MAX)
        filled = time.monotonic()
        fill_peaks = [processes.peak_rss_bytes(node.pid) for node in (nodes.primary, nodes.replica)]
        client.vacuum(name)
        vacuumed = time.monotonic()
        bookmark = client.query(name, "SELECT 1", bookmark="first-primary").bookmark
    nodes.wait_caught_up(name, bookmark, seconds_max=CAUGHT_UP_S_MAX)
    caught_up = time.monotonic()
    nodes.check_equal(name)
    return LargeDatabase(
        bytes=per_batch * max(1, size // per_batch),
        fill_s=round(filled - started, 2),
        vacuum_s=round(vacuumed - filled, 2),
        replica_s=round(caught_up - vacuumed, 2),
        primary_start_bytes=starts[0],
        replica_start_bytes=starts[1],
        primary_fill_peak_bytes=fill_peaks[0],
        replica_fill_peak_bytes=fill_peaks[1],
        primary_peak_bytes=processes.peak_rss_bytes(nodes.primary.pid),
        replica_peak_bytes=processes.peak_rss_bytes(nodes.replica.pid),
    )


def main() -> None:
    """Run this part alone and print its result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--databases", type=int, default=FULL.databases)
    parser.add_argument("--large-mib", type=int, default=FULL.large_bytes // MIB)
    options = parser.parse_args()
    sizes = MemorySizes(databases=options.databases, large_bytes=options.large_mib * MIB)
    print(msgspec.json.format(msgspec.json.encode(measure(sizes))).decode())


if __name__ == "__main__":
    main()
