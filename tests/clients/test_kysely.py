"""kysely with kysely-d1 on Node, over `clients/js`."""

from tests.clients.nodes import Nodes
from tests.clients.programs import CLIENTS, run_node_tests


def test_kysely_runs_over_the_js_client(nodes: Nodes) -> None:
    nodes.create("kysely")
    env = {**nodes.env, "D1SERVER_DATABASE": "kysely"}
    run_node_tests(CLIENTS / "js" / "kysely.test.js", env=env, count_min=6)
