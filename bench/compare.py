"""Compares the CPU per request of two checkouts: `python -m bench.compare ../other`.

On a machine with other users, figures of two runs cannot be compared: between them everything
may become half as fast. So both clusters run at the same time, the same load generator asks
one and then the other for a second each, again and again, and what is printed is the median
of the ratios of neighbouring rounds, with its quartiles. Both run with this checkout's interpreter.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import cluster, loadgen
from bench.children import run_child
from bench.cluster import HOST, Cluster, open_cluster
from bench.placement import add_options, placement_of

SCENARIOS = {
    "read-primary": ("primary", "read", "fast"),
    "read-replica": ("replica", "read", "fast"),
    "read-chunked": ("primary", "read", "chunked"),
    "read-general": ("primary", "read", "general"),
    "write": ("primary", "update", "fast"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """CPU microseconds per request: medians of both, and quartiles of the ratio."""

    other_us: float
    this_us: float
    ratios: tuple[float, float, float]  # this to other: lower quartile, median, upper quartile

    def __str__(self) -> str:
        low, middle, high = self.ratios
        return (
            f"{self.other_us:7.1f} us there {self.this_us:7.1f} us here"
            f"   ratio {middle:.3f} ({low:.3f} to {high:.3f})"
        )


def compare(other: Callable[[int], float], this: Callable[[int], float], rounds: int) -> Comparison:
    """Measure both in turn, `rounds` times; each is told the number of its round."""
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:  # who comes first changes, so that a drift of the machine cancels out
            this_us = this(number)
            pairs.append((other(number), this_us))
        else:
            pairs.append((other(number), this(number)))
    low, middle, high = statistics.quantiles([this / other for other, this in pairs], n=4)
    return Comparison(
        other_us=statistics.median(pair[0] for pair in pairs),
        this_us=statistics.median(pair[1] for pair in pairs),
        ratios=(low, middle, high),
    )


def asker(
    nodes: Cluster, bookmark: str, scenario: str, options: argparse.Namespace
) -> Callable[[int], float]:
    """A function that asks one cluster for a round: the CPU microseconds of a request."""
    role, workload, route = SCENARIOS[scenario]
    node = nodes.primary if role == "primary" else nodes.replica
    placement = placement_of(options)

    def ask(number: int) -> float:
        cluster.place_cluster(nodes, node, placement)
        job = loadgen.Job(
            host=HOST,
            port=node.port,
            workload=workload,
            route=route,
            connections=options.connections,
            seconds=options.seconds,
            warmup_s=0.2,
            seed=number + 1,
            bookmark=bookmark,
            server_pid=node.pid,
            cores=placement.generator,
        )
        return run_child("bench.loadgen", job, loadgen.Result).server_cpu_us_per_request

    return ask


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("other", type=Path, help="a checkout of this repository")
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one round")
    parser.add_argument("--connections", type=int, default=64)
    add_options(parser)
    return parser.parse_args(arguments)


def main() -> None:
    """Compare as the command line asks."""
    options = options_of()
    with contextlib.ExitStack() as stack:
        sides: list[tuple[Cluster, str]] = []
        for checkout in (options.other.resolve(strict=True), None):
            nodes = stack.enter_context(open_cluster(checkout=checkout))
            sides.append((nodes, cluster.fill(nodes)))
        for scenario in options.only or SCENARIOS:
            other, this = (asker(*side, scenario, options) for side in sides)
            print(f"{scenario:12} {compare(other, this, options.rounds)}", flush=True)


if __name__ == "__main__":
    main()
