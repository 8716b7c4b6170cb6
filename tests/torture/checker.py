"""Whether a history kept the promises of sessions: pure, O(n log n), no search.

Every answer carries a bookmark, and the ledger tells the order of all writes, so each
promise is checked directly:

1. *unique*: acknowledged writes have bookmarks of their own, and one sequence number has one
   bookmark in all answers (a second one is a forked history);
2. *lost*, *ledger*: every acknowledged write is in the ledger, once; no refused write and none that
   nobody asked for is; and its order is the order of the sequence numbers;
3. *real time*: a write that completed before another began comes before it (linearizable writes),
   and a read of the primary sees all that completed before it began;
4. *session*: a write is newer than everything its session saw; a read is at least as new as
   everything its session saw, and as the bookmark it carried (monotonic writes, monotonic reads,
   read-your-writes, writes-follow-reads);
5. *snapshot*: what a read saw is exactly the state after some prefix of the ledger, no older than
   what (3) and (4) demand and no newer than the bookmark it answered. So batches are atomic, and
   a write of unknown outcome happens at one place or not at all, for everyone and for ever;
6. *prefix*: all values seen of one list are prefixes of one another. This follows from (5), and
   is checked apart from it because it needs no ledger to show a history that forked.

A bookmark may be newer than the state that was read (a node takes it after the read), never older.
"""

import enum
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise

from proto.tokens import Bookmark
from tests.torture.history import (
    NEVER_WRITTEN,
    Event,
    History,
    Outcome,
    Read,
    Value,
    Write,
    applied,
)

VIOLATIONS_MAX = 20  # of each rule: the first ones tell the story


class Rule(enum.Enum):
    """The promises, by the names of the module's head."""

    UNIQUE = "unique"
    LOST = "lost"
    LEDGER = "ledger"
    REAL_TIME = "real time"
    SESSION = "session"
    SNAPSHOT = "snapshot"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: which, in words, and by which event if it is one event's."""

    rule: Rule
    message: str
    event: Event | None = None

    def __str__(self) -> str:
        return f"{self.rule.value}: {self.message}"


def check(history: History) -> list[Violation]:
    """Return the broken promises of a history; an empty list is the good news."""
    rules: list[Iterator[Violation]] = [
        _unique(history),
        _ledger(history),
        _real_time(history),
        _session(history),
        _prefix(history),
    ]
    violations = [one for rule in rules for one in islice(rule, VIOLATIONS_MAX)]
    if not any(one.rule in {Rule.LOST, Rule.LEDGER} for one in violations):  # an order to replay
        violations += islice(_snapshot(history), VIOLATIONS_MAX)
    return violations


def _writes(history: History) -> Iterator[Write]:
    return (event for event in history.events if isinstance(event, Write))


def _reads(history: History) -> Iterator[Read]:
    return (event for event in history.events if isinstance(event, Read))


def _acked(history: History) -> Iterator[tuple[Write, Bookmark]]:
    for write in _writes(history):
        assert (write.bookmark is not None) == (write.outcome is Outcome.OK), write
        if write.bookmark is not None:
            yield write, write.bookmark


def _unique(history: History) -> Iterator[Violation]:
    of_seq: dict[int, Bookmark] = {
        history.base.seq: history.base,
        history.head.seq: history.head,
    }
    for event in history.events:
        bookmark = event.bookmark
        if bookmark is None:
            continue
        known = of_seq.setdefault(bookmark.seq, bookmark)
        if known != bookmark:
            message = f"two histories at seq {bookmark.seq}: {known} and {bookmark}"
            yield Violation(Rule.UNIQUE, message, event)
        if bookmark.seq > history.head.seq:
            message = f"{bookmark} was answered, but the history ends at {history.head}"
            yield Violation(Rule.UNIQUE, message, event)
    writer_of: dict[int, Write] = {}
    for write, bookmark in _acked(history):
        other = writer_of.setdefault(bookmark.seq, write)
        if other is not write:
            message = f"writes {other.id} and {write.id} were both given {bookmark}"
            yield Violation(Rule.UNIQUE, message, write)


def _ledger(history: History) -> Iterator[Violation]:
    by_id = {write.id: write for write in _writes(history)}
    for id_, times in Counter(history.ledger).items():
        if times > 1:
            message = f"write {id_} happened {times} times"
            yield Violation(Rule.LEDGER, message, by_id.get(id_))
        if id_ not in by_id:
            yield Violation(Rule.LEDGER, f"write {id_} was never asked for")
        elif by_id[id_].outcome is Outcome.FAIL:
            message = f"write {id_} happened, but was answered as not done"
            yield Violation(Rule.LEDGER, message, by_id[id_])
    present = set(history.ledger)
    for write, bookmark in _acked(history):
        if write.id not in present:
            message = f"write {write.id}, acknowledged as {bookmark}, is lost"
            yield Violation(Rule.LOST, message, write)
    yield from _ledger_order(history, by_id)


def _ledger_order(history: History, by_id: Mapping[int, Write]) -> Iterator[Violation]:
    """The order of the ledger is that of the sequence numbers, with room for the unknown ones."""
    seq, place = history.base.seq, 0
    for index, id_ in enumerate(history.ledger, 1):
        write = by_id.get(id_)
        if write is None or write.bookmark is None:
            continue
        if write.bookmark.seq - seq < index - place:
            message = (
                f"write {id_} has seq {write.bookmark.seq} and place {index} in the ledger, "
                f"after seq {seq} at place {place}"
            )
            yield Violation(Rule.LEDGER, message, write)
        seq, place = write.bookmark.seq, index
    if history.head.seq - seq < len(history.ledger) - place:
        message = f"{len(history.ledger) - place} writes after seq {seq}, head {history.head}"
        yield Violation(Rule.LEDGER, message)


def _real_time(history: History) -> Iterator[Violation]:
    """Sweep over the writes by the time they began, past those that were complete by then."""
    place_of = {id_: place for place, id_ in enumerate(history.ledger, 1)}
    placed = [write for write in _writes(history) if write.id in place_of]
    done = sorted((write for write in placed if write.bookmark), key=lambda write: write.completed)
    before = 0
    newest: Write | None = None
    for write in sorted(placed, key=lambda write: write.invoked):
        while before < len(done) and done[before].completed < write.invoked:
            if newest is None or place_of[done[before].id] > place_of[newest.id]:
                newest = done[before]
            before += 1
        if newest is not None and place_of[write.id] <= place_of[newest.id]:
            message = f"write {write.id} began after {newest.id} was acknowledged, and precedes it"
            yield Violation(Rule.REAL_TIME, message, write)


def _session(history: History) -> Iterator[Violation]:
    seen: dict[str, Bookmark] = {}
    for event in history.events:
        bookmark = event.bookmark
        if bookmark is None:
            continue
        high = seen.get(event.session, history.base)
        floor = high if event.supplied is None else max(high, event.supplied)
        kind = "write" if isinstance(event, Write) else "read"
        if bookmark < floor or (kind == "write" and bookmark == floor):
            message = f"{event.session} had seen {floor}, its {kind} on {event.node} is {bookmark}"
            yield Violation(Rule.SESSION, message, event)
        seen[event.session] = max(high, bookmark)


def _prefix(history: History) -> Iterator[Violation]:
    longest: dict[str, tuple[int, ...]] = {}
    for read in _reads(history):
        for key, value in read.seen.items():
            if isinstance(value, tuple) and len(value) > len(longest.get(key, ())):
                longest[key] = value
    for read in _reads(history):
        for key, value in read.seen.items():
            if isinstance(value, tuple) and value != longest.get(key, ())[: len(value)]:
                message = f"{key}: {_tail(value)} on {read.node}, elsewhere {_tail(longest[key])}"
                yield Violation(Rule.PREFIX, message, read)


# --- snapshots: replay the ledger, then look up each read -------------------------------------


@dataclass(slots=True)
class Spans:
    """The stretches of the ledger during which one key had one value, oldest first."""

    begin: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)  # inclusive

    def within(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """The parts of the stretches that lie in `low..high`."""
        for index in range(bisect_left(self.end, low), len(self.begin)):
            if self.begin[index] > high:
                return
            yield max(low, self.begin[index]), min(high, self.end[index])


class Replay:
    """The states S(0) .. S(n) of the ledger's n writes, by key, value and place.

    `first[p]` and `last[p]` bound the sequence numbers at which S(p) was the newest state. They are
    exact for acknowledged writes; a write of unknown outcome has a range where other commits, too,
    stand between its neighbours. Both grow with p.
    """

    def __init__(self, history: History) -> None:
        by_id = {write.id: write for write in _writes(history)}
        order = [by_id[id_] for id_ in history.ledger]
        self.first, self.last = _seq_bounds(history, order)
        self._initial = history.initial
        self._end = len(order)
        self._spans: dict[str, dict[Value, Spans]] = {}
        state: dict[str, Value] = {}
        since: dict[str, int] = {}
        for place, write in enumerate(order, 1):
            for change in write.changes:
                key = change.key
                old = state.get(key, self._initial.get(key, NEVER_WRITTEN))
                if since.get(key) != place:  # a second change of the same write is no new state
                    self._close(key, old, since.get(key, 0), place - 1)
                    since[key] = place
                state[key] = applied(old, change)
        for key, value in state.items():
            self._close(key, value, since[key], self._end)

    def places(self, read: Read, floor_seq: int) -> list[tuple[int, int]]:
        """Return the stretches of the ledger at which `read` could have been made."""
        low = bisect_left(self.last, floor_seq)
        high = bisect_right(self.first, read.bookmark.seq) - 1
        found = [(low, high)] if low <= high else []
        for key, value in read.seen.items():
            spans = self.spans(key, value)
            found = [part for stretch in found for part in spans.within(*stretch)]
        return found

    def spans(self, key: str, value: Value) -> Spans:
        """Return when `key` had `value`; keys that no write touched keep their first value."""
        if key in self._spans:
            return self._spans[key].get(value, Spans())
        unchanged = value == self._initial.get(key, NEVER_WRITTEN)
        return Spans([0], [self._end]) if unchanged else Spans()

    def _close(self, key: str, value: Value, begin: int, end: int) -> None:
        spans = self._spans.setdefault(key, {}).setdefault(value, Spans())
        spans.begin.append(begin)
        spans.end.append(end)


def _seq_bounds(history: History, order: list[Write]) -> tuple[list[int], list[int]]:
    """Return the bounds of `Replay`: the unknown writes share the gaps between known ones."""
    anchors = [(0, history.base.seq)]
    anchors += [
        (place, write.bookmark.seq) for place, write in enumerate(order, 1) if write.bookmark
    ]
    anchors.append((len(order) + 1, history.head.seq + 1))
    first: list[int] = []
    last: list[int] = []
    for (place, seq), (next_place, next_seq) in pairwise(anchors):
        unknown = next_place - place - 1
        first += [seq + index for index in range(unknown + 1)]
        last += [next_seq - 1 - unknown + index for index in range(unknown + 1)]
    return first, last


def _snapshot(history: History) -> Iterator[Violation]:
    replay = Replay(history)
    fresh = _FreshFloor(history)
    seen: dict[str, Bookmark] = {}
    for event in history.events:
        bookmark = event.bookmark
        if bookmark is None:
            continue
        high = seen.get(event.session, history.base)
        seen[event.session] = max(high, bookmark)
        if isinstance(event, Write):
            continue
        floor_seq = max(high, event.supplied or high).seq
        if event.is_fresh and (newest := fresh.seq_before(event.invoked)) > floor_seq:
            floor_seq = newest
            if bookmark.seq < newest:
                message = f"a read of the primary at {bookmark} missed seq {newest}"
                yield Violation(Rule.REAL_TIME, message, event)
                continue
        if not replay.places(event, floor_seq):
            yield Violation(Rule.SNAPSHOT, _explain(replay, event, floor_seq), event)


class _FreshFloor:
    """The newest sequence number acknowledged before a moment."""

    def __init__(self, history: History) -> None:
        done = sorted((write.completed, mark.seq) for write, mark in _acked(history))
        self._times = [time for time, _ in done]
        self._newest = [history.base.seq]
        for _, seq in done:
            self._newest.append(max(self._newest[-1], seq))

    def seq_before(self, moment: float) -> int:
        return self._newest[bisect_left(self._times, moment)]


def _explain(replay: Replay, read: Read, floor_seq: int) -> str:
    low = bisect_left(replay.last, floor_seq)
    high = bisect_right(replay.first, read.bookmark.seq) - 1
    parts = []
    for key, value in read.seen.items():
        spans = replay.spans(key, value)
        if not spans.begin:
            parts.append(f"{key} never was {_tail(value)}")
        elif not list(spans.within(low, high)):
            at = ", ".join(
                f"{a}..{b}" for a, b in islice(zip(spans.begin, spans.end, strict=True), 3)
            )
            parts.append(f"{key} was {_tail(value)} at {at}")
    told = "; ".join(parts) or "the keys were read in different states"
    return (
        f"{read.session} on {read.node} (seqs {floor_seq}..{read.bookmark.seq}, "
        f"places {low}..{high}): {told}"
    )


def _tail(value: Value) -> str:
    if isinstance(value, int):
        return str(value)
    return f"[... {', '.join(map(str, value[-3:]))}] ({len(value)})"


def summary(violations: Iterable[Violation]) -> str:
    """Return how many violations there are of each rule, for people."""
    counts = Counter(violation.rule.value for violation in violations)
    return ", ".join(f"{rule}: {count}" for rule, count in sorted(counts.items())) or "none"
