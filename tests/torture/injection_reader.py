"""A reader beside the injection: takes snapshots, short and long, and checks that each is whole.

Runs as a process of its own (`python -m tests.torture.injection_reader PATH SEED`) until its
standard input ends, or as a thread of the injecting process. What must hold in every snapshot:

1. the balances sum up to what they began with;
2. `clock` says how many items there are, and its number never goes back;
3. each item's body has the length that the item says, and index and table agree;
4. `quick_check` and `integrity_check` find nothing;
5. a second look in the same transaction sees the same.
"""

import json
import random
import select
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import apsw

from tests.engine.wal_pair import connect

ACCOUNTS = 100
BALANCE = 1000


class BadSnapshot(Exception):
    """A reader saw what no transaction left behind."""


@dataclass(slots=True)
class ReaderCounts:
    """What a reader did."""

    short: int = 0
    long: int = 0
    checks: int = 0
    newest: int = 0


def gate_of(path: Path) -> Path:
    """A file that, while it exists, keeps readers from beginning a transaction."""
    return path.with_name(path.name + ".gate")


class SnapshotReader:
    """Reads until told to stop; raises `BadSnapshot` at the first wrong one."""

    def __init__(self, path: Path, seed: int) -> None:
        self.counts = ReaderCounts()
        self._connection = connect(path, read_only=True)
        self._connection.set_busy_timeout(10_000)
        self._dice = random.Random(seed)
        self._gate = gate_of(path)

    def run(self, is_over: Callable[[], bool]) -> ReaderCounts:
        while not is_over():
            if self._gate.exists():
                time.sleep(0.001)
            elif self._dice.random() < 0.3:
                time.sleep(self._dice.uniform(0, 0.02))  # lets a checkpoint find no reader
            elif self._dice.random() < 0.95:
                self._read_shortly()
            else:
                self._read_for_long()
        self._connection.close()
        return self.counts

    def _read_shortly(self) -> None:
        self._connection.execute("BEGIN")
        self._check_state()
        self._connection.execute("COMMIT")
        self.counts.short += 1

    def _read_for_long(self) -> None:
        """Hold one snapshot while commits and checkpoints go on."""
        self._connection.execute("BEGIN")
        first = self._check_state()
        for _ in range(self._dice.randrange(2, 8)):
            time.sleep(self._dice.uniform(0.001, 0.06))
            if (again := self._check_state()) != first:
                raise BadSnapshot(f"one transaction saw {first}, then {again}")
        self._connection.execute("COMMIT")
        self.counts.long += 1

    def _check_state(self) -> tuple[object, ...]:
        """Check this snapshot; what is in it, for comparison."""
        number, items = self._row("SELECT number, items FROM clock")
        if not isinstance(number, int) or number < self.counts.newest:
            raise BadSnapshot(f"commit {number} after commit {self.counts.newest}")
        self.counts.newest = number
        (total,) = self._row("SELECT sum(balance) FROM account")
        if total != ACCOUNTS * BALANCE:
            raise BadSnapshot(f"at commit {number} the balances are {total}")
        count, length = self._row("SELECT count(*), total(size) FROM item")
        if count != items:
            raise BadSnapshot(f"at commit {number} there are {count} items, not {items}")
        if self._dice.random() < 0.2:
            self._check_items(number)
        return number, items, length, *self._row("SELECT balance FROM account WHERE id = 7")

    def _check_items(self, number: int) -> None:
        """The costly part: every body, the index, the trees."""
        (wrong,) = self._row("SELECT count(*) FROM item WHERE length(body) <> size")
        kind = self._dice.randrange(10)
        by_index = self._row("SELECT count(*) FROM item WHERE kind = ?", kind)
        by_table = self._row("SELECT count(*) FROM item NOT INDEXED WHERE kind = ?", kind)
        if wrong or by_index != by_table:
            raise BadSnapshot(
                f"at commit {number}: {wrong} bodies of a wrong length; of kind {kind} the index "
                f"has {by_index}, the table {by_table}"
            )
        check = self._dice.choice(("quick_check", "quick_check", "integrity_check"))
        (found,) = self._row(f"PRAGMA {check}(1)")
        if found != "ok":
            raise BadSnapshot(f"at commit {number}, {check}: {found}")
        self.counts.checks += 1

    def _row(self, sql: str, *params: int) -> tuple[object, ...]:
        row = self._connection.execute(sql, params).fetchone()
        if row is None:
            raise BadSnapshot(f"no row for {sql}")
        return tuple(row)


def _is_input_over() -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(ready)


def main() -> int:
    """Read until standard input ends; print the counts as JSON."""
    reader = SnapshotReader(Path(sys.argv[1]), int(sys.argv[2]))
    try:
        counts = reader.run(_is_input_over)
    except (BadSnapshot, apsw.Error) as exc:
        print(f"reader {sys.argv[2]}: {exc!r}", file=sys.stderr, flush=True)
        return 1
    print(json.dumps(asdict(counts)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
