"""Whether a live database's WAL-index says of its WAL what it must: every entry, every slot.

Written from SQLite's description of the format and nothing else, one entry at a time. Readers
meet a wrong slot only now and then; this finds it whenever it stands there.
"""

import os
import struct

from engine.files import HeldFiles

BLOCK_BYTES = 32768
HEADER_BYTES = 136
FRAME_BYTES = 24 + 4096


class BadIndex(AssertionError):
    """The WAL-index does not describe the WAL."""


def check_wal_index(files: HeldFiles) -> int:
    """Check the index of all published frames; how many there are. Nobody may be writing."""
    shm = os.pread(files.shm_fd, os.fstat(files.shm_fd).st_size, 0)
    if shm[:48] != shm[48:96]:
        raise BadIndex("the two copies of the header differ")
    (frames,) = struct.unpack_from("=I", shm, 16)
    pgnos = [_pgno_of(files, frame) for frame in range(1, frames + 1)]
    first, block = 0, 0
    while first < frames:
        capacity = (BLOCK_BYTES // 2 - (HEADER_BYTES if block == 0 else 0)) // 4
        _check_block(shm[block * BLOCK_BYTES :][:BLOCK_BYTES], block, pgnos[first:][:capacity])
        first += capacity
        block += 1
    return int(frames)


def _pgno_of(files: HeldFiles, frame: int) -> int:
    return int.from_bytes(os.pread(files.wal_fd, 4, 32 + (frame - 1) * FRAME_BYTES), "big")


def _check_block(data: bytes, block: int, pgnos: list[int]) -> None:
    start = HEADER_BYTES if block == 0 else 0
    unused = (BLOCK_BYTES // 2 - start) // 4 - len(pgnos)
    entries = struct.unpack_from(f"={len(pgnos) + unused}I", data, start)
    if list(entries) != pgnos + [0] * unused:
        raise BadIndex(f"block {block} lists other pages than the WAL's frames hold")
    slots = struct.unpack_from("=8192H", data, BLOCK_BYTES // 2)
    if sorted(slot for slot in slots if slot) != list(range(1, len(pgnos) + 1)):
        raise BadIndex(f"block {block} has not one slot for each of its {len(pgnos)} frames")
    newest = {pgno: position for position, pgno in enumerate(pgnos, 1)}
    for pgno, position in newest.items():
        if _look_up(slots, entries, pgno) != position:
            raise BadIndex(f"block {block}: page {pgno} is not found at its newest frame")


def _look_up(slots: tuple[int, ...], entries: tuple[int, ...], pgno: int) -> int:
    """As SQLite's readers do: along the chain to a free slot, the last match counts."""
    slot, found = pgno * 383 % 8192, 0
    while slots[slot]:
        if entries[slots[slot] - 1] == pgno:
            found = slots[slot]
        slot = (slot + 1) % 8192
    return found
