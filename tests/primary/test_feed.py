"""What a replica is sent: all of it, in order, never more than its window."""

import asyncio
import errno
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import primary.feed
from engine.errors import DatabaseDamaged
from engine.live import LiveDatabase
from primary.database import PrimaryDatabase
from primary.feed import WINDOW_BYTES, ReplicaFeed
from primary.progress import Mode
from proto.framing import encode_frame
from proto.messages import (
    Ack,
    Acked,
    Commits,
    Follow,
    Heartbeat,
    Message,
    Position,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPages,
    Unfollow,
    encode_message,
)
from proto.record import CommitPart, decode_part
from proto.tokens import Bookmark, CommitToken, genesis
from tests.primary.opened_primary import PrimaryUnderTest, numbers, opened_primary, turns
from tests.waiting import until

FILL = "INSERT INTO t SELECT zeroblob(1900000) FROM n"


class KeptLink:
    """A link whose other end is the test."""

    def __init__(self) -> None:
        self.peer = "the test"
        self.unsent_bytes = 0
        self.sent_bytes = 0
        self.messages: list[Message] = []

    def send(self, message: Message) -> int:
        """Keep it, as the frame that it would be."""
        size = len(encode_frame(encode_message(message)))
        self.sent_bytes += size
        self.messages.append(message)
        return size

    def close(self) -> None:
        """Nothing to close."""

    @property
    def parts(self) -> list[CommitPart]:
        """The commit parts that were sent."""
        return [
            decode_part(raw)
            for message in self.messages
            if isinstance(message, Commits)
            for raw in message.parts
        ]

    @property
    def content_bytes(self) -> int:
        """What counts against the window."""
        return sum(map(len, self.parts)) + sum(
            len(one.data) for one in self.messages if isinstance(one, SnapshotPages)
        )


class Fed:
    """One database, and a feed of it to a `KeptLink`."""

    def __init__(self, source: PrimaryUnderTest) -> None:
        self.source = source
        self.link = KeptLink()
        self.databases: dict[bytes, PrimaryDatabase] = {source.key: source.database}
        self.feed = ReplicaFeed(self.link, self.databases.get, source.resources, source.tasks.spawn)
        source.woken = self.feed.wake

    def follow(self, at: Bookmark, *, snapshot: bool = False, key: bytes | None = None) -> None:
        self.feed.follow(Follow([Position.at(key or self.source.key, at)], snapshot))

    def ack(self, seq: int, written: int, *, key: bytes | None = None, problem: str = "") -> None:
        """The replica has `written` content bytes and is at commit `seq`."""
        one = Acked(key or self.source.key, seq, seq, seq, written, problem)
        self.feed.acked(Ack([one]))

    @property
    def mode(self) -> Mode:
        return self.feed.progress[self.source.key].mode

    @property
    def newest(self) -> int:
        """The newest whole commit sent."""
        return max((part.token.seq for part in self.link.parts if part.is_last), default=0)

    def check_chain(self, after: Bookmark) -> None:
        """Every part follows the one before."""
        digest = after.digest
        for part in self.link.parts:
            assert part.prev_digest == digest, part
            digest = part.digest


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[PrimaryUnderTest]:
    async with opened_primary(tmp_path / "db") as made:
        yield made


@pytest.fixture
async def fed(source: PrimaryUnderTest) -> AsyncIterator[Fed]:
    made = Fed(source)
    yield made
    made.feed.close()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primary.feed, "_TRY_AGAIN_S", 0.02)


async def test_a_replica_that_keeps_up_is_served_as_commits_become_durable(fed: Fed) -> None:
    head = fed.source.database.durable
    fed.follow(head)
    await until(lambda: fed.mode is Mode.STREAM, "streaming")
    assert not fed.link.messages
    for number in range(20):
        written = await fed.source.write("INSERT INTO t VALUES (?)", number)
        assert fed.newest == written.bookmark.seq, "sent before the writer is told"
    fed.check_chain(head)
    assert not fed.feed._tasks


async def test_from_the_very_beginning(fed: Fed) -> None:
    for number in range(20):
        await fed.source.write("INSERT INTO t VALUES (?)", number)
    start = genesis(fed.source.key)
    fed.follow(start)
    await until(lambda: fed.newest == 22, "all of it")
    fed.check_chain(start)


async def test_never_more_than_the_window(fed: Fed) -> None:
    """A replica that does not write gets the window and no more; what it writes frees it."""
    fed.follow(fed.source.database.durable)
    await turns()
    for _ in range(4):
        await fed.source.write(numbers(10) + FILL)
    await until(lambda: fed.link.content_bytes >= WINDOW_BYTES, "the window")
    await asyncio.sleep(0.1)
    sent = fed.link.content_bytes
    assert sent < WINDOW_BYTES + 9 * 1024 * 1024
    written = 0
    for _ in range(1000):
        if fed.newest == 6:
            break
        written = fed.link.content_bytes
        fed.ack(0, written)
        await until(
            lambda before=written: fed.link.content_bytes > before or fed.newest == 6,  # type: ignore[misc]
            "more after an acknowledgement",
        )
    assert fed.newest == 6
    fed.check_chain(fed.link.parts[0].bookmark._replace(digest=fed.link.parts[0].prev_digest))


@pytest.mark.parametrize("is_copy", [False, True])
async def test_a_replica_far_behind_gets_no_more_than_the_window(
    fed: Fed, monkeypatch: pytest.MonkeyPatch, is_copy: bool
) -> None:
    """Also of what one task reads from the log's files, or from the database's."""
    monkeypatch.setattr(primary.feed, "WINDOW_BYTES", 300_000)
    monkeypatch.setattr(primary.feed, "_MESSAGE_BYTES", 50_000)
    monkeypatch.setattr(primary.feed, "_COPY_PAGES", 8)
    for _ in range(50):
        await fed.source.write("INSERT INTO t VALUES (randomblob(40000))")
    await fed.source.reopen()
    fed.databases[fed.source.key] = fed.source.database
    fed.follow(genesis(fed.source.key), snapshot=is_copy)
    await until(lambda: fed.link.content_bytes >= 300_000, "the window")
    await asyncio.sleep(0.1)
    assert fed.link.content_bytes < 450_000

    def is_through() -> bool:
        fed.ack(0, fed.link.content_bytes)
        newest = fed.link.messages[-1]
        return isinstance(newest, SnapshotEnd) if is_copy else fed.newest == 52

    await until(is_through, "all of it")


async def test_a_database_that_is_dropped_frees_what_it_held(fed: Fed, tmp_path: Path) -> None:
    """Its window is the others' again at once, without an acknowledgement."""
    async with opened_primary(tmp_path / "second") as second:
        fed.databases[second.key] = second.database
        second.woken = fed.feed.wake
        fed.follow(fed.source.database.durable)
        await turns()
        for _ in range(4):
            await fed.source.write(numbers(10) + FILL)
        await until(lambda: fed.link.content_bytes >= WINDOW_BYTES, "the window")
        fed.follow(genesis(second.key), key=second.key)
        await asyncio.sleep(0.05)
        sent_of_second = [
            one for one in fed.link.messages if isinstance(one, Commits) and one.uuid == second.key
        ]
        assert not sent_of_second
        fed.feed.unfollow(Unfollow([fed.source.key]))
        await until(
            lambda: any(
                isinstance(one, Commits) and one.uuid == second.key for one in fed.link.messages
            ),
            "the other database",
        )


async def test_a_position_of_another_history_gets_a_copy(fed: Fed) -> None:
    head = fed.source.database.durable
    for position in (
        head._replace(digest=head.digest[:4] + bytes(12)),
        Bookmark(CommitToken(1, 99), head.digest),
        genesis(bytes(16)),
    ):
        fed.link.messages.clear()
        fed.follow(position)
        await until(
            lambda: any(isinstance(one, SnapshotEnd) for one in fed.link.messages), "a copy"
        )
        begin = fed.link.messages[0]
        assert isinstance(begin, SnapshotBegin)
        pages = sum(len(one.data) for one in fed.link.messages if isinstance(one, SnapshotPages))
        assert pages == begin.page_count * 4096
        await until(lambda: fed.newest == head.seq, "and what follows its base")
        (end,) = [one for one in fed.link.messages if isinstance(one, SnapshotEnd)]
        assert end.until.bookmark == head, "until it has that, the copy is no database"


async def test_a_copy_is_made_when_it_is_wanted(fed: Fed) -> None:
    fed.follow(fed.source.database.durable, snapshot=True)
    await until(lambda: any(isinstance(one, SnapshotEnd) for one in fed.link.messages), "a copy")


async def fallen_out(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the replica's position trimmed from the log while it is being fed."""
    monkeypatch.setattr("primary.committer.CHECKPOINT_FRAMES", 50)
    monkeypatch.setattr("primary.committer.BASE_LOG_BYTES", 200_000)
    monkeypatch.setattr(primary.feed, "WINDOW_BYTES", 100_000)
    monkeypatch.setattr("engine.recent.PARTS_BYTES_MAX", 50_000)
    (await fed.source.open()).log._bytes_max = 100_000
    start = fed.source.database.durable
    fed.follow(start)
    await turns()
    for _ in range(200):
        await fed.source.write("INSERT INTO t VALUES (randomblob(9000))")
    opened = await fed.source.open()
    await until(lambda: opened.log.tail.seq > fed.newest, "trimmed")


async def brought_forward(fed: Fed) -> None:
    """Acknowledge what comes until all has come."""

    def is_forward() -> bool:
        fed.ack(0, fed.link.content_bytes)
        return fed.newest == fed.source.database.durable.seq

    await until(is_forward, "all of it")


async def test_a_replica_falls_out_of_a_trimmed_log(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its position was in the log when it began; when its turn comes the log has moved on."""
    await fallen_out(fed, monkeypatch)
    await brought_forward(fed)
    assert any(isinstance(one, SnapshotBegin) for one in fed.link.messages)


async def test_a_copy_that_fails_after_falling_out_is_made_again(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file cannot be read for a moment: the replica gets its copy all the same."""
    await fallen_out(fed, monkeypatch)
    failures = 3
    read_pages = primary.feed._read_pages

    def failing(live: LiveDatabase, first: int, count: int) -> bytes:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EIO, "not now")
        return read_pages(live, first, count)

    monkeypatch.setattr(primary.feed, "_read_pages", failing)
    await brought_forward(fed)
    assert not failures
    assert fed.mode is Mode.STREAM


async def test_a_fenced_database_is_not_closed_under_the_reading_of_its_file(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread would read from a descriptor that is another file's by then."""
    reading, release = threading.Event(), threading.Event()
    was_open: list[bool] = []
    read_pages = primary.feed._read_pages

    def slow(live: LiveDatabase, first: int, count: int) -> bytes:
        reading.set()
        release.wait()
        was_open.append(live._files is not None)
        return read_pages(live, first, count)

    monkeypatch.setattr(primary.feed, "_read_pages", slow)
    opened = await fed.source.open()
    fed.follow(fed.source.database.durable, snapshot=True)
    await until(reading.is_set, "reading")
    opened.committer.give_up(DatabaseDamaged("the test says so"))
    await turns()
    await asyncio.sleep(0.05)
    release.set()
    await until(lambda: any(isinstance(one, SnapshotEnd) for one in fed.link.messages), "a copy")
    assert all(was_open)


async def test_following_again_begins_anew(fed: Fed) -> None:
    """The replica's own word on where it is counts, whatever was sent before."""
    for number in range(10):
        await fed.source.write("INSERT INTO t VALUES (?)", number)
    start = genesis(fed.source.key)
    fed.follow(start)
    await until(lambda: fed.newest == 12, "all")
    fed.link.messages.clear()
    fed.follow(start)
    await until(lambda: fed.newest == 12, "all again")
    fed.check_chain(start)
    assert fed.feed._in_flight == fed.link.content_bytes


async def test_a_database_that_is_not_known_yet_begins_when_it_is(fed: Fed) -> None:
    """The replica read the catalog before we did."""
    key = fed.source.key
    database = fed.databases.pop(key)
    fed.follow(genesis(key))
    await turns()
    assert not fed.link.messages
    fed.databases[key] = database
    fed.feed.wake(key)
    await until(lambda: fed.newest == 2, "all")


async def test_waiting_for_a_replica_to_apply(fed: Fed) -> None:
    """Woken by its acknowledgement, or by the end of its link."""
    fed.follow(fed.source.database.durable)
    await turns()
    waits = [asyncio.create_task(fed.feed.wait_applied(fed.source.key, seq)) for seq in (3, 4, 9)]
    await turns()
    fed.ack(3, 0)
    await turns()
    assert [wait.done() for wait in waits] == [True, False, False]
    fed.ack(4, 0)
    await turns()
    assert [wait.done() for wait in waits] == [True, True, False]
    fed.feed.close()
    await asyncio.gather(*waits)
    await fed.feed.wait_applied(fed.source.key, 1000)


async def test_heartbeats_tell_what_moved(fed: Fed) -> None:
    databases = [fed.source.database]

    def told() -> list[int]:
        fed.feed.heartbeat(databases, time_ms=1)
        beat = fed.link.messages.pop()
        assert isinstance(beat, Heartbeat)
        return [head.seq for head in beat.heads]

    assert told() == [2]
    assert told() == []
    await fed.source.write("INSERT INTO t VALUES (1)")
    assert told() == [3]
    fed.feed.forget(fed.source.key)
    assert told() == [3], "nothing is kept of a database that is forgotten"


async def test_a_database_in_trouble_is_tried_again(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that cannot be read now: not given up, and the other databases go on."""
    await fed.source.write("INSERT INTO t VALUES (1)")
    failures = 3
    view = PrimaryDatabase.view

    async def failing(self: PrimaryDatabase, position: Bookmark) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(5, "not now")
        return await view(self, position)

    monkeypatch.setattr(PrimaryDatabase, "view", failing)
    fed.follow(genesis(fed.source.key))
    await until(lambda: fed.newest == 3, "all of it, in the end")


async def test_what_an_earlier_feed_had_in_flight_is_forgotten(fed: Fed) -> None:
    """Acknowledgements that were on their way when the feed began again do no harm."""
    for _ in range(5):
        await fed.source.write("INSERT INTO t VALUES (randomblob(90000))")
    for _ in range(3):
        fed.follow(genesis(fed.source.key))
        await until(lambda: fed.newest == 7, "all")
        fed.ack(7, 10_000_000)
        assert fed.feed._in_flight == 0
        fed.link.messages.clear()
    fed.feed.close()
    assert fed.feed._in_flight == 0
