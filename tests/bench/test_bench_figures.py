"""Percentiles, /proc readings and placements are what they are called."""

import os
from pathlib import Path

from bench import processes
from bench.client import counter_sum
from bench.latency import summarize
from bench.placement import Placement, default_placement
from bench.suite import sent_bytes_of, seq_of


def test_percentiles_of_a_known_run() -> None:
    """1..1000 us: each percentile lies where it must."""
    found = summarize(us * 1000 for us in range(1, 1001))
    assert (found.count, found.p50_us, found.max_us) == (1000, 500.5, 1000.0)
    assert 989 < found.p99_us < 991.1
    assert 998 < found.p999_us < 1000
    assert summarize([]).count == 0


def test_server_gets_a_core_of_its_own() -> None:
    """With two cores everything else shares the second one; with more, nothing shares."""
    assert default_placement([0]) == Placement(server=(0,), generator=(0,), other=(0,))
    assert default_placement([4, 2]) == Placement(server=(2,), generator=(4,), other=(4,))
    assert default_placement(range(8)) == Placement(server=(0,), generator=(1,), other=(2,))


def test_cpu_time_of_a_process_with_an_odd_name() -> None:
    """The command in /proc/<pid>/stat may hold spaces and brackets."""
    fields = "R 1 1 1 0 -1 0 0 0 0 0 250 50 7 7 20 0 1 0 100"
    ticks = os.sysconf("SC_CLK_TCK")
    assert processes._cpu_s_of_stat(f"12 (a) b) {fields}\n") == 300 / ticks


def test_busy_time_counts_only_the_named_cores() -> None:
    """Idle and I/O wait are not busy; `cpu` (the sum) and other cores do not count."""
    text = "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 100 100 4 5 6 0 0\ncpu10 7 7 7 7 7 7 7 7 0 0\n"
    assert processes._busy_s_of_stat(text, [0]) == 21 / os.sysconf("SC_CLK_TCK")
    assert processes._busy_s_of_stat(text, []) == 0


def test_own_memory_is_plausible() -> None:
    """This process has some memory, and has never had less than it has now."""
    rss = processes.rss_bytes(os.getpid())
    assert 1_000_000 < rss <= processes.peak_rss_bytes(os.getpid()) * 1.1


def test_open_files_are_counted_by_folder(tmp_path: Path) -> None:
    """Only files in the folder count, and only while they are open."""
    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "a").open("wb"), (tmp_path / "data-of-another").open("wb"):
        assert processes.open_files_below(os.getpid(), folder) == 1
    assert processes.open_files_below(os.getpid(), folder) == 0


def test_counter_is_summed_over_its_series() -> None:
    """A counter with labels is the sum of its series; one that is absent is not zero."""
    text = '# HELP a_total x\na_total{r="1"} 2.0\na_total{r="2"} 3.5\na_total_more 9\n'
    assert counter_sum(text, "a_total") == 5.5
    assert counter_sum(text, "b_total") is None


def test_sent_bytes_are_summed_over_the_replicas() -> None:
    """A primary's /status names each replica; one that says nothing is not zero bytes."""
    assert sent_bytes_of('{"replicas":[{"sent_bytes":5},{"sent_bytes":7},{}]}') == 12
    assert sent_bytes_of('{"replicas":[]}') is None
    assert sent_bytes_of("{}") is None


def test_sequence_of_a_bookmark() -> None:
    """The two middle fields are one number."""
    assert seq_of(f"00000001-00000002-00000003-{0:032x}") == 2 * 2**32 + 3
