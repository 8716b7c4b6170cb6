"""A node in memory behind the real socket, and a connection to it."""

from collections.abc import AsyncIterator

import pytest

from d1server.web.front import Front
from d1server.web.serve import serving
from tests.web.memory_node import MemoryNode
from tests.web.raw_client import RawClient, connected


@pytest.fixture
async def node() -> AsyncIterator[MemoryNode]:
    node = MemoryNode()
    yield node
    node.close()


@pytest.fixture
async def front(node: MemoryNode) -> AsyncIterator[Front]:
    async with serving(node, "127.0.0.1", 0) as front:
        yield front


@pytest.fixture
async def client(front: Front) -> AsyncIterator[RawClient]:
    async with connected(front.address) as client:
        yield client
