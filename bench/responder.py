"""A server that does nothing: the same answer to every request, through uvloop.

It shows what the load generator itself can do on this machine at this moment. A figure
of a node that comes near this ceiling says more about the generator than about the node.
`python -m bench.responder` prints its port and serves until it is killed.
"""

import asyncio
import os
import sys
from typing import cast

import uvloop

from bench.workloads import row_of

_BODY = b'{"result":[{"results":[%b],"success":true,"meta":{"changes":1}}],"success":true}'
BOOKMARK = f"{1:08x}-{0:08x}-{1:08x}-{0:032x}"


def canned_answer(key: int) -> bytes:
    """Return a whole answer that holds row `key`, as a point read of it is answered."""
    row = row_of(key)
    fields = f'"id":{key},"name":"{row["name"]}","price":{row["price"]},"stock":0'
    body = _BODY % f'{{{fields},"note":"{row["note"]}"}}'.encode()
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        f"x-d1-bookmark: {BOOKMARK}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Responder(asyncio.Protocol):
    """Answers whatever arrives, one answer for each time that something arrives."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        """Answer without looking."""
        assert self._transport is not None
        self._transport.write(self._answer)


async def serve() -> None:
    """Serve on a free loopback port, which is printed first."""
    answer = canned_answer(100_000)
    server = await asyncio.get_running_loop().create_server(
        lambda: Responder(answer), "127.0.0.1", 0
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, [int(core) for core in sys.argv[1].split(",")])
    uvloop.run(serve())
