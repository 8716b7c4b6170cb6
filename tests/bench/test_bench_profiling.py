"""The profiler profiles a node, and the sampler counts what runs."""

import signal
from pathlib import Path

import pytest

from bench import profiling
from bench.profiling import LineSampler


def test_sampler_finds_the_busy_function() -> None:
    """Most samples of a busy function are in that function, and its caller has them all too."""
    sampler = LineSampler()
    before = signal.getsignal(signal.SIGPROF)

    def spin() -> int:
        total = 0
        while sampler.samples < 5:
            total += sum(range(100))
        return total

    sampler.start()
    try:
        spin()
    finally:
        sampler.stop()
        signal.signal(signal.SIGPROF, before)
    name, count = next(
        (name, count) for name, count in sampler.functions.items() if name.endswith(".spin")
    )
    assert count >= 4
    assert "test_bench_profiling.py" in name
    assert "test_sampler_finds_the_busy_function" in sampler.text(200)


@pytest.mark.parametrize("method", ["calls", "lines"])
def test_profile_of_a_node_names_its_functions(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A profiled stand-in serves the whole run, and its functions are in the table."""
    arguments = ["write", "--module", "tests.bench.standin", "--seconds", "0.5"]
    options = profiling.options_of([*arguments, "--connections", "4"])
    requests, cpu_us = profiling.run_scenario(options, method)
    assert requests > 10
    output: Path = profiling.output_of(options, method)
    if method == "calls":
        profiling.print_calls(output, requests, 60)
    else:
        profiling.print_lines(output, cpu_us, 60)
    output.unlink()
    assert "standin.py" in capsys.readouterr().out
