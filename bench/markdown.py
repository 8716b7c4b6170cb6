"""Writes a report as JSON for programs and as Markdown for people."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.latency import Latency
from bench.memory import MemoryResult
from bench.report import Report
from bench.suite import Measurements


def write(report: Report, folder: Path) -> None:
    """Write `latest.json` and `latest.md` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    (folder / "latest.json").write_bytes(text + b"\n")
    (folder / "latest.md").write_text(markdown_of(report))


def markdown_of(report: Report) -> str:
    """Return the report for people; every figure is also in the JSON."""
    parts = [
        f"# Benchmark, {report.date}\n",
        f"Slice `{report.slice}`, commit `{report.git_commit[:12]}`"
        f"{' with local changes' if report.git_is_dirty else ''}. {report.machine.cpu},"
        f" {report.machine.cores} cores, Linux {report.machine.kernel},"
        f" {report.machine.filesystem}; load {report.machine.load_1min_before} before,"
        f" {report.machine.load_1min_after} after. "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items())
        + ". How to read the figures: `bench/README.md`.\n",
        _table(
            "Targets",
            ("target", "goal", "measured", ""),
            [
                (each.name, each.goal, each.measured, "met" if each.is_met else "NOT MET")
                for each in report.targets
            ],
        ),
    ]
    if report.measurements.runs:
        parts += _throughput_parts(report.measurements)
    if report.memory is not None:
        parts.append(_memory_part(report.memory))
    return "\n".join(parts)


def _throughput_parts(measured: Measurements) -> list[str]:
    runs = [
        (
            run.name,
            f"{run.result.per_second:,.0f}",
            f"{run.result.latency.p50_us:,.0f}",
            f"{run.result.latency.p99_us:,.0f}",
            f"{run.result.latency.p999_us:,.0f}",
            f"{run.result.server_cpu_us_per_request:.1f}",
            f"{run.result.generator_cpu_share:.0%}",
            f"{run.result.foreign_cpu_share:.0%}",
            "" if run.link_bytes_per_commit is None else f"{run.link_bytes_per_commit:,.0f}",
        )
        for run in measured.runs
    ]
    head = (
        "run (workload, node, connections)",
        "per second",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "server CPU us each",
        "generator's core",
        "others on server's core",
        "link bytes per commit",
    )
    peaks = [(node, f"{size / 1e6:.0f} MB") for node, size in measured.peak_rss_bytes.items()]
    return [
        _table("Throughput and latency", head, runs),
        _table("Lag of the replica, ms", ("", "p50", "p99", "p99.9", "max", "n"), _lag(measured)),
        _table("Ratios", ("", ""), ratios_of(measured)),
        _table("Peak RSS of the runs above", ("node", "peak"), peaks),
    ]


def _lag(measured: Measurements) -> list[tuple[str, ...]]:
    rows = []
    for label, result in (("idle", measured.lag_idle), ("under load", measured.lag_loaded)):
        if result is None:
            continue
        for method, latency in (
            ("bookmark read", result.bookmark),
            ("visible", result.visible),
            ("the probe's writes", result.write),
        ):
            figures = (latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us)
            cells = tuple(f"{value / 1000:.2f}" for value in figures)
            rows.append((f"{label}: {method}", *cells, f"{latency.count:,}"))
    if measured.lag_load is not None:
        rate = f"{measured.lag_load.per_second:,.0f} writes/s went on meanwhile"
        rows.append((rate, "", "", "", "", ""))
    return rows


def ratios_of(measured: Measurements) -> list[tuple[str, str]]:
    """Return figures that stay comparable on a machine that is slower or busier."""
    found: list[tuple[str, str]] = []
    fast = measured.run_named("read primary 64")
    general = measured.run_named("read primary 64 general")
    writes = measured.run_named("update primary 64")
    ceiling = measured.run_named("read responder 64")
    raw = measured.raw
    if fast and general:
        value = fast.result.per_second / max(1.0, general.result.per_second)
        found.append(("fast path / aiohttp route, reads/s", f"{value:.1f}"))
    if fast and ceiling:
        value = fast.result.per_second / max(1.0, ceiling.result.per_second)
        found.append(("fast path / server that does nothing, reads/s", f"{value:.2f}"))
    if raw is None:
        return found
    for name, run, cost in (
        ("read", fast, raw.point_select),
        ("write", writes, raw.row_update),
    ):
        if run and cost.p50_us:
            value = run.result.server_cpu_us_per_request / cost.p50_us
            found.append((f"server CPU per {name} / SQLite alone", f"{value:.1f}"))
    if writes and raw.sync_8k.p50_us:
        value = writes.result.per_second * raw.sync_8k.p50_us / 1e6
        found.append(
            ("durable writes/s, 64 connections / bare fdatasyncs of 8 KiB", f"{value:.2f}")
        )
    found += [
        ("SQLite point select, us p50", f"{raw.point_select.p50_us:.1f}"),
        ("SQLite one-row update, us p50", f"{raw.row_update.p50_us:.1f}"),
        ("fdatasync of 8 KiB, us p50 / p99", _pair(raw.sync_8k)),
    ]
    return found


def _pair(latency: Latency) -> str:
    return f"{latency.p50_us:.0f} / {latency.p99_us:.0f}"


def _memory_part(memory: MemoryResult) -> str:
    idle, large = memory.idle, memory.large
    rows = [
        ("RSS per idle database, KB", _kb(idle.primary_bytes_each), _kb(idle.replica_bytes_each)),
        ("start, MB", _mb(large.primary_start_bytes), _mb(large.replica_start_bytes)),
        (
            "peak after the fill, MB",
            _mb(large.primary_fill_peak_bytes),
            _mb(large.replica_fill_peak_bytes),
        ),
        ("peak after the VACUUM, MB", _mb(large.primary_peak_bytes), _mb(large.replica_peak_bytes)),
    ]
    label = f"{idle.databases} idle databases; one of {large.bytes / 2**20:.0f} MiB"
    return _table("Memory", (label, "primary", "replica"), rows)


def _kb(value: float) -> str:
    return f"{value / 1000:.1f}"


def _mb(value: float) -> str:
    return f"{value / 1e6:.0f}"


def _table(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"## {title}\n", _row(head), _row(("---",) * len(head)), *map(_row, rows)]
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
