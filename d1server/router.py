"""Where a request is answered. Pure: values in, a decision out.

| request carries          | on a replica                           | on the primary |
|--------------------------|----------------------------------------|----------------|
| bookmark                 | wait until applied >= it, then serve    | serve          |
| `first-unconstrained`    | serve what is there                     | serve          |
| `first-primary`          | forward                                 | serve          |
| nothing                  | forward (no session: always the primary)| serve          |
| a statement that writes  | forward                                 | serve          |

A bookmark that cannot be one of this database's (`BookmarkAge`) is refused at once, on either
side; the route is for the others.
"""

import enum
from collections.abc import Callable
from typing import Final

from d1server.query import Constraint
from proto.tokens import Bookmark


class Route(enum.Enum):
    """What to do with a request."""

    SERVE = "serve"
    WAIT = "wait"  # for the bookmark's commit, then serve
    FORWARD = "forward"


class BookmarkAge(enum.Enum):
    """How a bookmark stands to a state of the database."""

    REACHED = "reached"  # the state has it
    AHEAD = "ahead"  # the state does not have it yet
    FOREIGN = "foreign"  # it is another database's
    FORKED = "forked"  # it is of a history that this database did not take


_REACHED: Final = BookmarkAge.REACHED  # looked up once: it is nearly always the answer


def age_of(
    bookmark: Bookmark, state: Bookmark, digest_at: Callable[[int], bytes | None]
) -> BookmarkAge:
    """How `bookmark` stands to `state`, the newest commit that readers see.

    `digest_at` knows the digest of earlier commits, None for those that are trimmed: of
    these only the lineage tag and the order can be checked, and any state is newer.
    """
    token, digest = bookmark
    if bookmark.tag != state.tag:
        return BookmarkAge.FOREIGN
    if token > state.token:
        return BookmarkAge.AHEAD
    if token == state.token:
        return _REACHED if digest == state.digest else BookmarkAge.FORKED
    if token.seq > state.token.seq:  # of an earlier epoch, and numbers never go back
        return BookmarkAge.FORKED
    known = digest_at(token.seq)
    return _REACHED if known is None or known == digest else BookmarkAge.FORKED


def route_on_replica(
    constraint: Constraint, age: BookmarkAge | None, *, writes: bool, is_here: bool
) -> Route:
    """Where a replica has a request answered. `age` is set when the constraint is a bookmark.

    `is_here`: the replica has a sound state of the database to read from.
    """
    if writes or not is_here or constraint in (Constraint.NONE, Constraint.PRIMARY):
        return Route.FORWARD
    return Route.WAIT if age is BookmarkAge.AHEAD else Route.SERVE
