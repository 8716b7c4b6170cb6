"""What somebody meets who starts a node in a hurry: a message, or a node that works."""

import contextlib
import http.client
import json
import resource
import socket
from pathlib import Path

import pytest

from d1server.node import share_descriptors
from tests.operated_node import primary, replica, started
from tests.web.real_nodes import free_addresses

pytestmark = pytest.mark.timeout(240)


def test_identity_that_is_none_is_a_message(tmp_path: Path) -> None:
    folder = tmp_path / "primary"
    folder.mkdir()
    text = 'format = 1\nrole = "primary"\nnode = "a"\ncluster = "mine"\n'
    (folder / "node.toml").write_text(text)
    with started(tmp_path / "log", "primary", "--data-dir", str(folder)) as node:
        assert node.process.wait(100) == 1
        assert "node.toml cannot be read" in node.log
        assert "Traceback" not in node.log


def test_replica_that_calls_itself_is_told_which_address_is_meant(tmp_path: Path) -> None:
    """And nothing of TLS, which is not what is wrong."""
    (listen,) = free_addresses(1)
    with replica(tmp_path / "replica", listen, listen) as node:
        node.wait_for("--primary names the primary's --replication address")
        assert "do both ends have TLS" not in node.log
        assert node.stop() == 0


def test_few_descriptors_are_shared() -> None:
    """Connections leave the databases theirs, whatever there are."""
    for limit in (64, 256, 1024, 65_536):
        open_max, connections_max = share_descriptors(limit, 256)
        assert 1 <= open_max <= 256
        assert 8 <= connections_max <= 4096
        assert 32 + 12 * open_max + connections_max <= limit
    assert share_descriptors(65_536, 256) == (256, 4096)


def test_clients_of_a_node_with_few_descriptors_leave_the_databases_theirs(tmp_path: Path) -> None:
    """Method: 64 descriptors and 100 clients, of whom one makes a database and writes."""
    listen, link = free_addresses(2)
    with primary(
        tmp_path / "primary",
        listen,
        link,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    ) as node:
        assert "allows this node 64 descriptors" in node.log
        first = http.client.HTTPConnection(*listen, timeout=60)
        assert call(first, "GET", "/livez") == 200
        with contextlib.ExitStack() as clients:
            for _ in range(100):
                clients.enter_context(socket.create_connection(listen, timeout=60))
            assert call(first, "POST", "/db", {"name": "shop"}) == 200
            made = {"sql": "CREATE TABLE t (a); INSERT INTO t VALUES (1)"}
            assert call(first, "POST", "/db/shop/query", made) == 200
        first.close()
        assert node.stop() == 0
        assert "Traceback" not in node.log


def call(client: http.client.HTTPConnection, method: str, path: str, body: object = None) -> int:
    client.request(method, path, None if body is None else json.dumps(body))
    response = client.getresponse()
    response.read()
    return response.status
