"""Both forms of the shop when connections to their node break: visitors do not notice.

Between the shop and its node stands a relay that loses the connection that stands and the next
two. One is lost while a request is on its way, so a write must be safe to send again.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.clients.applications import load, running_app
from tests.clients.lag_relay import LagRelay, relaying
from tests.clients.nodes import Nodes
from tests.free_ports import HOST

CALL_S_MAX = 60.0
LOST = 2  # the shops try five times
TOO_MANY = 100

Broken = tuple[str, LagRelay]


@pytest.fixture(scope="module")
def shop_database(nodes: Nodes) -> None:
    load(nodes, "fast-commerce")


@pytest.fixture(params=["python", "worker"])
def shop(
    request: pytest.FixtureRequest, nodes: Nodes, shop_database: None, tmp_path: Path
) -> Iterator[Broken]:
    with relaying(HOST, urlsplit(nodes.replica).port or 0) as relay:
        node = f"http://{HOST}:{relay.port}"
        with running_app(node, "fast-commerce", request.param, tmp_path) as url:
            call(f"{url}/api/products")  # now a connection stands
            yield url, relay


def call(url: str, body: object = None) -> tuple[int, dict[str, Any]]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=CALL_S_MAX) as got:
            return got.status, json.load(got)
    except urllib.error.HTTPError as exc:
        return exc.code, json.load(exc)


def test_reads_and_writes_survive_lost_connections(shop: Broken, nodes: Nodes) -> None:
    url, relay = shop
    relay.lose_connections(LOST)
    status, answer = call(f"{url}/api/products")
    assert (status, len(answer["products"])) == (200, 9)

    product = {**answer["products"][0], "inventory": answer["products"][0]["inventory"] + 1}
    relay.lose_connections(LOST)
    assert call(f"{url}/api/product", product)[0] == 200
    rows, _ = nodes.query("fast-commerce", "SELECT inventory FROM products WHERE id = 1")
    assert rows[0]["inventory"] == product["inventory"]


def test_trouble_that_lasts_is_told(shop: Broken) -> None:
    url, relay = shop
    relay.lose_connections(TOO_MANY)
    status, answer = call(f"{url}/api/products")
    assert status == 503
    assert "Try again" in answer["error"]
    relay.lose_connections(0)
    assert call(f"{url}/api/products")[0] == 200
