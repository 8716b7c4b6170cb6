"""The Orders Worker on the real workerd, with this server behind its D1 binding."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.applications import load, running_app
from tests.clients.nodes import Nodes
from tests.clients.programs import EXAMPLES, program, run

CALL_S_MAX = 60.0


@pytest.fixture(scope="module")
def orders(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    load(nodes, "orders")
    folder = tmp_path_factory.mktemp("orders")
    with running_app(nodes.replica, "orders", "worker", folder) as url:
        yield url


def call(
    method: str, url: str, body: object = None, bookmark: str | None = None
) -> tuple[int, dict[str, Any], str | None]:
    """Return the status, the JSON and the session's new bookmark."""
    headers = {"x-d1-bookmark": bookmark} if bookmark else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=CALL_S_MAX) as response:
            return response.status, json.load(response), response.headers.get("x-d1-bookmark")
    except urllib.error.HTTPError as exc:
        return exc.code, json.load(exc), None


def test_table_is_made_when_it_is_missing(nodes: Nodes, orders: str) -> None:
    """The Worker catches D1's own text for it: "no such table: Orders: SQLITE_ERROR"."""
    nodes.query("orders", "DROP TABLE IF EXISTS Orders")
    order = {"customerId": "c1", "orderId": "o1", "quantity": 3}
    status, answer, _ = call("POST", f"{orders}/api/orders", order)
    assert (status, answer["orders"]) == (200, [order])


def test_session_goes_on_by_the_bookmark(nodes: Nodes, orders: str) -> None:
    _, empty, bookmark = call("POST", f"{orders}/api/reset")
    assert empty["orders"] == []
    with nodes.relay.lagging(0.5):
        for count in range(1, 4):
            order = {"customerId": "c2", "orderId": f"o{count}", "quantity": count}
            _, _, written = call("POST", f"{orders}/api/orders", order, bookmark)
            assert written is not None
            assert written > (bookmark or "")
            _, answer, bookmark = call("GET", f"{orders}/api/orders", bookmark=written)
            assert [one["quantity"] for one in answer["orders"]] == list(range(1, count + 1))
            assert answer["servedByPrimary"] is False
            assert answer["servedByRegion"] == "WEUR"


def test_mistakes_are_told(orders: str) -> None:
    assert call("POST", f"{orders}/api/orders", {"customerId": 5})[0] == 400
    assert call("GET", f"{orders}/api/nothing")[0] == 404
    status, answer, _ = call("GET", f"{orders}/api/orders", bookmark="yesterday")
    assert status == 500
    assert answer["error"].startswith("Error: D1_ERROR: ")


def test_workers_are_well_typed() -> None:
    run(program("tsc", EXAMPLES), "--project", EXAMPLES)
