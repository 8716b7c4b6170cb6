"""The rolling checksum: what it depends on, and what it does not."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checksum import PageChecksums, page_hash
from engine.errors import DatabaseDamaged
from engine.wal import LOCK_PAGE, PAGE_SIZE

ZEROS = bytes(PAGE_SIZE)

commits = st.lists(
    st.tuples(
        st.dictionaries(st.integers(1, 30), st.integers(0, 255), max_size=8),
        st.integers(1, 30),
    ),
    max_size=12,
)


def page(fill: int) -> bytes:
    return bytes([fill]) * PAGE_SIZE


def rolling_of(pages: list[bytes]) -> int:
    total = 0
    for pgno, image in enumerate(pages, 1):
        total ^= page_hash(pgno, image)
    return total


@given(commits)
def test_rolling_depends_on_the_pages_not_on_the_way_there(
    history: list[tuple[dict[int, int], int]],
) -> None:
    """After each commit (pages in, file longer or shorter, holes left) it is that of the file.

    Method: a list of pages plays the file; what a commit does not give is zeros.
    """
    sums = PageChecksums()
    pages: list[bytes] = []
    for changed, page_count in history:
        pages += [ZEROS] * (page_count - len(pages))
        for pgno, fill in changed.items():
            if pgno <= page_count:
                pages[pgno - 1] = page(fill)
        del pages[page_count:]
        returned = sums.replace(
            list(changed), [page(fill) for fill in changed.values()], page_count
        )
        assert returned == sums.rolling == rolling_of(pages)
        assert sums.page_count == page_count


def test_a_large_commit_in_parts_ends_in_the_same_value() -> None:
    """Parts give the final page count from the start; their pages come bit by bit."""
    images = [page(fill) for fill in range(1, 101)]
    whole, parts = PageChecksums(), PageChecksums()
    whole.replace(range(1, 101), images, 100)
    for first in range(0, 100, 30):
        numbers = range(first + 1, min(first + 31, 101))
        parts.replace(numbers, images[first : first + 30], 100)
    assert parts.rolling == whole.rolling == rolling_of(images)


def test_same_page_at_two_numbers_does_not_cancel_out() -> None:
    assert page_hash(1, page(7)) != page_hash(2, page(7))


@pytest.mark.parametrize("page_count", [0, 1, 255, 256, 257, 1000])
def test_reading_a_file_gives_what_the_commits_gave(tmp_path: Path, page_count: int) -> None:
    images = [os.urandom(PAGE_SIZE) for _ in range(page_count)]
    path = tmp_path / "db"
    path.write_bytes(b"".join(images) + b"beyond the database")
    sums = PageChecksums()
    sums.replace(range(1, page_count + 1), images, page_count)
    with path.open("rb") as file:
        read = PageChecksums.from_file(file.fileno(), page_count)
    assert (read.rolling, read.page_count) == (sums.rolling, page_count)
    assert read.replace([], [], page_count // 2) == sums.replace([], [], page_count // 2)


def test_a_file_that_is_too_short_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(bytes(300 * PAGE_SIZE - 1))
    with path.open("rb") as file, pytest.raises(DatabaseDamaged, match="299 pages"):
        PageChecksums.from_file(file.fileno(), 300)


def test_the_lock_page_counts_nowhere(tmp_path: Path) -> None:
    """Around 1 GiB: in a file, in a commit, and when the database ends before it again.

    Method: a sparse file just longer than the lock page, with anything in that page.
    """
    count = LOCK_PAGE + 1
    assert LOCK_PAGE == 262145
    path = tmp_path / "db"
    with path.open("w+b") as file:
        file.truncate(count * PAGE_SIZE)
        os.pwrite(file.fileno(), b"lock bytes", (LOCK_PAGE - 1) * PAGE_SIZE)
        read = PageChecksums.from_file(file.fileno(), count)
    sums = PageChecksums()
    sums.replace([LOCK_PAGE, count], [page(9), ZEROS], count)
    assert sums.rolling == read.rolling
    assert sums.replace([LOCK_PAGE], [page(8)], count) == read.rolling
    assert sums.replace([], [], 2) == page_hash(1, ZEROS) ^ page_hash(2, ZEROS)
