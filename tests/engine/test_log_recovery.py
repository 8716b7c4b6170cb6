"""What a log makes of damaged files: a torn end is cut off, a damaged commit is reported."""

import struct
from pathlib import Path
from random import Random

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import LogCorrupt
from engine.files import Disk
from engine.log import CommitLog
from engine.segment import HEADER_BYTES, segment_name
from engine.segment_index import SegmentIndex
from proto.record import CommitPart
from proto.tokens import Bookmark, CommitToken, genesis
from tests.engine.commit_chain import UUID, make_chain, make_commit

GENESIS = genesis(UUID)


def create(folder: Path) -> CommitLog:
    return CommitLog.create(folder, UUID, Disk(), after=GENESIS, bytes_max=1 << 30)


def reopen(folder: Path) -> CommitLog:
    return CommitLog.open(folder, UUID, Disk(), bytes_max=1 << 30)


def store(log: CommitLog, parts: list[CommitPart], *, every: int = 1) -> None:
    for at in range(0, len(parts), every):
        log.append(parts[at : at + every])
        log.mark_durable(log.flush())


def only_segment(folder: Path) -> Path:
    (path,) = folder.glob("*.log")
    return path


def crashed_log(folder: Path, parts: list[CommitPart], *, every: int = 1) -> Path:
    """A log of one segment that nobody closed, with zeros behind its end."""
    store(create(folder), parts, every=every)
    return only_segment(folder)


def end_of(parts: list[CommitPart]) -> int:
    return HEADER_BYTES + sum(map(len, parts))


@pytest.mark.parametrize("rest", [b"", bytes(5000)])
def test_a_commit_torn_at_any_byte_is_dropped(tmp_path: Path, rest: bytes) -> None:
    """Only a whole last record counts, wherever it breaks off; the log then goes on.

    Method: cut the file within the last record, at every byte; with and without zeros behind.
    """
    parts = make_chain(GENESIS, 3)
    path = crashed_log(tmp_path / "log", parts)
    whole = path.read_bytes()
    start, end = end_of(parts[:2]), end_of(parts)
    for cut in range(start, end):
        path.write_bytes(whole[:cut] + rest)
        ends = CommitLog.peek(tmp_path / "log", UUID, Disk())
        assert ends.head == parts[1].bookmark, cut
        if cut % 37 == 0:
            log = reopen(tmp_path / "log")
            assert log.head == parts[1].bookmark
            assert path.stat().st_size in {start, len(whole[:cut] + rest)}
            other = make_chain(log.head, 2)
            store(log, other)
            assert log.verify() == 4
            log.close()
            path.with_suffix(".idx").unlink()


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_is_never_believed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any changed bit in a durable commit that a later one vouches for is reported.

    Method: flip one bit of an unclosed log whose commits were flushed one by one. In all but
    the last record that is LogCorrupt; in the last one it cannot be told from a torn end.
    """
    folder = tmp_path_factory.mktemp("log") / "log"
    parts = make_chain(GENESIS, 6)
    path = crashed_log(folder, parts)
    end = end_of(parts)
    at = data.draw(st.integers(0, end - 1))
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    if at < end_of(parts[:5]):
        with pytest.raises(LogCorrupt) as caught:
            reopen(folder)
        assert str(path) in str(caught.value)
    else:
        log = reopen(folder)
        assert log.head == parts[4].bookmark
        log.close()


def test_commits_of_a_lost_flush_are_no_witnesses(tmp_path: Path) -> None:
    """A hole in a group that was never acknowledged ends the log without an alarm."""
    first = make_chain(GENESIS, 2)
    group = make_chain(first[-1].bookmark, 5, durable_seq=2)
    path = crashed_log(tmp_path / "log", first + group, every=2)
    content = bytearray(path.read_bytes())
    hole = end_of(first + group[:1])
    content[hole : hole + 512] = bytes(512)
    path.write_bytes(content)
    log = reopen(tmp_path / "log")
    assert log.head == group[0].bookmark
    # What stood behind the hole is gone for good, not only skipped.
    assert path.stat().st_size == hole
    log.close()


def test_a_record_within_a_page_is_no_witness(tmp_path: Path) -> None:
    """A page image may hold anything, also a record that claims that all was durable."""
    parts = make_chain(GENESIS, 2)
    token = CommitToken(1, 4)
    forged = make_commit(parts[1].bookmark, durable_seq=3)[0]
    forged = make_commit(forged.bookmark, durable_seq=3)[0]
    assert forged.token == token
    last = make_commit(parts[1].bookmark, durable_seq=2, fill=forged.raw, page_size=1024)
    path = crashed_log(tmp_path / "log", parts + last)
    content = bytearray(path.read_bytes())
    assert forged.raw in content
    content[end_of(parts + last) - 1] ^= 1
    path.write_bytes(content)
    log = reopen(tmp_path / "log")
    assert log.head == parts[1].bookmark
    log.close()


def test_a_record_of_another_database_is_no_witness(tmp_path: Path) -> None:
    """Behind a torn header, among what a page held, and it says that more was durable."""
    parts = make_chain(GENESIS, 2)
    folder = tmp_path / "log"
    path = crashed_log(folder, parts)
    other = make_chain(genesis(bytes(16)), 9)[-1]
    assert other.durable_seq > 2
    content = bytearray(path.read_bytes())
    end = end_of(parts)
    torn = b"torn".ljust(200, b"\x07") + other.raw
    content[end : end + len(torn)] = torn
    path.write_bytes(content)
    log = reopen(folder)
    assert log.head == parts[-1].bookmark
    log.close()


def test_damage_in_a_closed_log_is_found_when_it_is_read(tmp_path: Path) -> None:
    """Opening a closed log reads only its end; readers and `verify` check every byte."""
    parts = make_chain(GENESIS, 20)
    log = create(tmp_path / "log")
    store(log, parts)
    log.close()
    path = only_segment(tmp_path / "log")
    content = bytearray(path.read_bytes())
    content[end_of(parts[:7]) + 200] ^= 1
    path.write_bytes(content)
    log = reopen(tmp_path / "log")
    assert log.head == parts[-1].bookmark
    reader = log.reader(GENESIS)
    with pytest.raises(LogCorrupt, match=f"offset {end_of(parts[:7])}"):
        reader.next(1 << 20)
    reader.close()
    with pytest.raises(LogCorrupt, match=f"offset {end_of(parts[:7])}"):
        log.verify()
    log.close()


def test_a_closed_log_that_lost_its_end_is_damaged(tmp_path: Path) -> None:
    """The saved index says how far the durable commits went: a shorter file is no torn end."""
    parts = make_chain(GENESIS, 20)
    log = create(tmp_path / "log")
    store(log, parts)
    log.close()
    path = only_segment(tmp_path / "log")
    content = path.read_bytes()
    path.write_bytes(content[: end_of(parts[:19]) + 10])
    with pytest.raises(LogCorrupt, match="its index has 1 more"):
        reopen(tmp_path / "log")
    path.write_bytes(content[: end_of(parts) - 1] + b"x")
    with pytest.raises(LogCorrupt, match="its index has 1 more"):
        CommitLog.peek(tmp_path / "log", UUID, Disk())


def test_an_old_index_does_not_hide_newer_commits(tmp_path: Path) -> None:
    """An index saved by an earlier close is not believed after commits were added."""
    log = create(tmp_path / "log")
    parts = make_chain(GENESIS, 9)
    store(log, parts[:4])
    log.close()
    log = reopen(tmp_path / "log")
    store(log, parts[4:])
    assert CommitLog.peek(tmp_path / "log", UUID, Disk()).head == parts[-1].bookmark
    path = only_segment(tmp_path / "log")
    saved = SegmentIndex.load(Disk(), path)
    assert saved is not None
    assert saved.index.last_seq == 4
    log = reopen(tmp_path / "log")
    assert log.head == parts[-1].bookmark
    log.close()


def test_an_index_of_other_commits_is_not_believed(tmp_path: Path) -> None:
    """Another history's, with as many commits of the same sizes: the newest part tells."""
    for name, seed in (("ours", 1), ("other", 2)):
        log = create(tmp_path / name)
        store(log, make_commit(GENESIS, seed=seed))
        store(log, make_commit(log.head, seed=seed))
        log.close()
    head = CommitLog.peek(tmp_path / "ours", UUID, Disk()).head
    index = next((tmp_path / "other").glob("*.idx"))
    index.rename(next((tmp_path / "ours").glob("*.idx")))
    log = reopen(tmp_path / "ours")
    assert log.head == head
    assert log.digest_at(2) == head.digest
    assert log.verify() == 2
    first = log.digest_at(1)
    assert first is not None
    assert len(log.parts_after(Bookmark(CommitToken(1, 1), first), bytes_max=1)) == 1
    log.close()


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_a_damaged_index_costs_a_scan_only(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes
) -> None:
    """Whatever stands in the `.idx` file, the log's ends come out right."""
    folder = tmp_path_factory.mktemp("log") / "log"
    log = create(folder)
    parts = make_chain(GENESIS, 4)
    store(log, parts)
    log.close()
    index = next(folder.glob("*.idx"))
    content = bytearray(index.read_bytes())
    at = Random(junk).randrange(len(content))
    for offset, byte in enumerate(junk[: len(content) - at]):
        content[at + offset] ^= byte
    index.write_bytes(content)
    assert CommitLog.peek(folder, UUID, Disk()).head == parts[-1].bookmark


@pytest.mark.parametrize("content", [b"", bytes(40), bytes(70_000), b"D1LG" + bytes(92)])
def test_a_segment_without_commits_is_removed(tmp_path: Path, content: bytes) -> None:
    """A last segment whose header never reached the disk holds nothing, and goes."""
    folder = tmp_path / "log"
    log = create(folder)
    parts = make_chain(GENESIS, 3)
    store(log, parts)
    log.close()
    junk = folder / segment_name(CommitToken(1, 4))
    junk.write_bytes(content)
    (folder / "next-0.tmp").write_bytes(b"left over")
    (folder / "00000001-0000000000000000.idx").write_bytes(b"its segment was trimmed")
    log = reopen(folder)
    assert log.head == parts[-1].bookmark
    assert not junk.exists()
    log.close()
    assert len(list(folder.iterdir())) == 2


def test_a_damaged_header_before_commits_is_reported(tmp_path: Path) -> None:
    """A header that cannot be read is no reason to drop the commits behind it."""
    folder = tmp_path / "log"
    log = create(folder)
    store(log, make_chain(GENESIS, 300, pages=4), every=10)
    log.close()
    for path in sorted(folder.glob("*.log")):
        content = path.read_bytes()
        path.write_bytes(content[:50] + b"\xff" + content[51:])
        with pytest.raises(LogCorrupt, match="header is damaged"):
            reopen(folder).verify()
        path.write_bytes(content)
    reopen(folder).close()


def test_commits_behind_a_damaged_header_are_found_wherever_they_begin(tmp_path: Path) -> None:
    """Also across the border of two pieces in which the file is looked through."""
    folder = tmp_path / "log"
    log = create(folder)
    store(log, make_chain(GENESIS, 2))
    log.close()
    later = folder / segment_name(CommitToken(1, 3))
    for at in (1, 1024 * 1024 - 3, 1024 * 1024 - 1, 1024 * 1024):
        later.write_bytes(bytes(at) + make_commit(log.head)[0].raw)
        with pytest.raises(LogCorrupt, match="header is damaged"):
            reopen(folder)


def test_a_missing_segment_is_reported_by_readers(tmp_path: Path) -> None:
    """A hole between two segments never reads as a shorter history."""
    folder = tmp_path / "log"
    log = create(folder)
    store(log, make_chain(GENESIS, 400, pages=4), every=10)
    log.close()
    paths = sorted(folder.glob("*.log"))
    assert len(paths) >= 4
    paths[1].unlink()
    log = reopen(folder)
    reader = log.reader(GENESIS)
    with pytest.raises(LogCorrupt, match="the next segment begins with commit"):
        reader.next(1 << 30)
    reader.close()
    with pytest.raises(LogCorrupt):
        log.verify()
    log.close()


def test_a_segment_of_another_history_is_reported(tmp_path: Path) -> None:
    """Sound by itself, and of the right numbers: it does not follow the one before it."""
    heads = []
    for name, seed in (("ours", 1), ("other", 2)):
        log = create(tmp_path / name)
        for _ in range(400):
            store(log, make_commit(log.head, pages=4, seed=seed))
        heads.append(log.head)
        log.close()
    ours, other = (sorted((tmp_path / name).glob("*.log")) for name in ("ours", "other"))
    assert [path.name for path in ours] == [path.name for path in other]
    assert len(ours) >= 4
    ours[1].write_bytes(other[1].read_bytes())
    log = reopen(tmp_path / "ours")
    assert log.head == heads[0]
    with pytest.raises(LogCorrupt, match="does not follow"):
        log.verify()
    reader = log.reader(GENESIS)
    with pytest.raises(LogCorrupt, match="stands where"):
        reader.next(1 << 30)
    reader.close()
    log.close()


def test_the_later_segment_wins(tmp_path: Path) -> None:
    """What stands behind the beginning of the next segment was left by a failed sync.

    Method: a log of commits 1 to 8, and beside it a segment that begins after 5 with others.
    """
    folder = tmp_path / "log"
    old = make_chain(GENESIS, 8)
    log = create(folder)
    store(log, old)
    log.close()
    other = tmp_path / "other"
    new = make_commit(old[4].bookmark, seed=5, durable_seq=5)
    new += make_chain(new[-1].bookmark, 10)
    later = CommitLog.create(other, UUID, Disk(), after=old[4].bookmark, bytes_max=1 << 30)
    store(later, new)
    later.close()
    for path in other.iterdir():
        path.rename(folder / path.name)
    expected = [part.raw for part in old[:5] + new]
    for is_index_there in (True, False):
        if not is_index_there:
            for path in folder.glob("*.idx"):
                path.unlink()
        log = reopen(folder)
        assert log.head == new[-1].bookmark
        got = log.reader(GENESIS).next(1 << 20)
        assert [part.raw for part in got] == expected
        assert log.digest_at(6) == new[0].digest
        assert log.verify() == 16
        log.close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A log of a later version of the program is not read as damage."""
    folder = tmp_path / "log"
    create(folder).close()
    path = only_segment(folder)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 4, 2)
    struct.pack_into("<Q", content, 88, xxhash.xxh3_64_intdigest(bytes(content[:88])))
    path.write_bytes(content)
    with pytest.raises(LogCorrupt, match="format 2"):
        reopen(folder)
