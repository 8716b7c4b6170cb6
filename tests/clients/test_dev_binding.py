"""A Worker in development, in Miniflare and `wrangler dev`, with a node behind its binding."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.guarded import Guarded
from tests.clients.nodes import (
    CALL_S_MAX,
    Nodes,
    post,
    process,
    server_python,
)
from tests.clients.programs import (
    CLIENTS,
    ROOT,
    environment,
    node_programs,
    program,
    run,
    run_node_tests,
)
from tests.clients.wrangler import Wrangler
from tests.free_ports import HOST, free_ports

WORKER = CLIENTS / "js" / "binding_worker.js"
PLUGIN = {"package": "d1server-client/wrangler", "name": "d1server"}


@contextmanager
def miniflare(folder: Path, **options: object) -> Iterator[str]:
    """Run the Worker in Miniflare with these options; yield its URL."""
    (port,) = free_ports(1)
    url, words = f"http://{HOST}:{port}", (str(port), json.dumps(options))
    command = (node_programs()[0], CLIENTS / "js" / "miniflare_server.js", *words)
    log = folder / "miniflare.log"
    with process(*command, log=log, ready=f"{url}/ready", env=environment()):
        yield url


@contextmanager
def wrangler_dev(folder: Path, **binding: object) -> Iterator[str]:
    """Run the Worker under `wrangler dev` with this binding; yield its URL."""
    config = folder / "wrangler.json"
    unsafe = {"bindings": [{"name": "DB", "type": "d1", **binding}]}
    date = {"name": "dev", "main": str(WORKER), "compatibility_date": "2026-07-01"}
    config.write_text(json.dumps({**date, "unsafe": unsafe}))
    port, inspector = free_ports(2)
    flags = ("--ip", HOST, "--port", str(port), "--inspector-port", str(inspector))
    command = (program("wrangler"), "dev", "--cwd", folder, "--config", config, *flags)
    env = environment(Wrangler(folder, "http://nowhere.invalid").env)
    url = f"http://{HOST}:{port}"
    with process(*command, log=folder / "dev.log", ready=f"{url}/ready", env=env):
        yield url


@pytest.fixture(scope="module", params=["miniflare", "wrangler dev"])
def worker(
    request: pytest.FixtureRequest, nodes: Nodes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a Worker with the database `dev` at the replica."""
    folder, database = tmp_path_factory.mktemp("dev"), request.param.replace(" ", "-")
    nodes.create(database)
    if request.param == "miniflare":
        remote = f"{nodes.replica}/?x-d1-database={database}"
        with miniflare(folder, d1Databases={"DB": {"id": "any", "remote": remote}}) as url:
            yield url
    else:
        options = {"url": nodes.replica, "database": database}
        with wrangler_dev(folder, dev={"plugin": PLUGIN, "options": options}) as url:
            yield url


def step(url: str, name: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/{name}", timeout=CALL_S_MAX) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def test_statements_run(worker: str) -> None:
    answer = step(worker, "statements")
    assert answer["made"] == 2
    assert (answer["run"]["changes"], answer["run"]["last_row_id"]) == (1, 1)
    assert answer["run"]["served_by_primary"] is True
    assert answer["batch"] == [[[], 1], [[], 1], [[{"n": 3}], 0]]
    assert answer["all"] == [
        {"id": 1, "a": "one", "b": [1, 2, 255]},
        {"id": 2, "a": 2.5, "b": None},
        {"id": 3, "a": 1, "b": "é"},
    ]
    assert answer["raw"] == [["a", "a"], ["one", "one"]]
    assert (answer["first"], answer["column"], answer["none"]) == ({"a": 1, "b": "é"}, "é", None)


def test_mistakes_are_d1s_and_change_nothing(worker: str) -> None:
    step(worker, "statements")
    answer = step(worker, "mistakes")
    assert answer["all"] == "D1_ERROR: no such table: nope: SQLITE_ERROR"
    for call in ("run", "batch"):
        assert answer[call].startswith(
            "D1_ERROR: UNIQUE constraint failed: t.id: SQLITE_CONSTRAINT"
        )
    assert answer["exec"].startswith("D1_EXEC_ERROR: Error in line 1: INSERT INTO t")
    assert 'near "SELEC": syntax error' in answer["exec"]
    assert answer["count"] == 3


def test_session_goes_on_at_the_replica(nodes: Nodes, worker: str) -> None:
    step(worker, "statements")
    with nodes.relay.lagging(0.5):
        answer = step(worker, "session")
    assert answer["before"] is None
    assert answer["results"] == [{"a": "in session"}]
    assert answer["region"] == "WEUR"
    assert answer["later"] >= answer["bookmark"]


def test_plugin_sends_the_token(guarded: Guarded, tmp_path: Path) -> None:
    """In Miniflare too, whose own remote form has no place for a token."""
    options = {"url": guarded.nodes.replica, "database": "shop", "token": guarded.read}
    binding = {"name": "DB", "type": "d1", "plugin": PLUGIN, "options": options}
    with miniflare(tmp_path, unsafeBindings=[binding]) as url:
        answer = step(url, "mistakes")
    assert answer["all"] == "D1_ERROR: no such table: nope: SQLITE_ERROR"
    assert answer["count"] >= 1
    assert "scope edit" in answer["run"]


def test_plugin_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is checked: with the CA that Node is told of, and not without."""
    run(server_python(), "-m", "trustme", "--identities", HOST, "--dir", tmp_path, cwd=ROOT)
    authority = str(tmp_path / "client.pem")
    with ExitStack() as stack:
        with monkeypatch.context() as trusting:
            trusting.setenv("SSL_CERT_FILE", authority)  # for this test's own requests
            url = stack.enter_context(tls_primary(tmp_path))
            post(f"{url}/db", {"name": "shop"})
            post(f"{url}/db/shop/query", {"sql": "CREATE TABLE t (a)"})
        options = {"url": url, "database": "shop"}
        binding = {"name": "DB", "type": "d1", "plugin": PLUGIN, "options": options}
        with miniflare(tmp_path, unsafeBindings=[binding]) as worker:
            assert step(worker, "query")["told"].startswith("internal error")  # workerd's word
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", authority)
        with miniflare(tmp_path, unsafeBindings=[binding]) as worker:
            assert step(worker, "query")["told"] == [{"n": 0}]


@contextmanager
def tls_primary(folder: Path) -> Iterator[str]:
    """Run a primary with the certificate of this folder; yield its URL."""
    (port,) = free_ports(1)
    url = f"https://{HOST}:{port}"
    flags: list[str | Path] = ["--data-dir", folder / "primary", "--listen", f"{HOST}:{port}"]
    flags += ["--tls-cert", folder / "server.pem", "--tls-key", folder / "server.key"]
    flags.append("--stop-with-stdin")
    command = (server_python(), "-m", "d1server", "primary", *flags)
    with process(*command, log=folder / "primary.log", ready=f"{url}/readyz"):
        yield url


def test_databases_in_node(nodes: Nodes, tmp_path: Path) -> None:
    nodes.create("platform")
    _, bookmark = nodes.query("platform", "CREATE TABLE words (word)")
    nodes.wait_for("platform", bookmark)
    wrangler = Wrangler(tmp_path, nodes.primary)
    more = {"D1SERVER_DATABASE": "platform", "FOLDER": str(tmp_path)}
    env = {**wrangler.env, **nodes.env, **more}
    run_node_tests(CLIENTS / "js" / "platform.test.js", env=env, count_min=2)
