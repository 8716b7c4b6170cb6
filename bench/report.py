"""The content of `latest.json`: the measurements, where they were taken, which targets are met."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import apsw

from bench import processes
from bench.latency import Latency
from bench.memory import FULL as MEMORY_FULL
from bench.memory import MemoryResult
from bench.placement import Placement
from bench.suite import FOREIGN_SHARE_MAX, Measurements, Run

SCHEMA_VERSION = 1
PACKAGES = ("aiohttp", "apsw", "httptools", "msgspec", "numpy", "orjson", "uvloop", "xxhash")
READS_PER_S_MIN = 20_000
WRITES_PER_S_MIN = 5_000
LAG_P50_US_MAX = 3_000
IDLE_BYTES_MAX = 50_000
PEAK_RSS_BYTES_MAX = 300_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where the figures were taken."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    filesystem: str
    load_1min_before: float
    load_1min_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One promise, and what was measured."""

    name: str
    goal: str
    measured: str
    is_met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The content of `latest.json`."""

    schema: int
    slice: str
    date: str
    git_commit: str
    git_is_dirty: bool
    machine: Machine
    versions: dict[str, str]
    placement: Placement
    measurements: Measurements
    memory: MemoryResult | None
    targets: tuple[Target, ...]


def machine_now(folder: Path, load_before: float) -> Machine:
    """Describe this machine; `folder` is where the nodes kept their data."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return Machine(
        cpu=names[0] if names else platform.machine(),
        cores=os.cpu_count() or 0,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        filesystem=processes.filesystem_of(folder),
        load_1min_before=round(load_before, 2),
        load_1min_after=round(os.getloadavg()[0], 2),
    )


def versions_now() -> dict[str, str]:
    """Return the versions of everything that makes a difference to the figures."""
    found = {"python": platform.python_version(), "sqlite": apsw.sqlite_lib_version()}
    for name in PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


def git_now() -> tuple[str, bool]:
    """Return the commit that is measured, and whether files differ from it."""
    try:
        commit = _git("rev-parse", "HEAD")
        # Results of earlier runs lie in the checkout and change nothing that is measured.
        changes = _git("status", "--porcelain", "--", ":/", ":(top,exclude)bench/results")
        return commit, bool(changes)
    except (OSError, subprocess.CalledProcessError):  # not a checkout: an unpacked archive
        return "unknown", False


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
    return done.stdout.decode().strip()


def date_now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def targets_of(measured: Measurements | None, memory: MemoryResult | None) -> tuple[Target, ...]:
    """Compare what was measured with what is promised."""
    found: list[Target] = []
    if measured is not None:
        found += [
            _rate_target(f"point reads/s on the {node}", best, READS_PER_S_MIN)
            for node in ("primary", "replica")
            if (best := _best_read(measured, node)) is not None
        ]
        writes = measured.run_named("update primary 64")
        if writes is not None:
            found.append(_rate_target("durable writes/s, 64 connections", writes, WRITES_PER_S_MIN))
        if measured.lag_loaded is not None:
            found += [
                _lag_target(f"lag p50 under that load, {method}", latency)
                for method, latency in (
                    ("bookmark read", measured.lag_loaded.bookmark),
                    ("visible", measured.lag_loaded.visible),
                )
            ]
    if memory is not None:
        found += _memory_targets(memory)
    return tuple(found)


def _best_read(measured: Measurements, node: str) -> Run | None:
    runs = [
        run
        for run in measured.runs
        if run.scenario.node == node
        and run.scenario.workload == "read"
        and run.scenario.route == "fast"
        and run.scenario.depth == 1
    ]
    return max(runs, key=lambda run: run.result.per_second, default=None)


def _rate_target(name: str, run: Run, least: int) -> Target:
    measured = f"{run.result.per_second:,.0f} ({run.scenario.connections} connections)"
    if run.result.foreign_cpu_share > FOREIGN_SHARE_MAX:
        measured += f", while others used {run.result.foreign_cpu_share:.0%} of the node's core"
    return Target(
        name=name,
        goal=f">= {least:,}",
        measured=measured,
        is_met=run.result.per_second >= least,
    )


def _lag_target(name: str, latency: Latency) -> Target:
    return Target(
        name=name,
        goal=f"< {LAG_P50_US_MAX / 1000:.0f} ms",
        measured=f"{latency.p50_us / 1000:.2f} ms",
        is_met=0 < latency.p50_us < LAG_P50_US_MAX,
    )


def _memory_targets(memory: MemoryResult) -> list[Target]:
    idle, large = memory.idle, memory.large
    each = max(idle.primary_bytes_each, idle.replica_bytes_each)
    peak = max(large.primary_peak_bytes, large.replica_peak_bytes)
    size = f"{large.bytes / 2**20:.0f} MiB"
    if large.bytes < MEMORY_FULL.large_bytes * 0.9:
        size += ", a small stand-in for 1 GiB"
    return [
        Target(
            name=f"RSS of an idle database ({idle.databases} of them)",
            goal=f"< {IDLE_BYTES_MAX / 1000:.0f} KB",
            measured=f"{each / 1000:.1f} KB",
            is_met=each < IDLE_BYTES_MAX,
        ),
        Target(
            name=f"peak RSS with a VACUUM ({size})",
            goal=f"< {PEAK_RSS_BYTES_MAX / 1e6:.0f} MB",
            measured=f"{peak / 1e6:.0f} MB",
            is_met=peak < PEAK_RSS_BYTES_MAX,
        ),
    ]
