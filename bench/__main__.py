"""`python -m bench [--slice ci]`: measures, prints, and writes the results."""

import argparse
import os
import sys
from pathlib import Path

from bench import markdown, memory, report, suite
from bench.children import MeasurementFailed
from bench.client import NodeRefused
from bench.cluster import SCRATCH, NodeFailed, open_cluster
from bench.placement import add_options, placement_of

RESULTS = Path(__file__).parent / "results"


def options_of(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure a primary and a replica on this machine."
    )
    parser.add_argument("--slice", choices=("full", "ci"), default="full")
    parser.add_argument("--only", choices=("throughput", "memory"), help="leave the other part out")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the results go")
    add_options(parser)
    parser.add_argument("--databases", type=int, help="idle databases in the memory part")
    parser.add_argument("--large-mib", type=int, help="size of the large database")
    parser.add_argument("--strict", action="store_true", help="fail if a target is not met")
    return parser.parse_args(arguments)


def memory_sizes_of(options: argparse.Namespace) -> memory.MemorySizes:
    """Return the sizes of the memory part: the slice's own, unless asked otherwise."""
    sizes = memory.CI if options.slice == "ci" else memory.FULL
    return memory.MemorySizes(
        databases=options.databases or sizes.databases,
        large_bytes=options.large_mib * memory.MIB if options.large_mib else sizes.large_bytes,
    )


def measure(options: argparse.Namespace) -> report.Report:
    """Run the parts that were asked for."""
    placement = placement_of(options)
    load_before = os.getloadavg()[0]
    measured, used = suite.Measurements(), None
    if options.only != "memory":
        with open_cluster() as nodes:
            sizes = suite.CI if options.slice == "ci" else suite.FULL
            measured = suite.Suite(nodes, placement, sizes).run()
    if options.only != "throughput":
        used = memory.measure(memory_sizes_of(options))
    commit, is_dirty = report.git_now()
    return report.Report(
        schema=report.SCHEMA_VERSION,
        slice=options.slice,
        date=report.date_now(),
        git_commit=commit,
        git_is_dirty=is_dirty,
        machine=report.machine_now(SCRATCH, load_before),
        versions=report.versions_now(),
        placement=placement,
        measurements=measured,
        memory=used,
        targets=report.targets_of(measured, used),
    )


def main() -> None:
    """Measure, print, write; a wrong answer ends with status 1 and no results."""
    options = options_of(sys.argv[1:])
    try:
        found = measure(options)
    except (MeasurementFailed, NodeFailed, NodeRefused) as exc:
        sys.exit(f"bench: {type(exc).__name__}: {exc}")
    markdown.write(found, options.output)
    print("\n" + markdown.markdown_of(found))
    if options.strict and not all(target.is_met for target in found.targets):
        sys.exit("bench: not all targets are met")


if __name__ == "__main__":
    main()
