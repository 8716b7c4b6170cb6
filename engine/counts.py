"""How many rows a statement read and wrote, as near to D1's counts as a stock SQLite allows.

D1 counts in the virtual machine of an SQLite of its own: a row is read whenever a cursor comes to
one, and written whenever an entry is put into a table or an index, or a row is deleted. A stock
SQLite only tells of a run how many steps full scans took and how many instructions it was in all.
With the statement's program (`engine/program.py`), D1's counts follow from these, often exactly:

1. What stands outside of all loops runs once.
2. A loop over a full scan ran as often as SQLite says; one that returns or changes each row, as
   often as there are rows.
3. What remains of the instructions is that of the other loops. Each is taken to have run as often
   as the others, and to drop its rows at the last of its conditions: an estimate.

Most statements of applications have no loop, or one that keeps all rows: they need no counters.
For the others SQLite is asked, which costs some microseconds (`Sandbox.start_counting`).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from engine.program import Keeps, Loop, Program
from proto.api import SqlValue


class Counters(NamedTuple):
    """What SQLite counted in one run."""

    scan_steps: int
    autoindex_steps: int
    instructions: int


class _Sum(NamedTuple):
    """A number that is linear in what is known of a run."""

    fixed: int = 0
    per_scan_step: int = 0
    per_autoindex_step: int = 0
    per_returned: int = 0
    per_changed: int = 0

    def plus(self, other: "_Sum", factor: int) -> "_Sum":
        """This and so many times the other."""
        return _Sum(*[mine + factor * its for mine, its in zip(self, other, strict=True)])

    def of(self, returned: int, changed: int, counters: Counters) -> int:
        """Its value for one run."""
        scanned, indexed, _ = counters
        fixed, per_scan_step, per_autoindex_step, per_returned, per_changed = self
        read = fixed + per_scan_step * scanned + per_autoindex_step * indexed
        return read + per_returned * returned + per_changed * changed


_SCANNED: Final = _Sum(fixed=1, per_scan_step=1)
_INDEXED: Final = _Sum(fixed=1, per_autoindex_step=1)
_KEPT: Final = {Keeps.RETURNED: _Sum(per_returned=1), Keeps.CHANGED: _Sum(per_changed=1)}


class RowCounts:
    """What one statement's counts are made of."""

    __slots__ = (
        "_indexed_per_instruction",
        "_known_instructions",
        "_known_reads",
        "_needs_counters",
        "_per_fired",
        "_program",
        "_reads_per_instruction",
        "_scans",
        "is_dear",
        "is_measured",
        "is_plain",
        "per_change",
    )

    def __init__(self, program: Program, *, is_dear: bool = False) -> None:
        """Look at the program once. If counters are dear, the rows returned must do."""
        self._program = program
        self.is_dear = is_dear
        loops, entries = program.loops, program.entries
        simple = loops[0] if len(loops) == 1 and loops[0].keeps_all else None
        self._needs_counters = not program.is_known or (bool(loops) and simple is None)
        self.is_measured = self._needs_counters and not is_dear
        reads_each = 1 if simple is None else simple.reads + simple.is_stepping
        # Whether the rows read are those returned or changed: nothing has to be reckoned.
        self.is_plain = (
            not (self._needs_counters or program.count_columns or entries.apart)
            and program.reads_once == reads_each == 1
        )
        # Rows read and written for each changed one, where that is all.
        self.per_change: tuple[int, int] | None = None
        if program.is_known and not (loops or program.fired or entries.apart or program.is_virtual):
            self.per_change = _per_change(program)
        self._scans = any(loop.is_scan or loop.is_autoindex for loop in loops)
        self._per_fired = _mean_of_fired(program)
        self._look_at_loops()

    def is_not_of(self, counters: Counters) -> bool:
        """Whether a run scanned although this program does not."""
        return not self._scans and counters.scan_steps + counters.autoindex_steps > 0

    def read(
        self,
        returned: int,
        changed: int,
        counters: Counters | None,
        first_row: Sequence[SqlValue] = (),
    ) -> int:
        """The rows read; `changed` are those that the statement changed itself."""
        program, read = self._program, returned
        if counters is not None and program.is_known and self.is_not_of(counters):
            read = max(counters.scan_steps + counters.autoindex_steps + 1, returned)
        elif not self._needs_counters:
            read = self._simple(returned or changed)
        elif counters is not None:
            rest = counters.instructions + self._known_instructions.of(returned, changed, counters)
            more = round(rest * self._reads_per_instruction) if rest > 0 else 0
            read = max(self._known_reads.of(returned, changed, counters) + more, returned)
        if program.count_columns and first_row:
            counted = [first_row[column] for column in program.count_columns]
            read += sum([number for number in counted if isinstance(number, int)])
        return read if program.entries.only_inserts else max(read, changed)

    def written(
        self, changed: int, fired: int, counters: Counters | None, *, has_inserted: bool
    ) -> int:
        """The entries written; `fired` rows were changed by triggers and foreign keys."""
        entries = self._program.entries
        inserts = has_inserted or entries.only_inserts
        per_row = entries.per_insert if inserts else entries.per_update
        written = round(changed * per_row) + round(fired * self._per_fired)
        if changed or not self._program.loops:
            return written + entries.apart
        if counters is not None and self._indexed_per_instruction:  # a new index
            rest = counters.instructions + self._known_instructions.of(0, 0, counters)
            return entries.apart + round(rest * self._indexed_per_instruction)
        return written

    def _simple(self, kept: int) -> int:
        """Without counters: there is no loop, or one that keeps all."""
        program = self._program
        if not kept and not program.entries.apart:  # D1 counts some lookups that miss
            return 0
        if program.entries.only_inserts and not program.loops:  # perhaps one row stands for many
            return program.reads_once * kept
        read = program.reads_once
        for loop in program.loops:
            read += kept * loop.reads + (max(kept - 1, 0) if loop.is_stepping else 0)
        return read

    def _look_at_loops(self) -> None:
        """Divide the loops into those that are known to have run so often, and the others."""
        program = self._program
        reads = _Sum(program.reads_once, 1, 1)
        instructions = _Sum(program.outside).plus(_KEPT[Keeps.CHANGED], program.fired_length)
        instructions = instructions.plus(_Sum(-1, per_returned=1), program.returning_length)
        length = other_reads = inserts = 0
        for loop, visits, is_sole in _visits(program.loops):
            if is_sole:
                instructions = instructions.plus(_KEPT[loop.keeps], loop.kept_length)
                reads = reads.plus(_KEPT[loop.keeps], loop.kept_reads)
            steps = int(loop.is_stepping and not (loop.is_scan or loop.is_autoindex))
            if visits is None:
                length += loop.length
                other_reads += loop.reads + steps
                inserts += loop.inserts
                continue
            instructions = instructions.plus(visits, loop.length)
            reads = reads.plus(visits, loop.reads + steps)
            if steps and not any(other.holds(loop) for other in program.loops):
                reads = reads.plus(_Sum(-1), 1)  # the first was read before the loop
        self._known_reads = reads
        self._known_instructions = _Sum().plus(instructions, -1)
        self._reads_per_instruction = other_reads / length if length else 0.0
        self._indexed_per_instruction = inserts / length if length else 0.0


def _visits(loops: Sequence[Loop]) -> list[tuple[Loop, _Sum | None, bool]]:
    """For each loop: how often it runs, if known; whether it alone keeps rows in its way."""
    scans = [loop for loop in loops if loop.is_scan]
    inner = [loop for loop in scans if not any(loop.holds(other) for other in scans)]
    found: list[tuple[Loop, _Sum | None, bool]] = []
    for loop in loops:
        is_sole = loop.keeps in _KEPT and [other.keeps for other in loops].count(loop.keeps) == 1
        visits: _Sum | None = None
        if inner == [loop]:
            visits = _SCANNED
        elif loop.is_autoindex:
            visits = _INDEXED
        elif is_sole and loop.keeps_all:
            visits = _KEPT[loop.keeps]
        found.append((loop, visits, is_sole))
    return found


def _per_change(program: Program) -> tuple[int, int] | None:
    """Of a statement without loops: rows read and written for each that it changed."""
    entries = program.entries
    if entries.only_inserts:
        return program.reads_once, round(entries.per_insert)
    if entries.inserting:  # or it updates: who knows before?
        return None
    return max(program.reads_once, 1), round(entries.per_update)


def _mean_of_fired(program: Program) -> float:
    places = sum(one.inserting + one.updating + one.deleting for one in program.fired)
    entries = sum(one.inserted + one.updated + one.deleting for one in program.fired)
    return entries / places if places else 0.0
