"""One guarded cluster for all tests of a file."""

from collections.abc import Iterator

import pytest

from tests.auth.guarded_cluster import GuardedCluster, guarded_cluster


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedCluster]:
    with guarded_cluster(tmp_path_factory.mktemp("guarded")) as cluster:
        yield cluster
