"""TLS in front of the nodes and between them: good, of somebody else, expired, missing."""

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from d1client import D1Unavailable, RetryPolicy, connect
from d1server.access.grants import Grant, Level, id_of
from d1server.cli import command_line
from d1server.config import Address, NodeConfig, Role
from d1server.offline import administer_offline
from d1server.tls import TlsFiles, TlsInvalid, client_context
from replica.receiver import ReceiverState
from tests.auth.certificates import Authority, Files
from tests.auth.guarded_cluster import in_thread, offline
from tests.cluster.running_cluster import Cluster, running_cluster, settle
from tests.waiting import EVENT_S_MAX, until
from tests.web.real_nodes import free_addresses, pair_of

QUICK = RetryPolicy(tries_max=1)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "theirs")


@pytest.fixture(scope="module")
def good(ours: Authority) -> Files:
    return ours.issue()


@pytest.fixture(scope="module")
def served(good: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Address, str]]:
    """A primary behind TLS with a database `shop`; and an admin's token."""
    folder = tmp_path_factory.mktemp("served")
    listen, link = free_addresses(2)
    token = offline(folder / "primary", "admin")
    config = NodeConfig(
        role=Role.PRIMARY,
        data_dir=folder / "primary",
        listen=listen,
        replication=link,
        name="primary",
        **good.settings(),
    )
    with in_thread(config):
        status, _ = asked(listen, token, "POST", "/db", {"name": "shop"}, ca=good.ca)
        assert status == 200
        yield listen, token


def asked(
    address: Address, token: str, method: str, path: str, body: object = None, *, ca: Path
) -> tuple[int, bytes]:
    """One request over TLS."""
    connection = http.client.HTTPSConnection(
        *address, timeout=EVENT_S_MAX, context=client_context(ca)
    )
    headers = {"Authorization": f"Bearer {token}"}
    with contextlib.closing(connection):
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()


def test_both_ways_in_work_over_tls(served: tuple[Address, str], good: Files) -> None:
    """Method: one connection that begins on the fast path and goes on at aiohttp."""
    address, token = served
    connection = http.client.HTTPSConnection(
        *address, timeout=EVENT_S_MAX, context=client_context(good.ca)
    )
    body = b'{"sql": "SELECT 41 + 1 AS answer"}'
    headers = {"Authorization": f"Bearer {token}"}
    for chunked in (False, False, True, False):
        connection.request(
            "POST",
            "/db/shop/query",
            iter([body]) if chunked else body,
            headers | {"TE": "trailers"} if chunked else headers,
            encode_chunked=chunked,
        )
        response = connection.getresponse()
        assert (response.status, b'"answer":42' in response.read()) == (200, True)
    big = json.dumps({"sql": f"SELECT length('{'x' * 60_000}') AS n"})
    connection.request("POST", "/db/shop/query", big, headers)
    assert b'"n":60000' in connection.getresponse().read()
    sock = connection.sock
    assert isinstance(sock, ssl.SSLSocket)
    assert sock.version() in ("TLSv1.2", "TLSv1.3")
    connection.close()


def test_large_answer_over_tls_is_whole(served: tuple[Address, str], good: Files) -> None:
    sql = "SELECT hex(zeroblob(900000)) AS a, hex(zeroblob(900000)) AS b"
    status, body = asked(*served, "POST", "/db/shop/query", {"sql": sql}, ca=good.ca)
    assert (status, len(json.loads(body)["result"][0]["results"][0]["b"])) == (200, 1_800_000)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=str)
def test_old_tls_is_refused(
    served: tuple[Address, str], good: Files, version: ssl.TLSVersion
) -> None:
    context = client_context(good.ca)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = version
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = version
    with socket.create_connection(served[0]) as raw, pytest.raises(OSError, match=r"."):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_plain_client_gets_nothing_from_a_tls_port(served: tuple[Address, str]) -> None:
    address, token = served
    with socket.create_connection(address, timeout=EVENT_S_MAX) as raw:
        head = f"GET /livez HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
        raw.sendall(head.encode())
        try:
            assert not raw.recv(100).startswith(b"HTTP")
        except ConnectionResetError:
            pass  # said as clearly


def test_client_checks_the_node(
    served: tuple[Address, str], theirs: Authority, ours: Authority
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(*served, "GET", "/db", ca=theirs.ca)
    elsewhere = Address("localhost", served[0].port)  # the certificate is for 127.0.0.1
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(elsewhere, served[1], "GET", "/db", ca=ours.ca)


async def test_client_of_python_over_tls(
    served: tuple[Address, str], good: Files, theirs: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, token = served
    url = f"https://{address}"
    async with connect(url, token=token, tls_ca=good.ca, retry=QUICK) as client:
        row = await client.database("shop").prepare("SELECT 1 AS one").first()
        assert row == {"one": 1}
    monkeypatch.setenv("D1SERVER_TOKEN", token)
    async with connect(url, tls_ca=good.ca, retry=QUICK) as client:
        assert await client.database("shop").prepare("SELECT 1 AS one").first() == row
    async with connect(url, token=token, tls_ca=theirs.ca, retry=QUICK) as client:
        with pytest.raises(D1Unavailable, match="certificate"):
            await client.database("shop").prepare("SELECT 1").first()


def test_command_line_over_tls(served: tuple[Address, str], good: Files, theirs: Authority) -> None:
    address, token = served
    url = ["--url", f"https://{address}", "--token", token]
    runner = CliRunner()
    found = runner.invoke(command_line, [*url, "--tls-ca", str(good.ca), "db", "list", "--json"])
    assert [one["name"] for one in json.loads(found.stdout)] == ["shop"]
    env = {"D1SERVER_TLS_CA": str(good.ca)}
    assert runner.invoke(command_line, [*url, "db", "list"], env=env).exit_code == 0
    for ca in (theirs.ca, None):
        args = [*url, *(("--tls-ca", str(ca)) if ca else ()), "db", "list"]
        refused = runner.invoke(command_line, args)
        assert refused.exit_code == 1
        assert "TLS: " in refused.stderr
        assert "--tls-ca" in refused.stderr
    plain = runner.invoke(command_line, ["--url", f"http://{address}", "db", "list"])
    assert (plain.exit_code, "https://" in plain.stderr) == (1, True)
    missing = runner.invoke(command_line, [*url, "--tls-ca", "/none", "db", "list"])
    assert (missing.exit_code, "--tls-ca /none" in missing.stderr) == (2, True)


def test_whole_cluster_behind_tls(tmp_path: Path, good: Files) -> None:
    """Method: both nodes as they run for real (uvloop); a write through the replica, read back."""
    token = offline(tmp_path / "primary", "admin")
    replicate = offline(tmp_path / "primary", "replicate")
    primary, replica = pair_of(tmp_path, replication_token=replicate, **good.settings())
    first, second = primary.listen, replica.listen
    with in_thread(primary, replica):
        deadline = time.monotonic() + EVENT_S_MAX
        while (made := asked(second, token, "POST", "/db", {"name": "shop"}, ca=good.ca))[0] != 200:
            assert made[0] in (401, 503), made  # it has not met its primary yet
            assert time.monotonic() < deadline
            time.sleep(0.05)
        sql = "CREATE TABLE t (a); INSERT INTO t VALUES (hex(randomblob(200000)))"
        assert asked(second, token, "POST", "/db/shop/query", {"sql": sql}, ca=good.ca)[0] == 200
        read = {"sql": "SELECT length(a) AS n FROM t"}
        for address in (first, second):
            status, body = asked(address, token, "POST", "/db/shop/query", read, ca=good.ca)
            assert (status, b'"n":400000' in body) == (200, True)
        shown = json.loads(asked(first, token, "GET", "/status", ca=good.ca)[1])
        assert shown["replicas"][0]["link"] == "tls"
        assert shown["replicas"][0]["url"].startswith("https://")


# --- the link


async def linked(
    tmp_path: Path, primary: dict[str, Any], replica: dict[str, Any], *, follows: bool
) -> str:
    """Run a primary and a replica with these settings; why the replica does not follow."""
    editor = await _token(tmp_path, "edit")
    async with running_cluster(tmp_path) as cluster:
        await cluster.add_primary(**primary)
        node = await cluster.add_replica(**replica)
        node.grant = Grant(id_of(editor), Level.EDIT)
        try:
            return await _judged(cluster, follows=follows)
        finally:
            await node.stop()
            await until(lambda: not node.link._writers, "the end of its connections")
            await settle()  # the primary may be in the middle of a handshake


async def _judged(cluster: Cluster, *, follows: bool) -> str:
    node = cluster.replicas[0]
    receiver = node.replica._receiver
    if not follows:
        await until(lambda: receiver.reason not in ("", "not connected yet"), "a reason")
        assert node.replica._catalog_database is None
        assert receiver.state is not ReceiverState.FOLLOWING
        return receiver.reason
    await until(lambda: receiver.state is ReceiverState.FOLLOWING, "the link")
    await _use(cluster)
    shown = cluster.primary.node.status()["replicas"]
    assert isinstance(shown, list)
    assert shown[0]["link"] == "tls"
    return receiver.reason


async def _use(cluster: Cluster) -> None:
    await cluster.create()
    await cluster.primary.run("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(500000))")
    await cluster.equal()
    reply = await cluster.replicas[0].sql("INSERT INTO t VALUES (2)")
    assert reply.status == 200


async def test_certificates_alone_make_a_replica(
    tmp_path: Path, good: Files, ours: Authority
) -> None:
    """Both ends show one of the CA; no token is needed, also when there are tokens."""
    await linked(tmp_path, good.settings(), ours.issue("replica").settings(), follows=True)


async def test_token_over_tls_without_certificates_of_replicas(
    tmp_path: Path, good: Files, ours: Authority
) -> None:
    token = await _token(tmp_path, "replicate")
    replica = {"tls_ca": ours.ca, "replication_token": token}
    await linked(tmp_path, good.settings(ca=False), replica, follows=True)


async def test_tls_without_a_certificate_or_token_is_not_enough(
    tmp_path: Path, good: Files, ours: Authority
) -> None:
    reason = await linked(tmp_path, good.settings(ca=False), {"tls_ca": ours.ca}, follows=False)
    assert "access token" in reason


async def test_replica_without_a_certificate_is_refused(
    tmp_path: Path, good: Files, ours: Authority
) -> None:
    await linked(tmp_path, good.settings(), {"tls_ca": ours.ca}, follows=False)


async def test_replica_with_a_certificate_of_somebody_else_is_refused(
    tmp_path: Path, good: Files, theirs: Authority, ours: Authority
) -> None:
    foreign = theirs.issue("replica")
    settings = {**foreign.settings(), "tls_ca": ours.ca}
    await linked(tmp_path, good.settings(), settings, follows=False)


async def test_primary_of_somebody_else_is_not_followed(
    tmp_path: Path, good: Files, theirs: Authority, ours: Authority
) -> None:
    impostor = {**theirs.issue().settings(), "tls_ca": ours.ca}
    reason = await linked(tmp_path, impostor, ours.issue("replica").settings(), follows=False)
    assert "certificate" in reason


async def test_primary_with_another_name_is_not_followed(tmp_path: Path, ours: Authority) -> None:
    elsewhere = ours.issue("primary.example").settings()
    reason = await linked(tmp_path, elsewhere, ours.issue("replica").settings(), follows=False)
    assert "ip address mismatch" in reason.lower()


async def test_expired_certificates_are_refused_on_both_sides(
    tmp_path: Path, good: Files, ours: Authority
) -> None:
    old = ours.issue(is_expired=True).settings()
    reason = await linked(tmp_path / "a", old, ours.issue("replica").settings(), follows=False)
    assert "expired" in reason
    late = ours.issue("replica", is_expired=True).settings()
    await linked(tmp_path / "b", good.settings(), late, follows=False)


async def test_plain_and_tls_do_not_meet(tmp_path: Path, good: Files) -> None:
    """Either way round the replica's reason is TLS, not some broken connection."""
    assert "TLS" in await linked(tmp_path / "a", good.settings(), {}, follows=False)
    assert "TLS" in await linked(tmp_path / "b", {}, good.settings(), follows=False)


async def _token(folder: Path, *scopes: str) -> str:
    body = json.dumps({"name": "test", "scopes": scopes}).encode()
    answer = await administer_offline(folder / "primary", "token-create", body=body)
    return str(json.loads(answer.body)["result"]["token"])


# --- files that cannot be used


def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, good: Files, theirs: Authority
) -> None:
    text = tmp_path / "text"
    text.write_text("no certificate")
    other = theirs.issue()
    for files, named in (
        (TlsFiles(cert=tmp_path / "none", key=good.key), "--tls-cert"),
        (TlsFiles(cert=text, key=good.key), "--tls-cert"),
        (TlsFiles(cert=good.cert, key=other.key), "another certificate"),
        (TlsFiles(cert=good.cert, key=good.key, ca=text), "--tls-ca"),
        (TlsFiles(ca=good.ca), "--tls-cert and --tls-key"),
    ):
        with pytest.raises(TlsInvalid, match=named):
            files.for_replicas()
    assert TlsFiles().for_replicas() is None
    assert TlsFiles().for_http() is None
    assert TlsFiles().for_primary() is None


def test_fingerprint_is_of_the_first_certificate(good: Files) -> None:
    """The one that the peer sees, not that of a CA between."""
    files = TlsFiles(cert=good.cert, key=good.key)
    first = good.cert.read_text().split("-----END")[0] + "-----END CERTIFICATE-----"
    der = ssl.PEM_cert_to_DER_cert(first)
    assert files.fingerprint() == sha256(der).digest()
