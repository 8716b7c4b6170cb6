"""The client through the server's own HTTP, to SQLite in memory."""

from collections.abc import AsyncIterator

import pytest

from d1client import D1Client, D1Refused, D1Unavailable, RetryPolicy, connect
from d1server.query import Constraint
from d1server.web.serve import serving
from proto.tokens import Bookmark
from tests.web.memory_node import MemoryNode

QUICK = RetryPolicy(tries_max=2, delay_s_first=0.001)


@pytest.fixture
async def node() -> AsyncIterator[MemoryNode]:
    node = MemoryNode()
    yield node
    node.close()


@pytest.fixture
async def client(node: MemoryNode) -> AsyncIterator[D1Client]:
    async with serving(node, "127.0.0.1", 0) as front:
        host, port = front.address
        async with connect(f"http://{host}:{port}", retry=QUICK) as client:
            yield client


async def test_a_session_reads_what_it_wrote(node: MemoryNode, client: D1Client) -> None:
    """The whole way: write, bookmark out, bookmark in, read, in every shape of answer."""
    session = client.database("shop").with_session("first-primary")
    await session.prepare("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, photo BLOB)").run()
    insert = session.prepare("INSERT INTO t (name, photo) VALUES (?, ?)")
    await session.batch([insert.bind("é\0x", b"\x00\xff"), insert.bind(None, b"")])
    bookmark = session.get_bookmark()
    assert bookmark is not None
    assert Bookmark.parse(bookmark).seq == node.commits

    select = session.prepare("SELECT id, name FROM t WHERE id >= ? ORDER BY id").bind(1)
    assert (await select.all()).results == [{"id": 1, "name": "é\0x"}, {"id": 2, "name": None}]
    assert await select.first() == {"id": 1, "name": "é\0x"}
    assert await select.first("id") == 1
    assert await select.raw(column_names=True) == [["id", "name"], [1, "é\0x"], [2, None]]
    constraints = [request.constraint for request in node.seen]
    assert constraints == [Constraint.PRIMARY, *[Constraint.BOOKMARK] * 5]
    assert node.seen[-1].bookmark == Bookmark.parse(bookmark)


async def test_a_refusal_keeps_sqlites_text(client: D1Client) -> None:
    with pytest.raises(D1Refused, match="no such table: nope") as caught:
        await client.database("shop").prepare("SELECT * FROM nope").all()
    assert caught.value.code == 7500


async def test_an_unknown_database_is_refused(client: D1Client) -> None:
    with pytest.raises(D1Refused) as caught:
        await client.database("other").prepare("SELECT 1").all()
    assert caught.value.code == 7404


async def test_an_absent_primary_is_unavailable_after_the_retries(
    node: MemoryNode, client: D1Client
) -> None:
    """The server says that it did nothing, so the client tries again before it gives up."""
    with pytest.raises(D1Unavailable, match="primary is away"):
        await client.database("shop").prepare("AWAY").run()
    assert len(node.seen) == QUICK.tries_max


async def test_garbage_bookmarks_are_refused_by_the_server(client: D1Client) -> None:
    """As in D1, the client passes any text on."""
    session = client.database("shop").with_session("garbage")
    with pytest.raises(D1Refused, match="bookmark"):
        await session.prepare("SELECT 1").all()
