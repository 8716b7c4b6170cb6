"""What the tests of real clients share: one primary and one replica for all of them."""

from collections.abc import Iterator

import pytest

from tests.clients.guarded import Guarded, guarded_nodes
from tests.clients.nodes import Nodes, running_nodes


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Nodes that all tests use, each with databases of its own."""
    with running_nodes(tmp_path_factory.mktemp("nodes")) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Nodes that all tests of access tokens use."""
    with guarded_nodes(tmp_path_factory.mktemp("guarded")) as running:
        yield running
