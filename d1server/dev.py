"""`d1server dev`: a primary and two replicas on this machine, with a sample database.

`plan_cluster` says what to run; the `Supervisor` runs it; this module waits until all three
are ready, puts the sample shop there, and tells where everything is.
"""

import asyncio
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import click

from d1server.access.grants import new_text
from d1server.call import AnswerForeign, NodeConnection, NodeRefused, NodeUnreachable, database_path
from d1server.cli.output import print_json, print_table
from d1server.config import ENV_PREFIX, REPLICATION_PORT_OFFSET, Address, Role
from d1server.sample_shop import EXAMPLE_QUERY, IS_THERE_QUERY, SHOP, STATEMENTS
from d1server.signals import run_until_signalled
from d1server.supervisor import READY_POLL_S, READY_S_MAX, ChildFailed, ChildPlan, Supervisor

HOST: Final = "127.0.0.1"
PROBE_S_MAX: Final = 2.0
REPLICATION_PORTS_TRIED: Final = 20
# What a shell may have set for one node must not reach all three.
OWN_SETTINGS: Final = (
    *("DATA_DIR", "LISTEN", "PUBLIC_URL", "REPLICATION", "PRIMARY", "REGION", "NAME"),
    *("REPLICATION_TOKEN", "LINK_SECRET"),  # they share a secret of this run
    *("TLS_CERT", "TLS_KEY", "TLS_CA"),  # all is on loopback, and said to be at http://
)


class ClusterFailed(Exception):
    """The three nodes cannot run; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node of the cluster."""

    name: str  # also its folder
    role: Role
    region: str
    listen: Address
    link: Address  # a primary listens there for replicas, a replica calls it
    link_secret: str = field(
        repr=False
    )  # the first access token leaves the replicas where they are
    folder: Path

    @property
    def url(self) -> str:
        return f"http://{self.listen}"

    def child(self) -> ChildPlan:
        """Return the process that is this node."""
        link = "--replication" if self.role is Role.PRIMARY else "--primary"
        command = (
            *(sys.executable, "-m", "d1server", self.role.value, "--stop-with-stdin"),
            *("--data-dir", str(self.folder), "--listen", str(self.listen)),
            *(link, str(self.link), "--region", self.region, "--name", self.name),
            *("--log-format", "text"),
        )
        rank = 1 if self.role is Role.PRIMARY else 0  # replicas first: the primary misses nobody
        log_path = self.folder / "node.log"
        return ChildPlan(
            self.name, command, log_path, rank, child_env(os.environ, self.link_secret)
        )


def child_env(env: Mapping[str, str], link_secret: str) -> dict[str, str]:
    """Return the environment for a node whose own settings are flags."""
    own = {ENV_PREFIX + name for name in OWN_SETTINGS}
    passed = {name: value for name, value in env.items() if name not in own}
    return {**passed, ENV_PREFIX + "LINK_SECRET": link_secret}


def plan_cluster(port: int, data_dir: Path, replication_port: int) -> tuple[NodePlan, ...]:
    """Return the three nodes: the primary on `port`, its replicas on the next two."""
    link = Address(HOST, replication_port)
    places = (
        ("primary", Role.PRIMARY, "ENAM"),
        ("weur", Role.REPLICA, "WEUR"),
        ("apac", Role.REPLICA, "APAC"),
    )
    secret = new_text()
    return tuple(
        NodePlan(name, role, region, Address(HOST, port + index), link, secret, data_dir / name)
        for index, (name, role, region) in enumerate(places)
    )


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose_replication_port(port: int) -> int:
    """Return a free port near `port` + 100, below it where there is no room above."""
    step = 1 if port + REPLICATION_PORT_OFFSET + REPLICATION_PORTS_TRIED <= 65535 else -1
    first = port + step * REPLICATION_PORT_OFFSET
    for candidate in range(first, first + step * REPLICATION_PORTS_TRIED, step):
        if is_free(candidate):
            return candidate
    raise ClusterFailed(f"no free port for replication from {first} on; choose another --port")


def refuse_busy_ports(port: int) -> None:
    """Raise if one of the three HTTP ports is taken."""
    busy = [str(number) for number in range(port, port + 3) if not is_free(number)]
    if busy:
        raise ClusterFailed(
            f"port {', '.join(busy)} of {HOST} is in use; stop what listens there, or choose"
            f" other ports: `d1server dev --port {port + 10}` or `make run PORT={port + 10}`"
        )


def run_dev(port: int, data_dir: Path, *, as_json: bool, token: str | None) -> None:
    """Run the cluster until a signal stops it. `token`: for one that has been given tokens."""
    refuse_busy_ports(port)
    nodes = plan_cluster(port, data_dir.absolute(), choose_replication_port(port))
    try:
        for node in nodes:
            node.folder.mkdir(parents=True, exist_ok=True)
        cluster = DevCluster(nodes, as_json=as_json, token=token)
        run_until_signalled(cluster.run(), on_second=cluster.supervisor.kill_all)
    except ChildFailed as exc:
        raise ClusterFailed(str(exc)) from exc
    except OSError as exc:
        raise ClusterFailed(f"cannot use {data_dir}: {exc}") from exc


def say(message: str) -> None:
    """Tell the person at the terminal; standard output stays for the table or JSON."""
    click.echo(message, err=True)


class DevCluster:
    """Three nodes under one supervisor."""

    def __init__(self, nodes: tuple[NodePlan, ...], *, as_json: bool, token: str | None) -> None:
        self.nodes = nodes
        self.supervisor = Supervisor([node.child() for node in nodes], say)
        self._as_json = as_json
        self._token = token

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            await self.supervisor.run(self._come_up)
        finally:
            say("stopped")

    async def _come_up(self, start: Callable[[str], None]) -> None:
        say("starting a primary and two replicas ...")
        primary, *replicas = self.nodes  # a replica that finds no primary would warn
        start(primary.name)
        await self.supervisor.wait_ready(primary.name, partial(self._trouble, primary))
        for node in replicas:
            start(node.name)
        for node in replicas:
            await self.supervisor.wait_ready(node.name, partial(self._trouble, node))
        await asyncio.to_thread(self._fill_shop)
        self._announce()
        await asyncio.get_running_loop().create_future()  # until cancelled

    def _trouble(self, node: NodePlan) -> str | None:
        """Return why a node may not be sent requests; raise if waiting does not help."""
        reason = unreadiness(node.url, self.supervisor.children[node.name].pid, self._token)
        if reason is not None and wants_tokens(reason, node.role):
            raise ClusterFailed(f"{node.name}: {reason}. {self._token_advice()}")
        return reason

    def _token_advice(self) -> str:
        return (
            "`d1server dev` takes an administrator's token from its environment, as D1SERVER_TOKEN;"
            " this makes one: d1server token create --data-dir"
            f" {self.nodes[0].folder} --name dev --scope admin"
        )

    def _fill_shop(self) -> None:
        """Make the sample shop if it is not there, and wait until both replicas have it."""
        primary, *replicas = self.nodes
        try:
            with NodeConnection(primary.url, token=self._token) as node:
                bookmark = fill_shop(node)
            for plan in replicas:
                with NodeConnection(plan.url, token=self._token) as node:
                    wait_for_shop(node, bookmark)
        except (NodeRefused, NodeUnreachable, AnswerForeign) as exc:
            raise ClusterFailed(f"cannot make the sample database {SHOP}: {exc}") from exc

    def _announce(self) -> None:
        line = curl_line(self.nodes[1].url)
        if self._token is not None:
            line += ' -H "Authorization: Bearer $D1SERVER_TOKEN"'
        folder = self.nodes[0].folder.parent
        if self._as_json:
            described = [self._described(node) for node in self.nodes]
            print_json(
                {"nodes": described, "database": SHOP, "curl": line, "data_dir": str(folder)}
            )
            return
        rows = [
            (node.role.value, node.region, node.url, self._link(node), node.folder)
            for node in self.nodes
        ]
        print_table(("role", "region", "url", "replication", "data"), rows)
        click.echo(
            f"\nThe sample database is called {SHOP}. Ask the replica in"
            f" {self.nodes[1].region}; the answer's header x-d1-bookmark names the state that"
            f" it saw:\n\n{line}\n\nData: {folder}   Ctrl-C stops everything."
        )

    def _link(self, node: NodePlan) -> str:
        return f"{'listens on' if node.role is Role.PRIMARY else 'follows'} {node.link}"

    def _described(self, node: NodePlan) -> dict[str, object]:
        return {
            "name": node.name,
            "role": node.role.value,
            "region": node.region,
            "url": node.url,
            "replication": str(node.link),
            "pid": self.supervisor.children[node.name].pid,
            "data_dir": str(node.folder),
        }


def unreadiness(url: str, pid: int | None, token: str | None = None) -> str | None:
    """Return why the node of a process is not ready, or None if it is."""
    try:
        with NodeConnection(url, timeout_s=PROBE_S_MAX, token=token) as node:
            node.call("GET", "/readyz")
            if node.call("GET", "/status").json("pid")["pid"] != pid:
                return f"another server answers at {url}"
    except NodeUnreachable:
        return "it does not answer"
    except (NodeRefused, AnswerForeign) as exc:
        return str(exc)
    return None


def wants_tokens(reason: str, role: Role) -> bool:
    """Whether a node is not ready for want of a token: waiting does not help.

    A replica that does not know ours may just not have read so far in the catalog.
    """
    is_unknown = role is Role.PRIMARY and "Authentication error" in reason
    return is_unknown or "--replication-token" in reason


def ensure_database(node: NodeConnection, name: str) -> None:
    """Create a database unless it is there."""
    try:
        node.call("GET", database_path(name))
    except NodeRefused as exc:
        if exc.status != 404:
            raise
        node.post("/db", {"name": name})


def fill_shop(node: NodeConnection) -> str:
    """Make the shop on the primary unless it is there; return a bookmark that has it."""
    ensure_database(node, SHOP)
    query = database_path(SHOP, "query")
    reply = node.post(query, {"sql": IS_THERE_QUERY})
    if reply.result_objects()[0]["results"][0]["found"] == 0:
        reply = node.post(query, {"batch": [{"sql": sql} for sql in STATEMENTS]})
    if reply.bookmark is None:
        raise NodeUnreachable("the primary answered without a bookmark", was_sent=True)
    return reply.bookmark


def wait_for_shop(node: NodeConnection, bookmark: str) -> None:
    """Return when a replica answers by itself instead of asking the primary."""
    headers = {"x-d1-bookmark": bookmark, "x-d1-on-timeout": "error"}
    for _ in range(int(READY_S_MAX / READY_POLL_S)):
        reply = node.post(database_path(SHOP, "query"), {"sql": EXAMPLE_QUERY}, headers=headers)
        if not reply.result_objects()[0]["meta"]["served_by_primary"]:
            return
        time.sleep(READY_POLL_S)
    raise NodeUnreachable(f"{node.url} does not get the database {SHOP}", was_sent=True)


def curl_line(url: str) -> str:
    """Return a command that reads from the shop and shows the bookmark."""
    body = '{"sql":"' + EXAMPLE_QUERY + '"}'
    words = ["curl", "-si", f"{url}{database_path(SHOP, 'query')}"]
    words += ["-H", "x-d1-bookmark: first-unconstrained", "-d", body]
    return shlex.join(words)
