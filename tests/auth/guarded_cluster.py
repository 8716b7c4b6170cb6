"""A primary and a replica that ask for tokens, run in a thread, and callers of them.

The nodes are those of `d1server primary` and `replica`; their link is authenticated with a token,
too. Callers come from addresses of their own (all of 127/8 is this machine), so that one
test's failures do not slow another one down.
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from d1server.config import Address, NodeConfig
from d1server.node import run_node
from d1server.offline import administer_offline
from tests.waiting import EVENT_S_MAX
from tests.web.real_nodes import pair_of, running

_sources = itertools.count(2)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> int:
        """The code of D1's first error."""
        return int(self.json["errors"][0]["code"])

    @property
    def message(self) -> str:
        return str(self.json["errors"][0]["message"])

    @property
    def rows(self) -> Any:
        return self.json["result"][0]["results"]


class Caller:
    """One keep-alive connection of one client, from an address of its own."""

    def __init__(self, address: Address, token: str | None = None) -> None:
        number = next(_sources)
        self.source = f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self.token = token
        self._http = http.client.HTTPConnection(
            *address, timeout=EVENT_S_MAX, source_address=(self.source, 0)
        )

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        chunked: bool = False,
    ) -> Answer:
        sent = dict(headers or {})
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        encoded = None if body is None else json.dumps(body).encode()
        if chunked:
            assert encoded is not None
            sent["TE"] = "trailers"  # with which no head is plain: this goes to aiohttp
            self._http.request(
                method, path, body=iter([encoded]), headers=sent, encode_chunked=True
            )
        else:
            self._http.request(method, path, body=encoded, headers=sent)
        response = self._http.getresponse()
        content = response.read()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, content)

    def query(self, sql: str, *, db: str = "shop", **wishes: str) -> Answer:
        headers = {name.replace("_", "-"): value for name, value in wishes.items()}
        return self.call("POST", f"/db/{db}/query", {"sql": sql}, headers=headers)

    def close(self) -> None:
        self._http.close()


@dataclass(slots=True)
class GuardedCluster:
    """Where the nodes are, and a token of each kind by its name."""

    primary: Address
    replica: Address
    tokens: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    uuids: dict[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> dict[str, Address]:
        return {"primary": self.primary, "replica": self.replica}

    @contextlib.contextmanager
    def caller(self, node: str = "primary", kind: str | None = None) -> Iterator[Caller]:
        caller = Caller(self.nodes[node], self.tokens[kind] if kind else None)
        try:
            yield caller
        finally:
            caller.close()

    def make_token(self, kind: str, *scopes: str, **more: Any) -> str:
        """Make a token with the admin's, and remember it under this name."""
        with self.caller(kind="admin") as admin:
            asked = {"name": kind, "scopes": scopes, **more}
            answer = admin.call("POST", "/tokens", asked)
        assert answer.status == 200, answer
        made = answer.json["result"]
        self.tokens[kind], self.ids[kind] = made["token"], made["id"]
        return str(made["token"])

    def revoke(self, kind: str) -> Answer:
        with self.caller(kind="admin") as admin:
            answer = admin.call("DELETE", f"/tokens/{self.ids[kind]}")
        assert answer.status == 200, answer
        return answer

    def fill(self) -> None:
        """Two databases with a row each, and tokens of every kind."""
        with self.caller(kind="admin") as admin:
            for name in ("shop", "other"):
                made = admin.call("POST", "/db", {"name": name})
                assert made.status == 200, made
                self.uuids[name] = made.json["result"]["uuid"]
                sql = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'one')"
                assert admin.query(sql, db=name).status == 200
        for scope in ("read", "edit"):
            self.make_token(scope, scope)
            self.make_token(f"{scope} other", scope, databases=["other"])
        self.make_token("admin other", "admin", databases=["other"])
        self.make_token("revoked", "admin")
        self.revoke("revoked")
        self.make_token("expired", "admin", expires_in_s=0.001)
        self.tokens["unknown"] = self.tokens["admin"][:-4] + "AAAA"
        self.tokens["garbage"] = "not-one-of-ours"


def offline(folder: Path, *scopes: str, name: str = "offline") -> str:
    """Make a token in the folder of a primary that does not run."""
    body = json.dumps({"name": name, "scopes": scopes}).encode()
    answer = asyncio.run(administer_offline(folder, "token-create", body=body))
    assert answer.status == 200, answer.body
    return str(json.loads(answer.body)["result"]["token"])


@contextlib.contextmanager
def guarded_cluster(folder: Path, **settings: Any) -> Iterator[GuardedCluster]:
    """Run both nodes until the block ends; the first tokens are made before they start."""
    tokens = {
        scope: offline(folder / "primary", scope, name=scope) for scope in ("admin", "replicate")
    }
    primary, replica = pair_of(folder, replication_token=tokens["replicate"], **settings)
    cluster = GuardedCluster(primary.listen, replica.listen, tokens)
    with in_thread(primary, replica):
        cluster.fill()
        yield cluster


@contextlib.asynccontextmanager
async def listening(config: NodeConfig) -> AsyncIterator[Address]:
    """`running` for a node behind TLS: wait until it listens."""
    task = asyncio.create_task(run_node(config), name=config.name)
    try:
        async with asyncio.timeout(EVENT_S_MAX):
            while True:
                if task.done():
                    await task
                try:
                    _, writer = await asyncio.open_connection(*config.listen)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield config.listen
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.contextmanager
def in_thread(*configs: NodeConfig) -> Iterator[None]:
    """Run nodes, in this order, in a thread with an event loop of its own."""
    started, stop = threading.Event(), asyncio.Event()
    failures: list[BaseException] = []
    loop = uvloop.new_event_loop()

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for config in configs:
                is_plain = config.tls_cert is None
                await stack.enter_async_context((running if is_plain else listening)(config))
            started.set()
            await stop.wait()

    def main() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as exc:
            failures.append(exc)
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=main, name="nodes")
    thread.start()
    try:
        assert started.wait(EVENT_S_MAX), "the nodes do not start"
        if failures:
            raise failures[0]
        yield
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join()
