"""Certificates are renewed while nodes run; handshakes that fail are told of."""

import asyncio
import contextlib
import fcntl
import http.client
import json
import logging
import os
import pty
import shutil
import signal
import socket
import ssl
import termios
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import d1server.node_tls
from d1server.access.grants import hash_of, id_of
from d1server.config import Address
from d1server.link import dial
from d1server.node_tls import NodeTls
from d1server.offline import administer_offline
from d1server.tls import TlsFiles, client_context, peer_fingerprint
from proto.handshake import LinkCredential
from proto.messages import PROTOCOL_VERSION, Hello
from replica.greeting import Greeting
from tests.auth.certificates import Authority, Files
from tests.cluster.running_cluster import running_cluster
from tests.operated_node import OperatedNode, eventually, primary, replica
from tests.waiting import until
from tests.web.real_nodes import free_addresses

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


class Installed:
    """The files that a node was told of, and what a renewal puts there."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        folder.mkdir()
        self.files = Files(folder / "cert.pem", folder / "cert.key", folder / "ca.pem")
        self._authority = authority
        self._count = 0
        self.renew()

    @property
    def flags(self) -> tuple[str, ...]:
        files = self.files
        return (
            *("--tls-cert", str(files.cert), "--tls-key", str(files.key)),
            *("--tls-ca", str(files.ca)),
        )

    def renew(self, authority: Authority | None = None) -> str:
        """Put a new certificate there; its fingerprint."""
        issued = (authority or self._authority).issue()
        for source, target in (
            (issued.cert, self.files.cert),
            (issued.key, self.files.key),
            (issued.ca, self.files.ca),
        ):
            made = target.with_suffix(".new")
            shutil.copyfile(source, made)
            made.replace(target)
        return TlsFiles(cert=self.files.cert, key=self.files.key).fingerprint().hex()

    def spoil(self) -> None:
        """A new certificate beside the key of the one before."""
        shutil.copyfile(self._authority.issue("other.example").cert, self.files.cert)


@pytest.fixture
def installed(tmp_path: Path, authority: Authority) -> Installed:
    return Installed(tmp_path / "etc", authority)


def shown_by(address: Address) -> str:
    """The fingerprint of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(address, timeout=20) as raw,
        context.wrap_socket(raw) as wrapped,
    ):
        der = wrapped.getpeercert(binary_form=True)
        assert der is not None
        return sha256(der).hexdigest()


@contextlib.contextmanager
def client_of(address: Address, ca: Path) -> Iterator[http.client.HTTPSConnection]:
    client = http.client.HTTPSConnection(*address, timeout=20, context=client_context(ca))
    with contextlib.closing(client):
        yield client


def get(client: http.client.HTTPSConnection, path: str) -> tuple[int, Any]:
    client.request("GET", path)
    response = client.getresponse()
    return response.status, json.loads(response.read())


def follows(node: OperatedNode, times: int) -> None:
    node.wait_for("following the primary", times=times)


def test_hangup_renews_the_certificates_of_a_cluster(
    tmp_path: Path, authority: Authority, installed: Installed
) -> None:
    """HTTP and the link show the new one; connections that stand go on; links come back with it.

    Method: two processes. The files are renewed and the primary is signalled; then both files
    and CA become another CA's, and both are signalled: the replica gets in with what is new only.
    """
    listen, link, other = free_addresses(3)
    old = shown_by_file(installed.files)
    with (
        primary(tmp_path / "primary", listen, link, *installed.flags) as first,
        replica(tmp_path / "replica", other, link, *installed.flags) as second,
        client_of(listen, authority.ca) as client,
    ):
        follows(second, 1)
        assert get(client, "/readyz")[0] == 200
        assert shown_by(listen) == old
        new = installed.renew()
        assert new != old
        assert shown_by(listen) == old
        first.send(signal.SIGHUP)
        first.wait_for("certificates read anew")
        assert (shown_by(listen), shown_by(link)) == (new, new)
        assert get(client, "/livez")[0] == 200  # the connection of before
        assert second.log.count("no link to the primary") == 0

        moved = Authority(tmp_path / "moved")
        newest = installed.renew(moved)
        first.send(signal.SIGHUP)
        first.wait_for("certificates read anew", times=2)
        second.send(signal.SIGHUP)
        second.wait_for("certificates read anew")
        assert (shown_by(listen), shown_by(other)) == (newest, newest)
        with client_of(listen, moved.ca) as fresh:
            assert len(get(fresh, "/status")[1]["replicas"]) == 1
        assert first.stop() == 0
        second.wait_for("says goodbye")
        with primary(tmp_path / "primary", listen, link, *installed.flags) as again:
            follows(second, 2)
            assert again.stop() == 0
        assert second.stop() == 0


def shown_by_file(files: Files) -> str:
    return TlsFiles(cert=files.cert, key=files.key).fingerprint().hex()


def test_a_broken_certificate_leaves_the_old_one(tmp_path: Path, installed: Installed) -> None:
    listen, link = free_addresses(2)
    old = shown_by_file(installed.files)
    with primary(tmp_path / "primary", listen, link, *installed.flags) as node:
        installed.spoil()
        node.send(signal.SIGHUP)
        node.wait_for("stay in use")
        assert "the key is of another certificate" in node.log
        assert (shown_by(listen), shown_by(link)) == (old, old)
        installed.files.cert.unlink()
        node.send(signal.SIGHUP)
        node.wait_for("stay in use", times=2)
        assert shown_by(listen) == old
        new = installed.renew()
        node.send(signal.SIGHUP)
        node.wait_for("certificates read anew")
        assert shown_by(listen) == new
        assert "Traceback" not in node.log
        assert node.stop() == 0


def test_hangup_without_certificates_stops_nothing(tmp_path: Path) -> None:
    """`kill -HUP` is no way to lose a node; also where somebody started it with nohup."""
    listen, link = free_addresses(2)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what the second one inherits
    try:
        with primary(tmp_path / "primary", listen, link) as node:
            node.send(signal.SIGHUP)
            node.wait_for("this node has none")
            assert node.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_node_ends_with_its_terminal(tmp_path: Path) -> None:
    """A window that is closed takes its node with it, and leaves it a clean end."""
    listen, link = free_addresses(2)
    leader, follower = pty.openpty()
    with primary(
        tmp_path / "primary",
        listen,
        link,
        start_new_session=True,
        preexec_fn=lambda: _take_terminal(follower),
    ) as node:
        os.close(follower)
        node.send(signal.SIGHUP)  # the terminal stands
        node.wait_for("this node has none")
        os.close(leader)  # the system sends the signal
        assert node.process.wait(20) == 0


def _take_terminal(number: int) -> None:
    fcntl.ioctl(number, termios.TIOCSCTTY, 0)
    os.dup2(number, 0)


async def test_changed_files_are_noticed(
    installed: Installed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By themselves, once each time: what cannot be used is told of once."""
    monkeypatch.setattr(d1server.node_tls, "LOOK_S", 0.02)
    caplog.set_level(logging.INFO)
    files = installed.files
    tls = NodeTls(TlsFiles(cert=files.cert, key=files.key, ca=files.ca), is_primary=True)
    old = tls.http
    keeping = asyncio.create_task(tls.keep_renewed(asyncio.Event()))
    installed.spoil()
    await until(lambda: "stay in use" in caplog.text, "the error")
    assert tls.http is old
    new = installed.renew()
    await until(lambda: tls.http is not old, "the new one")
    assert tls.http is not None
    assert tls.link is not None
    assert tls.http.fingerprint.hex() == tls.link.fingerprint.hex() == new
    assert caplog.text.count("stay in use") <= 3  # files are replaced one after the other
    keeping.cancel()
    await asyncio.wait([keeping])


async def test_link_is_proven_with_the_certificate_that_it_has_shown(
    tmp_path: Path, installed: Installed
) -> None:
    """A renewal between the TLS of a link and its greeting does not make it a stranger's.

    Method: a replica dials, then the primary's certificate is renewed, then the replica greets.
    """
    files = installed.files
    text = await _token(tmp_path)
    async with running_cluster(tmp_path) as cluster:
        first = (await cluster.add_primary(**files.settings(ca=False))).primary
        asked = asyncio.Event()
        keeping = asyncio.create_task(first.tls.keep_renewed(asked))
        old = first.tls.link
        link = await dial(*first.replication_address, client_context(files.ca))
        await until(lambda: bool(first._doors), "the door")
        installed.renew()
        asked.set()
        await until(lambda: first.tls.link is not old, "the renewal")
        hello = Hello(PROTOCOL_VERSION, "", "late", "WEUR", "https://x")
        greeting = Greeting(link, hello, LinkCredential(id_of(text), hash_of(text)))
        link.on_message = greeting.take
        async with asyncio.timeout(20):
            assert (await greeting.welcome).node == "primary"
        link.close()
        keeping.cancel()
        await asyncio.wait([keeping])


async def _token(folder: Path) -> str:
    body = json.dumps({"name": "replicas", "scopes": ["replicate"]}).encode()
    answer = await administer_offline(folder / "primary", "token-create", body=body)
    return str(json.loads(answer.body)["result"]["token"])


def test_failed_handshakes_are_told_of(
    tmp_path: Path, authority: Authority, installed: Installed
) -> None:
    """With who it was and why, at both addresses, and not without end.

    Method: clients that do not know the CA, speak plain HTTP, show no certificate; one that
    hangs up; and a replica with a certificate of somebody else's CA.
    """
    listen, link, other = free_addresses(3)
    theirs = Authority(tmp_path / "theirs").issue("replica")
    foreign = ("--tls-cert", str(theirs.cert), "--tls-key", str(theirs.key))
    with primary(tmp_path / "primary", listen, link, *installed.flags) as node:
        with pytest.raises(ssl.SSLError), client_of(listen, theirs.ca) as client:
            client.connect()
        node.wait_for("no TLS with 127.0.0.1: it does not know the CA of this node's certificate")
        plain_http(listen)
        node.wait_for("no TLS with 127.0.0.1: that is plain HTTP; https:// is wanted here")
        with replica(
            tmp_path / "replica", other, link, *foreign, "--tls-ca", str(authority.ca)
        ) as stranger:
            node.wait_for("no TLS with 127.0.0.1: its certificate: unable to get local issuer")
            assert stranger.stop() == 0
        count = node.log.count("no TLS with")
        socket.create_connection(listen).close()
        for _ in range(60):
            plain_http(listen)
        eventually(lambda: "many connections of 127.0.0.1" in node.log, lambda: node.log)
        assert count < node.log.count("no TLS with") < count + 40
        assert "hung up" not in node.log
        assert shown_by(listen) == shown_by_file(installed.files)
        assert node.stop() == 0
        assert "Traceback" not in node.log


def plain_http(address: Address) -> None:
    with socket.create_connection(address, timeout=20) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            raw.recv(100)


async def test_handshakes_under_way_are_bounded(
    tmp_path: Path, installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who connects and says nothing has to leave for who comes later."""
    monkeypatch.setattr("d1server.listener.HANDSHAKES_MAX", 4)
    monkeypatch.setattr("d1server.link.DIAL_S_MAX", 1000.0)  # none leaves for being slow
    async with running_cluster(tmp_path) as cluster:
        first = await cluster.add_primary(**installed.files.settings(ca=False))
        address = first.primary.replication_address
        silent = [await asyncio.open_connection(*address) for _ in range(6)]
        async with asyncio.timeout(20):
            assert await silent[0][0].read() == b""
            assert await silent[1][0].read() == b""
        _, writer = await asyncio.open_connection(
            *address, ssl=client_context(installed.files.ca), server_hostname="127.0.0.1"
        )
        shown = peer_fingerprint(writer.get_extra_info("ssl_object"))
        assert shown.hex() == shown_by_file(installed.files)
        writer.close()
        for _, each in silent:
            each.close()
