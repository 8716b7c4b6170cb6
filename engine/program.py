"""The program that SQLite makes of a statement, as far as it tells which rows are touched.

EXPLAIN lists the instructions. Here they become loops, and numbers of instructions that come to a
row or put an entry into a table or an index. What these numbers are good for: `engine/counts.py`.

A *visit* is one pass through a loop. It *keeps* a row if it comes to the instruction that returns
it or changes it; before that, the row may fail conditions. Pure: rows of EXPLAIN in, values out.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from proto.api import SqlValue

_STEPS: Final = frozenset({"Next", "Prev", "SorterNext", "VNext"})
_SEEKS: Final = frozenset(
    {
        *("Last", "NotExists", "Rewind", "SeekGE", "SeekGT", "SeekLE", "SeekLT", "SeekRowid"),
        *("Sort", "SorterSort", "VFilter"),
    }
)
_COMPARISONS: Final = frozenset(
    {
        *("ElseEq", "Eq", "Ge", "Gt", "IdxGE", "IdxGT", "IdxLE", "IdxLT", "Le", "Lt", "Ne"),
        *("Filter", "Found", "If", "IfNot", "IfNotZero", "IfNullRow", "IfPos", "IsType"),
        *("NoConflict", "NotFound", "NotNull", "RowSetTest"),
    }
)
# What a row may fail. That a key IS NULL is seldom, and not taken for a condition.
_CONDITIONS: Final = _SEEKS | _COMPARISONS
# The last argument of a step says what SQLite counts it as.
_SCAN: Final = 1
_AUTOINDEX: Final = 3
# Flags of what inserts and deletes.
_IS_CHANGE: Final = 0x01  # counts as a changed row
_IS_UPDATE: Final = 0x04
_IS_FOR_HOOKS: Final = 0x40  # does nothing


_VIRTUAL: Final = frozenset({"VOpen", "VUpdate"})
_WRITES: Final = frozenset({"OpenWrite", "Clear", "VUpdate"})


class Op(NamedTuple):
    """One instruction."""

    name: str
    p1: int
    p2: int
    p3: int
    p5: int


class Keeps(enum.Enum):
    """What happens to a row that passes all conditions of a loop."""

    NOTHING = "nothing"
    RETURNED = "returned"
    CHANGED = "changed"


@dataclass(slots=True, eq=False)
class Loop:
    """A loop, without those inside it."""

    step: Op
    start: int
    end: int
    length: int = 0  # instructions of a visit that keeps nothing, if it can, or else of any
    reads: int = 0  # rows that each visit comes to, but for the loop's own step
    keeps: Keeps = Keeps.NOTHING
    kept_length: int = 0  # more instructions of a visit that keeps a row
    kept_reads: int = 0  # more rows of such a visit
    inserts: int = 0  # entries that stand for no changed row: those of a new index

    @property
    def keeps_all(self) -> bool:
        """Whether no row can fail."""
        return self.keeps is not Keeps.NOTHING and self.kept_length == 0

    @property
    def is_stepping(self) -> bool:
        """Whether each visit but the first comes to a row by a step."""
        return self.step.name in _STEPS

    @property
    def is_scan(self) -> bool:
        """Whether SQLite counts the steps as those of a full scan."""
        return self.step.name in _STEPS and self.step.p5 == _SCAN

    @property
    def is_autoindex(self) -> bool:
        """Whether SQLite counts the steps as those of making an index for this run."""
        return self.step.name in _STEPS and self.step.p5 == _AUTOINDEX

    def holds(self, other: "Loop") -> bool:
        """Whether another loop stands inside this one."""
        return other is not self and self.start <= other.start and other.end <= self.end


@dataclass(slots=True)
class Entries:
    """How many entries of a table and its indexes are inserted for a changed row."""

    inserted: int = 0  # for rows that are inserted, in all places
    inserting: int = 0  # places that insert a row
    updated: int = 0
    updating: int = 0
    deleting: int = 0  # D1 does not count the entries that are deleted with a row
    apart: int = 0  # for no row: of the schema, of a counter

    def add_row(self, entries: int, *, is_update: bool) -> None:
        """Note a place that inserts or updates a row."""
        if is_update:
            self.updated += entries
            self.updating += 1
        else:
            self.inserted += entries
            self.inserting += 1

    @property
    def per_insert(self) -> float:
        """For one row that is inserted."""
        return self.inserted / self.inserting if self.inserting else self.per_update

    @property
    def per_update(self) -> float:
        """For one row that is updated or deleted."""
        places = self.updating + self.deleting
        return (self.updated + self.deleting) / places if places else 1.0

    @property
    def only_inserts(self) -> bool:
        """Whether no row is updated or deleted."""
        return self.inserting > 0 and self.updating + self.deleting == 0


@dataclass(slots=True)
class Program:
    """One statement's instructions, and those of the triggers and foreign keys that it fires."""

    loops: list[Loop] = field(default_factory=list)
    outside: int = 0  # instructions outside of all loops
    reads_once: int = 1  # rows that those come to
    count_columns: tuple[int, ...] = ()  # of the result: the number of rows of a whole table
    entries: Entries = field(default_factory=Entries)
    fired: list[Entries] = field(default_factory=list)
    fired_length: int = 0  # instructions
    returning_length: int = 0  # of a subroutine that returns one row; 0: there is none
    is_virtual: bool = False  # it changes a virtual table, which changes tables of its own
    virtual_tables: int = 0  # places that open or change one
    is_known: bool = False


_NO_ENTRIES: Final = Entries()


def parse(listing: Sequence[tuple[SqlValue, ...]]) -> Program:
    """Read what EXPLAIN returned: nothing, where SQLite could not be asked."""
    programs = _programs(listing)
    if not programs:
        return Program()
    main, *fired = programs
    names = {op.name for op in main}
    owners, loops = _owners(main)
    tables = _tables(main)
    places: dict[Loop | None, list[int]] = {None: [], **{loop: [] for loop in loops}}
    for at, owner in enumerate(owners):
        places[owner].append(at)
    for loop in loops:
        _measure(loop, main, places[loop], tables)
    outside = places[None]
    return Program(
        loops=loops,
        outside=len(outside),
        reads_once=sum([main[at].name in _SEEKS for at in outside]),
        count_columns=_columns_of_counts(main) if "Count" in names else (),
        entries=_entries(main, owners, tables) if _WRITES & names else _NO_ENTRIES,
        fired=[_entries(ops, [None] * len(ops), _tables(ops)) for ops in fired],
        fired_length=sum(map(len, fired)),
        returning_length=_returning_length(main) if "Gosub" in names else 0,
        is_virtual="VUpdate" in names,
        virtual_tables=sum([op.name in _VIRTUAL for ops in programs for op in ops]),
        is_known=True,
    )


def _programs(listing: Iterable[tuple[Any, ...]]) -> list[list[Op]]:
    """The statement's own instructions, then those of each trigger."""
    programs: list[list[Op]] = []
    for at, name, p1, p2, p3, _p4, p5, _comment in listing:
        if at == 0:
            programs.append([])
        programs[-1].append(Op(name, p1, p2, p3, p5))
    return programs


def _owners(ops: Sequence[Op]) -> tuple[list[Loop | None], list[Loop]]:
    """The innermost loop of each instruction, and all loops."""
    last = len(ops) - 1  # jumps back from the start-up to the top
    loops = [
        Loop(op, op.p2, at)
        for at, op in enumerate(ops)
        if (op.name in _STEPS and op.p2 <= at) or (op.name == "Goto" and op.p2 <= at < last)
    ]
    owners: list[Loop | None] = [None] * len(ops)
    if not loops:
        return owners, loops
    for loop in sorted(loops, key=lambda loop: loop.start - loop.end):  # the longest first
        owners[loop.start : loop.end + 1] = [loop] * (loop.end + 1 - loop.start)
    for at, op in enumerate(ops):
        if op.name == "Once" and op.p2 > at:
            for inside in range(at + 1, op.p2):
                if owners[inside] is owners[at]:
                    owners[inside] = None
    return owners, loops


def _measure(loop: Loop, ops: Sequence[Op], own: Sequence[int], tables: frozenset[int]) -> None:
    """Look at the places of the loop's own instructions."""
    keeper = -1
    for at in own:
        if ops[at].name == "ResultRow":
            keeper, loop.keeps = at, Keeps.RETURNED
        elif _is_change(ops[at], tables):
            keeper, loop.keeps = at, Keeps.CHANGED
    failing = [at for at in own if _can_fail(ops[at], at, keeper, loop.end)]
    loop.length = len(own)
    for at in own:
        if ops[at].name in _SEEKS:
            if failing and at > failing[0]:
                loop.kept_reads += 1
            else:
                loop.reads += 1
    if failing:
        skipped = [at for at in own if failing[-1] < at < ops[failing[-1]].p2]
        loop.length -= len(skipped)
        loop.kept_length = len(skipped)


def _can_fail(op: Op, at: int, keeper: int, end: int) -> bool:
    """Whether the visit may go on to its end from here without keeping a row."""
    return op.name in _CONDITIONS and at < op.p2 <= end and at <= keeper < op.p2


def _returning_length(ops: Sequence[Op]) -> int:
    """The length of the shortest subroutine that holds a `ResultRow`."""
    lengths: list[int] = []
    for start in {op.p2 for op in ops if op.name == "Gosub"}:
        end = next((at for at in range(start, len(ops)) if ops[at].name == "Return"), start)
        if any(op.name == "ResultRow" for op in ops[start:end]):
            lengths.append(end + 1 - start)
    return min(lengths, default=0)


def _columns_of_counts(ops: Sequence[Op]) -> tuple[int, ...]:
    """Where in the result the numbers stand that `Count` told; a register's way is followed."""
    registers: set[int] = set()
    for op in ops:
        if op.name == "Count":
            registers.add(op.p2)
        elif registers and op.name in ("Copy", "SCopy"):
            more = op.p3 if op.name == "Copy" else 0
            moved = {op.p2 + n for n in range(more + 1) if op.p1 + n in registers}
            registers |= moved
        elif registers and op.name == "ResultRow":
            return tuple(n for n in range(op.p2) if op.p1 + n in registers)
    return ()


def _tables(ops: Iterable[Op]) -> frozenset[int]:
    """The cursors of tables and indexes that are written; others are of temporary ones."""
    return frozenset([op.p1 for op in ops if op.name == "OpenWrite"])


def _is_change(op: Op, tables: frozenset[int]) -> bool:
    if op.name in ("Insert", "IdxInsert"):
        return bool(op.p5 & _IS_CHANGE) and op.p1 in tables
    if op.name == "Delete":
        return bool(op.p2 & _IS_CHANGE) and op.p1 in tables
    return op.name == "VUpdate"


def _entries(ops: Sequence[Op], owners: Sequence[Loop | None], tables: frozenset[int]) -> Entries:
    """Count inserts: SQLite puts the entries of a row's indexes right before the row itself."""
    found, waiting, before = Entries(), 0, ""
    for op, owner in zip(ops, owners, strict=True):
        is_partial, before = before == "IsNull", op.name  # an index that may not have the row
        if op.name not in ("Insert", "IdxInsert"):
            found.deleting += _is_change(op, tables) or (op.name == "Clear" and op.p3 != 0)
        elif op.p1 not in tables or op.p5 & _IS_FOR_HOOKS:
            continue
        elif op.p5 & _IS_CHANGE:
            found.add_row(waiting + 1, is_update=bool(op.p5 & _IS_UPDATE))
            waiting = 0
        elif op.name == "IdxInsert":
            waiting += not is_partial
        elif owner is None:
            found.apart += 1
    if found.inserting:  # of a table that is copied, or has no rowids: behind the row
        found.inserted += waiting
    elif found.updating:
        found.updated += waiting
    elif waiting:
        _index_entries(ops, owners, tables)
    return found


def _index_entries(
    ops: Sequence[Op], owners: Sequence[Loop | None], tables: frozenset[int]
) -> None:
    for op, owner in zip(ops, owners, strict=True):
        if op.name == "IdxInsert" and op.p1 in tables and owner is not None:
            owner.inserts += 1
