"""Nodes that ask for access tokens."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.clients.nodes import Nodes, post, running_nodes, server_python
from tests.clients.programs import ROOT, run


class Guarded(NamedTuple):
    """The nodes, which have a database `shop` (a table `t` with one row), and two tokens."""

    nodes: Nodes
    edit: str
    read: str


@contextmanager
def guarded_nodes(folder: Path) -> Iterator[Guarded]:
    """Run a primary and a replica with tokens, the first two made as an operator makes them."""
    primary = folder / "primary"
    primary.mkdir()
    admin, replicate = (make_token(primary, scope) for scope in ("admin", "replicate"))
    with running_nodes(folder, token=admin, replicate=replicate) as nodes:
        nodes.create("shop")
        _, bookmark = nodes.query("shop", "CREATE TABLE t (a); INSERT INTO t VALUES ('x')")
        nodes.wait_for("shop", bookmark)
        yield Guarded(nodes, ask_token(nodes, "edit"), ask_token(nodes, "read"))


def make_token(data_dir: Path, scope: str) -> str:
    """Make a token in the data directory of a primary that does not run."""
    command = ("-m", "d1server", "token", "create", "--name", scope, "--scope", scope, "--json")
    done = run(server_python(), *command, "--data-dir", data_dir, cwd=ROOT)
    return str(json.loads(done.stdout)["token"])


def ask_token(nodes: Nodes, scope: str) -> str:
    """Make a token by asking the running primary; its answer waits for the replica."""
    asked = {"name": scope, "scopes": [scope]}
    headers = {"authorization": f"Bearer {nodes.token}"}
    answer, _ = post(f"{nodes.primary}/tokens", asked, headers)
    return str(answer["result"]["token"])
