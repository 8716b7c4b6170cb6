"""One commit's record: the images of the pages that a commit changed, and its token.

The same bytes stand in the log of the primary, on the link, and in the logs of the
replicas. A record is one or more *parts*, so that a commit of any size passes
through bounded memory; all parts of a commit carry its token, only the last one
makes the commit. Byte table: `proto/FORMAT.md`.

Invariants:

1. A part's digest covers every other byte of it, the digest of the part before
   included: equal digests mean equal histories, and a torn or stale part is never
   accepted.
2. Page numbers within a part are distinct.
3. `raw` is the truth; the other fields are read from it and never change.
"""

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

import xxhash

from proto.errors import RecordCorrupt, RecordTruncated
from proto.tokens import DIGEST_BYTES, TAG_BYTES, Bookmark, CommitToken

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC: Final = b"D1R1"
HEADER_BYTES: Final = 96
PART_PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Pages of one part, in bytes; a larger commit is written in several parts."""
PART_BYTES_MAX: Final = HEADER_BYTES + (4 + 65536) * 16384
"""No part is longer, whatever the page size: a bound for readers of untrusted bytes."""

FLAG_LAST: Final = 1
_DIGEST_AT: Final = 80
_CHAIN_BYTES: Final = DIGEST_BYTES - TAG_BYTES
# magic, length, epoch, part, seq, flags, page_count, pages, page_size, time_ms, checksum,
# durable_seq, digest of the part before. The part's own digest follows.
_HEADER: Final = struct.Struct("<4sIIIQIIIIQQQ16s")
assert _HEADER.size == _DIGEST_AT == HEADER_BYTES - DIGEST_BYTES


class CommitPart:
    """A part of one commit's record, read-only; see the module's head."""

    __slots__ = (
        "checksum",
        "digest",
        "durable_seq",
        "is_last",
        "page_count",
        "page_size",
        "part",
        "pgnos",
        "prev_digest",
        "raw",
        "time_ms",
        "token",
    )

    raw: bytes
    token: CommitToken
    part: int
    """0 for a commit's first part, then one more for each."""
    is_last: bool
    page_count: int
    """Pages in the database after the commit."""
    page_size: int
    time_ms: int
    """The primary's clock at the commit, milliseconds since 1970."""
    checksum: int
    """Rolling checksum of the whole database after the commit; 0 unless `is_last`."""
    durable_seq: int
    """What the primary's log held durably when it wrote this: proof against a hole before it."""
    prev_digest: bytes
    digest: bytes
    pgnos: tuple[int, ...]

    @property
    def bookmark(self) -> Bookmark:
        """The position after this part (a client's bookmark only if `is_last`)."""
        return Bookmark(self.token, self.digest)

    @property
    def pages_at(self) -> int:
        """Offset in `raw` of the first page image."""
        return HEADER_BYTES + 4 * len(self.pgnos)

    def page(self, index: int) -> memoryview:
        """The image of the page `pgnos[index]`."""
        start = HEADER_BYTES + 4 * len(self.pgnos) + index * self.page_size
        return memoryview(self.raw)[start : start + self.page_size]

    def pages(self) -> list[memoryview]:
        """The images of `pgnos`, in that order."""
        size, view = self.page_size, memoryview(self.raw)
        return [view[at : at + size] for at in range(self.pages_at, len(view), size)]

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        last = " last" if self.is_last else ""
        return f"<CommitPart {self.token} part {self.part}{last}, {len(self.pgnos)} pages>"


def part_length(pages: int, page_size: int) -> int:
    """Bytes of a part that holds `pages` page images."""
    return HEADER_BYTES + pages * (4 + page_size)


def encode_part(
    token: CommitToken,
    prev_digest: bytes,
    pgnos: Sequence[int],
    pages: Sequence[Buffer],
    *,
    page_count: int,
    page_size: int,
    checksum: int,
    time_ms: int,
    durable_seq: int,
    part: int = 0,
    is_last: bool = True,
) -> CommitPart:
    """Make the part of commit `token` that follows the part with `prev_digest`."""
    assert len(pgnos) == len(pages)
    count = len(pgnos)
    head = _HEADER.pack(
        MAGIC,
        HEADER_BYTES + count * (4 + page_size),
        token.epoch,
        part,
        token.seq,
        FLAG_LAST if is_last else 0,
        page_count,
        count,
        page_size,
        time_ms,
        checksum,
        durable_seq,
        prev_digest,
    )
    numbers = struct.pack(f"<{count}I", *pgnos)
    made = CommitPart()
    made.digest = digest = _digest(prev_digest, head, numbers, pages)
    made.raw = b"".join((head, digest, numbers, *pages))
    assert len(made.raw) == HEADER_BYTES + count * (4 + page_size)
    made.token = token
    made.part = part
    made.is_last = is_last
    made.page_count = page_count
    made.page_size = page_size
    made.time_ms = time_ms
    made.checksum = checksum
    made.durable_seq = durable_seq
    made.prev_digest = prev_digest
    made.pgnos = tuple(pgnos)
    return made


def decode_part(buffer: Buffer, offset: int = 0) -> CommitPart:
    """Read and verify the part at `offset`.

    Raises `RecordTruncated` if it goes on past the end of `buffer`, `RecordCorrupt`
    if these bytes are not a part or were changed.
    """
    view = memoryview(buffer)
    length, pages, page_size = _checked_length(view, offset)
    if len(view) - offset < length:
        raise RecordTruncated(f"a part of {length} bytes, {len(view) - offset} are there")
    raw = bytes(view[offset : offset + length])
    part = _from_header(raw)
    numbers_end = HEADER_BYTES + 4 * pages
    numbers = raw[HEADER_BYTES:numbers_end]
    body = memoryview(raw)[numbers_end:]
    if part.digest != _digest(part.prev_digest, raw[:_DIGEST_AT], numbers, (body,)):
        raise RecordCorrupt(f"the digest of {part.token} part {part.part} does not match its bytes")
    part.pgnos = struct.unpack(f"<{pages}I", numbers)
    assert page_size == part.page_size
    return part


def decode_header(buffer: Buffer, offset: int = 0) -> tuple[CommitPart, int]:
    """Read a part's header alone: its fields without `pgnos`, and the part's length.

    For hopping over parts that were verified before; the digest is not checked.
    Raises as `decode_part` does.
    """
    view = memoryview(buffer)
    length, _, _ = _checked_length(view, offset)
    return _from_header(bytes(view[offset : offset + HEADER_BYTES])), length


def _checked_length(view: memoryview, offset: int) -> tuple[int, int, int]:
    """(length, pages, page size) of the part at `offset`, found plausible."""
    if len(view) - offset < HEADER_BYTES:
        raise RecordTruncated(f"a header is {HEADER_BYTES} bytes, {len(view) - offset} are there")
    fields = _HEADER.unpack_from(view, offset)
    magic, length, pages, page_size = fields[0], fields[1], fields[7], fields[8]
    if magic != MAGIC:
        raise RecordCorrupt(f"no commit part begins with {magic!r}")
    is_power = page_size & (page_size - 1) == 0
    if not (512 <= page_size <= 65536 and is_power and length <= PART_BYTES_MAX):
        raise RecordCorrupt(f"impossible page size {page_size} or length {length}")
    if length != HEADER_BYTES + pages * (4 + page_size):
        raise RecordCorrupt(f"{pages} pages of {page_size} bytes do not make {length} bytes")
    return length, pages, page_size


def _from_header(raw: bytes) -> CommitPart:
    (
        _,
        _,
        epoch,
        number,
        seq,
        flags,
        page_count,
        _,
        page_size,
        time_ms,
        checksum,
        durable,
        prev,
    ) = _HEADER.unpack_from(raw)
    part = CommitPart()
    part.raw = raw
    part.token = CommitToken(epoch, seq)
    part.part = number
    part.is_last = bool(flags & FLAG_LAST)
    part.page_count = page_count
    part.page_size = page_size
    part.time_ms = time_ms
    part.checksum = checksum
    part.durable_seq = durable
    part.prev_digest = prev
    part.digest = raw[_DIGEST_AT:HEADER_BYTES]
    part.pgnos = ()
    return part


def _digest(prev_digest: bytes, head: bytes, numbers: bytes, pages: Sequence[Buffer]) -> bytes:
    """The lineage tag of `prev_digest`, then 12 bytes of xxh3_128 over header, numbers, pages."""
    chain = xxhash.xxh3_128(head)
    chain.update(numbers)
    for page in pages:
        chain.update(page)
    return prev_digest[:TAG_BYTES] + chain.digest()[:_CHAIN_BYTES]
