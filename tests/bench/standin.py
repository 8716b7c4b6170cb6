"""A stand-in for a node: just enough of one to test the benchmark without the server.

The primary runs statements on a SQLite database in memory and sends them, as JSON lines, to
the replica, which runs them too. Bookmarks are a counter. Nothing is durable, nothing is fast.
Started as a node is: `python -m tests.bench.standin primary|replica --listen H:P ...`.
"""

import argparse
import asyncio
import json
from typing import Any

import apsw
from aiohttp import web


class StandIn:
    def __init__(self, role: str, *, drop_every: int) -> None:
        self.role = role
        self.drop_every = drop_every  # every n-th update is acknowledged and forgotten
        self.databases: dict[str, apsw.Connection] = {}
        self.applied = 0
        self.moved = asyncio.Condition()
        self.followers: list[asyncio.StreamWriter] = []
        self.sent_bytes = 0

    def bookmark(self) -> str:
        return f"{1:08x}-{0:08x}-{self.applied:08x}-{0:032x}"

    def run(self, name: str, statements: list[dict[str, Any]]) -> list[dict[str, Any]]:
        connection = self.databases.setdefault(name, apsw.Connection(":memory:"))
        return [self._run_one(connection, each) for each in statements]

    def _run_one(self, connection: apsw.Connection, statement: dict[str, Any]) -> dict[str, Any]:
        before = connection.total_changes()
        cursor = connection.execute(statement["sql"], tuple(statement.get("params", ())))
        results = [
            dict(zip([column[0] for column in cursor.get_description()], row, strict=True))
            for row in cursor
        ]
        meta = {
            "changes": connection.total_changes() - before,
            "served_by_primary": self.role == "primary",
        }
        return {"results": results, "success": True, "meta": meta}

    async def advance(self) -> None:
        async with self.moved:
            self.applied += 1
            self.moved.notify_all()

    async def query(self, request: web.Request) -> web.Response:
        wanted = request.headers.get("x-d1-bookmark", "first-primary")
        if not wanted.startswith("first-"):
            async with self.moved:
                await self.moved.wait_for(lambda: self.bookmark() >= wanted)
        body = await request.json()
        statements = body.get("batch") or [body]
        name = request.match_info["name"]
        writes = not all(each["sql"].startswith("SELECT") for each in statements)
        is_update = statements[0]["sql"].startswith("UPDATE")
        dropped = is_update and self.drop_every and self.applied % self.drop_every == 0
        answer = [{"success": True, "meta": {"changes": 1}}] if dropped else None
        answer = answer or self.run(name, statements)
        if writes:
            await self.advance()
            line = json.dumps([name, [] if dropped else statements]).encode() + b"\n"
            self.sent_bytes += len(line)
            for follower in self.followers:
                follower.write(line)
        return web.json_response(
            {"result": answer, "success": True, "errors": [], "messages": []},
            headers={"x-d1-bookmark": self.bookmark()},
        )

    async def done(self, request: web.Request) -> web.Response:
        return web.json_response({"result": {}, "success": True, "errors": [], "messages": []})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=f"d1server_link_sent_bytes_total{{replica='a'}} {self.sent_bytes}")

    async def status(self, request: web.Request) -> web.Response:
        # The stand-in for a checksum: how much each connection has changed.
        states = {
            name: {"applied": self.bookmark(), "checksum": str(connection.total_changes())}
            for name, connection in self.databases.items()
        }
        return web.json_response({"databases": states})

    async def feed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.followers.append(writer)
        await reader.read()

    async def follow(self, host: str, port: int) -> None:
        reader, _writer = await asyncio.open_connection(host, port)
        while line := await reader.readline():
            name, statements = json.loads(line)
            self.run(name, statements)
            await self.advance()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def serve() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("primary", "replica"))
    parser.add_argument("--listen", type=_address, required=True)
    parser.add_argument("--replication", type=_address)
    parser.add_argument("--primary", type=_address)
    parser.add_argument("--drop-every", type=int, default=0)
    options, _others = parser.parse_known_args()
    node = StandIn(options.role, drop_every=options.drop_every)
    app = web.Application()
    app.router.add_get("/readyz", node.done)
    app.router.add_get("/metrics", node.metrics)
    app.router.add_get("/status", node.status)
    app.router.add_post("/db", node.done)
    app.router.add_post("/db/{name}/query", node.query)
    app.router.add_post("/db/{name}/vacuum", node.done)
    runner = web.AppRunner(app)
    await runner.setup()
    async with asyncio.TaskGroup() as tasks:
        if options.replication:
            await asyncio.start_server(node.feed, *options.replication)
        if options.primary:
            tasks.create_task(node.follow(*options.primary))
        await web.TCPSite(runner, *options.listen).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
