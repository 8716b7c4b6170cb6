"""SQLite's WAL and WAL-index formats: bytes to values and back, no I/O.

SQLite documents both in fileformat2.html and walformat.html. The `-wal` file is big-endian,
but the words that its checksums run over are little-endian (its magic number says so):

    WAL header, 32 bytes     magic, version, page size, sequence, two salts, checksum of these
    frame, 24 bytes + page   page number, page count after the commit (0 but in a commit's last
                             frame), the salts, running checksum of the first two and the page

The `-shm` file is in the machine's order, which must be little-endian: `check_byte_order`.

    0, and again from 48      WAL-index header: `WalIndexHeader`
    96                        how many frames are checkpointed, read marks: SQLite's own
    120                       bytes that SQLite locks
    blocks of 32 KiB          page number of each frame, u32, from 136 (first block) or 0;
                              8,192 hash slots, u16, from 16,384: `IndexBlock`
"""

import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Final, NamedTuple

from engine.errors import DatabaseDamaged, EngineError
from proto.record import Buffer

PAGE_SIZE: Final = 4096
LOCK_PAGE: Final = 0x40000000 // PAGE_SIZE + 1
"""The page that holds SQLite's lock bytes; it has no content and is never in a commit."""

WAL_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
FRAME_BYTES: Final = FRAME_HEADER_BYTES + PAGE_SIZE
WORD_MASK: Final = 0xFFFFFFFF

INDEX_HEADER_BYTES: Final = 48
INDEX_PREFIX_BYTES: Final = 136
"""Two copies of the header, then SQLite's own checkpoint state and lock bytes."""
BLOCK_BYTES: Final = 32 * 1024
BLOCK_SLOTS: Final = 8192
BLOCK_FRAMES: Final = 4096
FIRST_BLOCK_FRAMES: Final = BLOCK_FRAMES - INDEX_PREFIX_BYTES // 4
SLOTS_AT: Final = BLOCK_BYTES - 2 * BLOCK_SLOTS
"""Offset of the hash slots in each block."""

_VERSION: Final = 3007000
_MAGIC: Final = 0x377F0682  # checksums run over little-endian words
_HASH_FACTOR: Final = 383
_WAL_HEADER: Final = struct.Struct(">IIII8s")
_CHECKSUM_BE: Final = struct.Struct(">II")
_CHECKSUM: Final = struct.Struct("=II")
# version, unused, change counter, is it initialised, are checksums big-endian, page size,
# frames, page count, checksum of the last frame, salts as they stand in the WAL header.
_INDEX_HEADER: Final = struct.Struct("=IIIBBHIIII8s")
_BACKFILL: Final = struct.Struct("=I")
_BACKFILL_AT: Final = 2 * INDEX_HEADER_BYTES
_FRAMES: Final = struct.Struct("=I")
_FRAMES_AT: Final = 16
_WORDS: Final = struct.Struct("<10I")
_ALL_FREE: Final = array("H", range(BLOCK_SLOTS))
assert _INDEX_HEADER.size + _CHECKSUM.size == INDEX_HEADER_BYTES


class Checksum(NamedTuple):
    """SQLite's running checksum: two 32-bit sums."""

    first: int
    second: int


_START: Final = Checksum(0, 0)


def check_byte_order(byteorder: str = sys.byteorder) -> None:
    """Raise `EngineError` on a machine whose WAL-index this module cannot write."""
    if byteorder != "little":
        raise EngineError(
            f"this is a {byteorder}-endian machine; the server writes SQLite's WAL-index in "
            "the machine's own byte order and knows only little-endian: use x86-64 or arm64"
        )


def checksum(data: Buffer, start: Checksum = _START) -> Checksum:
    """SQLite's checksum of `data`, a multiple of 8 bytes; for headers, not for pages."""
    assert len(data) % 8 == 0
    first, second = start
    words = struct.unpack(f"<{len(data) // 4}I", data)
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & WORD_MASK
        second = (second + words[at + 1] + first) & WORD_MASK
    return Checksum(first, second)


def encode_wal_header(salts: bytes, sequence: int) -> tuple[bytes, Checksum]:
    """The header of a new WAL, and the checksum that its first frame goes on from."""
    head = _WAL_HEADER.pack(_MAGIC, _VERSION, PAGE_SIZE, sequence & WORD_MASK, salts)
    sums = checksum(head)
    return head + _CHECKSUM_BE.pack(*sums), sums


def salts_after(salts: bytes, chance: bytes) -> bytes:
    """Salts of the WAL after the one with `salts`: the first counts, the second is `chance`."""
    return ((int.from_bytes(salts[:4], "big") + 1) & WORD_MASK).to_bytes(4, "big") + chance


def frame_offset(frame: int) -> int:
    """Where frame `frame` (the first is 1) begins in the `-wal` file."""
    return WAL_HEADER_BYTES + (frame - 1) * FRAME_BYTES


class WalIndexHeader(NamedTuple):
    """What readers take their snapshot from: the header of the WAL-index.

    `frames` is the last frame of the last commit (SQLite calls it mxFrame), 0 in an empty
    WAL, whose `page_count` may be 0 too (then SQLite asks the file's size).
    """

    change: int
    frames: int
    page_count: int
    sums: Checksum
    """Running checksum after frame `frames`."""
    salts: bytes

    def encode(self) -> bytes:
        """One of the header's two equal copies, 48 bytes."""
        change, frames, page_count, (first, second), salts = self
        head = _INDEX_HEADER.pack(
            _VERSION, 0, change, 1, 0, PAGE_SIZE, frames, page_count, first, second, salts
        )
        return head + _CHECKSUM.pack(*_header_checksum(head))


def decode_index_prefix(data: bytes) -> WalIndexHeader:
    """Read the header from the first `INDEX_PREFIX_BYTES` of a `-shm` file.

    Only for the holder of the write lock: anybody else may meet a header half written.
    Raises `DatabaseDamaged` for what SQLite cannot have written, or not with this page size.
    """
    head, copy = data[:INDEX_HEADER_BYTES], data[INDEX_HEADER_BYTES : 2 * INDEX_HEADER_BYTES]
    if len(data) < INDEX_PREFIX_BYTES or head != copy:
        raise DatabaseDamaged("the two copies of the WAL-index header differ")
    fields = _INDEX_HEADER.unpack_from(head)
    version, _, change, is_init, is_big, page_size, frames, page_count, *sums, salts = fields
    if not is_init or _header_checksum(head[:-8]) != _CHECKSUM.unpack_from(head, 40):
        raise DatabaseDamaged("the WAL-index header does not match its own checksum")
    if version != _VERSION or is_big:
        raise DatabaseDamaged(f"a WAL-index of version {version}, big-endian {is_big}")
    if page_size != PAGE_SIZE and (page_size or frames):  # 0: nothing was ever written
        raise DatabaseDamaged(f"the database has pages of {page_size} bytes, not {PAGE_SIZE}")
    # SQLite sets both to 0 in one go. Frames written under a stale count would be
    # taken for checkpointed ones and lost.
    (backfilled,) = _BACKFILL.unpack_from(data, _BACKFILL_AT)
    if backfilled > frames:
        raise DatabaseDamaged(f"{backfilled} frames are checkpointed of {frames} in the WAL")
    return WalIndexHeader(change, frames, page_count, Checksum(*sums), salts)


def decode_frames(data: bytes) -> int:
    """The frame count alone, from the first bytes of a `-shm` file; 0 if it is still empty."""
    return int(_FRAMES.unpack_from(data, _FRAMES_AT)[0]) if len(data) >= _FRAMES_AT + 4 else 0


def _header_checksum(head: bytes) -> tuple[int, int]:
    """`checksum` of the 40 bytes of a WAL-index header, unrolled: it runs for every commit."""
    a, b, c, d, e, f, g, h, i, j = _WORDS.unpack(head)
    first = a
    second = b + first
    first += c + second
    second += d + first
    first += e + second
    second += f + first
    first += g + second
    second += h + first
    first += i + second
    second += j + first
    return first & WORD_MASK, second & WORD_MASK


def block_of(frame: int) -> int:
    """The WAL-index block that indexes frame `frame`."""
    return (frame + BLOCK_FRAMES - FIRST_BLOCK_FRAMES - 1) // BLOCK_FRAMES


class IndexBlock:
    """One block of the WAL-index: the page number of each frame, and a hash over them.

    A slot holds a frame's 1-based position in its block; a page that was written more
    than once is found at its last frame by going on to the chain's end. This holds the
    slots as they stand in the `-shm` file, so that adding a frame reads nothing.

    A page written by every commit makes a chain as long as the block. SQLite walks it; here
    `_onward` leads to its end: a free slot's own number, or a slot nearer to the free one.

    Invariant: `slots` has exactly the positions 1 to `count`.
    """

    __slots__ = ("_onward", "capacity", "count", "number", "slots")

    def __init__(self, number: int) -> None:
        """Block `number`, empty."""
        self.number = number
        self.capacity = FIRST_BLOCK_FRAMES if number == 0 else BLOCK_FRAMES
        self.count = 0
        self.slots = array("H", bytes(2 * BLOCK_SLOTS))
        self._onward = _ALL_FREE[:]

    @classmethod
    def decode(cls, data: bytes, frame: int) -> "IndexBlock":
        """The block whose bytes are `data`, without what it says of frames after `frame`."""
        block = cls(block_of(frame))
        block.count = frame - block.first_frame + 1
        block.slots = array("H", data[SLOTS_AT:])
        for slot, position in enumerate(block.slots):
            if position > block.count:
                block.slots[slot] = 0
            elif position:
                block._onward[slot] = (slot + 1) % BLOCK_SLOTS
        return block

    @property
    def first_frame(self) -> int:
        """The frame at position 1."""
        return 1 if self.number == 0 else FIRST_BLOCK_FRAMES + (self.number - 1) * BLOCK_FRAMES + 1

    @property
    def offset(self) -> int:
        """Where the block's bytes begin in the `-shm` file, the header left out."""
        return INDEX_PREFIX_BYTES if self.number == 0 else self.number * BLOCK_BYTES

    @property
    def slots_offset(self) -> int:
        """Where the block's hash slots begin in the `-shm` file."""
        return self.number * BLOCK_BYTES + SLOTS_AT

    def add(self, pgnos: Iterable[int]) -> list[int]:
        """Add the next frames, which hold the pages `pgnos`; the slots that changed."""
        changed = []
        for pgno in pgnos:
            self.count += 1
            slot = self._free_slot(pgno * _HASH_FACTOR % BLOCK_SLOTS)
            self.slots[slot] = self.count
            self._onward[slot] = (slot + 1) % BLOCK_SLOTS
            changed.append(slot)
        assert self.count <= self.capacity, f"block {self.number} has {self.capacity} frames"
        return changed

    def _free_slot(self, start: int) -> int:
        """The first free slot from `start` on, round the table; shortens the way for the next."""
        onward = self._onward
        free = start
        while onward[free] != free:
            free = onward[free]
        while start != free:
            onward[start], start = free, onward[start]
        return free
