"""The commit log on a disk that works: what goes in comes out, in order, at every position."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import LogCorrupt, PositionTrimmed, PositionUnknown
from engine.files import Disk
from engine.log import CommitLog
from engine.log_reader import LogReader
from engine.recent import PARTS_BYTES_MAX
from engine.segment import HEADER_BYTES, SEGMENT_BYTES_MIN
from proto.record import CommitPart
from proto.tokens import Bookmark, CommitToken, genesis
from tests.engine.commit_chain import UUID, make_chain, make_commit

GENESIS = genesis(UUID)
BYTES_MAX = 1 << 30


def create(folder: Path, *, bytes_max: int = BYTES_MAX) -> CommitLog:
    return CommitLog.create(folder, UUID, Disk(), after=GENESIS, bytes_max=bytes_max)


def reopen(folder: Path, *, bytes_max: int = BYTES_MAX) -> CommitLog:
    return CommitLog.open(folder, UUID, Disk(), bytes_max=bytes_max)


def store(log: CommitLog, parts: list[CommitPart], *, every: int = 1) -> None:
    """Append and flush in groups of `every` parts."""
    for at in range(0, len(parts), every):
        log.append(parts[at : at + every])
        log.mark_durable(log.flush())


def drain(reader: LogReader, bytes_max: int = 1 << 20) -> list[CommitPart]:
    parts: list[CommitPart] = []
    while got := reader.next(bytes_max):
        parts += got
    return parts


def raws(parts: list[CommitPart]) -> list[bytes]:
    return [part.raw for part in parts]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_commit_is_there_after_reopening(tmp_path: Path) -> None:
    """What a flush returned is the head of the log that is opened next, with its figures."""
    log = create(tmp_path / "log")
    parts = make_chain(GENESIS, 3)
    log.append(parts)
    assert log.head == parts[-1].bookmark
    assert log.durable == GENESIS
    assert log.pending_bytes == sum(map(len, parts))
    log.mark_durable(log.flush())
    assert log.durable is log.head
    assert log.pending_bytes == 0
    log.close()

    log = reopen(tmp_path / "log")
    last = parts[-1]
    assert (log.head, log.tail, log.durable) == (last.bookmark, GENESIS, last.bookmark)
    assert (log.page_count, log.checksum, log.time_ms) == (1, last.checksum, last.time_ms)
    assert raws(drain(log.reader(GENESIS))) == raws(parts)
    assert log.verify() == 3
    log.close()


def test_nothing_is_read_before_it_is_durable(tmp_path: Path) -> None:
    """Readers and feeds see a commit only after `mark_durable`, whatever is in memory."""
    log = create(tmp_path / "log")
    parts = make_chain(GENESIS, 2)
    log.append(parts[:1])
    assert log.parts_after(GENESIS, bytes_max=1000) == []
    position = log.flush()
    assert log.parts_after(GENESIS, bytes_max=1000) == []
    assert log.reader(GENESIS).next(1000) == []
    log.mark_durable(position)
    log.append(parts[1:])
    assert log.parts_after(GENESIS, bytes_max=10_000) == parts[:1]
    assert log.reader(GENESIS).next(10_000) == parts[:1]
    log.close()


@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 3)), min_size=1, max_size=40),
    every=st.integers(1, 7),
    bytes_max=st.integers(1, 100_000),
    forget=st.booleans(),
    is_closed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_position_gives_what_follows_it(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[tuple[int, int]],
    every: int,
    bytes_max: int,
    forget: bool,
    is_closed: bool,
) -> None:
    """From each commit, memory, files and reopened files give the same rest of the chain.

    Method: random commits of one to three parts over several segments; then ask for what
    follows every position by both doors and compare with the list that was appended.
    """
    folder = tmp_path_factory.mktemp("log") / "log"
    log = create(folder)
    after, parts = GENESIS, []
    starts = {GENESIS: 0}
    for pages, count in sizes:
        parts += make_commit(after, pages=pages, parts=count, durable_seq=log.durable.seq)
        after = parts[-1].bookmark
        starts[after] = len(parts)
    store(log, parts, every=every)
    if is_closed:
        log.close()
        log = reopen(folder)
    if forget:
        log.forget_recent()
    for position, at in starts.items():
        assert raws(drain(log.reader(position), bytes_max)) == raws(parts[at:])
        some = log.parts_after(position, bytes_max=bytes_max)
        assert raws(some) == raws(parts[at : at + len(some)])
        assert bool(some) == (at < len(parts))
        assert sum(map(len, some)) <= bytes_max or len(some) == 1
        assert log.digest_at(position.seq) == position.digest
    assert log.verify() == len(sizes)
    log.close()


def test_a_large_commit_moves_the_head_with_its_last_part_only(tmp_path: Path) -> None:
    """A commit longer than a segment is written in pieces, and is all or nothing to readers."""
    log = create(tmp_path / "log")
    first = make_commit(GENESIS)
    store(log, first)
    large = make_commit(log.head, pages=100, parts=6, durable_seq=1)
    for part in large[:-1]:
        log.append([part])
        assert log.flush() == first[-1].bookmark
        assert log.head == first[-1].bookmark
    log.append(large[-1:])
    log.mark_durable(log.flush())
    assert log.head == log.durable == large[-1].bookmark
    after = make_commit(log.head)
    store(log, after)
    reader = log.reader(first[-1].bookmark)
    pieces = []
    while got := reader.next(1):
        assert len(got) == 1
        pieces += got
        assert reader.is_between_commits == got[-1].is_last
    assert raws(pieces) == raws(large + after)
    assert raws(log.parts_after(first[-1].bookmark, bytes_max=1)) == raws(large[:1])
    log.close()


def test_a_commit_that_breaks_off_is_forgotten(tmp_path: Path) -> None:
    """`drop_partial` takes back parts that are queued and parts that are on the disk."""
    log = create(tmp_path / "log")
    store(log, make_commit(GENESIS))
    broken = make_commit(log.head, pages=50, parts=5, seed=1)
    log.append(broken[:2])
    log.flush()
    log.append(broken[2:4])
    log.drop_partial()
    assert log.pending_bytes == 0
    good = make_chain(log.head, 3, durable_seq=1)
    store(log, good)
    log.close()
    (path,) = (tmp_path / "log").glob("*.log")
    assert broken[1].digest not in path.read_bytes()
    log = reopen(tmp_path / "log")
    assert log.head == good[-1].bookmark
    log.close()


def test_the_parts_of_a_commit_that_failed_elsewhere_are_undone(tmp_path: Path) -> None:
    """The log is sound, but what follows the parts that it holds could not be captured."""
    log = create(tmp_path / "log")
    store(log, make_commit(GENESIS))
    head = log.head
    broken = make_commit(head, pages=50, parts=5, seed=1)
    log.append(broken[:2])
    log.flush()
    log.append(broken[2:3])
    log.drop_undurable()
    assert log.head == head
    assert log.pending_bytes == 0
    good = make_chain(head, 3, durable_seq=1)
    store(log, good)
    assert log.verify() == 4
    log.close()
    log = reopen(tmp_path / "log")
    assert log.head == good[-1].bookmark
    log.close()


def test_an_incomplete_commit_at_the_end_is_dropped_when_opening(tmp_path: Path) -> None:
    """A crash in the middle of a large commit leaves the commit before it as the head."""
    log = create(tmp_path / "log")
    store(log, make_commit(GENESIS))
    head = log.head
    log.append(make_commit(head, pages=50, parts=5)[:3])
    log.flush()
    log = reopen(tmp_path / "log")
    assert log.head == head
    store(log, make_commit(head, seed=9))
    assert log.verify() == 2
    log.close()


def test_positions_outside_the_history_are_told_apart(tmp_path: Path) -> None:
    """Too old, too new and of another history: three different situations, two errors."""
    log = create(tmp_path / "log")
    parts = make_chain(GENESIS, 5)
    store(log, parts)
    other = make_commit(parts[2].bookmark, seed=7)[0].bookmark
    ahead = make_commit(parts[4].bookmark)[0].bookmark
    for position in (other, ahead, GENESIS._replace(digest=b"x" * 16)):
        with pytest.raises(PositionUnknown):
            log.parts_after(position, bytes_max=1000)
        with pytest.raises(PositionUnknown):
            log.reader(position)
    assert log.digest_at(6) is None
    log.close()


def test_a_log_can_begin_anywhere(tmp_path: Path) -> None:
    """A replica's log begins after the snapshot that it copied."""
    after = Bookmark(CommitToken(3, 700), b"tagged digest 16")
    folder = tmp_path / "log"
    log = CommitLog.create(folder, UUID, Disk(), after=after, bytes_max=BYTES_MAX)
    assert (log.head, log.tail, log.durable) == (after, after, after)
    log.close()
    log = reopen(folder)
    assert (log.head, log.tail) == (after, after)
    store(log, make_commit(after, epoch=4))
    assert log.head.token == CommitToken(4, 701)
    with pytest.raises(PositionTrimmed):
        log.reader(GENESIS)
    assert log.digest_at(700) == after.digest
    assert log.digest_at(699) is None
    log.close()
    assert CommitLog.peek(folder, UUID, Disk()).head.token == CommitToken(4, 701)


def test_trimming_keeps_what_is_asked_for(tmp_path: Path) -> None:
    """Only whole segments at or before `keep` go, oldest first; a reader inside finishes."""
    log = create(tmp_path / "log", bytes_max=100_000)
    parts = make_chain(GENESIS, 400, pages=4)
    store(log, parts, every=5)
    log.prepare_next()
    log.forget_recent()
    reader = log.reader(GENESIS)
    assert raws(reader.next(3000)) == raws(parts[:1])
    total = log.bytes_total
    assert log.trim(GENESIS) == 0
    second = sorted((tmp_path / "log").glob("*.log"))[1]
    begins = int(second.stem.rpartition("-")[2], 16)
    assert log.trim(parts[begins - 3].bookmark) == 0, "the first one's last commit is needed"
    removed = log.trim(parts[200].bookmark)
    assert 0 < removed == total - log.bytes_total
    assert GENESIS.seq < log.tail.seq <= 201
    with pytest.raises(PositionTrimmed):
        log.reader(GENESIS)
    assert log.digest_at(log.tail.seq - 1) is None
    rest = drain(log.reader(log.tail))
    assert raws(rest) == raws(parts[log.tail.seq :])
    # The reader goes to the end of the segment that it has open, then learns of the trim.
    with pytest.raises(PositionTrimmed):
        drain(reader)
    assert reader.position.seq > 1
    reader.close()
    log.trim(log.durable)
    tail = log.tail
    log.close()
    log = reopen(tmp_path / "log")
    assert log.tail == tail
    assert log.verify() == 400 - tail.seq
    log.close()


def test_idle_databases_cost_what_they_hold(tmp_path: Path) -> None:
    """A closed log holds no descriptor and no preallocated space, and reopens without a scan."""
    before = descriptors()
    log = create(tmp_path / "log")
    parts = make_chain(GENESIS, 30)
    store(log, parts)
    assert log.wants_next or log.bytes_total < SEGMENT_BYTES_MIN // 2
    log.prepare_next()
    ends = log.ends
    log.close()
    assert descriptors() == before
    sizes = {path.suffix: path.stat().st_size for path in (tmp_path / "log").iterdir()}
    assert sizes == {".log": HEADER_BYTES + sum(map(len, parts)), ".idx": 48 + 24 * 30}
    assert CommitLog.peek(tmp_path / "log", UUID, Disk()) == ends == log.ends
    assert descriptors() == before


def test_reopening_again_and_again_makes_no_more_files(tmp_path: Path) -> None:
    """A database that is opened for one write at a time goes on in the same segment."""
    create(tmp_path / "log").close()
    parts = make_chain(GENESIS, 40)
    for part in parts:
        log = reopen(tmp_path / "log")
        store(log, [part])
        log.close()
    assert len(list((tmp_path / "log").iterdir())) == 2
    log = reopen(tmp_path / "log")
    assert raws(drain(log.reader(GENESIS))) == raws(parts)
    log.close()


def test_a_prepared_segment_is_used_by_the_next_flush(tmp_path: Path) -> None:
    """With `prepare_next` run when it is wanted, `flush` writes no zeros itself."""
    log = create(tmp_path / "log")
    prepared = 0
    for part in make_chain(GENESIS, 600, pages=4):
        store(log, [part])
        if log.wants_next:
            log.prepare_next()
            prepared += 1
            assert not log.wants_next
    names = sorted(path.name for path in (tmp_path / "log").glob("*.log"))
    assert 3 < len(names) < prepared + 2
    newest = tmp_path / "log" / names[-1]
    assert newest.stat().st_size in {1 << power for power in range(16, 25)}
    assert log.verify() == 600
    log.close()
    assert not list((tmp_path / "log").glob("*.tmp"))


def test_memory_of_recent_commits_is_bounded(tmp_path: Path) -> None:
    """The ring holds at most its bytes, no large commits, and nothing after it is forgotten."""
    log = create(tmp_path / "log")
    parts = make_chain(GENESIS, 30, pages=1500)
    store(log, parts[:-1])
    assert 0 < log._recent.parts_bytes <= PARTS_BYTES_MAX
    assert log.is_recent(parts[-3].bookmark)
    assert not log.is_recent(GENESIS)
    log.append(parts[-1:])
    log.mark_durable(log.flush())
    log.append(make_commit(log.head, pages=3000))
    assert log._recent.parts_bytes == 0
    log.mark_durable(log.flush())
    assert log.parts_after(parts[-1].bookmark, bytes_max=1)[0].token.seq == 31
    log.forget_recent()
    assert log.digest_at(3) == parts[2].digest
    log.close()


def test_reading_while_another_thread_writes(tmp_path: Path) -> None:
    """A reader that follows a growing log over many segments sees each commit once, in order."""
    log = create(tmp_path / "log")
    parts = make_chain(GENESIS, 800, pages=6)
    seen: list[CommitPart] = []
    problems: list[BaseException] = []

    def follow() -> None:
        reader = log.reader(GENESIS)
        try:
            while len(seen) < len(parts):
                seen.extend(reader.next(20_000))
                log.forget_recent()
        except BaseException as exc:
            problems.append(exc)
        finally:
            reader.close()

    thread = threading.Thread(target=follow)
    thread.start()
    for at in range(0, len(parts), 4):
        log.append(parts[at : at + 4])
        log.mark_durable(log.flush())
        log.prepare_next()
        if problems:
            break
    thread.join(30)
    assert not problems
    assert raws(seen) == raws(parts)
    log.close()


def test_appending_while_a_flush_runs_loses_nothing(tmp_path: Path) -> None:
    """The loop appends during a flush: each commit is written once, in order."""
    log = create(tmp_path / "log")
    parts = make_chain(GENESIS, 3000)
    is_over = threading.Event()

    def flush() -> None:
        while not is_over.is_set():
            log.flush()

    thread = threading.Thread(target=flush)
    thread.start()
    for part in parts:
        log.append([part])
    is_over.set()
    thread.join(30)
    log.mark_durable(log.flush())
    assert log.pending_bytes == 0
    assert log.verify() == 3000
    log.close()


def test_creating_replaces_what_was_there(tmp_path: Path) -> None:
    """A new log begins empty, whatever log stood in the folder."""
    log = create(tmp_path / "log")
    store(log, make_chain(GENESIS, 300, pages=4))
    log.close()
    log = create(tmp_path / "log")
    assert log.head == GENESIS
    log.close()
    assert reopen(tmp_path / "log").head == GENESIS
    assert len(list((tmp_path / "log").iterdir())) == 1


def test_a_folder_of_another_database_is_refused(tmp_path: Path) -> None:
    """A segment that was copied from elsewhere is not read as ours."""
    create(tmp_path / "log").close()
    with pytest.raises(LogCorrupt, match="belongs to"):
        CommitLog.open(tmp_path / "log", b"another uuid 16b", Disk(), bytes_max=BYTES_MAX)
    with pytest.raises(LogCorrupt, match="no commit log"):
        reopen(tmp_path / "nothing")
