"""What a node says before it opens a door; and `d1server token`, with a node and without."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from d1server.access.exposure import NodeExposed
from d1server.cli import command_line
from d1server.config import Address, NodeConfig, Role
from d1server.datadir import open_data_dir
from d1server.dev import unreadiness
from d1server.node import run_node
from d1server.tls import TlsInvalid
from engine.files import Disk
from tests.auth.guarded_cluster import GuardedCluster, in_thread, offline
from tests.web.real_nodes import free_addresses

EVERYWHERE = Address("0.0.0.0", 0)
NEAR = Address("127.0.0.1", 0)


def told(*args: str, env: dict[str, str] | None = None) -> Result:
    """Run a command without what this shell may have set."""
    clean = {"D1SERVER_TOKEN": "", "CLOUDFLARE_API_TOKEN": "", "D1SERVER_URL": ""}
    return CliRunner().invoke(command_line, list(args), env={**clean, **(env or {})})


@pytest.mark.parametrize("door", ["listen", "replication"])
async def test_primary_on_the_network_without_tokens_does_not_start(
    tmp_path: Path, door: str
) -> None:
    """Not for a moment: it stops before it listens, and the folder is free again."""
    doors: dict[str, Any] = {"listen": NEAR, "replication": NEAR, door: EVERYWHERE}
    config = NodeConfig(role=Role.PRIMARY, data_dir=tmp_path, name="p", **doors)
    with pytest.raises(NodeExposed, match=rf"--{door} 0\.0\.0\.0.*token create.*--insecure"):
        await run_node(config)
    with open_data_dir(tmp_path, "primary", Disk()):
        pass


async def test_replica_of_a_primary_that_it_cannot_know_does_not_start(tmp_path: Path) -> None:
    config = NodeConfig(
        role=Role.REPLICA, data_dir=tmp_path, name="r", listen=NEAR, primary=Address("10.0.0.1", 1)
    )
    with pytest.raises(NodeExposed, match=r"impostor: give --replication-token.*--tls-ca"):
        await run_node(config)


async def test_tls_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    files: dict[str, Any] = {"tls_cert": tmp_path / "none", "tls_key": tmp_path / "none"}
    config = NodeConfig(
        role=Role.PRIMARY, data_dir=tmp_path / "d", name="p", listen=NEAR, replication=NEAR, **files
    )
    with pytest.raises(TlsInvalid, match="--tls-cert"):
        await run_node(config)


def test_refusals_reach_the_person_who_starts(tmp_path: Path) -> None:
    """Exit code 1, one message, no traceback."""
    args = ("primary", "--data-dir", str(tmp_path), "--listen", "0.0.0.0:0")
    refused = told(*args)
    assert refused.exit_code == 1
    assert "there is no access token: make one with `d1server token create" in refused.stderr
    assert str(tmp_path) in refused.stderr  # the line can be copied
    args = ("primary", "--data-dir", str(tmp_path), "--insecure", "--listen")
    for address in ("192.0.2.1:1", "nobody.invalid:1"):  # RFC 5737 and 6761: never this machine's
        foreign = told(*args, address)
        assert f"--listen {address}" in foreign.stderr
        assert "no address of this machine" in foreign.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        busy = told(*args, here)
        assert f"--listen {here}" in busy.stderr
        assert "is in use; stop what listens there" in busy.stderr
    both = told(*args, here, "--replication", here)
    assert "need a port each" in both.stderr
    bad = told(*args[:3], "--tls-cert", "/none", "--tls-key", "/none")
    assert (bad.exit_code, "--tls-cert /none" in bad.stderr) == (1, True)


def test_with_a_token_the_same_primary_may_start(tmp_path: Path) -> None:
    """Method: on loopback, where it asks for the token all the same."""
    token = offline(tmp_path / "p", "admin")
    listen, link = free_addresses(2)
    config = NodeConfig(
        role=Role.PRIMARY, data_dir=tmp_path / "p", name="p", listen=listen, replication=link
    )
    with in_thread(config):
        url = f"http://{listen}"
        assert "Authentication error" in told("--url", url, "db", "list").stderr
        assert told("--url", url, "--token", token, "db", "list").exit_code == 0
        unready = unreadiness(url, 1)
        assert unready is not None
        assert "Authentication error" in unready
        assert "another server" in str(unreadiness(url, 1, token))
        busy = told("token", "list", "--data-dir", str(tmp_path / "p"))
        assert busy.exit_code == 1
        assert "in use by another process" in busy.stderr
        assert "--url" in busy.stderr


# --- d1server token, without a node


def made(*args: str) -> dict[str, Any]:
    result = told("token", "create", "--json", *args)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_tokens_of_a_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "new")
    where = ("--data-dir", folder)
    first = told("token", "create", *where, "--name", "ops", "--scope", "admin")
    assert first.exit_code == 0
    assert first.stdout.startswith("d1s_")  # and nothing else: `$(...)` takes it
    assert first.stdout.count("\n") == 1
    assert "becomes the data directory of a new primary" in first.stderr
    files = [file for file in (tmp_path / "new").rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if file.stat().st_mode & 0o077]  # others cannot read them
    brief = made(*where, "--name", "b", "--scope", "read", "--scope", "edit", "--expires", "7d")
    assert brief["scopes"] == ["edit", "read"]
    assert brief["expires_at"] > brief["created_at"]
    listed = json.loads(told("token", "list", *where, "--json").stdout)
    assert [one["name"] for one in listed] == ["ops", "b"]
    assert told("token", "revoke", brief["id"], *where).stdout == f"revoked {brief['id']}\n"
    assert "revoked" in told("token", "list", *where).stdout
    unknown = told("token", "revoke", "0123456789abcdef", *where)
    assert (unknown.exit_code, "`d1server token list` shows" in unknown.stderr) == (1, True)
    assert "d1server db" not in unknown.stderr
    wrong = told("token", "create", *where, "--name", "x", "--scope", "read", "--database", "none")
    assert (wrong.exit_code, "no database 'none'" in wrong.stderr) == (1, True)


def test_folders_that_are_none(tmp_path: Path) -> None:
    for command in (("list",), ("revoke", "x")):
        refused = told("token", *command, "--data-dir", str(tmp_path / "typo"))
        assert refused.exit_code == 1
        assert not (tmp_path / "typo").exists()
    with open_data_dir(tmp_path / "r", "replica", Disk()):
        pass
    where = ("--data-dir", str(tmp_path / "r"))
    refused = told("token", "create", *where, "--name", "x", "--scope", "admin")
    assert refused.exit_code == 1
    assert "kept by the primary" in refused.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("create",),
        ("create", "--name", "x"),
        ("create", "--name", "x", "--scope", "write"),
        ("create", "--name", "x", "--scope", "read", "--expires", "7"),
        ("create", "--name", "x", "--scope", "read", "--expires", "0d"),
        ("create", "--name", "x", "--scope", "read", "--expires", "-1d"),
        ("revoke",),
    ],
    ids=" ".join,
)
def test_bad_usage_is_said(args: tuple[str, ...]) -> None:
    assert told("token", *args).exit_code == 2


# --- d1server token and --token, with nodes


def test_tokens_over_http(guarded: GuardedCluster, tmp_path: Path) -> None:
    """Through the replica, with the admin's token from a file."""
    file = tmp_path / "token"
    file.write_text(guarded.tokens["admin"] + "\n")
    node = ("--url", f"http://{guarded.replica}", "--token", f"@{file}")
    args = ("--name", "cli", "--scope", "read", "--database", "shop", "--expires", "1h")
    result = told(*node, "token", "create", *args)
    assert result.exit_code == 0, result.output
    token = result.stdout.strip()
    env = {"D1SERVER_URL": f"http://{guarded.primary}", "D1SERVER_TOKEN": token}
    run = ("execute", "shop", "--command")
    assert told(*run, "SELECT 1", env=env).exit_code == 0
    refused = told(*run, "DELETE FROM t", env=env)
    assert (refused.exit_code, "scope edit" in refused.stderr) == (1, True)
    listed = json.loads(told(*node, "token", "list", "--json").stdout)
    key = next(one["id"] for one in listed if one["name"] == "cli")
    assert told(*node, "token", "revoke", key).exit_code == 0
    refused = told(*run, "SELECT 1", env=env)
    assert refused.exit_code == 1
    assert "--token" in refused.stderr


def test_where_the_command_line_takes_its_token_from(guarded: GuardedCluster) -> None:
    """--token before D1SERVER_TOKEN before CLOUDFLARE_API_TOKEN."""
    good, bad, url = guarded.tokens["read"], "another", f"http://{guarded.primary}"
    for args, env, is_good in (
        ((), {"CLOUDFLARE_API_TOKEN": good}, True),
        ((), {"CLOUDFLARE_API_TOKEN": good, "D1SERVER_TOKEN": bad}, False),
        ((), {"CLOUDFLARE_API_TOKEN": bad, "D1SERVER_TOKEN": good}, True),
        (("--token", bad), {"D1SERVER_TOKEN": good}, False),
        (("--token", good), {"D1SERVER_TOKEN": bad}, True),
        ((), {}, False),
    ):
        result = told(*args, "--url", url, "db", "list", env=env)
        assert (result.exit_code == 0) is is_good, (args, env)
    unreadable = told("--token", "@/none", "--url", url, "db", "list")
    assert (unreadable.exit_code, "cannot be read" in unreadable.stderr) == (2, True)
    hidden = told("--token", "a\nSecret: b", "--url", url, "db", "list")
    assert (hidden.exit_code, "Secret" in hidden.stderr) == (2, False)


def test_metrics_may_be_open(tmp_path: Path) -> None:
    offline(tmp_path / "p", "admin")
    for is_open in (False, True):
        listen, link = free_addresses(2)
        config = NodeConfig(
            role=Role.PRIMARY,
            data_dir=tmp_path / "p",
            name="p",
            listen=listen,
            replication=link,
            open_metrics=is_open,
        )
        with in_thread(config), GuardedCluster(listen, listen).caller() as scraper:
            assert scraper.call("GET", "/metrics").status == (200 if is_open else 401)
            assert scraper.call("GET", "/status").status == 401
