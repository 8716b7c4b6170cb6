"""The examples of the document do what they show, on the sample database of `make run`."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from d1server.openapi.document import document
from d1server.sample_shop import STATEMENTS
from tests.web.real_nodes import open_pair

DOCUMENT = document()
# What one can only be given: signed URLs and the id of a token.
GIVEN = ("/signed/", "/tokens/{id}")
GONE = "/dump"
NO_BODY = {"none": {"value": None}}


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """The component that a reference names."""
    found: Any = part
    while "$ref" in found:
        found = DOCUMENT
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return dict(found)


async def try_operation(
    http: aiohttp.ClientSession, url: str, method: str, path: str, item: dict[str, Any]
) -> int:
    """Send each example of one operation; how many there were."""
    operation = item[method]
    parameters = [resolved(one) for one in item.get("parameters", [])]
    parameters += [resolved(one) for one in operation.get("parameters", [])]
    given = [one for one in parameters if "example" in one]
    headers = {one["name"]: str(one["example"]) for one in given if one["in"] == "header"}
    query = {one["name"]: one["example"] for one in given if one["in"] == "query"}
    for one in reversed(given):  # an operation's own come before its path's
        path = path.replace(f"{{{one['name']}}}", str(one["example"]))
    servers: Any = item.get("servers", DOCUMENT["servers"])
    prefix = servers[0]["url"].rstrip("/")
    body: Any = operation.get("requestBody")
    examples: dict[str, Any] = (
        {"none": {"value": None}}
        if body is None
        else body["content"]["application/json"]["examples"]
    )
    for name, example in examples.items():
        async with http.request(
            method, url + prefix + path, json=example["value"], headers=headers, params=query
        ) as response:
            told = await response.text()
            assert response.status == (400 if path == GONE else 200), (method, path, name, told)
            if method == "post" and path in ("/", "/query", "/execute"):
                assert isinstance(json.loads(told), list), told
    return len(examples)


@pytest.mark.parametrize("node", [0, 1], ids=["primary", "replica"])
async def test_the_examples_work_in_their_order(tmp_path: Path, node: int) -> None:
    """At either node; making the first token comes last, for from then on one is needed."""
    tried = 0
    async with open_pair(tmp_path) as addresses, aiohttp.ClientSession() as http:
        url = f"http://{addresses[node]}"
        await http.post(f"{url}/db", json={"name": "shop"})
        batch = {"batch": [{"sql": sql} for sql in STATEMENTS]}
        filled = await http.post(f"{url}/db/shop/query", json=batch)
        assert filled.status == 200
        paths = DOCUMENT["paths"]
        for path, item in [(p, paths[p]) for p in paths if p != "/tokens"] + [
            ("/tokens", paths["/tokens"])
        ]:
            if not path.startswith(GIVEN):
                for method in [key for key in item if key in ("get", "put", "patch", "post")]:
                    tried += await try_operation(http, url, method, path, item)
                if "delete" in item:
                    await http.post(f"{url}/db", json={"name": "my-db"})
                    tried += await try_operation(http, url, "delete", path, item)
    assert tried > 40
