"""Commit records: what is read is what was written, or an error."""

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.errors import RecordCorrupt, RecordTruncated
from proto.record import (
    HEADER_BYTES,
    PART_BYTES_MAX,
    CommitPart,
    decode_header,
    decode_part,
    encode_part,
    part_length,
)
from proto.tokens import TAG_BYTES, CommitToken

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)


@dataclass
class Fields:
    """Everything that a part says."""

    token: CommitToken
    prev_digest: bytes
    pgnos: list[int]
    page_size: int
    page_count: int
    checksum: int
    time_ms: int
    durable_seq: int
    part: int
    is_last: bool

    @property
    def pages(self) -> list[bytes]:
        return [
            bytes([pgno % 251, index]) * (self.page_size // 2)
            for index, pgno in enumerate(self.pgnos)
        ]

    def encode(self) -> CommitPart:
        return encode_part(
            self.token,
            self.prev_digest,
            self.pgnos,
            self.pages,
            page_count=self.page_count,
            page_size=self.page_size,
            checksum=self.checksum,
            time_ms=self.time_ms,
            durable_seq=self.durable_seq,
            part=self.part,
            is_last=self.is_last,
        )


fields = st.builds(
    Fields,
    token=st.builds(CommitToken, u32, u64),
    prev_digest=st.binary(min_size=16, max_size=16),
    pgnos=st.lists(st.integers(1, 2**32 - 1), unique=True, max_size=5),
    page_size=st.sampled_from([512, 1024, 4096, 65536]),
    page_count=u32,
    checksum=u64,
    time_ms=u64,
    durable_seq=u64,
    part=u32,
    is_last=st.booleans(),
)
quick = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


@given(fields, st.binary(max_size=40), st.binary(max_size=40))
@quick
def test_a_part_and_back(given_fields: Fields, before: bytes, after: bytes) -> None:
    """Every field, at any offset, with anything behind it."""
    made = given_fields.encode()
    for part in (made, decode_part(before + made.raw + after, len(before))):
        assert part.raw == made.raw
        assert (part.token, part.part) == (given_fields.token, given_fields.part)
        assert part.is_last is given_fields.is_last
        assert (part.page_count, part.page_size) == (
            given_fields.page_count,
            given_fields.page_size,
        )
        assert (part.time_ms, part.checksum) == (given_fields.time_ms, given_fields.checksum)
        assert part.durable_seq == given_fields.durable_seq
        assert part.prev_digest == given_fields.prev_digest
        assert part.pgnos == tuple(given_fields.pgnos)
        assert [bytes(page) for page in part.pages()] == given_fields.pages
        assert [bytes(part.page(at)) for at in range(len(part.pgnos))] == given_fields.pages
        assert part.digest[:TAG_BYTES] == given_fields.prev_digest[:TAG_BYTES]
        assert len(part) == part_length(len(part.pgnos), part.page_size)
    header, length = decode_header(made.raw)
    assert (header.token, header.digest, length) == (made.token, made.digest, len(made))


@given(fields, st.data())
@quick
def test_a_part_that_ends_early_is_truncated(given_fields: Fields, data: st.DataObject) -> None:
    """At every length below its own: never an accepted part, never corrupt."""
    raw = given_fields.encode().raw
    with pytest.raises(RecordTruncated):
        decode_part(raw[: data.draw(st.integers(0, len(raw) - 1))])


def small_part() -> CommitPart:
    return Fields(
        token=CommitToken(1, 77),
        prev_digest=bytes(range(16)),
        pgnos=[1, 9],
        page_size=512,
        page_count=9,
        checksum=2**63 + 5,
        time_ms=1_700_000_000_000,
        durable_seq=76,
        part=0,
        is_last=True,
    ).encode()


def test_every_flipped_bit_is_found() -> None:
    """Of header, numbers, pages and digests alike: each of some 9,000 bits."""
    raw = small_part().raw
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((RecordCorrupt, RecordTruncated)):
            decode_part(changed)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((RecordCorrupt, RecordTruncated)):
        decode_part(data)


def test_the_digest_names_the_whole_history() -> None:
    """The same commit after another one has another digest."""
    one = small_part()
    other = Fields(
        token=one.token,
        prev_digest=one.prev_digest[:15] + b"\xff",
        pgnos=list(one.pgnos),
        page_size=512,
        page_count=9,
        checksum=one.checksum,
        time_ms=one.time_ms,
        durable_seq=one.durable_seq,
        part=0,
        is_last=True,
    ).encode()
    assert [bytes(page) for page in one.pages()] == [bytes(page) for page in other.pages()]
    assert one.digest != other.digest


def test_a_length_that_would_take_all_memory_is_refused_from_the_header() -> None:
    """Before a single byte behind the header is asked for."""
    raw = bytearray(small_part().raw[:HEADER_BYTES])
    raw[4:8] = (PART_BYTES_MAX + 1).to_bytes(4, "little")
    with pytest.raises(RecordCorrupt):
        decode_part(raw)
    pages, page_size = 30_000, 65536
    raw[4:8] = part_length(pages, page_size).to_bytes(4, "little")
    raw[32:40] = pages.to_bytes(4, "little") + page_size.to_bytes(4, "little")
    with pytest.raises(RecordCorrupt, match="impossible"):
        decode_header(raw)


def test_a_stale_part_in_the_place_of_a_newer_one_is_told_apart() -> None:
    """Its own digest is right; it is the chain that it does not fit."""
    first = small_part()
    again = decode_part(first.raw)
    assert again.prev_digest != first.digest
