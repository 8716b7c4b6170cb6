"""A node that answers what a test scripts, fault by fault, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

META = {
    "served_by": "n1",
    "served_by_region": "WEUR",
    "served_by_primary": False,
    "duration": 0.25,
    "timings": {"sql_duration_ms": 0.25},
    "changes": 1,
    "last_row_id": 7,
    "changed_db": True,
    "size_after": 8192,
    "rows_read": 2,
    "rows_written": 1,
    "total_attempts": 1,
    "something_new": [1, 2],
}


@dataclass(slots=True)
class Answer:
    """One scripted answer; `drop` hangs up instead, before or after reading the body."""

    body: object = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    stall: bool = False


def rows(*results: list[dict[str, object]], bookmark: str | None = None) -> Answer:
    """Answer as `/query` does: one result per argument."""
    body = {
        "result": [{"results": list(one), "success": True, "meta": META} for one in results],
        "success": True,
        "errors": [],
        "messages": [],
    }
    return Answer(body, headers={"x-d1-bookmark": bookmark} if bookmark else {})


def table(columns: list[str], *lines: list[object]) -> Answer:
    """Answer as `/raw` does."""
    results = {"columns": columns, "rows": list(lines)}
    return Answer({"result": [{"results": results, "success": True, "meta": META}]})


def failure(status: int, message: str, *, retry: str | None = None, **headers: str) -> Answer:
    """Answer with D1's error envelope."""
    body = {"success": False, "errors": [{"code": 7500, "message": message}], "result": []}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(body, status, named | ({"x-should-retry": retry} if retry else {}))


@dataclass(slots=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, object]


class ScriptedNode:
    """Answers the n-th request with the n-th answer of the script, and keeps what it saw."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.seen: list[Seen] = []
        self.url = ""
        self.released = asyncio.Event()

    def will(self, *answers: Answer) -> None:
        self.script.extend(answers)

    async def on_request(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=dict[str, object])
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.path, headers, body))
        answer = self.script.pop(0)
        if answer.drop:
            assert request.transport is not None
            request.transport.abort()
        if answer.stall:
            await self.released.wait()
        content = (
            answer.body if isinstance(answer.body, bytes) else msgspec.json.encode(answer.body)
        )
        return web.Response(body=content, status=answer.status, headers=answer.headers)


@asynccontextmanager
async def open_scripted_node(port: int = 0) -> AsyncIterator[ScriptedNode]:
    """Serve a ScriptedNode on `port` of the loopback; 0 takes a free one."""
    node = ScriptedNode()
    app = web.Application()
    app.router.add_post("/{rest:.*}", node.on_request)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    node.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield node
    finally:
        node.released.set()
        await runner.cleanup()
