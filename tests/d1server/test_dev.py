"""`d1server dev`: what it plans, the ports that it takes, the shop that it makes."""

import socket
import sys
from pathlib import Path

import apsw
import pytest

from d1server import dev
from d1server.config import Address, Role
from d1server.dev import (
    HOST,
    REPLICATION_PORTS_TRIED,
    ClusterFailed,
    child_env,
    choose_replication_port,
    curl_line,
    plan_cluster,
    refuse_busy_ports,
    wants_tokens,
)
from d1server.sample_shop import EXAMPLE_QUERY, IS_THERE_QUERY, STATEMENTS


def listening() -> socket.socket:
    server = socket.socket()
    server.bind((HOST, 0))
    server.listen()
    return server


def test_plan_is_a_primary_and_two_replicas_that_call_it(tmp_path: Path) -> None:
    nodes = plan_cluster(9000, tmp_path, 9100)
    assert [(node.role, node.region, node.url) for node in nodes] == [
        (Role.PRIMARY, "ENAM", "http://127.0.0.1:9000"),
        (Role.REPLICA, "WEUR", "http://127.0.0.1:9001"),
        (Role.REPLICA, "APAC", "http://127.0.0.1:9002"),
    ]
    assert {node.link for node in nodes} == {Address(HOST, 9100)}
    assert [node.folder for node in nodes] == [
        tmp_path / "primary",
        tmp_path / "weur",
        tmp_path / "apac",
    ]


def test_replicas_stop_before_the_primary(tmp_path: Path) -> None:
    ranks = [node.child().stop_rank for node in plan_cluster(9000, tmp_path, 9100)]
    assert ranks == [1, 0, 0]


def test_child_is_this_program_with_flags_for_everything(tmp_path: Path) -> None:
    primary, replica, _ = (node.child().command for node in plan_cluster(9000, tmp_path, 9100))
    assert primary[:4] == (sys.executable, "-m", "d1server", "primary")
    assert primary[primary.index("--replication") + 1] == "127.0.0.1:9100"
    assert replica[replica.index("--primary") + 1] == "127.0.0.1:9100"
    assert replica[replica.index("--data-dir") + 1] == str(tmp_path / "weur")


def test_settings_of_one_node_do_not_reach_all_three() -> None:
    env = {"D1SERVER_PRIMARY": "h:1", "D1SERVER_LISTEN": "h:2", "D1SERVER_TLS_CERT": "c"}
    env |= {"D1SERVER_REPLICATION_TOKEN": "d1s_x", "D1SERVER_LINK_SECRET": "d1s_y"}
    kept = {"D1SERVER_READ_WAIT_S": "1", "PATH": "p"}
    assert child_env(env | kept, "d1s_z") == kept | {"D1SERVER_LINK_SECRET": "d1s_z"}


def test_nodes_share_a_secret_that_nobody_is_shown(tmp_path: Path) -> None:
    plans = plan_cluster(9000, tmp_path, 9100)
    secrets = {(plan.child().env or {})["D1SERVER_LINK_SECRET"] for plan in plans}
    assert len(secrets) == 1
    assert secrets != {plan_cluster(9000, tmp_path, 9100)[0].link_secret}
    assert not any(secret in str(plans) for secret in secrets)
    assert not any(secret in plan.child().command for secret in secrets for plan in plans)


def test_busy_port_is_named_with_a_way_out() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        with pytest.raises(ClusterFailed, match=rf"port .*{port}.* in use.*--port") as caught:
            refuse_busy_ports(port - 1)
    assert f"make run PORT={port + 9}" in str(caught.value)


def test_replication_port_is_free_and_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {9100, 9101}
    monkeypatch.setattr(dev, "is_free", lambda port: port not in taken)
    assert choose_replication_port(9000) == 9102
    assert choose_replication_port(65500) == 65400
    monkeypatch.setattr(dev, "is_free", lambda _: False)
    with pytest.raises(ClusterFailed, match="no free port"):
        choose_replication_port(9000)
    assert REPLICATION_PORTS_TRIED < 100, "it must not reach the HTTP ports below"


def test_shop_is_a_few_dozen_rows_that_hold_together() -> None:
    shop = apsw.Connection(":memory:")
    shop.execute("PRAGMA foreign_keys = ON")
    assert shop.execute(IS_THERE_QUERY).get == 0
    for statement in STATEMENTS:
        shop.execute(statement)
    assert shop.execute(IS_THERE_QUERY).get == 1
    counts = {
        table: shop.execute(f"SELECT count(*) FROM {table}").get
        for table in ("products", "customers", "orders")
    }
    assert counts == {"products": 12, "customers": 10, "orders": 48}
    assert shop.execute("PRAGMA foreign_key_check").get is None
    assert shop.execute("SELECT count(DISTINCT customer_id) FROM orders").get == 10
    assert shop.execute("SELECT count(DISTINCT product_id) FROM orders").get == 12
    assert len(list(shop.execute(EXAMPLE_QUERY))) == 3
    shop.close()


def test_curl_line_survives_a_shell() -> None:
    line = curl_line("http://127.0.0.1:9001")
    assert line.startswith("curl -si http://127.0.0.1:9001/db/shop/query ")
    assert "-H 'x-d1-bookmark: first-unconstrained'" in line


def test_a_replica_that_has_no_token_needs_one() -> None:
    """Told from reasons that pass: waiting does not help against it."""
    asked = "this primary asks for an access token: give it to the replica as --replication-token"
    refused = f"not connected to the primary: the primary refused this replica: {asked}"
    assert wants_tokens(refused, Role.REPLICA)
    away = "not connected to the primary: 127.0.0.1:1 does not answer"
    assert not wants_tokens(away, Role.REPLICA)


def test_a_token_that_a_replica_does_not_know_yet_is_waited_for() -> None:
    """It reads the catalog commit by commit; only the primary's word is final."""
    unknown = "Authentication error: send a live access token"
    assert wants_tokens(unknown, Role.PRIMARY)
    assert not wants_tokens(unknown, Role.REPLICA)
