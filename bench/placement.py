"""Decides which core each process of a run may use.

On two cores the measured node has one for itself; load generator and the other node share
the second. A figure of a node that shares its core with the generator measures the scheduler.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which cores each process of a run may use; equal tuples mean that they share."""

    server: tuple[int, ...]  # the node that is measured
    generator: tuple[int, ...]  # load generator and lag probe
    other: tuple[int, ...]  # the other node: replica of a write run, primary of a replica's reads


def default_placement(cores: Iterable[int]) -> Placement:
    """Give the server a core of its own, and share the rest as well as it can be shared."""
    usable = tuple(sorted(cores))
    if len(usable) < 2:
        return Placement(server=usable, generator=usable, other=usable)
    if len(usable) == 2:
        return Placement(server=usable[:1], generator=usable[1:], other=usable[1:])
    return Placement(server=usable[:1], generator=usable[1:2], other=usable[2:3])


def place(pid: int, cores: Sequence[int]) -> None:
    """Pin every thread of `pid` to `cores`; threads that it starts later inherit the pin."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:  # a thread that ended while we looked
            continue


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that override `default_placement`."""
    parser.add_argument("--server-cores", type=_cores, help="cores of the measured node: 0 or 0,1")
    parser.add_argument("--generator-cores", type=_cores, help="cores of the load generator")
    parser.add_argument("--other-cores", type=_cores, help="cores of the other node")


def _cores(text: str) -> tuple[int, ...]:
    return tuple(int(core) for core in text.split(","))


def placement_of(options: argparse.Namespace) -> Placement:
    """Return where the processes run: as asked, or as this machine allows."""
    default = default_placement(os.sched_getaffinity(0))
    return Placement(
        server=options.server_cores or default.server,
        generator=options.generator_cores or default.generator,
        other=options.other_cores or default.other,
    )
