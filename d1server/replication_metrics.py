"""What Prometheus is told of commits, their durability and the replicas that follow."""

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from d1server.metrics import histogram_family
from engine.durations import Histogram


class ReplicationCollector(Collector):
    """Reads the node's status and its flush durations at each scrape."""

    def __init__(self, status: Callable[[], dict[str, object]], flush_s: Histogram) -> None:
        """Collect from `status` and `flush_s`."""
        self._status = status
        self._flush_s = flush_s

    def describe(self) -> Iterable[Metric]:
        """Nothing: do not collect just to register."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The families, made anew."""
        yield histogram_family(
            "d1server_flush_seconds",
            "Making commits durable: write and fdatasync of a commit log.",
            {"log": self._flush_s},
            "file",
        )
        status = self._status()
        if "query_costs_waiting" in status:
            yield GaugeMetricFamily(
                "d1server_query_costs_waiting",
                "Rows of query statistics that a replica has still to tell the primary.",
                cast("int", status["query_costs_waiting"]),
            )
        replicas = cast("list[dict[str, object]]", status.get("replicas", []))
        sent = CounterMetricFamily(
            "d1server_link_sent_bytes", "Bytes sent to a replica on this link.", labels=["replica"]
        )
        lag = GaugeMetricFamily(
            "d1server_link_lag_seconds", "How far a replica says it is behind.", labels=["replica"]
        )
        for replica in replicas:
            name = [str(replica["name"])]
            sent.add_metric(name, float(cast("int", replica["sent_bytes"])))
            lag.add_metric(name, float(cast("float", replica["lag_ms"])) / 1000)
        if replicas:
            yield sent
            yield lag
