"""Nodes that ask for access tokens."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.clients.nodes import Nodes, running_nodes, server_python
from tests.clients.programs import ROOT, run


class Guarded(NamedTuple):
    """The nodes, which have a database `shop` (a table `t` with one row), and two tokens."""

    nodes: Nodes
    edit: str
    read: str


@contextmanager
def guarded_nodes(folder: Path) -> Iterator[Guarded]:
    """Make tokens, as an operator would before the first start, and run a primary and a replica."""
    primary = folder / "primary"
    primary.mkdir()
    tokens = {scope: make_token(primary, scope) for scope in ("admin", "replicate", "edit", "read")}
    with running_nodes(folder, token=tokens["admin"], replicate=tokens["replicate"]) as nodes:
        nodes.create("shop")
        _, bookmark = nodes.query("shop", "CREATE TABLE t (a); INSERT INTO t VALUES ('x')")
        nodes.wait_for("shop", bookmark)
        yield Guarded(nodes, tokens["edit"], tokens["read"])


def make_token(data_dir: Path, scope: str) -> str:
    """Make a token in the data directory of a primary that does not run."""
    command = ("-m", "d1server", "token", "create", "--name", scope, "--scope", scope, "--json")
    done = run(server_python(), *command, "--data-dir", data_dir, cwd=ROOT)
    return str(json.loads(done.stdout)["token"])
