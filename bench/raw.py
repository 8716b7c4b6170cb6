"""What this machine does without any server: SQLite in-process, a bare `fdatasync`, a bare echo.

Taken in the same run as the figures of the nodes, so that those can be read as ratios: a
machine that is busy today is busy for both. `python -m bench.raw` reads a `RawJob` as JSON
from stdin and prints a `RawResult`.
"""

import os
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

import apsw
import msgspec

from bench.latency import Latency, summarize
from bench.workloads import (
    FILL_SQL,
    FIRST_ID,
    FIRST_VALUE,
    READ_SQL,
    ROWS,
    SCHEMA_SQL,
    UPDATE_SQL,
    keys_of,
)

SYNC_BYTES = 8 * 1024  # about what one small commit puts into a log
SYNC_FILE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RawJob:
    """Where the files may lie, how long each operation is measured, on which core."""

    folder: str
    seconds: float
    cores: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RawResult:
    """Cost of one operation, in microseconds of wall time on one core."""

    point_select: Latency
    row_update: Latency  # autocommit, WAL, synchronous=OFF: nothing waits for the disk
    sync_8k: Latency  # pwrite of 8 KiB into a preallocated file, then fdatasync


def measure(folder: Path, seconds: float) -> RawResult:
    """Measure each operation for `seconds`, with files in `folder`."""
    connection = apsw.Connection(str(folder / "raw.sqlite"))
    try:
        for sql in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=OFF", SCHEMA_SQL):
            connection.execute(sql)
        connection.execute("PRAGMA cache_size=-65536")
        connection.execute(FILL_SQL, (FIRST_ID, FIRST_ID + ROWS - 1))
        keys = keys_of(0, connections=1, seed=1)

        def select(nth: int) -> None:
            connection.execute(READ_SQL, (keys[nth % ROWS],)).fetchall()

        def update(nth: int) -> None:
            connection.execute(UPDATE_SQL, (FIRST_VALUE + nth, keys[nth % ROWS]))

        selected = _time(select, seconds)
        updated = _time(update, seconds)
    finally:
        connection.close()
    return RawResult(
        point_select=selected, row_update=updated, sync_8k=_measure_sync(folder, seconds)
    )


def _measure_sync(folder: Path, seconds: float) -> Latency:
    descriptor = os.open(folder / "raw.log", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.pwrite(descriptor, bytes(SYNC_FILE_BYTES), 0)
        os.fsync(descriptor)
        block = os.urandom(SYNC_BYTES)

        def sync(nth: int) -> None:
            os.pwrite(descriptor, block, nth * SYNC_BYTES % SYNC_FILE_BYTES)
            os.fdatasync(descriptor)

        return _time(sync, seconds)
    finally:
        os.close(descriptor)


def _time(operation: Callable[[int], None], seconds: float) -> Latency:
    samples_ns = array("Q")
    end = time.monotonic() + seconds
    nth = 0
    while time.monotonic() < end:
        before_ns = perf_counter_ns()
        operation(nth)
        samples_ns.append(perf_counter_ns() - before_ns)
        nth += 1
    return summarize(samples_ns)


def main() -> None:
    """Run the job on stdin and print its result."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=RawJob)
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    result = measure(Path(job.folder), job.seconds)
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
