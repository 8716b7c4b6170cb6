"""Page images to WAL frames, many at once.

A frame's checksum goes on from the frame's before it, over the frame header's first 8
bytes and the page, two words at a time: `s1 += x0 + s2; s2 += x1 + s1`. Written out, s1
and s2 after a frame are sums of the words and the old s1 and s2, each times a Fibonacci
number, modulo 2**32. So numpy takes one dot product per frame, and only the step from
frame to frame is left to Python: about 3 us per page, where the loop takes 270.

The sums being linear, the page count that marks a commit's last frame can be put
in later: `mark_commit`.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from engine.wal import FRAME_BYTES, FRAME_HEADER_BYTES, PAGE_SIZE, WORD_MASK, Checksum
from proto.record import Buffer

_HEADER: Final = struct.Struct(">II8s8x")  # page number, page count or 0, salts; the checksum
_SUMS: Final = struct.Struct(">II")
_SUMS_AT: Final = 16
_MARK: Final = struct.Struct(">I8sII")
MARK_AT: Final = 4
"""Offset in a frame of what `mark_commit` makes."""
_WORD: Final = np.dtype("<u4")
_FRAME_WORDS: Final = FRAME_BYTES // 4
_SUMMED_WORDS: Final = 2 + PAGE_SIZE // 4


def _fibonacci(count: int) -> list[int]:
    numbers = [0, 1]
    while len(numbers) < count:
        numbers.append((numbers[-1] + numbers[-2]) & WORD_MASK)
    return numbers


_FIB: Final = _fibonacci(_SUMMED_WORDS + 2)


def _weights() -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """Weight of each word of a frame in s1 and in s2; 0 for salts and checksum."""
    weights = np.zeros((2, _FRAME_WORDS), np.uint32)
    summed = [0, 1, *range(FRAME_HEADER_BYTES // 4, _FRAME_WORDS)]
    weights[0, summed] = _FIB[_SUMMED_WORDS - 1 :: -1]
    weights[1, summed] = _FIB[_SUMMED_WORDS:0:-1]
    return weights


_WEIGHTS: Final = _weights()
_FIRST: Final = _FIB[_SUMMED_WORDS - 1]  # weight of the old s1 in the new s1
_BOTH: Final = _FIB[_SUMMED_WORDS]  # of each in the other
_SECOND: Final = _FIB[_SUMMED_WORDS + 1]  # of the old s2 in the new s2
_MARK_FIRST: Final = int(_WEIGHTS[0, 1])
_MARK_SECOND: Final = int(_WEIGHTS[1, 1])


class FrameRun(NamedTuple):
    """Frames as they stand in the WAL, one after the other."""

    data: bytearray
    sums: Checksum
    """Running checksum after the last frame."""


def encode_frames(
    pgnos: Sequence[int], pages: Sequence[Buffer], salts: bytes, sums: Checksum, *, page_count: int
) -> FrameRun:
    """Frames for `pages`, after a frame with the checksum `sums`.

    `page_count` is the database's after the commit if these are its last frames, else 0.
    """
    pieces: list[Buffer] = []
    for pgno, page in zip(pgnos, pages, strict=True):
        pieces += (_HEADER.pack(pgno, 0, salts), page)
    if page_count:
        pieces[-2] = _HEADER.pack(pgnos[-1], page_count, salts)
    data = bytearray().join(pieces)
    assert len(data) == len(pages) * FRAME_BYTES, "pages are of PAGE_SIZE bytes"
    words = np.ndarray((len(pages), _FRAME_WORDS), _WORD, data)
    first, second = sums
    at = _SUMS_AT
    for own_first, own_second in np.einsum("ij,kj->ik", words, _WEIGHTS).tolist():
        first, second = (
            (_FIRST * first + _BOTH * second + own_first) & WORD_MASK,
            (_BOTH * first + _SECOND * second + own_second) & WORD_MASK,
        )
        _SUMS.pack_into(data, at, first, second)
        at += FRAME_BYTES
    return FrameRun(data, Checksum(first, second))


def mark_commit(page_count: int, salts: bytes, sums: Checksum) -> tuple[bytes, Checksum]:
    """Make the last frame written, whose checksum is `sums`, the last one of a commit.

    Gives the bytes to put at `MARK_AT` of that frame, and its new checksum.
    """
    word = int.from_bytes(page_count.to_bytes(4, "big"), "little")
    first = (sums.first + _MARK_FIRST * word) & WORD_MASK
    second = (sums.second + _MARK_SECOND * word) & WORD_MASK
    return _MARK.pack(page_count, salts, first, second), Checksum(first, second)
