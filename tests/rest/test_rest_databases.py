"""Databases over D1's REST API: create, list, get, change, delete; at any node."""

import asyncio
import uuid
from functools import partial

import pytest

from tests.rest.http_cluster import ACCOUNT, REST, HttpCluster, HttpNode
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OBJECT = {
    "uuid",
    "name",
    "created_at",
    "version",
    "jurisdiction",
    "num_tables",
    "file_size",
    "created_in_region",
    "running_in_region",
    "read_replication",
}


async def test_create_gives_the_whole_object(nodes: HttpCluster) -> None:
    """At either node; what the caller asked for is what get says afterwards."""
    for number, node in enumerate(nodes.nodes):
        options = {"primary_location_hint": "weur", "read_replication": {"mode": "disabled"}}
        made = await node.create(f"whole-{number}", **options)
        assert made.keys() == OBJECT
        assert str(uuid.UUID(made["uuid"])) == made["uuid"]
        assert made["version"] == "production"
        assert made["jurisdiction"] is None
        assert made["num_tables"] == 0
        assert made["file_size"] > 0
        assert made["created_in_region"] == made["running_in_region"] == "ENAM"
        assert made["read_replication"] == {"mode": "disabled"}
        for other in nodes.nodes:
            for key in (made["uuid"], made["name"]):
                assert (await other.rest("GET", f"/{key}")).result == made


async def test_jurisdiction_is_kept(nodes: HttpCluster) -> None:
    for name in ("eu", "fedramp", "us"):
        await nodes.replica.create(f"in-{name}", jurisdiction=name)
        assert (await nodes.primary.rest("GET", f"/in-{name}")).result["jurisdiction"] == name


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "name"),
        ({"name": ""}, "no name"),
        ({"name": "a b"}, "no name"),
        ({"name": "x" * 65}, "no name"),
        ({"name": "-x"}, "no name"),
        ({"name": str(uuid.UUID(int=1))}, "uuid"),
        ({"name": 5}, "name"),
        ({"name": "x", "primary_location_hint": "mars"}, "primary_location_hint"),
        ({"name": "x", "jurisdiction": "EU"}, "jurisdiction"),
        ({"name": "x", "read_replication": {"mode": "off"}}, "read_replication.mode"),
        ({"name": "x", "read_replication": "auto"}, "read_replication"),
        ([], "name"),
        (b"{", "name"),
        (b"", "name"),
        (b"\xff", "name"),
        (b"[" * 50_000, "name"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_creations_are_refused(nodes: HttpCluster, body: object, word: str) -> None:
    for node in nodes.nodes:
        status, code, message = (await node.rest("POST", "", body)).error
        assert (status, code) == (400, 7400)
        assert word in message
    assert (await nodes.primary.rest("GET", "/x")).status == 404


async def test_a_name_is_taken_once(nodes: HttpCluster) -> None:
    """Also when both nodes are asked for it at the same moment."""
    replies = await asyncio.gather(
        *[node.rest("POST", "", {"name": "once"}) for node in nodes.nodes * 4]
    )
    refused = [reply for reply in replies if reply.status != 200]
    assert len(refused) == len(replies) - 1
    for reply in refused:
        assert reply.error == (400, 7502, "A database with that name already exists")


async def listed(node: HttpNode, query: str) -> tuple[list[str], dict[str, int]]:
    reply = await node.rest("GET", query)
    for one in reply.result:
        assert one.keys() == {"uuid", "name", "created_at", "version", "jurisdiction"}
    return [one["name"] for one in reply.result], reply.json["result_info"]


async def test_pages_end_with_an_empty_one(nodes: HttpCluster) -> None:
    """Official clients turn pages until one is empty; names come in the order of creation."""
    names = [f"paged-{number:02}" for number in range(13)]
    for name in names:
        await nodes.primary.create(name)
    for node in nodes.nodes:
        first, info = await listed(node, "?name=paged&per_page=10&page=1")
        assert first == names[:10]
        assert info == {"page": 1, "per_page": 10, "count": 10, "total_count": 13}
        assert (await listed(node, "?name=paged&per_page=10&page=2"))[0] == names[10:]
        past, info = await listed(node, "?name=paged&per_page=10&page=3")
        assert past == []
        assert info == {"page": 3, "per_page": 10, "count": 0, "total_count": 13}
        assert (await listed(node, "/?name=PAGED-0"))[0] == names[:10]
        assert (await listed(node, "?name=nothing"))[0] == []
        assert set(names) <= set((await listed(node, "?per_page=10000"))[0])
        assert (await listed(node, "?name=paged&per_page=2.0&page=1"))[0] == names[:2]


async def test_the_name_that_is_meant_leads_the_list(nodes: HttpCluster) -> None:
    """Some clients take the first one found for the one that they have named."""
    for name in ("my-lead-old", "lead", "lead-new"):
        await nodes.primary.create(name)
    names, _ = await listed(nodes.replica, "?name=lead")
    assert names == ["lead", "my-lead-old", "lead-new"]


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=-1", "page=x", "page=1.5", "per_page=0", "per_page=10001", "page=" + "9" * 20],
)
async def test_bad_pages_are_refused(nodes: HttpCluster, query: str) -> None:
    for node in nodes.nodes:
        status, code, message = (await node.rest("GET", f"?{query}")).error
        assert (status, code) == (400, 7400)
        assert query.partition("=")[0] in message


async def test_fields_in_both_spellings(nodes: HttpCluster) -> None:
    """One client sends them with commas, another one several times."""
    made = await nodes.primary.create("fields")
    wanted = {"uuid": made["uuid"], "name": "fields"}
    for node in nodes.nodes:
        for query in ("fields=uuid%2Cname", "fields=uuid,name", "fields=uuid&fields=name"):
            assert (await node.rest("GET", f"/fields?{query}")).result == wanted
        for field in OBJECT:
            reply = await node.rest("GET", f"/fields?fields={field}")
            assert reply.result == {field: made[field]}
        assert (await node.rest("GET", "/fields?fields=")).result == made
        status, code, message = (await node.rest("GET", "/fields?fields=colour")).error
        assert (status, code) == (400, 7400)
        assert "colour" in message


async def test_tables_are_counted(nodes: HttpCluster) -> None:
    """The caller's own, without SQLite's and the server's."""
    await nodes.create("counted", "CREATE TABLE a(x INTEGER PRIMARY KEY AUTOINCREMENT)")
    key = {"idempotency-key": "one"}
    body = {"sql": "CREATE TABLE b(x)"}
    await nodes.replica.call("POST", f"{REST}/counted/query", body, key)
    assert (await nodes.replica.rest("GET", "/counted")).result["num_tables"] == 2


async def test_an_unknown_database_is_a_404(nodes: HttpCluster) -> None:
    for node in nodes.nodes:
        for key in ("nothing", str(uuid.UUID(int=7)), "%20", "a%2Fb", "é"):
            for method, path, body in (
                ("GET", "", None),
                ("PUT", "", {"read_replication": {"mode": "auto"}}),
                ("PATCH", "", {}),
                ("DELETE", "", None),
                ("POST", "/query", {"sql": "SELECT 1"}),
                ("POST", "/raw", {"sql": "SELECT 1"}),
            ):
                status, code, _ = (await node.rest(method, f"/{key}{path}", body)).error
                assert (status, code) == (404, 7404), (method, key, path)


def knows(replica: HttpNode, name: str, mode: str) -> bool:
    return replica.node.replica._catalog.by_name[name].replication.value == mode


async def test_disabled_replication_sends_reads_to_the_primary(nodes: HttpCluster) -> None:
    """Until it is `auto` again; the replica keeps its copy all the while."""
    await nodes.create("modes", "CREATE TABLE t AS SELECT 1 AS x")
    copy = nodes.replica.node.replica_of("modes")

    async def served_by_primary() -> bool:
        reply = await nodes.replica.call(
            "POST",
            f"{REST}/modes/query",
            {"sql": "SELECT x FROM t"},
            {"x-d1-bookmark": "first-unconstrained"},
        )
        assert reply.result[0]["results"] == [{"x": 1}]
        return bool(reply.result[0]["meta"]["served_by_primary"])

    assert not await served_by_primary()
    for method, mode in (("PUT", "disabled"), ("PATCH", "auto")):
        body = {"read_replication": {"mode": mode}}
        reply = await nodes.replica.rest(method, "/modes", body)
        assert reply.result.keys() == OBJECT
        assert reply.result["read_replication"] == {"mode": mode}
        await until(partial(knows, nodes.replica, "modes", mode), f"the replica knows: {mode}")
        assert await served_by_primary() is (mode == "disabled")
    assert nodes.replica.node.replica_of("modes") is copy


async def test_changes_that_are_none(nodes: HttpCluster) -> None:
    """PATCH may say nothing, PUT must say all; unknown modes are refused."""
    made = await nodes.primary.create("unchanged")
    for node in nodes.nodes:
        assert (await node.rest("PATCH", "/unchanged", {})).result == made
        for method, body in (
            ("PUT", {}),
            ("PUT", b""),
            ("PATCH", {"read_replication": {"mode": "some"}}),
            ("PATCH", {"read_replication": {}}),
            ("PATCH", b"{"),
        ):
            status, code, message = (await node.rest(method, "/unchanged", body)).error
            assert (status, code) == (400, 7400)
            assert "read_replication" in message
    assert (await nodes.primary.rest("GET", "/unchanged")).result == made


async def test_delete_and_create_again(nodes: HttpCluster) -> None:
    """The name is free at once, and the new database is another one, empty."""
    for deleted_at, made_at in (nodes.nodes, reversed(nodes.nodes)):
        await nodes.create("again", "CREATE TABLE t(x)")
        old = (await made_at.rest("GET", "/again")).result
        assert (await deleted_at.rest("DELETE", f"/{old['uuid']}")).result is None
        for node in nodes.nodes:
            assert (await node.rest("GET", "/again")).status == 404
            assert (await node.rest("POST", "/again/query", {"sql": "SELECT 1"})).status == 404
        assert (await deleted_at.rest("DELETE", "/again")).error[:2] == (404, 7404)
        new = await made_at.create("again")
        assert new["uuid"] != old["uuid"]
        assert (await deleted_at.rows("again", "SELECT count(*) AS n FROM sqlite_schema")) == [
            {"n": 0}
        ]
        await deleted_at.rest("DELETE", "/again")


@pytest.mark.parametrize("prefix", ["", "/client/v4"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_paths_with_and_without(nodes: HttpCluster, prefix: str, slash: str) -> None:
    """With the version in front or not, with a slash at the end or not."""
    base = prefix + ACCOUNT
    name = f"path{len(prefix)}{len(slash)}"
    for node in nodes.nodes:
        made = (await node.call("POST", base + slash, {"name": name})).result
        assert made["name"] == name
        assert (await node.call("GET", f"{base}{slash}?name={name}")).result[0]["name"] == name
        assert (await node.call("GET", f"{base}/{name}{slash}")).result == made
        query = {"sql": "SELECT 1 AS a"}
        reply = await node.call("POST", f"{base}/{name}/query{slash}", query)
        assert reply.result[0]["results"] == [{"a": 1}]
        reply = await node.call("POST", f"{base}/{name}/raw{slash}", query)
        assert reply.result[0]["results"] == {"columns": ["a"], "rows": [[1]]}
        assert (await node.call("DELETE", f"{base}/{name}{slash}")).result is None
