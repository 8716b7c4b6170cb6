"""`python -m tests.torture`: everything that runs long and breaks things on purpose.

    sessions    sessions that hop between healthy nodes
    kills       kill -9 of the primary, replicas, all; in VACUUMs, in bootstraps; frozen replicas
    faults      a disk that fails under the primary
    injection   commits injected under concurrent readers and checkpoints
    files       a large file in, out and in again, the primary killed meanwhile

Prints progress, and a summary as one line of JSON at the end. Exits with 1 after a violation,
and keeps data directories, logs and the failing history in a folder under the temporary one.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.torture.cluster import REPO, Trouble, open_cluster
from tests.torture.faults import CI_FAULTS, run_faults
from tests.torture.kills import run_kills, run_sessions
from tests.torture.large_import import Figures
from tests.torture.large_import import run as run_large_import
from tests.torture.report import Report

CI_SEED = 1  # the short slice decides about a change: its choices are the same each time
INJECTION_S_SPARE = 300.0  # what the injection run may take beyond its seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of what to run."""

    seed: int
    kills: int
    seconds: float
    faults: tuple[str, ...] | None  # None: all
    file_mib: int
    file_kills: int  # in the upload, and in the import


async def _sessions(report: Report, plan: Plan) -> None:
    async with open_cluster(report.folder / "sessions") as cluster:
        await run_sessions(cluster, report, seconds=plan.seconds / 2, seed=plan.seed)


async def _kills(report: Report, plan: Plan) -> None:
    async with open_cluster(report.folder / "kills") as cluster:
        await run_kills(cluster, report, kills=plan.kills, seed=plan.seed)


async def _faults(report: Report, plan: Plan) -> None:
    await run_faults(report, seed=plan.seed, names=plan.faults)


async def _injection(report: Report, plan: Plan) -> None:
    """Run the injection in a process of its own: its readers hold files open."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.torture.injection"),
        *("--seconds", str(plan.seconds), "--seed", str(plan.seed)),
        cwd=REPO,
    )
    try:
        async with asyncio.timeout(plan.seconds + INJECTION_S_SPARE):
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0:
        raise Trouble(f"the injection run ended with {code}")


async def _files(report: Report, plan: Plan) -> None:
    figures = Figures(plan.file_mib)
    folder = report.folder / "files"
    await run_large_import(folder, figures, kills=plan.file_kills, seed=plan.seed, is_whole=True)
    report.kills += figures.upload_kills + figures.import_kills
    report.add_violations(figures.problems, "files")


Part = Callable[[Report, Plan], Awaitable[None]]
PARTS: dict[str, Part] = {
    "sessions": _sessions,
    "kills": _kills,
    "faults": _faults,
    "injection": _injection,
    "files": _files,
}


async def run(report: Report, plan: Plan, parts: list[str]) -> None:
    """Run the parts one after another; each one's troubles go into the report."""
    for name in parts:
        report.say(f"--- {name}")
        try:
            await PARTS[name](report, plan)
        except (Trouble, TimeoutError) as exc:
            report.add_trouble(exc, name)


def seed_of(slice_: str) -> int:
    """The seed of a run for which none was named."""
    return CI_SEED if slice_ == "ci" else random.SystemRandom().randrange(10**6)


def main() -> int:
    """Run what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--slice", choices=("full", "ci"), default="full")
    parser.add_argument("--kills", type=int, help="nodes to kill (full: 200, ci: 10)")
    parser.add_argument("--seconds", type=float, help="of injection (full: 60, ci: 10)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's choices")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    options = parser.parse_args()
    is_full = options.slice == "full"
    plan = Plan(
        seed=options.seed if options.seed is not None else seed_of(options.slice),
        kills=options.kills if options.kills is not None else 200 if is_full else 10,
        seconds=options.seconds if options.seconds is not None else 60.0 if is_full else 10.0,
        faults=None if is_full else CI_FAULTS,
        file_mib=192 if is_full else 24,
        file_kills=4 if is_full else 2,
    )
    report = Report(plan.seed, Path(tempfile.mkdtemp(prefix="d1-torture-")))
    report.say(f"seed {plan.seed}, {plan.kills} kills, in {report.folder}")
    asyncio.run(run(report, plan, options.only))
    is_kept = bool(report.violations or options.keep)
    if not is_kept:
        shutil.rmtree(report.folder, ignore_errors=True)
    print(report.line(is_kept=is_kept), flush=True)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
