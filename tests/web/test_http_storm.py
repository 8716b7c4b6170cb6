"""Many clients that cut, pipeline, vanish and mix at random; nothing is mixed up or left over."""

import asyncio
import random

import pytest

from d1server.web.front import Front
from tests.web.memory_node import MemoryNode
from tests.web.raw_client import RawClient, Response, connected, query, rows, wait_until

CLIENTS = 24
ROUNDS = 12
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


class Storm:
    """One client's random behaviour, repeatable from its seed."""

    def __init__(self, seed: int, node: MemoryNode) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.node = node
        self.sent = 0

    async def run(self, address: tuple[str, int]) -> None:
        for _ in range(ROUNDS):
            async with connected(address) as client:
                for _ in range(self.random.randint(1, 4)):
                    await self.exchange_some(client)
                if self.random.random() < 0.3:
                    await self.vanish(client)

    async def exchange_some(self, client: RawClient) -> None:
        """Send a few requests in random pieces; the answers must be theirs, in order."""
        expected: list[int | None] = []
        data = b""
        for _ in range(self.random.randint(1, 6)):
            self.sent += 1
            mark = self.seed * 1_000_000 + self.sent
            kind = self.random.random()
            path = "/db/shop/query" if kind < 0.85 else "/db/shop/query/"
            data += LIVEZ if kind > 0.95 else query("SELECT ? AS a", params=(mark,), path=path)
            expected.append(None if kind > 0.95 else mark)
        while data:
            size = self.random.choice([1, 7, 60, 500, len(data)])
            client.send(data[:size])
            data = data[size:]
            if self.random.random() < 0.5:
                await asyncio.sleep(0)
        for wanted in expected:
            self.check(await client.response(), wanted)

    def check(self, response: Response, mark: int | None) -> None:
        assert response.status == 200
        if mark is None:
            assert response.json() == {"live": True}
        else:
            assert rows(response) == [{"a": mark}]

    async def vanish(self, client: RawClient) -> None:
        """Go away in the middle of a request, or of its answer, with or without a reset."""
        request = query("SELECT hex(zeroblob(200000)) AS a")
        client.send(request[: self.random.randint(1, len(request))])
        await asyncio.sleep(0)
        if self.random.random() < 0.5:
            client.writer.transport.abort()
        self.node.answers_now = self.random.random() < 0.7


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_storm_of_clients(front: Front, node: MemoryNode, seed: int) -> None:
    """Each client gets exactly its own answers, in order, and nothing of it remains after it.

    Method: random pieces, pipelines, both readers, answers at once and later, hang-ups at
    random places; then the front must hold no connection, no request and no room.
    """
    storms = [Storm(seed * 100 + place, node) for place in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for storm in storms:
            group.create_task(storm.run(front.address))
    await wait_until(lambda: not front.clients and not front.requests)
    assert front.room.bytes_free == front.limits.bodies_bytes_max
    assert 500 not in front.meter.answers
