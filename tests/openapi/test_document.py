"""The document itself: valid, complete, true to the code that it describes, for everybody."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from d1server.access.grants import Access
from d1server.metrics import HttpMeter
from d1server.openapi.document import document, encoded
from d1server.web.admission import Admission
from d1server.web.app import open_app
from d1server.web.errors import REFUSALS
from d1server.web.front import Front
from d1server.web.limits import HttpLimits
from proto import api
from tests.auth.guarded_cluster import GuardedCluster
from tests.web.memory_node import MemoryNode

DOCUMENT = document()


class Described(NamedTuple):
    """One operation at one of its servers."""

    method: str  # in upper case
    path: str
    content: dict[str, Any]


def described() -> Iterator[Described]:
    for path, item in DOCUMENT["paths"].items():
        for server in item.get("servers", DOCUMENT["servers"]):
            for method in ("get", "put", "post", "patch", "delete"):
                if method in item:
                    url = server["url"].rstrip("/") + path
                    yield Described(method.upper(), url, item[method])


def test_the_document_is_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(json.loads(encoded())).validate()
    assert DOCUMENT["openapi"].startswith("3.1.")


async def test_what_is_served_is_described_and_nothing_else() -> None:
    """Method: the paths of the application's own router, with and without a slash at the end."""
    node = MemoryNode()
    front = Front(node, Admission(Access(), open_metrics=False), HttpLimits(), HttpMeter())
    app = open_app(node, front, ())
    served = {
        (route.method, route.resource.canonical.rstrip("/") or "/")
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    node.close()
    any_method = ("*", "/")  # answered as a path that there is not, but for POST
    assert any_method in served
    assert served - {any_method} | {("POST", "/")} == {
        (one.method, one.path) for one in described()
    }


def test_the_body_of_a_query_has_the_members_that_are_decoded() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name, struct in (("Query", api._Body), ("BatchMember", api._Member)):
        forms = schemas[name].get("anyOf", [schemas[name]])
        fields = {field.name for field in msgspec.structs.fields(struct)}
        assert all(set(form["properties"]) == fields for form in forms)


def test_every_refusal_is_described() -> None:
    """Each status and code of the one table, and at each operation what may come there."""
    responses = DOCUMENT["components"]["responses"]
    for fault, refusal in REFUSALS.items():
        assert (
            f"- {refusal.code}: {fault.value}"
            in responses[f"Refused{refusal.status}"]["description"]
        )
    for one in described():
        assert {"400"} <= one.content["responses"].keys(), one


@pytest.mark.parametrize("node", ["primary", "replica"])
def test_it_is_served_to_everybody(guarded: GuardedCluster, node: str) -> None:
    with guarded.caller(node) as stranger:
        for path in ("/openapi.json", "/client/v4/openapi.json", "/openapi.json/"):
            answer = stranger.call("GET", path)
            assert (answer.status, answer.body) == (200, encoded())
            assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("node", ["primary", "replica"])
def test_the_doors_that_it_names_are_closed_and_the_others_open(
    guarded: GuardedCluster, node: str
) -> None:
    """401 without a token, but where the operation says that none is needed."""
    for one in described():
        path = one.path.replace("{database}", "shop").replace("{account}", "any")
        with guarded.caller(node) as stranger:  # each from an address of its own
            answer = stranger.call(one.method, path.replace("{file}", "f").replace("{id}", "i"))
        is_open = one.content.get("security", DOCUMENT["security"]) == []
        assert (answer.status != 401) == is_open, one
