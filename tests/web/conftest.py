"""A node in memory behind the real socket, and a connection to it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from d1server.web.front import Front
from d1server.web.serve import serving
from tests.web.memory_node import MemoryNode
from tests.web.raw_client import RawClient, connected


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every async test here on both loops: their transports call back at other times."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


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
