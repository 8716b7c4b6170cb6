"""Shows where the microseconds of one request go: `python -m bench.profiling read|write|apply`.

The node runs in a child whose main thread is profiled, from the end of the warm-up to the end
of the run. Two methods, because each lies in its own way:

- `calls` (cProfile): exact counts and who calls whom, but every call costs more than it does
  without a profile, so small functions look larger than they are;
- `lines` (the running line, sampled at each tick of CPU time): no such distortion, but C code
  (SQLite, sockets) shows as the Python line that called it, or as the first line of the function
  that is entered next: a signal waits until the interpreter looks.

The same scenario runs without a profile first. Its CPU time per request is the truth; `lines`
are shares of it. `apply` is the replica while the primary takes the writes.
"""

import argparse
import contextlib
import cProfile
import os
import pstats
import runpy
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

from bench import cluster, loadgen
from bench.children import Child
from bench.cluster import HOST, Cluster, Node, open_cluster
from bench.placement import add_options, placement_of

START, STOP = signal.SIGUSR1, signal.SIGUSR2
SAMPLE_EVERY_S = 0.001  # the kernel makes it one tick, often 4 ms
ROOT_SHARE = 0.995  # functions on nearly every stack (main, the loop) say nothing
WRITE_S_MAX = 20.0
FRAMES_KEPT = 40  # of one sampled stack, innermost first


class LineSampler:
    """Counts which line runs, and which functions are on the stack, by CPU time."""

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()
        self.samples = 0

    def start(self) -> None:
        """Take samples from now on."""
        signal.signal(signal.SIGPROF, self.on_tick)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_EVERY_S, SAMPLE_EVERY_S)

    def stop(self) -> None:
        """Take no more samples."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def on_tick(self, _signal: int, frame: FrameType | None) -> None:
        """Count one sample of the main thread."""
        self.samples += 1
        if frame is None:
            return
        name = _name_of(frame)
        self.lines[f"{name}:{frame.f_lineno}"] += 1
        seen: set[str] = set()
        for _ in range(FRAMES_KEPT):
            seen.add(_name_of(frame))
            if frame.f_back is None:
                break
            frame = frame.f_back
        self.functions.update(seen)

    def text(self, top: int) -> str:
        """Return the counts as `kind count name` lines, for `print_lines`."""
        lines = [f"samples {self.samples} -"]
        lines += [f"line {count} {name}" for name, count in self.lines.most_common(top)]
        lines += [f"function {count} {name}" for name, count in self.functions.most_common(top)]
        return "\n".join(lines)


def _name_of(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_code.co_qualname}"


def run_profiled(output: Path, method: str, arguments: list[str]) -> None:
    """Be the node: `python -m <arguments>`, profiled between the two signals."""
    calls, lines = cProfile.Profile(), LineSampler()

    def start(_signal: int, _frame: FrameType | None) -> None:
        if method == "calls":
            calls.enable()
        else:
            lines.start()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if method == "calls":
            calls.disable()
            calls.dump_stats(output)
        else:
            lines.stop()
            output.write_text(lines.text(100))

    signal.signal(START, start)
    signal.signal(STOP, stop)
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def print_calls(output: Path, requests: int, top: int) -> None:
    """Print the functions with the most own time, in microseconds per request."""
    stats = pstats.Stats(str(output)).strip_dirs()
    print(f"\ncalls: {requests:,} requests; us per request, with the cost of profiling")
    print(f"{'calls':>8} {'own us':>8} {'with callees':>12}  function")
    rows: list[tuple[float, float, float, str]] = []
    for place, entry in stats.stats.items():  # type: ignore[attr-defined]
        _primitive, count, own_s, total_s, _callers = entry
        file, line, function = place
        name = f"{file}:{line}({function})" if line else function  # no line: built in
        rows.append((own_s, total_s, count, name))
    for own_s, total_s, count, name in sorted(rows, reverse=True)[:top]:
        own, total = own_s * 1e6 / requests, total_s * 1e6 / requests
        print(f"{count / requests:8.2f} {own:8.2f} {total:12.2f}  {name}")


def print_lines(output: Path, cpu_us: float, top: int) -> None:
    """Print functions and lines by their share of the CPU time per request."""
    counts: dict[str, list[tuple[int, str]]] = {"line": [], "function": []}
    samples = 1
    for row in output.read_text().splitlines():
        kind, number, name = row.split(" ", 2)
        if kind == "samples":
            samples = max(1, int(number))
        else:
            counts[kind].append((int(number), name))
    for kind, title in (("function", "functions, with what they call"), ("line", "lines")):
        print(f"\n{title}: share of {cpu_us:.1f} us of CPU per request ({samples:,} samples)")
        shares = [(count / samples, name) for count, name in counts[kind]]
        for share, name in [each for each in shares if each[0] < ROOT_SHARE][:top]:
            print(f"{share:7.1%} {share * cpu_us:8.2f} us  {name}")


def options_of(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.profiling", description="Profile one scenario."
    )
    parser.add_argument("scenario", choices=("read", "write", "apply"))
    parser.add_argument("--node", choices=("primary", "replica"), default="primary")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--method", choices=("calls", "lines", "both"), default="both")
    parser.add_argument("--module", default="d1server", help="what runs as `python -m MODULE`")
    parser.add_argument("--top", type=int, default=40)
    add_options(parser)
    return parser.parse_args(arguments)


@contextlib.contextmanager
def open_profiled(role: str, method: str, output: Path, module: str) -> Iterator[Cluster]:
    """Start a cluster in which the node of `role` is profiled."""
    wrapped = ("-m", "bench.profiling", "--be-node", str(output), method, module)
    plain = ("-m", module)
    with open_cluster(
        primary_command=wrapped if role == "primary" and method else plain,
        replica_command=wrapped if role == "replica" and method else plain,
    ) as nodes:
        yield nodes


def output_of(options: argparse.Namespace, method: str) -> Path:
    """Return where the node leaves its profile."""
    return cluster.SCRATCH / f"profile-{options.scenario}.{method}"


def run_scenario(options: argparse.Namespace, method: str) -> tuple[int, float]:
    """Run once; return the requests and the node's CPU microseconds for each.

    For `apply` these are the writes that the primary acknowledged, and the replica's CPU.
    """
    role = "replica" if options.scenario == "apply" else options.node
    output = output_of(options, method)
    with open_profiled(role, method, output, options.module) as nodes:
        bookmark = cluster.fill(nodes)
        watched = nodes.primary if role == "primary" else nodes.replica
        target = nodes.primary if options.scenario == "apply" else watched
        cluster.place_cluster(nodes, watched, placement_of(options))
        job = loadgen.Job(
            host=HOST,
            port=target.port,
            workload="read" if options.scenario == "read" else "update",
            connections=options.connections,
            seconds=options.seconds,
            bookmark=bookmark,
            server_pid=watched.pid,
            cores=placement_of(options).generator,
        )
        return _drive(job, watched, method, output)


def _drive(job: loadgen.Job, watched: Node, method: str, output: Path) -> tuple[int, float]:
    output.unlink(missing_ok=True)
    with Child("bench.loadgen", replace(job, warmup_s=1.0)) as generator:
        generator.wait_line("measuring")
        if method:
            os.kill(watched.pid, START)
        result = generator.result(loadgen.Result)
    if method:
        os.kill(watched.pid, STOP)
        _wait_written(output)
    return result.requests, result.server_cpu_us_per_request


def _wait_written(output: Path) -> None:
    """Return when the node has written its profile, which it does all at once."""
    deadline = time.monotonic() + WRITE_S_MAX
    while not output.exists() or not output.stat().st_size:
        if time.monotonic() > deadline:
            raise cluster.NodeFailed(f"the node has not written {output.name}")
        time.sleep(0.05)
    time.sleep(0.2)


def main() -> None:
    """Profile as the command line asks; or be the profiled node."""
    if sys.argv[1:2] == ["--be-node"]:
        run_profiled(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
        return
    options = options_of(sys.argv[1:])
    requests, cpu_us = run_scenario(options, "")
    print(f"{options.scenario}: {requests / options.seconds:,.0f} per second and {cpu_us:.1f} us")
    print("of CPU each, without a profiler")
    for method in ("lines", "calls"):
        if options.method in (method, "both"):
            requests, _slowed_us = run_scenario(options, method)
            output = output_of(options, method)
            if method == "lines":
                print_lines(output, cpu_us, options.top)
            else:
                print_calls(output, requests, options.top)


if __name__ == "__main__":
    main()
