"""HTTP in front of real nodes: the same promises with a real primary and replica behind it."""

from pathlib import Path

import orjson

from d1server.config import Address
from tests.web.raw_client import Response, connected, query, rows
from tests.web.real_nodes import create, open_pair

FAST, ASIDE = "/db/shop/query", "/db/shop/query/"
BAD_BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"5",
    b'"SELECT 1"',
    b"{}",
    b'{"sql":5}',
    b'{"sql":null}',
    b'{"sql":""}',
    b'{"sql":";;"}',
    b'{"sql":"-- nothing"}',
    b'{"sql":"SELECT 1","params":{}}',
    b'{"sql":"SELECT ?","params":[{}]}',
    b'{"sql":"SELECT ?","params":[[1,"a"]]}',
    b'{"sql":"SELECT ?","params":[[256]]}',
    b'{"sql":"SELECT ?","params":[99999999999999999999]}',
    b'{"sql":"SELECT ?","params":[NaN]}',
    b'{"sql":"SELECT ?"}',
    b'{"sql":"SELECT ?","params":[1,2]}',
    b'{"sql":"SELECT 1; SELECT ?","params":[1,2]}',
    b'{"batch":[]}',
    b'{"batch":5}',
    b'{"batch":[{}]}',
    b'{"batch":[{"sql":"SELECT 1"},{"sql":"SELEC"}]}',
    b'{"sql":"SELEC"}',
    b'{"sql":"SELECT * FROM nope"}',
    b'{"sql":"BEGIN"}',
    b'{"sql":"COMMIT"}',
    b'{"sql":"SAVEPOINT a"}',
    b'{"sql":"ATTACH \'x\' AS y"}',
    b'{"sql":"VACUUM INTO \'x\'"}',
    b'{"sql":"PRAGMA journal_mode=DELETE"}',
    b'{"sql":"SELECT load_extension(\'x\')"}',
    b'{"sql":"SELECT zeroblob(1000000000)"}',
    b'{"sql":"\\u0000"}',
    b'{"sql":"SELECT 1\\u0000"}',
    b'{"sql":"SELECT \'\\ud800"}',
    b'{"sql":"\xff\xfe"}',
    b"[" * 50_000,
    b'{"sql":"' + b"(" * 50_000 + b'"}',
    b'{"sql":"SELECT 1' + b" " * 60_000 + b'UNION"}',
]
BAD_HEADERS = [
    "x-d1-bookmark: yesterday",
    "x-d1-bookmark: 00000001-00000000-00000001-00000000000000000000000000000000",
    "x-d1-bookmark: ffffffff-ffffffff-ffffffff-ffffffffffffffffffffffffffffffff",
    "x-d1-token: \xe9",
    "x-d1-max-wait-ms: soon",
    "x-d1-on-timeout: never",
    "idempotency-key: a b",
]


async def ask(address: Address, request: bytes) -> Response:
    """Send one request on a connection of its own."""
    async with connected(address) as client:
        return await client.exchange(request)


def bookmark_of(response: Response) -> str:
    assert response.status == 200, response.body
    return response.headers["x-d1-bookmark"]


async def test_bad_input_is_a_4xx_on_every_way_in(tmp_path: Path) -> None:
    """No body and no header makes a node answer 5xx, text, or nothing; it serves on after it.

    Method: each bad request through both readers of both nodes.
    """
    async with open_pair(tmp_path) as addresses:
        assert (await create_database(addresses[0])).status == 200
        for address in addresses:
            for path in (FAST, ASIDE):
                for body in BAD_BODIES:
                    response = await ask(address, query("", path=path, body=body))
                    shown = (address, path, body[:60], response)
                    assert 400 <= response.status < 500, shown
                    assert response.message, shown
                for header in BAD_HEADERS:
                    response = await ask(address, query("SELECT 1", header, path=path))
                    assert 400 <= response.status < 500, (address, path, header, response)
                    assert response.message
                unknown = path.replace("shop", "nope")
                assert (await ask(address, query("SELECT 1", path=unknown))).status == 404
                assert rows(await ask(address, query("SELECT 1 AS a", path=path))) == [{"a": 1}]


async def test_a_session_over_both_nodes_and_both_ways(tmp_path: Path) -> None:
    """Writes and reads hop between nodes and readers; each sees all before it.

    Method: every step carries the bookmark of the step before, on the next way in.
    """
    async with open_pair(tmp_path) as addresses:
        await create_database(addresses[0])
        table = "CREATE TABLE t (id INTEGER PRIMARY KEY, way TEXT)"
        bookmark = bookmark_of(await ask(addresses[1], query(table)))
        ways = [(address, path) for address in addresses for path in (FAST, ASIDE)]
        for turn in range(12):
            address, path = ways[turn % 4]
            session = f"x-d1-token: {bookmark}"
            insert = query("INSERT INTO t (way) VALUES (?)", session, params=(path,), path=path)
            bookmark = bookmark_of(await ask(address, insert))
            address, path = ways[(turn * 3 + 1) % 4]
            count = query("SELECT count(*) AS n FROM t", f"x-d1-token: {bookmark}", path=path)
            response = await ask(address, count)
            assert rows(response) == [{"n": turn + 1}]
            assert response.headers["x-d1-token"] == bookmark_of(response) >= bookmark


async def test_a_repeated_write_with_a_key_is_done_once(tmp_path: Path) -> None:
    """An idempotency key holds over both nodes and both ways in, and answers alike."""
    async with open_pair(tmp_path) as addresses:
        await create_database(addresses[0])
        await ask(addresses[0], query("CREATE TABLE t (id INTEGER PRIMARY KEY)"))
        answers = [
            await ask(
                address,
                query("INSERT INTO t DEFAULT VALUES", "idempotency-key: one", path=path),
            )
            for address in addresses
            for path in (FAST, ASIDE)
        ]
        assert {response.status for response in answers} == {200}
        assert len({bookmark_of(response) for response in answers}) == 1
        count = await ask(addresses[1], query("SELECT count(*) AS n FROM t"))
        assert rows(count) == [{"n": 1}]


async def test_pipelined_writes_and_reads_keep_their_order(tmp_path: Path) -> None:
    """On one connection each read sees the writes sent before it, whatever became a task."""
    async with open_pair(tmp_path) as addresses:
        await create_database(addresses[0])
        for address in addresses:
            async with connected(address) as client:
                await client.exchange(query("CREATE TABLE IF NOT EXISTS t (a)"))
                await client.exchange(query("DELETE FROM t"))
                for _ in range(20):
                    client.send(query("INSERT INTO t VALUES (1)"))
                    client.send(query("SELECT count(*) AS n FROM t"))
                for count in range(1, 21):
                    assert (await client.response()).status == 200
                    assert rows(await client.response()) == [{"n": count}]


async def test_metrics_of_real_nodes(tmp_path: Path) -> None:
    """The gauges find what a real node says of itself."""
    async with open_pair(tmp_path) as addresses:
        await create_database(addresses[0])
        await ask(addresses[1], query("CREATE TABLE t (a)"))
        for address, is_primary in zip(addresses, (1.0, 0.0), strict=True):
            response = await ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            text = response.body.decode()
            assert f"d1server_is_primary {is_primary}" in text
            assert "d1server_ready " in text
            assert 'd1server_replica_lag_commits{database="shop"}' in text
            assert 'd1server_database_size_bytes{database="shop"}' in text


async def create_database(address: Address) -> Response:
    async with connected(address) as client:
        response = await create(client, "shop")
    assert orjson.loads(response.body)["result"]["name"] == "shop"
    return response
