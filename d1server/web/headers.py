"""What a request's headers ask for: how fresh, how long to wait, which write this is.

Pure: header names and values in, `Wishes` out, or `RequestInvalid` with a message that
says what to send instead. Both ways into the node (fast path and aiohttp) read their
headers here, so that a client meets one behaviour.

Invariants:

1. `Wishes.bookmark` is set exactly when `Wishes.constraint` is BOOKMARK.
2. Headers that are not named here change nothing.
3. A header given twice with two meanings is refused, never resolved by position.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from d1server.query import Constraint, OnTimeout
from proto.errors import BookmarkInvalid, RequestInvalid
from proto.tokens import Bookmark

BOOKMARK_HEADER: Final = "x-d1-bookmark"
BOOKMARK_NAMES: Final = frozenset({BOOKMARK_HEADER, "x-d1-token", "x-cf-d1-session-commit-token"})
MAX_WAIT_HEADER: Final = "x-d1-max-wait-ms"
ON_TIMEOUT_HEADER: Final = "x-d1-on-timeout"
IDEMPOTENCY_HEADER: Final = "idempotency-key"

WISH_NAMES: Final = BOOKMARK_NAMES | {MAX_WAIT_HEADER, ON_TIMEOUT_HEADER, IDEMPOTENCY_HEADER}

MAX_WAIT_MS_MAX: Final = 60_000  # a proxy in front gives up at about this age
IDEMPOTENCY_KEY_BYTES_MAX: Final = 255  # it is stored with the write
_SHOWN_CHARACTERS_MAX: Final = 80  # of a refused value, in the message

CONSTRAINTS: Final = {
    "first-unconstrained": Constraint.UNCONSTRAINED,
    "first-unconditional": Constraint.UNCONSTRAINED,  # the early name
    "first-primary": Constraint.PRIMARY,
}
_POLICIES: Final = {policy.value: policy for policy in OnTimeout}


class Wishes(msgspec.Struct, frozen=True, gc=False):
    """The session and retry headers of one request, understood."""

    constraint: Constraint = Constraint.NONE
    bookmark: Bookmark | None = None
    max_wait_s: float | None = None
    on_timeout: OnTimeout = OnTimeout.PRIMARY
    idempotency_key: str | None = None
    answer_header: str = BOOKMARK_HEADER  # the name under which the client knows bookmarks


NO_WISHES: Final = Wishes()


def read_wishes(headers: Iterable[tuple[str, str]]) -> Wishes:
    """Read (lower-case name, value) pairs. Raises `RequestInvalid`."""
    wanted = _gather(headers)
    if not wanted:
        return NO_WISHES
    constraint, bookmark, answer_header = _read_bookmark(wanted)
    max_wait = wanted.get(MAX_WAIT_HEADER)
    on_timeout = wanted.get(ON_TIMEOUT_HEADER)
    key = wanted.get(IDEMPOTENCY_HEADER)
    return Wishes(
        constraint,
        bookmark,
        None if max_wait is None else _read_max_wait_s(max_wait),
        OnTimeout.PRIMARY if on_timeout is None else _read_on_timeout(on_timeout),
        None if key is None else _read_idempotency_key(key),
        answer_header,
    )


def _gather(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for name, raw in headers:
        if name in WISH_NAMES:
            value = raw.strip(" \t")
            if wanted.setdefault(name, value) != value:
                raise RequestInvalid(f"header {name} is given twice with two values: send it once")
    return wanted


def _read_bookmark(wanted: dict[str, str]) -> tuple[Constraint, Bookmark | None, str]:
    name: str = BOOKMARK_HEADER
    value: str | None = None
    for other, given in wanted.items():
        if other not in BOOKMARK_NAMES:
            continue
        if value is not None and given != value:
            raise RequestInvalid(
                f"headers {name} and {other} mean the same and have two values: send one of them"
            )
        value = given
        # Under x-d1-bookmark it goes out in any case; the other name is what must not be lost.
        if other != BOOKMARK_HEADER:
            name = other
    if value is None:
        return Constraint.NONE, None, name
    constraint = CONSTRAINTS.get(value)
    if constraint is not None:
        return constraint, None, name
    try:
        return Constraint.BOOKMARK, Bookmark.parse(value), name
    except BookmarkInvalid as exc:
        raise RequestInvalid(f"header {name}: {exc}") from exc


def _read_max_wait_s(value: str) -> float:
    if value.isascii() and value.isdigit() and len(value) <= 9:
        milliseconds = int(value)
        if milliseconds <= MAX_WAIT_MS_MAX:
            return milliseconds / 1000
    raise RequestInvalid(
        f"header {MAX_WAIT_HEADER}: {_shown(value)} is not a whole number of milliseconds"
        f" from 0 to {MAX_WAIT_MS_MAX}"
    )


def _read_on_timeout(value: str) -> OnTimeout:
    policy = _POLICIES.get(value)
    if policy is None:
        raise RequestInvalid(
            f"header {ON_TIMEOUT_HEADER}: {_shown(value)} is none of {', '.join(_POLICIES)}"
        )
    return policy


def _read_idempotency_key(value: str) -> str:
    if 1 <= len(value) <= IDEMPOTENCY_KEY_BYTES_MAX and all("!" <= c <= "~" for c in value):
        return value
    raise RequestInvalid(
        f"header {IDEMPOTENCY_HEADER}: send 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII"
        f" characters without spaces, not {_shown(value)}"
    )


def _shown(value: str) -> str:
    if len(value) <= _SHOWN_CHARACTERS_MAX:
        return repr(value)
    return repr(value[: _SHOWN_CHARACTERS_MAX - 3] + "...")
