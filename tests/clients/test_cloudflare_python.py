"""Cloudflare's SDK for Python: its ten methods for D1 databases, and when it tries again."""

import hashlib
import urllib.request
from collections.abc import Iterator
from typing import Any

import cloudflare
import httpx
import pytest
from cloudflare import AsyncCloudflare, Cloudflare

from tests.clients.guarded import Guarded
from tests.clients.nodes import CALL_S_MAX, Nodes
from tests.free_ports import free_ports

ACCOUNT = "any"
POLLS_MAX = 30  # each is held for up to a second by the node
DATA = b"CREATE TABLE t (a, b);\nINSERT INTO t VALUES (1, 'one'), (2, X'ff');\n"


def connect(url: str, token: str = "any", **options: Any) -> Cloudflare:
    return Cloudflare(api_token=token, base_url=f"{url}/client/v4", **options)


@pytest.fixture(params=["primary", "replica"])
def client(request: pytest.FixtureRequest, nodes: Nodes) -> Iterator[Cloudflare]:
    with connect(getattr(nodes, request.param)) as client:
        yield client


@pytest.fixture
def database(client: Cloudflare, request: pytest.FixtureRequest) -> Iterator[str]:
    """The uuid of a database that the SDK makes and deletes."""
    databases = client.d1.database
    name = request.node.name.replace("[", "-").rstrip("]").replace("_", "-")
    made = databases.create(account_id=ACCOUNT, name=name, primary_location_hint="weur")
    yield made.uuid
    databases.delete(made.uuid, account_id=ACCOUNT)
    with pytest.raises(cloudflare.NotFoundError):
        databases.get(made.uuid, account_id=ACCOUNT)


def test_databases_are_made_and_changed(client: Cloudflare, database: str) -> None:
    """Uses create, get, update, edit and delete; the fixture calls the first and the last."""
    databases = client.d1.database
    got = databases.get(database, account_id=ACCOUNT)
    assert got.uuid == database
    assert (got.version, got.num_tables, got.jurisdiction) == ("production", 0, None)
    assert got.created_at is not None
    assert got.read_replication.mode == "auto"
    short = databases.get(got.name, account_id=ACCOUNT, fields=["uuid", "file_size"])
    assert (short.uuid, short.file_size, short.name) == (database, got.file_size, None)

    mode = databases.update(
        database, account_id=ACCOUNT, read_replication={"mode": "disabled"}
    ).read_replication.mode
    assert mode == "disabled"
    mode = databases.edit(
        database, account_id=ACCOUNT, read_replication={"mode": "auto"}
    ).read_replication.mode
    assert mode == "auto"
    with pytest.raises(cloudflare.BadRequestError, match="already exists"):
        databases.create(account_id=ACCOUNT, name=got.name)


def test_list_comes_to_an_end(client: Cloudflare, nodes: Nodes) -> None:
    """The SDK asks for page after page until one is empty."""
    names = {f"sdk-page-{number}" for number in range(5)}
    databases = client.d1.database
    there = {one.name for one in databases.list(account_id=ACCOUNT, name="sdk-page-")}
    for name in names - there:
        databases.create(account_id=ACCOUNT, name=name, jurisdiction="eu")
    listed = list(databases.list(account_id=ACCOUNT, name="sdk-page-", per_page=2))
    assert sorted(one.name for one in listed) == sorted(names)
    assert {one.jurisdiction for one in listed} == {"eu"}
    assert list(databases.list(account_id=ACCOUNT, page=1000)) == []


def test_statements_run(client: Cloudflare, database: str) -> None:
    """Uses query and raw, with parameters, several statements and batches."""
    databases = client.d1.database
    sql = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b); INSERT INTO t (a) VALUES ('x'), ('y')"
    made, inserted = databases.query(database, account_id=ACCOUNT, sql=sql)
    assert (made.success, made.results) == (True, [])
    assert (inserted.meta.changes, inserted.meta.last_row_id) == (2, 2)
    assert inserted.meta.changed_db is True
    assert inserted.meta.rows_written >= 2
    assert inserted.meta.served_by_region == "ENAM"
    assert inserted.meta.timings.sql_duration_ms > 0

    values: Any = ["é", None, 2.5]  # the SDK's types know texts only; it sends what it is given
    (got,) = databases.query(
        database, account_id=ACCOUNT, sql="SELECT ? a, ? b, ? c", params=values
    )
    assert got.results == [{"a": "é", "b": None, "c": 2.5}]
    batch: Any = [
        {"sql": "INSERT INTO t (a, b) VALUES (?, ?)", "params": ["z", "1"]},
        {"sql": "SELECT a, b, a FROM t WHERE a = ?", "params": ["z"]},
    ]
    _, selected = databases.raw(database, account_id=ACCOUNT, batch=batch)
    assert selected.results.columns == ["a", "b", "a"]
    assert selected.results.rows == [["z", "1", "z"]]


def test_file_goes_in_and_comes_out(client: Cloudflare, database: str) -> None:
    """Uses import_ and export, with the upload and the download that the SDK leaves to its user."""
    databases, etag = client.d1.database, hashlib.md5(DATA).hexdigest()
    begun = databases.import_(database, account_id=ACCOUNT, action="init", etag=etag)
    upload = urllib.request.Request(begun.upload_url, DATA, method="PUT")
    with urllib.request.urlopen(upload, timeout=CALL_S_MAX) as response:
        assert response.headers["etag"].strip('"') == etag
    job = databases.import_(
        database, account_id=ACCOUNT, action="ingest", etag=etag, filename=begun.filename
    )
    for _ in range(POLLS_MAX):
        if job.status in ("complete", "error"):
            break
        job = databases.import_(
            database, account_id=ACCOUNT, action="poll", current_bookmark=job.at_bookmark
        )
    assert (job.type, job.status, job.error) == ("import", "complete", None)
    assert job.result.num_queries == 2
    assert job.result.meta.changes == 2

    options: Any = {"account_id": ACCOUNT, "output_format": "polling"}
    options["dump_options"] = {"no_schema": False, "tables": ["t"]}
    dump = databases.export(database, **options)
    for _ in range(POLLS_MAX):
        if dump.status in ("complete", "error"):
            break
        dump = databases.export(database, current_bookmark=dump.at_bookmark, **options)
    with urllib.request.urlopen(dump.result.signed_url, timeout=CALL_S_MAX) as response:
        text = response.read().decode()
    assert "CREATE TABLE t (a, b);\n" in text
    assert 'INSERT INTO "t" ("a","b") VALUES(2,X\'ff\');\n' in text


def test_mistake_in_sql_is_not_tried_again(nodes: Nodes) -> None:
    """A conflict neither: the SDK would repeat one that came as 409, and a write with it."""
    nodes.create("sdk-mistakes")
    asked: list[str] = []
    http = httpx.Client(event_hooks={"request": [lambda request: asked.append(request.method)]})
    sql = "CREATE TABLE IF NOT EXISTS t (a UNIQUE); INSERT INTO t VALUES (1)"
    errors = []
    with connect(nodes.replica, http_client=http, max_retries=3) as client:
        for bad in ("SELEC 1", "SELECT * FROM nope", f"{sql}; {sql}"):
            with pytest.raises(cloudflare.BadRequestError) as caught:
                client.d1.database.query("sdk-mistakes", account_id=ACCOUNT, sql=bad)
            errors += caught.value.errors
    assert [error.code for error in errors] == [7500] * 3
    assert errors[2].message.startswith("UNIQUE constraint failed: t.a: SQLITE_CONSTRAINT")
    assert asked == ["POST"] * 3


def test_node_that_is_away_is_tried_again() -> None:
    """The count of the tests above would see a second try if there were one."""
    (port,) = free_ports(1)
    asked: list[str] = []
    http = httpx.Client(event_hooks={"request": [lambda request: asked.append(request.method)]})
    with (
        connect(f"http://127.0.0.1:{port}", http_client=http, max_retries=1) as client,
        pytest.raises(cloudflare.APIConnectionError),
    ):
        client.d1.database.query("any", account_id=ACCOUNT, sql="SELECT 1")
    assert asked == ["POST"] * 2


async def test_asynchronous_client(nodes: Nodes) -> None:
    async with AsyncCloudflare(api_token="any", base_url=f"{nodes.replica}/client/v4") as client:
        databases = client.d1.database
        made = await databases.create(account_id=ACCOUNT, name="sdk-async")
        sql = "CREATE TABLE t (a); INSERT INTO t VALUES ('x')"
        await databases.query(made.uuid, account_id=ACCOUNT, sql=sql)
        rows = [
            result.results.rows
            async for result in databases.raw(made.uuid, account_id=ACCOUNT, sql="SELECT a FROM t")
        ]
        assert rows == [[["x"]]]
        names = [one.name async for one in databases.list(account_id=ACCOUNT, name="sdk-async")]
        assert names == ["sdk-async"]
        await databases.delete(made.uuid, account_id=ACCOUNT)


def test_token_that_may_read(guarded: Guarded) -> None:
    url = guarded.nodes.replica
    with connect(url, guarded.read) as client:
        (got,) = client.d1.database.query(
            "shop", account_id=ACCOUNT, sql="SELECT count(*) n FROM t"
        )
        assert got.results[0]["n"] >= 1
        with pytest.raises(cloudflare.PermissionDeniedError, match="scope edit"):
            client.d1.database.query("shop", account_id=ACCOUNT, sql="DELETE FROM t")
    with connect(url, "wrong") as client, pytest.raises(cloudflare.AuthenticationError):
        list(client.d1.database.list(account_id=ACCOUNT))
