"""The session checker accepts every correct history and catches every seeded bug."""

import random
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from proto.tokens import Bookmark, CommitToken
from tests.checker.toy_cluster import BASE_SEQ, Bug, ToyCluster
from tests.torture.checker import Rule, check
from tests.torture.history import (
    Add,
    Append,
    Change,
    Event,
    History,
    Outcome,
    Read,
    Value,
    Write,
    write_jsonl,
)

SEEDS = range(20)


def mark(seq: int, fork: int = 0) -> Bookmark:
    return Bookmark(CommitToken(1, seq), bytes([fork]) * 16)


def wrote(
    id_: int,
    *changes: Change,
    seq: int | None = None,
    at: tuple[float, float] = (0.0, 0.0),
    session: str = "a",
) -> Write:
    """An acknowledged write; without `seq`, one of unknown outcome."""
    return Write(
        id=id_,
        session=session,
        node="primary",
        invoked=at[0],
        completed=at[1],
        outcome=Outcome.INFO if seq is None else Outcome.OK,
        changes=changes,
        supplied=None,
        bookmark=None if seq is None else mark(seq),
    )


def saw(
    seq: int,
    seen: dict[str, Value],
    *,
    session: str = "b",
    supplied: int | None = None,
    fresh_at: float | None = None,
) -> Read:
    return Read(
        session=session,
        node="replica",
        invoked=fresh_at or 0.0,
        completed=fresh_at or 0.0,
        seen=seen,
        supplied=None if supplied is None else mark(supplied),
        bookmark=mark(seq),
        is_fresh=fresh_at is not None,
    )


def rules_broken(events: list[Event], ledger: list[int], head: int) -> set[Rule]:
    history = History(
        events=events, ledger=ledger, initial={"n": 0, "m": 0}, base=mark(0), head=mark(head)
    )
    return {violation.rule for violation in check(history)}


@pytest.mark.parametrize("seed", SEEDS)
def test_correct_histories_are_accepted(seed: int) -> None:
    """Lost answers, late effects, lagging replicas and newer bookmarks break no promise."""
    assert check(ToyCluster(seed).run()) == []


@pytest.mark.parametrize("bug", Bug, ids=lambda bug: bug.name)
def test_seeded_bugs_are_caught(bug: Bug) -> None:
    """Each bug is caught in every history in which it struck.

    Method: one strike in the middle of 300 requests, where it leaves a trace that can be read.
    """
    caught = struck = 0
    for seed in SEEDS:
        cluster = ToyCluster(seed, bug)
        history = cluster.run()
        struck += cluster.struck
        caught += bool(cluster.struck and check(history))
    assert struck >= len(SEEDS) * 2 // 3, f"{bug.name} hardly ever happened: {struck}"
    assert caught == struck, f"{bug.name}: {caught} of {struck} were caught"


@pytest.mark.parametrize(
    ("bug", "rule"),
    [
        (Bug.LOSES_ACKED, Rule.LOST),
        (Bug.FORWARDS_TWICE, Rule.LEDGER),
        (Bug.REFUSED_HAPPENS, Rule.LEDGER),
        (Bug.SAME_NUMBER, Rule.UNIQUE),
        (Bug.FORKED_EPOCH, Rule.UNIQUE),
        (Bug.FUTURE_BOOKMARK, Rule.UNIQUE),
        (Bug.IGNORES_BOOKMARK, Rule.SESSION),
        (Bug.LIES_ABOUT_STATE, Rule.SNAPSHOT),
        (Bug.TORN_BATCH, Rule.SNAPSHOT),
        (Bug.MIXED_SNAPSHOT, Rule.SNAPSHOT),
        (Bug.LOST_UPDATE, Rule.SNAPSHOT),
    ],
    ids=lambda value: value.name,
)
def test_a_bug_is_called_by_its_name(bug: Bug, rule: Rule) -> None:
    """The rule that a bug breaks is among those reported, so that a report can be acted on."""
    for seed in SEEDS:
        cluster = ToyCluster(seed, bug)
        history = cluster.run()
        if cluster.struck:
            assert rule in {violation.rule for violation in check(history)}


def test_a_newer_bookmark_than_the_state_is_fine_and_an_older_one_is_not() -> None:
    events: list[Event] = [wrote(1, Add("n", 1), seq=1), wrote(2, Add("n", 1), seq=2)]
    assert rules_broken([*events, saw(2, {"n": 1})], [1, 2], 2) == set()
    assert rules_broken([*events, saw(1, {"n": 2})], [1, 2], 2) == {Rule.SNAPSHOT}


def test_the_session_bounds_how_old_a_state_may_be() -> None:
    """The bookmark of the answer says 2, but the session had seen 2: state 1 is too old."""
    events: list[Event] = [wrote(1, Add("n", 1), seq=1), wrote(2, Add("n", 1), seq=2)]
    assert rules_broken([*events, saw(2, {"n": 1}, session="a")], [1, 2], 2) == {Rule.SNAPSHOT}
    assert rules_broken([*events, saw(2, {"n": 1}, supplied=2)], [1, 2], 2) == {Rule.SNAPSHOT}
    assert rules_broken([*events, saw(1, {"n": 1}, supplied=2)], [1, 2], 2) >= {Rule.SESSION}


def test_a_write_of_unknown_outcome_happens_in_one_place_or_not_at_all() -> None:
    unknown = wrote(2, Append("l", 2), at=(0, 9))
    events: list[Event] = [
        wrote(1, Append("l", 1), seq=1),
        unknown,
        wrote(3, Append("l", 3), seq=3),
    ]
    assert rules_broken([*events, saw(3, {"l": (1, 2, 3)})], [1, 2, 3], 3) == set()
    assert rules_broken([*events, saw(3, {"l": (1, 3)})], [1, 3], 3) == set()
    gone = [*events, saw(2, {"l": (1, 2)}), saw(3, {"l": (1, 3)})]
    assert rules_broken(gone, [1, 3], 3) == {Rule.SNAPSHOT, Rule.PREFIX}
    late = [*events, saw(3, {"l": (1, 2, 3)}), saw(4, {"l": (1, 3, 2)})]
    assert rules_broken(late, [1, 3, 2], 4) == {Rule.SNAPSHOT, Rule.PREFIX}


def test_unknown_writes_need_room_among_the_sequence_numbers() -> None:
    """A commit has a number of its own: two writes cannot hide between 1 and 3."""
    events: list[Event] = [
        wrote(1, Add("n", 1), seq=1),
        wrote(2, Add("n", 1), at=(0, 9)),
        wrote(3, Add("n", 1), at=(0, 9)),
        wrote(4, Add("n", 1), seq=3),
    ]
    assert rules_broken(events, [1, 2, 4], 3) == set()
    assert rules_broken(events, [1, 2, 3, 4], 3) == {Rule.LEDGER}
    assert rules_broken(events, [1, 4, 2, 3], 4) == {Rule.LEDGER}
    assert rules_broken(events, [1, 4, 2, 3], 5) == set()


def test_other_commits_among_unknown_writes_leave_a_range() -> None:
    """Where VACUUM, say, took a number as well, either order of the two is possible."""
    events: list[Event] = [
        wrote(1, Add("n", 1), seq=1),
        wrote(2, Add("n", 1), at=(0, 9)),
        wrote(3, Add("n", 1), seq=4),
    ]
    for seq, value in ((2, 1), (2, 2), (3, 2)):
        assert rules_broken([*events, saw(seq, {"n": value})], [1, 2, 3], 4) == set()
    stale = [*events, saw(3, {"n": 1}, supplied=3)]  # by 3 the unknown one may still be to come ...
    assert rules_broken(stale, [1, 2, 3], 4) == {Rule.SNAPSHOT}  # ... no: 3 is its last chance


def test_a_read_of_the_primary_sees_all_that_was_acknowledged_before() -> None:
    events: list[Event] = [
        wrote(1, Add("n", 1), seq=1, at=(1, 2)),
        wrote(2, Add("n", 1), seq=2, at=(3, 5), session="c"),
    ]
    assert rules_broken([*events, saw(1, {"n": 1}, fresh_at=4)], [1, 2], 2) == set()
    assert rules_broken([*events, saw(1, {"n": 1}, fresh_at=6)], [1, 2], 2) == {Rule.REAL_TIME}
    assert rules_broken([*events, saw(2, {"n": 1}, fresh_at=6)], [1, 2], 2) == {Rule.SNAPSHOT}
    assert rules_broken([*events, saw(1, {"n": 1})], [1, 2], 2) == set()


def test_real_time_orders_writes_of_different_sessions() -> None:
    events: list[Event] = [
        wrote(1, Add("n", 1), seq=2, at=(1, 2)),
        wrote(2, Add("n", 1), seq=1, at=(3, 4), session="c"),
    ]
    assert rules_broken(events, [2, 1], 2) == {Rule.REAL_TIME}
    overlapping: list[Event] = [events[0], wrote(2, Add("n", 1), seq=1, at=(1.5, 4), session="c")]
    assert rules_broken(overlapping, [2, 1], 2) == set()
    unknown: list[Event] = [events[0], wrote(2, Add("n", 1), at=(3, 4), session="c")]
    assert rules_broken(unknown, [2, 1], 2) == {Rule.REAL_TIME}


def test_keys_are_read_at_one_moment() -> None:
    events: list[Event] = [
        wrote(1, Add("n", 1), seq=1),
        wrote(2, Add("m", 1), seq=2),
        wrote(3, Add("n", -1), seq=3),
    ]
    assert rules_broken([*events, saw(3, {"n": 1, "m": 1})], [1, 2, 3], 3) == set()
    assert rules_broken([*events, saw(3, {"n": 0, "m": 0})], [1, 2, 3], 3) == set()
    assert rules_broken([*events, saw(3, {"n": 0, "m": 1})], [1, 2, 3], 3) == set()
    assert rules_broken([*events, saw(2, {"n": 0, "m": 1})], [1, 2, 3], 3) == {Rule.SNAPSHOT}


def test_two_changes_of_one_key_in_a_write_are_one_step() -> None:
    events: list[Event] = [wrote(1, Add("n", 5), Add("n", -4), seq=1)]
    assert rules_broken([*events, saw(1, {"n": 1})], [1], 1) == set()
    assert rules_broken([*events, saw(1, {"n": 5})], [1], 1) == {Rule.SNAPSHOT}


def test_a_ledger_row_that_nobody_wrote_is_reported() -> None:
    assert rules_broken([wrote(1, Add("n", 1), seq=1)], [1, 77], 2) == {Rule.LEDGER}


def test_keys_that_nobody_wrote_keep_their_first_value() -> None:
    assert rules_broken([saw(0, {"n": 0, "l": ()})], [], 0) == set()
    assert rules_broken([saw(0, {"n": 1})], [], 0) == {Rule.SNAPSHOT}
    assert rules_broken([saw(0, {"l": (1,)})], [], 0) == {Rule.SNAPSHOT}


def test_violations_are_bounded_and_say_where() -> None:
    events: list[Event] = [saw(0, {"n": 9}, session=f"s{index}") for index in range(500)]
    history = History(events=events, ledger=[], initial={"n": 0}, base=mark(0), head=mark(0))
    violations = check(history)
    assert len(violations) == 20
    assert "s0 on replica" in str(violations[0])
    assert "n never was 9" in str(violations[0])


def test_a_history_is_kept_as_lines_of_json(tmp_path: Path) -> None:
    history = ToyCluster(1).run(50)
    write_jsonl(history, tmp_path / "history.jsonl")
    head, *lines = (tmp_path / "history.jsonl").read_bytes().splitlines()
    assert msgspec.json.decode(head)["base"] == mark(BASE_SEQ).text
    kinds = Counter(msgspec.json.decode(line)["type"] for line in lines)
    assert kinds.total() == len(history.events)
    assert kinds["write"] > 0 < kinds["read"]


def test_the_checker_is_quick_on_a_long_history() -> None:
    """30,000 requests take seconds, not minutes: no rule is quadratic.

    Method: lists are bounded by rotating keys, as the real workload does.
    """
    rng = random.Random(7)
    events: list[Event] = []
    ledger: list[int] = []
    lists: dict[str, tuple[int, ...]] = {}
    for index in range(1, 30_001):
        key = f"l{index // 40}"
        if rng.random() < 0.5:
            ledger.append(index)
            lists[key] = (*lists.get(key, ()), index)
            write = wrote(index, Append(key, index), seq=len(ledger), at=(index, index + 0.5))
            events.append(write)
        else:
            seen: dict[str, Value] = {key: lists.get(key, ())}
            events.append(saw(len(ledger), seen, session=f"s{index % 9}", fresh_at=index))
    history = History(
        events=events, ledger=ledger, initial={}, base=mark(0), head=mark(len(ledger))
    )
    started = time.process_time()
    assert check(history) == []
    assert time.process_time() - started < 8.0
