"""What nodes say when something is missing, full, or of another time."""

import asyncio
import errno
import logging
from pathlib import Path

import pytest

from d1server.datadir import DataDirRefused, open_data_dir
from d1server.link import dial
from d1server.query import OnTimeout
from engine.files import Disk
from tests.cluster.running_cluster import Cluster
from tests.waiting import until

COUNT = "SELECT count(*) FROM t"


async def test_a_lost_reply_to_a_read_says_that_it_may_be_repeated(cluster: Cluster) -> None:
    """A read does nothing: clients should send it again, and are told so.

    Method: a session that wants the primary asks through a replica; what the primary sends is
    held, and then the link breaks.
    """
    replica = cluster.replicas[0]
    await replica.sql(COUNT, session="first-unconstrained")  # the database is open here
    with replica.link.held(to_primary=False):
        read = asyncio.create_task(replica.sql(COUNT, session="first-primary"))
        await until(lambda: replica.waiting > 0, "the read at the primary")
        with replica.link.cut():
            reply = await read
    assert reply.status == 503
    assert reply.answer.should_retry is True


async def test_a_bookmark_of_a_later_epoch_is_not_reached_by_its_number(cluster: Cluster) -> None:
    """Of a primary that never was: refused; while nobody can tell, not served as reached."""
    for number in range(4):
        await cluster.primary.run("INSERT INTO t VALUES (?)", number)
    mark = await cluster.primary.run("INSERT INTO t VALUES (4)")
    await cluster.equal()
    later = mark._replace(token=mark.token._replace(epoch=mark.token.epoch + 1, seq=2))
    for node in cluster.nodes:
        reply = await node.sql(COUNT, session=later)
        assert reply.status == 400, node.name
        assert "ahead" in reply.message
    replica = cluster.replicas[0]
    with replica.link.cut():
        reply = await replica.sql(COUNT, session=later, wait_ms=50, on_timeout=OnTimeout.ERROR)
        assert reply.status == 503
        reply = await replica.sql(COUNT, session=later, wait_ms=50, on_timeout=OnTimeout.STALE)
        assert reply.value == 5


async def test_a_database_that_cannot_be_made_leaves_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: 503 with the reason, to be tried again; no folder stays behind."""
    node = cluster.primary
    databases = node.folder().parent
    before = sorted(path.name for path in databases.iterdir())

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(node.disk, "fsync", full)
        reply = await cluster.replicas[0].create("other")
    assert reply.status == 503
    assert reply.answer.should_retry is True
    assert "No space left" in reply.message
    assert sorted(path.name for path in databases.iterdir()) == before
    assert (await cluster.replicas[0].create("other")).status == 200


async def test_a_primary_that_lost_commits_says_so(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A replica with a commit that its primary lacks is no everyday copy: it is an error.

    Method: the primary's folder of the database is put back to what it was some commits ago.
    """
    folder = cluster.primary.folder()
    await cluster.primary.stop()
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    await cluster.start_primary()
    await cluster.primary.run("INSERT INTO t VALUES (1)")
    await cluster.equal()
    await cluster.primary.stop()
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    for path, data in kept.items():
        path.write_bytes(data)
    with caplog.at_level(logging.ERROR, "primary.feed"):
        await cluster.start_primary()
        await until(lambda: "are lost here" in caplog.text, "the error")
    head = cluster.primary.shown()["head"]

    def are_back() -> bool:
        return all(node.shown()["applied"] == head for node in cluster.replicas)

    await until(are_back, "the copies")


async def test_a_replica_that_dials_an_http_port_is_told_which_one_to_name() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        link = await dial(*server.sockets[0].getsockname()[:2])
        assert "--replication address" in await link.wait_lost()


def test_databases_without_an_identity_are_not_given_to_a_new_cluster(tmp_path: Path) -> None:
    """A new cluster would serve none of them and have the replicas throw theirs away."""
    with open_data_dir(tmp_path, "primary", Disk()) as data:
        (data.databases / "e99a962f-0000-4000-8000-000000000000").mkdir()
    (tmp_path / "node.toml").unlink()
    with (
        pytest.raises(DataDirRefused, match="restore it"),
        open_data_dir(tmp_path, "primary", Disk()),
    ):
        pass
    assert not (tmp_path / "node.toml").exists()
