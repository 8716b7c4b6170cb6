"""Access tokens through `clients/js`, at nodes of their own that ask for them."""

import json
from pathlib import Path

from tests.clients.nodes import running_nodes, server_python
from tests.clients.programs import CLIENTS, ROOT, run, run_node_tests


def make_token(url: str, scope: str, token: str = "") -> str:
    """Make a token with the command line and return it."""
    command = ("-m", "d1server", "token", "create", "--name", scope, "--scope", scope, "--json")
    env = {"D1SERVER_URL": url, "D1SERVER_TOKEN": token}
    made = json.loads(run(server_python(), *command, cwd=ROOT, env=env).stdout)
    return str(made["token"])


def test_js_client_sends_its_token(tmp_path: Path) -> None:
    with running_nodes(tmp_path) as nodes:
        nodes.create("shop")
        admin = make_token(nodes.primary, "admin")
        env = {
            **nodes.env,
            "EDIT_TOKEN": make_token(nodes.primary, "edit", admin),
            "READ_TOKEN": make_token(nodes.primary, "read", admin),
        }
        run_node_tests(CLIENTS / "js" / "tokens.test.js", env=env, count_min=3)
