"""Session and retry headers: every spelling, every refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d1server.query import Constraint, OnTimeout
from d1server.web.headers import BOOKMARK_NAMES, NO_WISHES, WISH_NAMES, read_wishes
from proto.errors import RequestInvalid
from proto.tokens import Bookmark, CommitToken

BOOKMARK = Bookmark(CommitToken(1, 2**40 + 7), bytes(range(16)))
OTHER = Bookmark(CommitToken(1, 8), bytes(range(16)))


def test_no_header_means_no_session() -> None:
    """Without a header the primary answers, with the node's default wait and policy."""
    wishes = read_wishes([("host", "x"), ("accept", "*/*")])
    assert wishes is NO_WISHES
    assert wishes.constraint is Constraint.NONE
    assert wishes.on_timeout is OnTimeout.PRIMARY
    assert wishes.max_wait_s is None


@pytest.mark.parametrize("name", sorted(BOOKMARK_NAMES))
@pytest.mark.parametrize(
    ("value", "constraint"),
    [
        ("first-primary", Constraint.PRIMARY),
        ("first-unconstrained", Constraint.UNCONSTRAINED),
        ("first-unconditional", Constraint.UNCONSTRAINED),
        (BOOKMARK.text, Constraint.BOOKMARK),
        (f" \t{BOOKMARK.text} ", Constraint.BOOKMARK),
    ],
)
def test_all_names_and_values_of_a_session(name: str, value: str, constraint: Constraint) -> None:
    """The three names of the header mean the same, and the answer goes out under the one used."""
    wishes = read_wishes([(name, value)])
    assert wishes.constraint is constraint
    assert wishes.bookmark == (BOOKMARK if constraint is Constraint.BOOKMARK else None)
    assert wishes.answer_header == name


def test_one_bookmark_under_two_names_is_taken() -> None:
    """Saying the same thing twice is no contradiction; the name that could be lost answers."""
    wishes = read_wishes([("x-d1-token", BOOKMARK.text), ("x-d1-bookmark", BOOKMARK.text)])
    assert wishes.bookmark == BOOKMARK
    assert wishes.answer_header == "x-d1-token"


@pytest.mark.parametrize(
    "headers",
    [
        [("x-d1-bookmark", BOOKMARK.text), ("x-d1-token", OTHER.text)],
        [("x-d1-bookmark", BOOKMARK.text), ("x-d1-bookmark", OTHER.text)],
        [("x-d1-max-wait-ms", "1"), ("x-d1-max-wait-ms", "2")],
        [("idempotency-key", "a"), ("idempotency-key", "b")],
    ],
)
def test_contradictions_are_refused(headers: list[tuple[str, str]]) -> None:
    """Two values for one thing are never resolved by their order."""
    with pytest.raises(RequestInvalid, match="two values"):
        read_wishes(headers)


def test_waits_policies_and_keys() -> None:
    """The other headers, at the ends of their ranges."""
    for text, seconds in (("0", 0.0), ("60000", 60.0), ("00250", 0.25)):
        assert read_wishes([("x-d1-max-wait-ms", text)]).max_wait_s == seconds
    for policy in OnTimeout:
        assert read_wishes([("x-d1-on-timeout", policy.value)]).on_timeout is policy
    for key in ("k", "~" * 255, "0f8fad5b-d9cb-469f-a165-70867728950e"):
        assert read_wishes([("idempotency-key", key)]).idempotency_key == key


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("x-d1-bookmark", "", "first-primary"),
        ("x-d1-bookmark", "first-PRIMARY", "first-primary"),
        ("x-d1-bookmark", BOOKMARK.text.upper().replace("0", "A"), "lower-case hex"),
        ("x-d1-bookmark", BOOKMARK.text[:-1], "lower-case hex"),
        ("x-d1-bookmark", "x" * 5000, "..."),
        ("x-d1-max-wait-ms", "-1", "0 to 60000"),
        ("x-d1-max-wait-ms", "60001", "0 to 60000"),
        ("x-d1-max-wait-ms", "1.5", "whole number"),
        ("x-d1-max-wait-ms", "1_0", "whole number"),
        ("x-d1-max-wait-ms", "٣", "whole number"),
        ("x-d1-max-wait-ms", "9" * 5000, "whole number"),
        ("x-d1-on-timeout", "fail", "primary, stale, error"),
        ("idempotency-key", "", "visible ASCII"),
        ("idempotency-key", "a b", "visible ASCII"),
        ("idempotency-key", "é", "visible ASCII"),
        ("idempotency-key", "k" * 256, "1 to 255"),
    ],
)
def test_refusals_say_what_to_send(name: str, value: str, advice: str) -> None:
    """A refused header is answered with its name, its value (cut) and what would be right."""
    with pytest.raises(RequestInvalid) as refused:
        read_wishes([(name, value)])
    assert name in str(refused.value)
    assert advice in str(refused.value)
    assert len(str(refused.value)) < 400


@given(st.lists(st.tuples(st.sampled_from(sorted(WISH_NAMES)), st.text(max_size=80)), max_size=5))
def test_any_value_is_read_or_refused(headers: list[tuple[str, str]]) -> None:
    """No header value raises anything but a refusal, and the bookmark's invariant holds."""
    try:
        wishes = read_wishes(headers)
    except RequestInvalid:
        return
    assert (wishes.bookmark is not None) is (wishes.constraint is Constraint.BOOKMARK)
