"""Cloudflare's SDK for TypeScript."""

from tests.clients.nodes import Nodes
from tests.clients.programs import CLIENTS, run_node_tests


def test_its_ten_methods_run(nodes: Nodes) -> None:
    run_node_tests(CLIENTS / "js" / "cloudflare.test.js", env=nodes.env, count_min=3)
