"""drizzle-orm/d1 on Node, over `clients/js`."""

from tests.clients.nodes import Nodes
from tests.clients.programs import CLIENTS, run_node_tests


def test_drizzle_runs_over_the_js_client(nodes: Nodes) -> None:
    nodes.create("drizzle")
    env = {**nodes.env, "D1SERVER_DATABASE": "drizzle"}
    run_node_tests(CLIENTS / "js" / "drizzle.test.js", env=env, count_min=8)
