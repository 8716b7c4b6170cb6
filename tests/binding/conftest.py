"""One cluster for all tests of a file; each test has databases of its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.rest.http_cluster import HttpCluster, http_cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCluster]:
    async with http_cluster(tmp_path_factory.mktemp("nodes")) as cluster:
        yield cluster
