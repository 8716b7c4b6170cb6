"""One guarded cluster for all tests of a file, with the sample database as `shop`."""

from collections.abc import Iterator

import pytest

from d1server.sample_shop import STATEMENTS
from tests.auth.guarded_cluster import GuardedCluster, guarded_cluster


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedCluster]:
    with guarded_cluster(tmp_path_factory.mktemp("guarded")) as cluster:
        with cluster.caller(kind="admin") as admin:
            filled = admin.call(
                "POST", "/db/shop/query", {"batch": [{"sql": sql} for sql in STATEMENTS]}
            )
            assert filled.status == 200, filled
        yield cluster
