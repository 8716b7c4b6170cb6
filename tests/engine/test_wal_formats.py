"""The formats of the WAL and the WAL-index, compared with what SQLite itself writes."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DatabaseDamaged, EngineError
from engine.frames import MARK_AT, encode_frames, mark_commit
from engine.wal import (
    BLOCK_BYTES,
    BLOCK_FRAMES,
    FIRST_BLOCK_FRAMES,
    FRAME_BYTES,
    INDEX_PREFIX_BYTES,
    PAGE_SIZE,
    SLOTS_AT,
    WAL_HEADER_BYTES,
    Checksum,
    IndexBlock,
    WalIndexHeader,
    block_of,
    check_byte_order,
    checksum,
    decode_frames,
    decode_index_prefix,
    encode_wal_header,
    frame_offset,
    salts_after,
)
from tests.engine.wal_pair import connect

words = st.integers(0, 0xFFFFFFFF)


def checksum_by_hand(data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's definition, word pair by word pair."""
    first, second = sums
    for even, odd in struct.iter_unpack("<II", data):
        first = (first + even + second) % 2**32
        second = (second + odd + first) % 2**32
    return first, second


class WrittenBySqlite:
    """The bytes of a live database's `-wal` and `-shm`, and the frames in them."""

    def __init__(self, path: Path) -> None:
        connection = connect(path)
        connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        for number in range(300):  # the same few pages again and again
            connection.execute("INSERT INTO t VALUES(?, randomblob(200))", (number,))
        connection.execute(  # and more than two blocks of the index in one commit
            "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
            "INSERT INTO t SELECT i, zeroblob(3000) FROM n"
        )
        for number in range(50):
            connection.execute("UPDATE t SET b = randomblob(9) WHERE a = ?", (number * 190,))
        self.wal = Path(f"{path}-wal").read_bytes()
        shm = os.open(f"{path}-shm", os.O_RDONLY)
        self.shm = os.pread(shm, 1 << 20, 0)
        connection.close()
        os.close(shm)
        self.header = decode_index_prefix(self.shm[:INDEX_PREFIX_BYTES])

    def pgno(self, frame: int) -> int:
        return int.from_bytes(self.wal[frame_offset(frame) : frame_offset(frame) + 4], "big")

    def page_count(self, frame: int) -> int:
        at = frame_offset(frame) + 4
        return int.from_bytes(self.wal[at : at + 4], "big")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenBySqlite:
    return WrittenBySqlite(tmp_path_factory.mktemp("sqlite") / "s.db")


def test_index_header_round_trips_to_the_bytes_of_sqlite(written: WrittenBySqlite) -> None:
    assert written.header.frames > 2 * BLOCK_FRAMES
    assert written.header.encode() * 2 == written.shm[:96]
    assert decode_frames(written.shm[:48]) == written.header.frames


def test_wal_header_is_the_one_of_sqlite(written: WrittenBySqlite) -> None:
    sequence = int.from_bytes(written.wal[12:16], "big")
    encoded, _ = encode_wal_header(written.wal[16:24], sequence)
    assert encoded == written.wal[:WAL_HEADER_BYTES]


def test_frames_are_the_ones_of_sqlite(written: WrittenBySqlite) -> None:
    """Encoding SQLite's own pages gives SQLite's own bytes, checksums included.

    Method: encode commit by commit, with the page count that each carries.
    """
    salts, sums = written.wal[16:24], checksum(written.wal[:24])
    first = 1
    for frame in range(1, written.header.frames + 1):
        count = written.page_count(frame)
        if not count:
            continue
        numbers = range(first, frame + 1)
        at = [frame_offset(number) + 24 for number in numbers]
        pages = [written.wal[start : start + PAGE_SIZE] for start in at]
        pgnos = [written.pgno(number) for number in numbers]
        run = encode_frames(pgnos, pages, salts, sums, page_count=count)
        assert run.data == written.wal[frame_offset(first) : frame_offset(frame + 1)]
        first, sums = frame + 1, run.sums
    assert sums == written.header.sums


def test_hash_slots_are_the_ones_of_sqlite(written: WrittenBySqlite) -> None:
    """Every slot of every block, from the page numbers of the frames alone."""
    last = written.header.frames
    for number in range(block_of(last) + 1):
        block = IndexBlock(number)
        end = min(block.first_frame + block.capacity - 1, last)
        pgnos = [written.pgno(frame) for frame in range(block.first_frame, end + 1)]
        for some in (pgnos[:1], pgnos[1:7], pgnos[7:]):
            block.add(some)
        start = number * BLOCK_BYTES
        assert block.slots.tobytes() == written.shm[start + SLOTS_AT : start + BLOCK_BYTES]
        numbers = struct.pack(f"={len(pgnos)}I", *pgnos)
        assert written.shm[block.offset : block.offset + len(numbers)] == numbers


@given(st.integers(1, 9), st.data())
def test_a_block_read_back_goes_on_as_the_one_that_was_kept(
    known: int, data: st.DataObject
) -> None:
    """Entries beyond the last frame are dropped; later ones land where they belong."""
    pgnos = data.draw(st.lists(st.sampled_from([1, 2, 3, 8193, 8194]), min_size=10, max_size=40))
    kept, cut = IndexBlock(1), IndexBlock(1)
    kept.add(pgnos)
    cut.add(pgnos[:known])
    stale = bytes(SLOTS_AT) + kept.slots.tobytes()
    read = IndexBlock.decode(stale, read_last := FIRST_BLOCK_FRAMES + known)
    assert (read.number, read.count, read.first_frame + known - 1) == (1, known, read_last)
    assert read.slots == cut.slots
    read.add(pgnos[known:])
    assert read.slots == kept.slots


def test_a_page_in_every_frame_fills_a_block_without_a_walk_each() -> None:
    """One page written 4,096 times: all slots in a row from its own, wrapping at the end."""
    block = IndexBlock(3)
    start = 21 * 383 % 8192
    assert [block.add([21])[0] for _ in range(4096)] == [
        (start + step) % 8192 for step in range(4096)
    ]


@pytest.mark.parametrize(
    ("frame", "block"),
    [
        (1, 0),
        (FIRST_BLOCK_FRAMES, 0),
        (FIRST_BLOCK_FRAMES + 1, 1),
        (FIRST_BLOCK_FRAMES + BLOCK_FRAMES, 1),
        (FIRST_BLOCK_FRAMES + BLOCK_FRAMES + 1, 2),
    ],
)
def test_blocks_hold_4062_then_4096_frames(frame: int, block: int) -> None:
    assert (FIRST_BLOCK_FRAMES, BLOCK_FRAMES) == (4062, 4096)
    assert block_of(frame) == block
    assert IndexBlock(block).first_frame <= frame


@given(st.binary(min_size=40, max_size=40).map(lambda head: head), words, words)
def test_checksum_is_the_one_of_the_definition(data: bytes, first: int, second: int) -> None:
    assert checksum(data, Checksum(first, second)) == checksum_by_hand(data, (first, second))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(1, 2**32 - 1),
    st.binary(min_size=8, max_size=8),
    st.lists(st.tuples(st.integers(1, 2**32 - 1), st.binary(max_size=64)), min_size=1, max_size=5),
)
def test_frame_checksums_follow_the_definition(
    first: int, second: int, page_count: int, salts: bytes, pages: list[tuple[int, bytes]]
) -> None:
    """In one run or frame by frame, marked at once or later: always the sums by hand."""
    pgnos = [pgno for pgno, _ in pages]
    images = [(seed + b"\xff") * 4096 for _, seed in pages]
    images = [image[-PAGE_SIZE:] for image in images]
    start = Checksum(first, second)
    whole = encode_frames(pgnos, images, salts, start, page_count=page_count)
    sums: tuple[int, int] = start
    for at in range(0, len(whole.data), FRAME_BYTES):
        frame = bytes(whole.data[at : at + FRAME_BYTES])
        sums = checksum_by_hand(frame[24:], checksum_by_hand(frame[:8], sums))
        assert frame[16:24] == struct.pack(">II", *sums)
        assert frame[8:16] == salts
    assert whole.sums == sums
    unmarked = encode_frames(pgnos, images, salts, start, page_count=0)
    mark, marked_sums = mark_commit(page_count, salts, unmarked.sums)
    last = len(unmarked.data) - FRAME_BYTES + MARK_AT
    unmarked.data[last : last + len(mark)] = mark
    assert (unmarked.data, marked_sums) == (whole.data, whole.sums)


def test_salts_of_the_next_wal_count_up_and_wrap() -> None:
    assert salts_after(b"\x00\x00\x00\x09abcd", b"wxyz") == b"\x00\x00\x00\x0awxyz"
    assert salts_after(b"\xff\xff\xff\xffabcd", b"wxyz") == b"\x00\x00\x00\x00wxyz"


def prefix(header: WalIndexHeader, *, backfilled: int = 0) -> bytes:
    return header.encode() * 2 + struct.pack("=I", backfilled) + bytes(36)


SOUND = WalIndexHeader(7, 5, 9, Checksum(1, 2), b"saltsalt")


def with_field(offset: int, value: bytes) -> bytes:
    """SOUND's prefix with a field changed in both copies, and the checksums put right."""
    head = bytearray(SOUND.encode()[:40])
    head[offset : offset + len(value)] = value
    sealed = bytes(head) + struct.pack("=II", *checksum(bytes(head)))
    return sealed * 2 + bytes(40)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "copies"),
        (bytes(136), "checksum"),
        (prefix(SOUND)[:48] + prefix(SOUND._replace(change=8))[48:], "copies"),
        (prefix(SOUND)[:47] + b"?" + prefix(SOUND)[48:95] + b"?" + bytes(40), "checksum"),
        (with_field(0, b"\x01"), "version"),
        (with_field(12, b"\x00"), "checksum"),
        (with_field(13, b"\x01"), "big-endian"),
        (with_field(14, b"\x00\x20"), "8192"),
        (with_field(14, b"\x00\x20\x00\x00\x00\x00"), "8192"),  # in an empty WAL
        (with_field(14, b"\x00\x00"), "0 bytes"),
        (prefix(SOUND, backfilled=6), "checkpointed"),
        (prefix(SOUND._replace(frames=0), backfilled=1), "checkpointed"),
    ],
)
def test_a_header_that_sqlite_cannot_have_left_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DatabaseDamaged, match=reason):
        decode_index_prefix(data)


def test_sound_headers_are_read() -> None:
    """Also that of an empty WAL, in which SQLite has not set a page size yet."""
    assert decode_index_prefix(prefix(SOUND, backfilled=5)) == SOUND
    empty = WalIndexHeader(0, 0, 0, Checksum(0, 0), bytes(8))
    head = bytearray(empty.encode()[:40])
    head[14:16] = bytes(2)
    sealed = bytes(head) + struct.pack("=II", *checksum(bytes(head)))
    assert decode_index_prefix(sealed * 2 + bytes(40)) == empty


def test_big_endian_machines_are_refused_in_words() -> None:
    check_byte_order("little")
    with pytest.raises(EngineError, match="big-endian machine"):
        check_byte_order("big")
