"""Tokens and bookmarks: their text is their order, and nothing else is taken for one."""

import contextlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.errors import BookmarkInvalid
from proto.tokens import (
    DIGEST_BYTES,
    SEQ_MAX,
    TEXT_LENGTH,
    Bookmark,
    CommitToken,
    genesis,
    lineage_tag,
)

tokens = st.builds(CommitToken, st.integers(0, 2**32 - 1), st.integers(0, SEQ_MAX))
digests = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)
bookmarks = st.builds(Bookmark, tokens, digests)


@given(bookmarks)
def test_text_and_back(bookmark: Bookmark) -> None:
    assert Bookmark.parse(bookmark.text) == bookmark
    assert len(bookmark.text) == TEXT_LENGTH
    assert str(bookmark) == bookmark.text == bookmark.text.lower()


@given(tokens, tokens, digests)
def test_text_sorts_as_age(one: CommitToken, other: CommitToken, digest: bytes) -> None:
    """Within one history, clients may compare bookmarks as text."""
    assert (one < other) == (Bookmark(one, digest).text < Bookmark(other, digest).text)
    assert (one < other) == (str(one) < str(other))


@given(bookmarks, st.integers(0, TEXT_LENGTH - 1), st.characters())
def test_other_texts_are_refused(bookmark: Bookmark, at: int, letter: str) -> None:
    """One letter changed is another bookmark or none, never an accident of parsing."""
    changed = bookmark.text[:at] + letter + bookmark.text[at + 1 :]
    try:
        parsed = Bookmark.parse(changed)
    except BookmarkInvalid:
        return
    assert parsed.text == changed


@given(st.text(max_size=100))
def test_any_text_is_refused_cleanly(text: str) -> None:
    with contextlib.suppress(BookmarkInvalid):
        assert Bookmark.parse(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "first-primary",
        "0" * TEXT_LENGTH,
        "00000001-00000000-00000002-" + "A" * 32,
        "00000001-00000000-00000002-" + "0" * 31 + "\n",
        "00000001-00000000-00000002-" + "0" * 31 + "٣",  # a digit, but not one of ours
        " 0000001-00000000-00000002-" + "0" * 32,
        "0000_001-00000000-00000002-" + "0" * 32,
        "+0000001-00000000-00000002-" + "0" * 32,
    ],
)
def test_near_misses(text: str) -> None:
    with pytest.raises(BookmarkInvalid):
        Bookmark.parse(text)


def test_databases_differ_from_their_beginning() -> None:
    one, other = uuid.uuid4().bytes, uuid.uuid4().bytes
    assert genesis(one) != genesis(other)
    assert genesis(one).tag == lineage_tag(one) != lineage_tag(other)
    assert genesis(one).seq == 0
    assert genesis(one) == genesis(one)
