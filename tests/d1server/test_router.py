"""Where requests go, and what bookmarks mean: the tables, row by row."""

import itertools

import pytest

from d1server.query import Constraint
from d1server.router import BookmarkAge, Route, age_of, route_on_replica
from proto.tokens import Bookmark, CommitToken

TAG = b"tag!"
OTHER = b"else"


def mark(epoch: int, seq: int, chain: bytes = b"ours", tag: bytes = TAG) -> Bookmark:
    return Bookmark(CommitToken(epoch, seq), tag + chain * 3)


STATE = mark(2, 50)


def digest_at(seq: int) -> bytes | None:
    """The log holds commits 20 to 50."""
    return mark(1, seq).digest if 20 <= seq <= 50 else None


@pytest.mark.parametrize(
    ("bookmark", "age"),
    [
        (mark(2, 50), BookmarkAge.REACHED),
        (mark(2, 49), BookmarkAge.REACHED),
        (mark(1, 30), BookmarkAge.REACHED),
        (mark(1, 19), BookmarkAge.REACHED),  # trimmed: only tag and order are known
        (mark(1, 0), BookmarkAge.REACHED),
        (mark(2, 51), BookmarkAge.AHEAD),
        (mark(3, 1), BookmarkAge.AHEAD),
        (mark(2, 2**64 - 1), BookmarkAge.AHEAD),
        (mark(2, 50, b"lost"), BookmarkAge.FORKED),
        (mark(2, 30, b"lost"), BookmarkAge.FORKED),
        (mark(1, 30, b"lost"), BookmarkAge.FORKED),
        (mark(1, 70), BookmarkAge.FORKED),  # of an epoch whose end was lost
        (mark(2, 50, tag=OTHER), BookmarkAge.FOREIGN),
        (mark(2, 10, tag=OTHER), BookmarkAge.FOREIGN),
        (mark(9, 90, tag=OTHER), BookmarkAge.FOREIGN),
    ],
)
def test_age(bookmark: Bookmark, age: BookmarkAge) -> None:
    assert age_of(bookmark, STATE, digest_at) is age


@pytest.mark.parametrize(
    ("constraint", "age", "route"),
    [
        (Constraint.NONE, None, Route.FORWARD),
        (Constraint.PRIMARY, None, Route.FORWARD),
        (Constraint.UNCONSTRAINED, None, Route.SERVE),
        (Constraint.BOOKMARK, BookmarkAge.REACHED, Route.SERVE),
        (Constraint.BOOKMARK, BookmarkAge.AHEAD, Route.WAIT),
    ],
)
def test_route_of_a_read(constraint: Constraint, age: BookmarkAge | None, route: Route) -> None:
    assert route_on_replica(constraint, age, writes=False, is_here=True) is route


def test_writes_and_missing_databases_always_go_to_the_primary() -> None:
    for constraint, age in itertools.product(Constraint, (None, *BookmarkAge)):
        for writes, is_here in ((True, True), (True, False), (False, False)):
            route = route_on_replica(constraint, age, writes=writes, is_here=is_here)
            assert route is Route.FORWARD
