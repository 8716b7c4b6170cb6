"""Counting cheaply where it is hot, and telling Prometheus when it asks.

The hot path adds to plain ints and floats (well below 1 us a request); the collectors
here turn them into metric families at each scrape. Nothing is sampled or sent in between.

Owned by the event loop: written and read there only.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from engine.durations import Histogram


class HttpMeter:
    """What the HTTP side counts."""

    __slots__ = (
        "answers",
        "aside",
        "connections_refused",
        "dropped_unread",
        "handed_over",
        "later",
        "now",
        "timeouts",
    )

    def __init__(self) -> None:
        self.answers: defaultdict[int, int] = defaultdict(int)  # by status
        self.now = Histogram()  # fast path, answered at once
        self.later = Histogram()  # fast path, after a wait, a forward or a thread
        self.aside = Histogram()  # through aiohttp
        self.handed_over = 0  # connections given to aiohttp
        self.connections_refused = 0
        self.dropped_unread = (
            0  # connections, as the answers that clients left took too much memory
        )
        self.timeouts = 0  # connections closed for being slow or idle


def histogram_family(
    name: str, documentation: str, histograms: Mapping[str, Histogram], label: str
) -> HistogramMetricFamily:
    """Return one family with a series for each of `histograms`, keyed by the label's value."""
    family = HistogramMetricFamily(name, documentation, labels=[label])
    for value, histogram in histograms.items():
        family.add_metric([value], histogram.buckets(), histogram.sum_s)
    return family


class HttpCollector(Collector):
    """Tells Prometheus what an `HttpMeter` has counted."""

    def __init__(self, meter: HttpMeter, connections: Callable[[], int]) -> None:
        self._meter = meter
        self._connections = connections

    def describe(self) -> Iterable[Metric]:
        return ()  # do not collect just to register

    def collect(self) -> Iterator[Metric]:
        meter = self._meter
        answers = CounterMetricFamily(
            "d1server_http_answers", "Answers by HTTP status.", labels=["status"]
        )
        for status, count in sorted(meter.answers.items()):
            answers.add_metric([str(status)], count)
        yield answers
        yield histogram_family(
            "d1server_http_seconds",
            "From the last byte of a request to its answer, by how it was served.",
            {"now": meter.now, "later": meter.later, "aiohttp": meter.aside},
            "path",
        )
        yield GaugeMetricFamily(
            "d1server_http_connections", "Open connections.", self._connections()
        )
        yield CounterMetricFamily(
            "d1server_http_handed_over", "Connections given to aiohttp.", meter.handed_over
        )
        yield CounterMetricFamily(
            "d1server_http_connections_refused",
            "Connections refused because too many were open.",
            meter.connections_refused,
        )
        yield CounterMetricFamily(
            "d1server_http_dropped_unread",
            "Connections dropped because clients left too much of their answers unread.",
            meter.dropped_unread,
        )
        yield CounterMetricFamily(
            "d1server_http_timeouts", "Connections closed as slow or idle.", meter.timeouts
        )


# A database's entry in `NodeView.status()` -> gauge, what it says, and its factor.
_DATABASE_GAUGES: Final = {
    "lag_commits": ("d1server_replica_lag_commits", "Commits not applied here yet.", 1.0),
    "lag_bytes": ("d1server_replica_lag_bytes", "Bytes of commits not applied here yet.", 1.0),
    "lag_ms": ("d1server_replica_lag_seconds", "Age of the oldest commit not applied.", 0.001),
    "size_bytes": ("d1server_database_size_bytes", "Size of the database.", 1.0),
    "log_bytes": ("d1server_log_bytes", "Size of the commit log on disk.", 1.0),
}


class NodeCollector(Collector):
    """Tells Prometheus what the node says of itself in `/status`."""

    def __init__(
        self,
        status: Callable[[], dict[str, object]],
        readiness: Callable[[], tuple[bool, list[str]]],
    ) -> None:
        self._status = status
        self._readiness = readiness

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        role = str(status.get("role", "unknown"))
        info = {"role": role, "region": str(status.get("region", ""))}
        yield InfoMetricFamily("d1server_node", "Which node this is.", info)
        yield GaugeMetricFamily(
            "d1server_is_primary", "1 on the primary, 0 on a replica.", float(role == "primary")
        )
        ready, _ = self._readiness()
        yield GaugeMetricFamily("d1server_ready", "1 while /readyz says 200.", float(ready))
        epoch = status.get("epoch")
        if isinstance(epoch, int):
            yield GaugeMetricFamily("d1server_epoch", "Epoch of the newest commits.", epoch)
        databases = status.get("databases")
        if isinstance(databases, Mapping):
            yield from _database_gauges(databases)


def _database_gauges(databases: Mapping[str, object]) -> Iterator[Metric]:
    yield GaugeMetricFamily("d1server_databases", "Databases of the node.", len(databases))
    for key, (name, documentation, factor) in _DATABASE_GAUGES.items():
        family = GaugeMetricFamily(name, documentation, labels=["database"])
        for database, entry in databases.items():
            value = entry.get(key) if isinstance(entry, Mapping) else None
            if isinstance(value, int | float):
                family.add_metric([database], value * factor)
        if family.samples:
            yield family


def open_registry(collectors: Iterable[Collector]) -> CollectorRegistry:
    """Return a registry with `collectors` and what Python and the system say of the process."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry
