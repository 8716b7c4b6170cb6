"""A primary and a replica, run as `d1server` runs them, inside this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from d1server.config import Address, NodeConfig, Role
from d1server.node import run_node
from tests.free_ports import HOST, free_ports
from tests.waiting import EVENT_S_MAX
from tests.web.raw_client import RawClient, Response, connected


def free_addresses(count: int) -> list[Address]:
    """Return loopback addresses that nobody listens on."""
    return [Address(HOST, port) for port in free_ports(count)]


@asynccontextmanager
async def running(config: NodeConfig) -> AsyncIterator[Address]:
    """Run a node from before its first answer until the block ends."""
    task = asyncio.create_task(run_node(config), name=config.name)
    try:
        await _wait_ready(config.listen, task)
        yield config.listen
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _wait_ready(address: Address, task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(EVENT_S_MAX):
        while True:
            if task.done():
                await task
            try:
                async with connected(address) as client:
                    if (await client.exchange(get("/readyz"))).status == 200:
                        return
            except ConnectionRefusedError:
                pass  # not listening yet
            await asyncio.sleep(0.02)


def pair_of(
    folder: Path, *, replication_token: str | None = None, **settings: Any
) -> tuple[NodeConfig, NodeConfig]:
    """A primary and a replica of it, to be started in this order; `settings` are for both."""
    primary_http, link, replica_http = free_addresses(3)
    primary = NodeConfig(
        role=Role.PRIMARY,
        data_dir=folder / "primary",
        listen=primary_http,
        replication=link,
        name="primary",
        **settings,
    )
    replica = NodeConfig(
        role=Role.REPLICA,
        data_dir=folder / "replica",
        listen=replica_http,
        primary=link,
        name="replica",
        region="WEUR",
        replication_token=replication_token,
        **{"read_wait_s": EVENT_S_MAX} | settings,
    )
    return primary, replica


@asynccontextmanager
async def open_pair(folder: Path) -> AsyncIterator[tuple[Address, Address]]:
    """Run a primary and one replica; yield where each serves HTTP."""
    primary, replica = pair_of(folder)
    async with running(primary), running(replica):
        yield primary.listen, replica.listen


def get(path: str) -> bytes:
    """Return the bytes of a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def create(client: RawClient, name: str) -> Response:
    """Create a database."""
    body = b'{"name":"%b"}' % name.encode()
    head = f"POST /db HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return await client.exchange(head.encode(), body)
