"""A fresh cluster for each test that wants one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.running_cluster import Cluster, running_cluster


@pytest.fixture
async def empty_cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """No node yet: the test adds them as it needs them."""
    async with running_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def cluster(empty_cluster: Cluster) -> Cluster:
    """A primary, two replicas, and the database `shop` with an empty table `t(x)` on all."""
    await empty_cluster.add_primary()
    for _ in range(2):
        await empty_cluster.add_replica()
    await empty_cluster.create()
    await empty_cluster.primary.run("CREATE TABLE t (x)")
    await empty_cluster.caught_up()
    return empty_cluster
