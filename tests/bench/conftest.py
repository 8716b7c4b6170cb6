"""A cluster of stand-ins, shared by the tests that need something to measure."""

from collections.abc import Iterator

import pytest

from bench import cluster
from bench.cluster import Cluster, open_cluster

STANDIN = ("-m", "tests.bench.standin")


@pytest.fixture(scope="session")
def standins() -> Iterator[Cluster]:
    """A primary and a replica that are filled and caught up."""
    with open_cluster(primary_command=STANDIN, replica_command=STANDIN) as nodes:
        cluster.fill(nodes)
        yield nodes
