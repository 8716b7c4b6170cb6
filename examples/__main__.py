"""Starts an example: a primary, two replicas, and the example's applications on them.

    python -m examples fast-commerce [--port 8787] [--data-dir data]

The nodes take `--port` and the two ports after it, the applications `--port` + 10 and + 11.
Ctrl-C stops everything; the databases stay in the data directory.
"""

import argparse
import asyncio
import os
import sys
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from d1server.call import NodeConnection, NodeRefused, database_path
from d1server.dev import (
    ClusterFailed,
    NodePlan,
    choose_replication_port,
    ensure_database,
    is_free,
    plan_cluster,
    refuse_busy_ports,
    unreadiness,
)
from d1server.signals import run_until_signalled
from d1server.supervisor import ChildFailed, ChildPlan, Supervisor
from examples.apps import CATALOG, App, Example, NotRunnable, Place

HOST: Final = "127.0.0.1"
APP_PORT_OFFSET: Final = 10
PROBE_S_MAX: Final = 2.0
FIRST_TO_STOP: Final = -1  # before the nodes


def say(message: str) -> None:
    """Tell the person at the terminal."""
    print(message, file=sys.stderr, flush=True)


class RunningExample:
    """The nodes and applications of one example, under one supervisor."""

    def __init__(self, name: str, example: Example, nodes: tuple[NodePlan, ...]) -> None:
        self._name = name
        self._example = example
        self._nodes = nodes
        first = nodes[0].listen.port + APP_PORT_OFFSET
        self._ports = {app.name: first + at for at, app in enumerate(example.apps)}
        busy = [str(port) for port in self._ports.values() if not is_free(port)]
        if busy:
            raise ClusterFailed(f"port {', '.join(busy)} is in use; choose another --port")
        plans = [node.child() for node in nodes]
        plans += [self._child(app) for app in example.apps]
        self.supervisor = Supervisor(plans, say)

    def _child(self, app: App) -> ChildPlan:
        node = str(self._nodes[app.node].listen)
        command = app.command(Place(sys.executable, node, self._ports[app.name]))
        log_path = self._nodes[0].folder.parent / f"{self._name}-{app.name}.log"
        return ChildPlan(app.name, command, log_path, FIRST_TO_STOP, dict(os.environ))

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            await self.supervisor.run(self._come_up)
        finally:
            say("stopped")

    async def _come_up(self, start: Callable[[str], None]) -> None:
        say("starting a primary and two replicas ...")
        for node in self._nodes:
            start(node.name)
            await self.supervisor.wait_ready(node.name, partial(self._node_trouble, node))
        await asyncio.to_thread(self._load)
        for app in self._example.apps:
            start(app.name)
            trouble = partial(app_trouble, self._url(app) + app.path)
            await self.supervisor.wait_ready(app.name, trouble)
        self._announce()
        await asyncio.get_running_loop().create_future()  # until cancelled

    def _node_trouble(self, node: NodePlan) -> str | None:
        return unreadiness(node.url, self.supervisor.children[node.name].pid)

    def _load(self) -> None:
        """Make the database unless it is there, and load its schema."""
        with NodeConnection(self._nodes[0].url) as node:
            ensure_database(node, self._name)
            if self._example.schema is not None:
                sql = self._example.schema.read_text(encoding="utf-8")
                node.post(database_path(self._name, "query"), {"sql": sql})

    def _url(self, app: App) -> str:
        return f"http://{HOST}:{self._ports[app.name]}"

    def _announce(self) -> None:
        for node in self._nodes:
            print(f"{node.role.value:8} {node.region:5} {node.url}")
        for app in self._example.apps:
            at = self._nodes[app.node].region
            print(f"{app.name:8} {at:5} {self._url(app)}{app.path}")
        print("\nCtrl-C stops everything.", flush=True)


def app_trouble(url: str) -> str | None:
    """Return why an application is not up, or None if it is."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_S_MAX):
            return None
    except OSError as exc:
        return str(exc)


def main() -> None:
    """Run an example until a signal ends it."""
    parser = argparse.ArgumentParser(prog="examples", description="Run an example.")
    parser.add_argument("name", choices=sorted(CATALOG))
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    wanted = parser.parse_args()
    try:
        refuse_busy_ports(wanted.port)
        data_dir = wanted.data_dir.absolute()
        nodes = plan_cluster(wanted.port, data_dir, choose_replication_port(wanted.port))
        for node in nodes:
            node.folder.mkdir(parents=True, exist_ok=True)
        running = RunningExample(wanted.name, CATALOG[wanted.name], nodes)
        run_until_signalled(running.run(), on_second=running.supervisor.kill_all)
    except (ClusterFailed, ChildFailed, NodeRefused, NotRunnable) as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
