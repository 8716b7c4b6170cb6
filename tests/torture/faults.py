"""A disk that fails: the log cannot be synced, a write finds no room, a file may not grow.

The fault is real and meets a real process: `strace` makes one system call of the node fail, or
the kernel's limit on the size of files does. Then: requests that fail say so truthfully (the
checker compares every answer with the ledger), nothing is acknowledged that a kill -9 right
after would lose, and when the fault is gone the node is back with everything that
it acknowledged: by itself after a fault that passes, else after a restart.
"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.torture.chapters import SESSIONS, run_chapter
from tests.torture.cluster import POLL_S, Cluster, Trouble, open_cluster
from tests.torture.history import Write
from tests.torture.report import Report
from tests.torture.sessions import Load

FAULT_S_MAX = 6.0  # how long sessions run into the fault
AFTER_FAULT_S = 0.7  # and go on after it was felt
BACK_S_MAX = 60.0  # then a node whose fault has passed takes writes again
FILE_BYTES_MAX = 1_500_000
SQLITE_ANSWERS = (b": SQLITE_FULL",)  # SQLite's own file met the fault first, and undid the write


@dataclass(frozen=True, slots=True)
class Fault:
    """What fails: a system call (by strace's words), or writes beyond a file's size."""

    name: str
    inject: str = ""
    file_bytes_max: int | None = None
    passes: bool = True  # the node is to take writes again without a restart

    def wrapper(self, trace: Path) -> tuple[str, ...]:
        """The command that starts the node so that the fault will strike; `trace` tells of it."""
        if not self.inject:
            return ()
        call = self.inject.partition(":")[0]
        told = ("-qq", "--string-limit=0", "-o", str(trace))
        # -D: the node stays our own child, and strace goes when it goes.
        return ("strace", "-D", "-f", *told, f"--trace={call}", f"--inject={self.inject}")


FAULTS = (
    Fault("eio-fdatasync-first", "fdatasync:error=EIO:when=3"),
    Fault("eio-fdatasync", "fdatasync:error=EIO:when=60"),
    Fault("eio-fdatasync-again", "fdatasync:error=EIO:when=40+25"),
    Fault("enospc-pwrite", "pwrite64:error=ENOSPC:when=120"),
    Fault("enospc-pwrite-again", "pwrite64:error=ENOSPC:when=200+97"),
    Fault("eio-fsync-at-start", "fsync:error=EIO:when=2+2", passes=False),
    Fault("eio-fsync", "fsync:error=EIO:when=12+5", passes=False),
    Fault("efbig", file_bytes_max=FILE_BYTES_MAX, passes=False),
)
CI_FAULTS = ("eio-fdatasync", "enospc-pwrite-again", "efbig")


async def run_faults(report: Report, *, seed: int, names: tuple[str, ...] | None = None) -> None:
    """Run each fault on a cluster of its own; ends early at the first violation."""
    strace = _working_strace()
    if strace:
        report.skip(f"faults by strace: {strace}")
    for fault in FAULTS:
        if report.violations or (names is not None and fault.name not in names):
            continue
        if fault.inject and strace:
            continue
        async with open_cluster(report.folder / fault.name, replicas=1) as cluster:
            await _run_fault(cluster, report, fault, seed)


async def _run_fault(cluster: Cluster, report: Report, fault: Fault, seed: int) -> None:
    trace = report.folder / f"{fault.name}.strace"

    async def happening(load: Load) -> None:
        primary = cluster.primary
        await primary.kill()
        load.tolerated = SQLITE_ANSWERS
        before = _refused(load)  # the sessions go on: the first requests may meet the fault
        await primary.start(wrapper=fault.wrapper(trace), file_bytes_max=fault.file_bytes_max)
        await _wait_ready_or_ended(cluster, report, fault)
        felt = await _wait_true(lambda: _refused(load) > before or primary.has_ended, FAULT_S_MAX)
        acked = _acked(load)
        await asyncio.sleep(AFTER_FAULT_S)
        if fault.passes and not primary.has_ended:
            back = await _wait_true(lambda: _acked(load) > acked + SESSIONS, BACK_S_MAX)
            if not back:
                raise Trouble(f"the primary takes no writes after the fault:\n{primary.log_tail()}")
        strikes = _strikes(trace)
        if felt or strikes:  # what is done ahead of time may fail, and nobody feels it
            refused = _refused(load) - before
            report.say(f"{fault.name}: struck {strikes} times; {refused} refused by the primary")
        else:
            report.skip(f"{fault.name}: it did not strike within {FAULT_S_MAX} s")
        await primary.kill()  # whether it fenced itself, ended, or never noticed
        await cluster.start()

    await run_chapter(cluster, report, fault.name, happening, seed=seed)


async def _wait_true(condition: Callable[[], bool], seconds_max: float) -> bool:
    """Wait until `condition` holds; whether it did in time."""
    for _ in range(round(seconds_max / POLL_S)):
        if condition():
            return True
        await asyncio.sleep(POLL_S)
    return condition()


async def _wait_ready_or_ended(cluster: Cluster, report: Report, fault: Fault) -> None:
    """A node that meets the fault while it starts may give up, as long as it says so."""
    try:
        await cluster.wait_ready(cluster.primary)
    except Trouble as trouble:
        if not cluster.primary.has_ended:
            raise
        report.say(f"{fault.name}: did not start under the fault: {str(trouble)[-200:]}")


def _strikes(trace: Path) -> int:
    """How many calls strace has made fail so far."""
    return trace.read_bytes().count(b"(INJECTED)") if trace.exists() else 0


def _refused(load: Load) -> int:
    """How many requests the primary refused itself, or a replica for what SQLite said there."""
    return sum(
        count
        for what, count in load.failures.items()
        if what.startswith("primary: 5") or what.endswith(": 400")
    )


def _acked(load: Load) -> int:
    return sum(isinstance(event, Write) and event.bookmark is not None for event in load.events)


def _working_strace() -> str:
    """Why strace cannot be used here, or ''."""
    path = shutil.which("strace")
    if path is None:
        return "it is not installed"
    probe = subprocess.run(
        [path, "-D", "-f", "-qq", "-o", "/dev/null", sys.executable, "-c", "print(1)"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return "" if probe.stdout.strip() == b"1" else f"it does not work: {probe.stderr[-200:]!r}"
