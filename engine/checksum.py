"""Whether this database is, page for page, the one that the primary has.

Each page has a 64-bit hash (xxh3 of its image, seeded with its number); their XOR over all
pages is the *rolling checksum* that every commit record carries. A commit changes it by
the hashes of the pages that it touched, old ones out and new ones in, so keeping it costs
what the commit costs. XOR finds accidents, not attackers; the digests of the records do that.

Invariants:

1. `rolling` is the XOR of `hash(n)` for all pages n of 1 to `page_count`, the lock-byte
   page left out: it depends on the pages alone, not on the way there.
2. A page that nobody wrote is a page of zeros, as it is in the file.
3. Memory: 8 bytes per page.

Owned by the database's writer or applier.
"""

import os
from array import array
from collections.abc import Sequence
from functools import reduce
from operator import xor
from typing import Final

import numpy as np
import xxhash

from engine.errors import DatabaseDamaged
from engine.wal import LOCK_PAGE, PAGE_SIZE
from proto.record import Buffer

_CHUNK_PAGES: Final = 256  # 1 MiB: large enough for the disk, small enough for the cache
_ZERO_PAGE: Final = bytes(PAGE_SIZE)
_hash = xxhash.xxh3_64_intdigest


def page_hash(pgno: int, page: Buffer) -> int:
    """64-bit hash of one page's image and number."""
    return _hash(page, pgno)


class PageChecksums:
    """The hash of each page of one database; see the module's head."""

    __slots__ = ("_hashes", "rolling")

    rolling: int
    """XOR of all page hashes."""

    def __init__(self) -> None:
        """Of a database without pages."""
        self._hashes = array("Q")
        self.rolling = 0

    @property
    def page_count(self) -> int:
        """Pages in the database."""
        return len(self._hashes)

    @classmethod
    def from_file(cls, fd: int, page_count: int) -> "PageChecksums":
        """Hash the first `page_count` pages of a file; blocking, about 0.5 s per GB.

        Raises `DatabaseDamaged` if the file is shorter.
        """
        made = cls()
        hashes = made._hashes
        for first in range(1, page_count + 1, _CHUNK_PAGES):
            count = min(_CHUNK_PAGES, page_count + 1 - first)
            view = memoryview(_read_pages(fd, first, count))
            hashes.extend(
                [
                    _hash(view[at : at + PAGE_SIZE], pgno)
                    for pgno, at in enumerate(range(0, len(view), PAGE_SIZE), first)
                ]
            )
        if page_count >= LOCK_PAGE:
            hashes[LOCK_PAGE - 1] = 0
        made.rolling = int(np.bitwise_xor.reduce(np.frombuffer(hashes, np.uint64), initial=0))
        return made

    def replace(self, pgnos: Sequence[int], pages: Sequence[Buffer], page_count: int) -> int:
        """Take over what a commit (or a part of one) changed; the new rolling checksum.

        Pages beyond `page_count`, the database's after the commit, are left out.
        """
        hashes = self._hashes
        grown = page_count - len(hashes)
        if grown > 0:
            hashes.extend(array("Q", bytes(8 * grown)))
        rolling = self.rolling
        fresh = 0
        for pgno, page in zip(pgnos, pages, strict=True):
            if pgno > page_count or pgno == LOCK_PAGE:
                continue
            old, new = hashes[pgno - 1], _hash(page, pgno)
            fresh += not old
            rolling ^= old ^ new
            hashes[pgno - 1] = new
        if grown < 0:
            rolling = reduce(xor, hashes[page_count:], rolling)
            del hashes[page_count:]
        self.rolling = rolling
        if grown > fresh:
            self._fill_holes(page_count - grown)
        return self.rolling

    def _fill_holes(self, known: int) -> None:
        """Pages after `known` that have no image (yet) are zeros."""
        hashes = self._hashes
        for at in range(known, len(hashes)):
            if not hashes[at] and at + 1 != LOCK_PAGE:
                hashes[at] = _hash(_ZERO_PAGE, at + 1)
                self.rolling ^= hashes[at]


def _read_pages(fd: int, first: int, count: int) -> bytes:
    """`count` pages from page `first` on."""
    wanted, start = count * PAGE_SIZE, (first - 1) * PAGE_SIZE
    data = os.pread(fd, wanted, start)
    while len(data) < wanted:
        more = os.pread(fd, wanted - len(data), start + len(data))
        if not more:
            raise DatabaseDamaged(f"the file ends after {(start + len(data)) // PAGE_SIZE} pages")
        data += more
    return data
