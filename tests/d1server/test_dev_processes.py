"""`d1server dev` for real: three processes, the sample shop, restarts and the way down."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from d1server.call import NodeConnection, NodeRefused, NodeUnreachable
from tests.free_ports import free_block
from tests.waiting import EVENT_S_MAX, block_until

STOP_S_MAX = 20.0  # four times what is promised: the machine may have other things to do
PROGRAM = (sys.executable, "-m", "d1server")

pytestmark = pytest.mark.timeout(300)


@contextmanager
def running_dev(folder: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start the three nodes and yield the process and what it printed when they were ready."""
    command = [*PROGRAM, "dev", "--port", str(port), "--data-dir", str(folder), "--json"]
    env = os.environ | {"D1SERVER_READ_WAIT_S": str(EVENT_S_MAX)}  # replicas answer, if late
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def pids(ready: dict[str, Any]) -> list[int]:
    return [node["pid"] for node in ready["nodes"]]


def d1server(*words: str) -> dict[str, Any]:
    command = [*PROGRAM, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def is_ready(url: str) -> bool:
    try:
        with NodeConnection(url) as node:
            node.call("GET", "/readyz")
    except (NodeRefused, NodeUnreachable):
        return False
    return True


def stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(EVENT_S_MAX) == 0
    assert time.monotonic() - began < STOP_S_MAX


def test_dev_from_start_to_stop(tmp_path: Path) -> None:
    """What `make run` shows holds: the curl line, sessions across replicas, restart, stop.

    Method: the printed line is run by a shell; an order goes in through one replica and is read
    on the other with its bookmark; that replica is killed and comes back; all stop on SIGINT
    within 5 s; a second start finds the order.
    """
    port = free_block(3)
    order = "INSERT INTO orders VALUES (NULL, 3, 5, 2, datetime('now'))"
    count = "SELECT count(*) AS n FROM orders"
    with running_dev(tmp_path, port) as (process, ready):
        assert [node["role"] for node in ready["nodes"]] == ["primary", "replica", "replica"]
        assert [node["region"] for node in ready["nodes"]] == ["ENAM", "WEUR", "APAC"]
        _, weur, apac = (node["url"] for node in ready["nodes"])
        if shutil.which("curl"):
            shown = subprocess.run(
                ["sh", "-c", ready["curl"]], capture_output=True, text=True, check=True
            ).stdout
            assert "HTTP/1.1 200" in shown
            assert "x-d1-bookmark: 0000" in shown.lower()
            assert "Amara Okafor" in shown

        written = d1server("execute", "shop", "--command", order, "--url", weur)
        words = ["execute", "shop", "--command", count, "--url", apac]
        read = d1server(*words, "--bookmark", written["bookmark"])
        assert read["result"][0]["results"] == [{"n": 49}]
        assert read["result"][0]["meta"]["served_by_region"] == "APAC"
        assert d1server("status", "--url", apac)["role"] == "replica"

        os.kill(ready["nodes"][2]["pid"], signal.SIGKILL)
        block_until(lambda: not psutil.pid_exists(ready["nodes"][2]["pid"]), "its end")
        block_until(lambda: is_ready(apac), "its coming back")
        assert d1server(*words, "--bookmark", written["bookmark"])["result"] != []
        stop(process, signal.SIGINT)
        block_until(lambda: not any(psutil.pid_exists(pid) for pid in pids(ready)), "their end")
    assert {found.name for found in tmp_path.iterdir()} == {"primary", "weur", "apac"}

    with running_dev(tmp_path, port) as (process, ready):
        read = d1server("execute", "shop", "--command", count, "--url", ready["nodes"][0]["url"])
        assert read["result"][0]["results"] == [{"n": 49}]
        stop(process, signal.SIGTERM)


def test_nodes_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with running_dev(tmp_path, free_block(3)) as (process, ready):
        process.kill()
        process.wait(10)
        block_until(lambda: not any(psutil.pid_exists(pid) for pid in pids(ready)), "their end")


def test_busy_port_and_busy_folder_are_said_in_words(tmp_path: Path) -> None:
    """A second `dev` beside the first one ends at once and says what is in its way."""
    port = free_block(3)
    with running_dev(tmp_path, port) as (process, _):
        for again, wanted in ((port, "in use"), (free_block(3), "in use by another process")):
            command = [*PROGRAM, "dev", "--port", str(again), "--data-dir", str(tmp_path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
            assert done.returncode == 1
            assert wanted in done.stderr
            assert "Traceback" not in done.stderr
        stop(process, signal.SIGINT)


def test_dev_of_a_cluster_with_tokens_says_what_it_needs(tmp_path: Path) -> None:
    """At once, not after a minute; and with what it names it runs.

    Method: start it without a token, then with the one of the command that is shown.
    """
    folder = ("--data-dir", str(tmp_path / "primary"))
    d1server("token", "create", *folder, "--name", "a", "--scope", "admin")
    command = [*PROGRAM, "dev", "--port", str(free_block(3)), "--data-dir", str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert refused.returncode == 1, refused.stderr
    assert "D1SERVER_TOKEN" in refused.stderr
    words = refused.stderr.rpartition("d1server token create ")[2].split()
    made = d1server("token", "create", *words)["token"]
    ready = [*PROGRAM, "dev", "--port", str(free_block(3)), "--data-dir", str(tmp_path), "--json"]
    env = os.environ | {"D1SERVER_TOKEN": made}
    with subprocess.Popen(ready, stdout=subprocess.PIPE, text=True, env=env) as dev:
        assert dev.stdout is not None
        assert len(json.loads(dev.stdout.readline())["nodes"]) == 3
        stop(dev, signal.SIGTERM)


def test_first_token_of_a_running_cluster_leaves_its_replicas(tmp_path: Path) -> None:
    """Requests need one from then on, at all nodes; the replicas stay connected.

    Method: made while the cluster runs; then a write through one replica, read at the other.
    """
    order = "INSERT INTO orders VALUES (NULL, 3, 5, 2, datetime('now'))"
    count = "SELECT count(*) AS n FROM orders"
    with running_dev(tmp_path, free_block(3)) as (process, ready):
        first, weur, apac = (node["url"] for node in ready["nodes"])
        words = ["token", "create", "--name", "a", "--scope", "admin", "--url", first]
        made = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=True)
        assert made.stderr.startswith("from now on this cluster asks for tokens\n")
        assert "--replication-token" not in made.stderr
        token = ("--token", made.stdout.strip())
        for url in (first, weur, apac):
            with pytest.raises(NodeRefused), NodeConnection(url) as node:
                node.call("GET", "/status")
        insert = ["execute", "shop", "--command", order, "--url", weur, *token]
        bookmark = d1server(*insert)["bookmark"]
        read = ["execute", "shop", "--command", count, "--url", apac, *token]
        found = d1server(*read, "--bookmark", bookmark)["result"][0]
        assert (found["results"], found["meta"]["served_by_region"]) == ([{"n": 49}], "APAC")
        assert len(d1server("status", "--url", first, *token)["replicas"]) == 2
        stop(process, signal.SIGTERM)
