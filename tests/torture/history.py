"""What concurrent sessions did and saw, as values: the input of `checker.py`.

The state of a database is a mapping of keys to values: integers (counters, registers,
balances) and tuples of integers (lists that are only appended to). A write changes some keys
at once; a read sees some keys at once. How these map to tables is the workload's business.

Each write has an id and also puts that id, as one more row in the same transaction, into a
*ledger* table that only grows. The ledger as it stands at the end is therefore the database's
own word on which writes happened, in which order, including those whose answer was lost.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

from proto.tokens import Bookmark

Value: TypeAlias = int | tuple[int, ...]
NEVER_WRITTEN: Value = ()


@dataclass(frozen=True, slots=True)
class Append:
    """Add `element` to the end of a list."""

    key: str
    element: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Replace a number."""

    key: str
    value: int


@dataclass(frozen=True, slots=True)
class Add:
    """Change a number by `delta`."""

    key: str
    delta: int


Change: TypeAlias = Append | Assign | Add


class Outcome(enum.Enum):
    """What the session knows of its own write."""

    OK = "ok"  # acknowledged
    FAIL = "fail"  # answered, or known, not to have happened
    INFO = "info"  # may have happened, or may happen yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One transaction; `bookmark` stands in its answer, `supplied` stood in its request."""

    id: int
    session: str
    node: str
    invoked: float
    completed: float
    outcome: Outcome
    changes: tuple[Change, ...]
    supplied: Bookmark | None
    bookmark: Bookmark | None  # None exactly when the outcome is not OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One request that read; only answered ones are recorded."""

    session: str
    node: str
    invoked: float
    completed: float
    seen: Mapping[str, Value]
    supplied: Bookmark | None
    bookmark: Bookmark
    is_fresh: bool  # asked of the primary: must see every write acknowledged before it began


Event: TypeAlias = Write | Read


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything that happened to one database between two quiet moments."""

    events: Sequence[Event]  # each session's own in the order it made them
    ledger: Sequence[int]  # write ids in commit order, read at the end
    initial: Mapping[str, Value]  # the state at `base`; keys not named were never written
    base: Bookmark  # the primary's head before the first event
    head: Bookmark  # and after the last


def applied(value: Value, change: Change) -> Value:
    """Return what `change` makes of `value`."""
    if isinstance(change, Assign):
        return change.value
    if isinstance(change, Append):
        assert isinstance(value, tuple), f"{change.key} is no list"
        return (*value, change.element)
    assert isinstance(value, int), f"{change.key} is no number"
    return value + change.delta


def write_jsonl(history: History, path: Path) -> None:
    """Write a history as lines of JSON: a head, then one event each, for people and tools."""
    head = {
        "base": history.base.text,
        "head": history.head.text,
        "initial": dict(history.initial),
        "ledger": list(history.ledger),
    }
    lines: Iterable[object] = (head, *(_event_row(event) for event in history.events))
    with path.open("wb") as out:
        for line in lines:
            out.write(msgspec.json.encode(line) + b"\n")


def _event_row(event: Event) -> dict[str, object]:
    row: dict[str, object] = {
        "type": "write" if isinstance(event, Write) else "read",
        "session": event.session,
        "node": event.node,
        "invoked": round(event.invoked, 6),
        "completed": round(event.completed, 6),
        "supplied": event.supplied.text if event.supplied else None,
        "bookmark": event.bookmark.text if event.bookmark else None,
    }
    if isinstance(event, Read):
        return row | {"seen": dict(event.seen), "fresh": event.is_fresh}
    changes = [[type(change).__name__.lower(), *_fields(change)] for change in event.changes]
    return row | {"id": event.id, "outcome": event.outcome.value, "changes": changes}


def _fields(change: Change) -> tuple[str, int]:
    if isinstance(change, Append):
        return change.key, change.element
    return change.key, change.value if isinstance(change, Assign) else change.delta
