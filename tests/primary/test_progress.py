"""Modes of one replica's progress: the table, and nothing outside of it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primary.progress import (
    MODE_AFTER,
    SNAPSHOT_ABOVE,
    SNAPSHOT_BYTES_MIN,
    LogView,
    Mode,
    ReplicaProgress,
    next_mode,
)
from proto.messages import Acked
from proto.tokens import Bookmark, CommitToken

KEY = bytes(16)
MIB = 1024 * 1024


def at(seq: int) -> Bookmark:
    return Bookmark(CommitToken(1, seq), bytes(16))


@pytest.mark.parametrize(
    ("view", "is_copy_wanted", "mode"),
    [
        (LogView(True, 0, 0), False, Mode.STREAM),
        (LogView(True, SNAPSHOT_BYTES_MIN, 1 * MIB), False, Mode.STREAM),
        (LogView(True, SNAPSHOT_BYTES_MIN + 1, 1 * MIB), False, Mode.SNAPSHOT),
        (LogView(True, SNAPSHOT_ABOVE * 100 * MIB, 100 * MIB), False, Mode.STREAM),
        (LogView(True, SNAPSHOT_ABOVE * 100 * MIB + 1, 100 * MIB), False, Mode.SNAPSHOT),
        (LogView(False, 0, 0), False, Mode.SNAPSHOT),
        (LogView(True, 0, 100 * MIB), True, Mode.SNAPSHOT),
    ],
)
def test_how_a_replica_is_brought_forward(
    view: LogView, *, is_copy_wanted: bool, mode: Mode
) -> None:
    assert next_mode(view, is_copy_wanted=is_copy_wanted) is mode


@pytest.mark.parametrize(("before", "after"), list(itertools.product(Mode, Mode)))
def test_only_the_table_s_changes_happen(before: Mode, after: Mode) -> None:
    progress = ReplicaProgress(KEY, mode=before)
    if after in MODE_AFTER[before]:
        progress._become(after)
        assert progress.mode is after
    else:
        with pytest.raises(AssertionError):
            progress._become(after)


def test_a_stream_begins_where_the_replica_is() -> None:
    progress = ReplicaProgress(KEY)
    progress.follow(at(5), Mode.STREAM)
    assert progress.sent == at(5)
    progress.note_sent(100, at(7))
    progress.note_sent(50)
    assert (progress.sent, progress.in_flight) == (at(7), 150)
    progress.acked(Acked(KEY, 7, 6, 7, 100, "stopped"), 100)
    assert (progress.in_flight, progress.applied, progress.durable) == (50, 7, 6)
    assert progress.problem == "stopped"


def test_sent_never_goes_back() -> None:
    progress = ReplicaProgress(KEY)
    progress.follow(at(5), Mode.STREAM)
    with pytest.raises(AssertionError):
        progress.note_sent(1, at(5))


def test_falling_out_of_the_log_and_coming_back() -> None:
    progress = ReplicaProgress(KEY)
    progress.follow(at(5), Mode.STREAM)
    progress.fall_out()
    assert (progress.mode, progress.sent) == (Mode.SNAPSHOT, None)
    progress.note_sent(1000)
    progress.copied(at(3))
    assert (progress.mode, progress.sent) == (Mode.STREAM, at(3))


def test_following_again_starts_afresh() -> None:
    progress = ReplicaProgress(KEY)
    progress.follow(at(5), Mode.SNAPSHOT)
    progress.note_sent(1000)
    progress.problem = "old"
    progress.follow(at(2), Mode.STREAM)
    assert (progress.sent, progress.in_flight, progress.problem) == (at(2), 0, "")


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(-2000, 2000))))
def test_in_flight_is_never_negative(steps: list[tuple[int, int]]) -> None:
    progress = ReplicaProgress(KEY)
    progress.follow(at(0), Mode.STREAM)
    for sent, freed in steps:
        progress.note_sent(sent)
        progress.acked(Acked(KEY, 0, 0, 0, 0), freed)
        assert progress.in_flight >= 0
