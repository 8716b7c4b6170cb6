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
    """Run a primary and a replica, and make tokens there once the database is filled."""
    with running_nodes(folder) as nodes:
        nodes.create("shop")
        nodes.query("shop", "CREATE TABLE t (a); INSERT INTO t VALUES ('x')")
        admin = make_token(nodes.primary, "admin")
        edit = make_token(nodes.primary, "edit", admin)
        yield Guarded(nodes, edit, make_token(nodes.primary, "read", admin))


def make_token(url: str, scope: str, token: str = "") -> str:
    """Make a token with the command line and return it."""
    command = ("-m", "d1server", "token", "create", "--name", scope, "--scope", scope, "--json")
    env = {"D1SERVER_URL": url, "D1SERVER_TOKEN": token}
    made = json.loads(run(server_python(), *command, cwd=ROOT, env=env).stdout)
    return str(made["token"])
