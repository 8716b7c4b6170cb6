"""The example applications, started on the nodes of a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from examples.apps import CATALOG, Place
from tests.clients.nodes import Nodes, process, server_python
from tests.clients.programs import ROOT
from tests.free_ports import HOST, free_ports


def load(nodes: Nodes, example: str) -> None:
    """Make an example's database with its schema, and wait until the replica has it."""
    nodes.create(example)
    schema = CATALOG[example].schema
    if schema is not None:
        _, bookmark = nodes.query(example, schema.read_text(encoding="utf-8"))
        nodes.wait_for(example, bookmark)


@contextmanager
def running_app(node: str, example: str, name: str, folder: Path) -> Iterator[str]:
    """Run one application of an example at the node with this URL; yield its own."""
    app = next(app for app in CATALOG[example].apps if app.name == name)
    (port,) = free_ports(1)
    url = f"http://{HOST}:{port}"
    command = app.command(Place(str(server_python()), urlsplit(node).netloc, port))
    log = folder / f"{example}-{name}-{port}.log"
    env = {"PYTHONPATH": str(ROOT)}
    with process(*command, log=log, ready=url + app.path, env=env):
        yield url
