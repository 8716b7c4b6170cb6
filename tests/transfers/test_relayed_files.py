"""Clients that reach only a replica: with `--public-url` files go through it, both ways."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

import replica.redial
from d1server.transfers.file_relay import PIECE_BYTES, FileRelay
from replica.forward import Forwarder
from replica.redial import Redial
from tests.transfers.test_cli_transfers import d1server, files_in
from tests.transfers.test_http_transfers import Caller, md5
from tests.web.real_nodes import pair_of, running

ROWS = 700
LINE = "INSERT INTO t(text) VALUES ('" + "x" * 5000 + "');"
DATA = ("CREATE TABLE t(id INTEGER PRIMARY KEY, text);\n" + f"{LINE}\n" * ROWS).encode()


@asynccontextmanager
async def open_relaying(folder: Path) -> AsyncIterator[tuple[Caller, str]]:
    """A client of a replica through which files go, and the replica's URL; a database `shop`.

    The primary says of itself an address at which nobody is.
    """
    primary, replica = pair_of(folder, public_url="http://127.0.0.1:1")
    url = f"http://{replica.listen}"
    replica = replace(replica, public_url=url)
    async with running(primary), running(replica), aiohttp.ClientSession(url) as session:
        await Caller(session).post("/db", {"name": "shop"})
        yield Caller(session), url


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


async def test_an_upload_goes_through_a_replica_and_on_where_it_broke_off(tmp_path: Path) -> None:
    assert len(DATA) > 3 * PIECE_BYTES
    half = 2 * PIECE_BYTES + 1000
    init = {"action": "init", "etag": md5(DATA)}
    async with open_relaying(tmp_path) as (replica, url):
        told = await replica.post("/db/shop/import", init)
        target = told["upload_url"].removeprefix(url)
        assert target.startswith("/signed/imports/")
        forged = target.replace("signature=", "signature=0")
        status, _, body = await replica.put(forged, in_pieces(DATA))
        assert (status, b"7403" in body) == (403, True)
        assert (await replica.post("/db/shop/import", init))["uploaded_bytes"] == 0

        part = {"Content-Range": f"bytes 0-{half - 1}/{len(DATA)}"}
        status, headers, body = await replica.put(target, in_pieces(DATA[:half]), **part)
        assert (status, "etag" in headers) == (202, False), body
        assert (await replica.post("/db/shop/import", init))["uploaded_bytes"] == half
        gap = {"Content-Range": f"bytes {half + 1}-{len(DATA) - 1}/{len(DATA)}"}
        assert (await replica.put(target, in_pieces(DATA[half + 1 :]), **gap))[0] == 400
        rest = {"Content-Range": f"bytes {half}-{len(DATA) - 1}/{len(DATA)}"}
        wrong = DATA[half:-1] + b"?"
        status, _, body = await replica.put(target, in_pieces(wrong), **rest)
        assert (status, b"MD5" in body) == (400, True)  # and all of it is thrown away

        status, headers, _ = await replica.put(target, in_pieces(DATA))
        assert (status, headers["etag"]) == (200, f'"{init["etag"]}"')
        told = await replica.finished("/db/shop/import", init)
        assert told["status"] == "complete", told
        assert await replica.sql("SELECT count(*), sum(length(text)) FROM t") == [
            [ROWS, 5000 * ROWS]
        ]


async def test_an_export_goes_through_a_replica(tmp_path: Path) -> None:
    async with open_relaying(tmp_path) as (replica, url):
        await replica.sql(f"CREATE TABLE t(a); {LINE.replace('(text)', '')}")
        more = "INSERT INTO t SELECT a FROM t"
        await replica.sql(";".join([more] * 9))
        told = await replica.finished("/db/shop/export", {"output_format": "polling"})
        signed = told["result"]["signed_url"].removeprefix(url)
        assert signed.startswith("/signed/exports/")
        status, headers, body = await replica.get(signed)
        assert status == 200
        assert len(body) > 2 * PIECE_BYTES
        assert body.count(b"INSERT") == 512
        assert headers["content-length"] == str(len(body))
        at = len(body) // 2
        status, headers, rest = await replica.get(signed, Range=f"bytes={at}-")
        assert (status, rest) == (206, body[at:])
        assert headers["content-range"] == f"bytes {at}-{len(body) - 1}/{len(body)}"
        status, _, whole = await replica.get(signed, Range=f"bytes={len(body) + 5}-")
        assert (status, whole) == (200, body)
        assert (await replica.get(signed.replace("signature=", "signature=0")))[0] == 403


async def test_the_command_line_needs_the_replica_only(tmp_path: Path) -> None:
    """And many files at the same time do not hang."""
    script = tmp_path / "in.sql"
    script.write_bytes(b"BEGIN;\n" + DATA + b"COMMIT;\n")
    async with open_relaying(tmp_path) as (replica, url):
        done = await d1server(url, "execute", "shop", "--file", str(script), "--json")
        assert done.exit_code == 0, done.output
        outputs = [tmp_path / f"out-{number}.sql" for number in range(3)]
        told = await replica.finished("/db/shop/export", {"output_format": "polling"})
        pieces = await asyncio.gather(
            *(replica.get(told["result"]["signed_url"].removeprefix(url)) for _ in range(12))
        )
        assert {status for status, _, _ in pieces} <= {200, 503}
        for output in outputs:
            done = await d1server(url, "export", "shop", "-o", str(output))
            assert done.exit_code == 0, done.output
        assert len({output.read_bytes() for output in outputs}) == 1
        assert len(files_in(tmp_path)) == 4


@pytest.mark.parametrize("is_upload", [True, False])
async def test_without_a_link_the_client_is_told_to_try_again(
    is_upload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica.redial, "HELD_S", 0.1)
    monkeypatch.setattr(replica.redial, "_TRY_S_MAX", 0.1)
    relay = FileRelay(Forwarder(lambda: None, Redial()), "http://replica")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"never taken"

    if is_upload:
        answer = await relay.put("/signed/imports/x", {}, chunks(), at=0, is_last=True)
    else:
        found = await relay.get("/signed/exports/x", {}, 0)
        assert not hasattr(found, "data")
        answer = found
    assert (answer.status, answer.should_retry) == (503, True)
