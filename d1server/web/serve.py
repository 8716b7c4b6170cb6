"""Starting and stopping the HTTP side of a node: one listening socket, two minds behind it.

Stop order:

1. the socket stops listening;
2. idle connections close, the others after the answer that they owe;
3. what still runs after `stop_s_max` is cancelled, and its connections are dropped.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final, NoReturn

from aiohttp import web
from prometheus_client.registry import Collector

from d1server.listener import Listener, listen
from d1server.metrics import HttpMeter
from d1server.node_tls import Shown
from d1server.query import NodeView
from d1server.web.admission import Admission
from d1server.web.app import open_app
from d1server.web.failures import FailureBook
from d1server.web.fastpath import FastConnection
from d1server.web.front import Front
from d1server.web.handed import HandedConnection
from d1server.web.limits import HEAD_S_MAX, SWEEP_S, HttpLimits

_LOOK_AGAIN_S: Final = 0.005
_BACKLOG: Final = 1024


@asynccontextmanager
async def serving(
    node: NodeView,
    host: str,
    port: int,
    *,
    limits: HttpLimits | None = None,
    collectors: Sequence[Collector] = (),
    tls: Callable[[], Shown | None] | None = None,
    open_metrics: bool = False,
) -> AsyncIterator[Front]:
    """Serve `node` at `host`:`port` while the block runs; `Front.address` is what was bound.

    Port 0 takes a free one. With `tls` each connection is made with what it gives then.
    `collectors` add to /metrics, which asks for a token unless
    `open_metrics`.
    """
    limits = limits or HttpLimits()
    admission = Admission(node.access, open_metrics=open_metrics)
    front = Front(node.queries, admission, limits, HttpMeter())
    runner = web.AppRunner(
        open_app(node, front, collectors),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=limits.stop_s_max,
    )
    await runner.setup()
    manager = runner.server
    assert manager is not None

    def open_connection() -> FastConnection:
        return FastConnection(front, lambda: HandedConnection(manager, front))

    sweeping = asyncio.create_task(_sweep(front), name="http:sweep")
    try:
        listener = await _listen(open_connection, host, port, tls)
        try:
            front.address = listener.sockets[0].getsockname()[:2]
            yield front
        finally:
            listener.close()
            await _stop(front, runner)
    finally:
        sweeping.cancel()
        await asyncio.wait([sweeping])


async def _listen(
    open_connection: Callable[[], FastConnection],
    host: str,
    port: int,
    tls: Callable[[], Shown | None] | None,
) -> asyncio.Server | Listener:
    if tls is None:
        loop = asyncio.get_running_loop()
        return await loop.create_server(open_connection, host, port, backlog=_BACKLOG)
    failures = FailureBook(told="many connections of %s to the HTTP address fail in TLS")
    return await listen(
        lambda _shown: open_connection(),
        host,
        port,
        shown=tls,
        failures=failures,
        handshake_s_max=HEAD_S_MAX,
    )


async def serve(node: NodeView, host: str, port: int, *, limits: HttpLimits) -> NoReturn:
    """Serve `node` until cancelled."""
    async with serving(node, host, port, limits=limits):
        await asyncio.get_running_loop().create_future()
    raise AssertionError("nothing ends the wait but a cancellation")


async def _sweep(front: Front) -> NoReturn:
    while True:
        await asyncio.sleep(SWEEP_S)
        front.sweep(monotonic())


async def _stop(front: Front, runner: web.AppRunner) -> None:
    front.stop()
    if front.requests:
        await asyncio.wait(front.requests, timeout=front.limits.stop_s_max)
    for _ in range(int(front.limits.stop_s_max / _LOOK_AGAIN_S)):
        if not any(client.owes_answer for client in front.clients):
            break
        await asyncio.sleep(_LOOK_AGAIN_S)
    for request in list(front.requests):
        request.cancel()
    if front.requests:  # each tells its client, as long as there is a connection
        await asyncio.wait(front.requests, timeout=front.limits.stop_s_max)
    await runner.cleanup()
    for client in list(front.clients):
        client.drop()
