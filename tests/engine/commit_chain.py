"""Chains of commits for tests of the log: small pages, real records."""

from random import Random

from proto.record import CommitPart, encode_part
from proto.tokens import Bookmark, CommitToken

PAGE_SIZE = 512
UUID = bytes(range(16))


def make_commit(
    after: Bookmark,
    *,
    pages: int = 1,
    parts: int = 1,
    durable_seq: int = 0,
    fill: bytes = b"",
    seed: int = 0,
    epoch: int | None = None,
    page_size: int = PAGE_SIZE,
) -> list[CommitPart]:
    """The parts of a commit that follows `after`; `seed` makes its pages different."""
    token = CommitToken(after.token.epoch if epoch is None else epoch, after.seq + 1)
    random = Random(f"{seed}/{token.seq}/{after.digest.hex()}")
    digest = after.digest
    made = []
    for number in range(parts):
        pgnos = [number * pages + index + 1 for index in range(pages)]
        images = [(fill or random.randbytes(32)).ljust(page_size, b"\7") for _ in pgnos]
        part = encode_part(
            token,
            digest,
            pgnos,
            images,
            page_count=parts * pages,
            page_size=page_size,
            checksum=random.getrandbits(64) if number == parts - 1 else 0,
            time_ms=1_700_000_000_000 + token.seq,
            durable_seq=durable_seq,
            part=number,
            is_last=number == parts - 1,
        )
        digest = part.digest
        made.append(part)
    return made


def make_chain(
    after: Bookmark, commits: int, *, pages: int = 1, durable_seq: int | None = None
) -> list[CommitPart]:
    """One-part commits, each in the chain; `durable_seq` None: each one's predecessor."""
    made: list[CommitPart] = []
    for _ in range(commits):
        durable = after.seq if durable_seq is None else durable_seq
        made += make_commit(after, pages=pages, durable_seq=durable)
        after = made[-1].bookmark
    return made
