"""Commits injected for a long time, under concurrent readers and checkpoints of every mode.

    python -m tests.torture.injection --seconds 60

A source database gets random commits, deletes, index builds and VACUUMs by SQL; a second one
follows by injection alone: commit by commit, several merged, large ones in pieces, some
aborted in the middle and done again. Readers in processes and in a thread check every
snapshot (`injection_reader.py`); the index is compared with the WAL entry by entry
(`wal_index_check.py`). Whenever both WALs are empty, and at the end, the two files
must be equal byte for byte, and the page checksums that were kept along must be the file's.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from engine.checksum import PageChecksums
from tests.engine.wal_pair import (
    PAGE_BYTES,
    Commit,
    FollowingDatabase,
    SourceDatabase,
    merge,
    pieces,
)
from tests.torture.injection_reader import (
    ACCOUNTS,
    BALANCE,
    ReaderCounts,
    SnapshotReader,
    gate_of,
)
from tests.torture.wal_index_check import check_wal_index

REPO = Path(__file__).resolve().parent.parent.parent
ITEMS_MAX = 4000
WAL_FRAMES_BEFORE_TRUNCATE = (40, 1500, 9000, 14000)  # the last two: past several index blocks
QUEUE_MAX = 12
BUSY_MS = 5  # a checkpoint that readers hold up is tried again later
GATE_S_MAX = 20
READER_STOP_S_MAX = 60.0


class ReaderFailed(AssertionError):
    """A reader ended by itself: it saw something wrong."""


@dataclass(slots=True)
class InjectionReport:
    """What was done and seen."""

    seed: int
    commits: int = 0
    frames_max: int = 0
    pages_max: int = 0
    files_compared: int = 0
    done: Counter[str] = field(default_factory=Counter)
    readers: list[ReaderCounts] = field(default_factory=list)

    def line(self) -> str:
        """The report as one line of JSON."""
        reads = {
            "short": sum(reader.short for reader in self.readers),
            "long": sum(reader.long for reader in self.readers),
            "checks": sum(reader.checks for reader in self.readers),
        }
        return json.dumps(
            {
                "seed": self.seed,
                "commits": self.commits,
                "frames_max": self.frames_max,
                "pages_max": self.pages_max,
                "files_compared": self.files_compared,
                "done": dict(sorted(self.done.items())),
                "reads": reads,
            }
        )


class Workload:
    """Random transactions on the source; each keeps the readers' invariants."""

    def __init__(self, source: SourceDatabase, dice: random.Random) -> None:
        self._source = source
        self._dice = dice
        self._number = 0
        self._next_item = 1

    def prepare(self) -> None:
        self._source.run(
            "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER)",
            "CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, size INTEGER, body BLOB)",
            "CREATE TABLE clock(number INTEGER, items INTEGER)",
            "INSERT INTO clock VALUES(0, 0)",
            *(f"INSERT INTO account VALUES({one}, {BALANCE})" for one in range(1, ACCOUNTS + 1)),
        )

    def next_commit(self) -> tuple[str, Commit]:
        """Run one transaction; its kind, and what it wrote."""
        kinds = ("transfer", "insert", "delete", "load", "purge", "index", "rewrite", "vacuum")
        (kind,) = self._dice.choices(kinds, (600, 150, 100, 12, 10, 12, 4, 6))
        if kind == "vacuum":
            return kind, self._source.vacuum()
        self._number += 1
        statements: list[str] = getattr(self, f"_{kind}")()
        return kind, self._source.run(
            *statements,
            f"UPDATE clock SET number = {self._number}, items = (SELECT count(*) FROM item)",
        )

    def _transfer(self) -> list[str]:
        sender, receiver = self._dice.sample(range(1, ACCOUNTS + 1), 2)
        return [
            f"UPDATE account SET balance = balance - 1 WHERE id = {sender}",
            f"UPDATE account SET balance = balance + 1 WHERE id = {receiver}",
        ]

    def _insert(self) -> list[str]:
        return self._items(self._dice.randrange(1, 6))

    def _load(self) -> list[str]:
        return self._items(self._dice.randrange(100, 1500))

    def _items(self, count: int) -> list[str]:
        first, self._next_item = self._next_item, self._next_item + count
        size = self._dice.choice((0, 30, 500, 3000, 9000 if count < 200 else 100))
        return [
            f"""WITH RECURSIVE n(i) AS
                (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {first + count - 1})
                INSERT INTO item SELECT i, i % 10, {size}, randomblob({size}) FROM n""",
            f"UPDATE item SET size = length(body) WHERE id >= {first}",  # randomblob(0) has 1 byte
            f"DELETE FROM item WHERE id <= {first - ITEMS_MAX}",
        ]

    def _delete(self) -> list[str]:
        return [f"DELETE FROM item WHERE id = {self._dice.randrange(self._next_item)}"]

    def _purge(self) -> list[str]:
        return [f"DELETE FROM item WHERE id % 3 = {self._dice.randrange(3)}"]

    def _index(self) -> list[str]:
        if self._dice.random() < 0.5:
            return ["DROP INDEX IF EXISTS item_kind"]
        return ["CREATE INDEX IF NOT EXISTS item_kind ON item(kind, size)"]

    def _rewrite(self) -> list[str]:
        return ["UPDATE item SET body = randomblob(length(body))"]


class Injection:
    """Brings the source's commits into the follower, in every way there is."""

    def __init__(
        self,
        source: SourceDatabase,
        follower: FollowingDatabase,
        dice: random.Random,
        report: InjectionReport,
    ) -> None:
        self._source = source
        self._follower = follower
        self._dice = dice
        self._report = report
        self._queue: list[Commit] = []
        self._frames_wanted = WAL_FRAMES_BEFORE_TRUNCATE[0]
        follower.guard.set_busy_timeout(BUSY_MS)
        size = len(follower.content())
        self._sums = PageChecksums.from_file(follower.files.db_fd, size // PAGE_BYTES)

    def take(self, commit: Commit) -> None:
        """Queue a commit of the source; inject what is queued, or let more come first."""
        self._queue.append(commit)
        self._report.commits += 1
        self._report.pages_max = max(self._report.pages_max, len(commit.pages))
        if len(self._queue) >= QUEUE_MAX or self._dice.random() < 0.7:
            self.drain()

    def drain(self) -> None:
        """Inject what is queued as one commit."""
        if not self._queue:
            return
        commit = merge(self._queue)
        self._report.done["merged" if len(self._queue) > 1 else "single"] += 1
        self._queue.clear()
        if self._dice.random() < 0.02:
            self._abort_once(commit)
        if len(commit.pages) > 300 or self._dice.random() < 0.05:
            pages_max = self._dice.choice((1, 7, 255, 256, 1000))
            if len(commit.pages) < 40 * pages_max:
                self._report.done["in pieces"] += 1
                self._follower.take_in_pieces(commit, pages_max)
                self._count(commit)
                return
        self._follower.take(commit)
        self._count(commit)

    def _count(self, commit: Commit) -> None:
        self._sums.replace(commit.pgnos, commit.images, commit.page_count)
        frames = self._follower.injector.wal_frames
        self._report.frames_max = max(self._report.frames_max, frames)

    def _abort_once(self, commit: Commit) -> None:
        """Begin a commit with the right numbers and the wrong pages, and give it up."""
        injector = self._follower.injector
        injector.begin()
        for pgnos, images in pieces(commit, self._dice.choice((1, 50, 700))):
            if self._dice.random() < 0.1:
                break
            injector.append(pgnos, [image[::-1] for image in images])
        injector.abort()
        self._report.done["aborted"] += 1

    def maybe_checkpoint(self) -> None:
        """Now and then, in a random mode; TRUNCATE when the WAL has its wanted length."""
        if self._dice.random() < 0.03:
            self._checkpoint(self._dice.choice(("PASSIVE", "FULL", "RESTART")))
        if self._dice.random() < 0.005:
            self._source.checkpoint()
        if self._dice.random() < 0.01:
            check_wal_index(self._follower.files)
            self._report.done["index checked"] += 1
        if self._follower.injector.wal_frames < self._frames_wanted or self._dice.random() < 0.9:
            return
        if self._checkpoint("TRUNCATE"):
            self._frames_wanted = self._dice.choice(WAL_FRAMES_BEFORE_TRUNCATE)
        elif self._follower.injector.wal_frames > 1.2 * self._frames_wanted:
            self._compare_behind_the_gate()
            self._frames_wanted = self._dice.choice(WAL_FRAMES_BEFORE_TRUNCATE)

    def _compare_behind_the_gate(self) -> None:
        """Hold new reads until the readers have drained, as a node does with a WAL too long."""
        gate = gate_of(self._follower.path)
        gate.touch()
        self._follower.guard.set_busy_timeout(GATE_S_MAX * 1000)
        try:
            self.drain()
            self.compare_files()
            self._report.done["TRUNCATE at the gate"] += 1
        finally:
            self._follower.guard.set_busy_timeout(BUSY_MS)
            gate.unlink()

    def _checkpoint(self, mode: str) -> bool:
        """Whether it did what the mode promises; readers may be in its way."""
        try:
            self._follower.checkpoint(mode)
        except apsw.BusyError:
            self._report.done[f"{mode} busy"] += 1
            return False
        self._report.done[mode] += 1
        return True

    def compare_files(self) -> None:
        """Both files, checkpointed, are the same; so are the checksums kept along."""
        theirs, ours = self._source.content(), self._follower.content()
        if theirs != ours:
            wrong = [
                at // PAGE_BYTES + 1
                for at in range(0, max(len(theirs), len(ours)), PAGE_BYTES)
                if theirs[at : at + PAGE_BYTES] != ours[at : at + PAGE_BYTES]
            ]
            raise AssertionError(f"{len(wrong)} pages differ, the first are {wrong[:10]}")
        count = len(ours) // PAGE_BYTES
        read = PageChecksums.from_file(self._follower.files.db_fd, count)
        assert (read.rolling, count) == (self._sums.rolling, self._sums.page_count)
        self._report.files_compared += 1


class Readers:
    """Reader processes, and one reader on a thread of this process."""

    def __init__(self, path: Path, *, processes: int, seed: int) -> None:
        command = [sys.executable, "-m", "tests.torture.injection_reader", str(path)]
        self._processes = [
            subprocess.Popen(
                [*command, str(seed + number)],
                cwd=REPO,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for number in range(processes)
        ]
        self._over = threading.Event()
        self._executor = ThreadPoolExecutor(1)
        self._inside: Future[ReaderCounts] = self._executor.submit(self._read_inside, path, seed)

    def _read_inside(self, path: Path, seed: int) -> ReaderCounts:
        return SnapshotReader(path, seed - 1).run(self._over.is_set)

    def check(self) -> None:
        """Raise what a reader that ended by itself has found."""
        if self._inside.done():
            self._inside.result()
        for process in self._processes:
            if process.poll() is not None:
                raise ReaderFailed(f"a reader ended with {process.returncode}; see its output")

    def stop(self) -> list[ReaderCounts]:
        """Let all finish what they are reading; what each did."""
        self._over.set()
        counts = [self._inside.result(READER_STOP_S_MAX)]
        for process in self._processes:
            answer, _ = process.communicate(timeout=READER_STOP_S_MAX)  # closes its input
            if process.returncode:
                raise ReaderFailed(f"a reader ended with {process.returncode}; see its output")
            counts.append(ReaderCounts(**json.loads(answer)))
        return counts

    def close(self) -> None:
        """End what still runs; for the way out after an error."""
        self._over.set()
        for process in self._processes:
            process.kill()
            process.communicate()
        self._executor.shutdown()


@contextlib.contextmanager
def open_pair(
    folder: Path, dice: random.Random
) -> Iterator[tuple[SourceDatabase, FollowingDatabase, Workload]]:
    """Source and follower, with their first tables."""
    source = SourceDatabase(folder / "source.db")
    workload = Workload(source, dice)
    workload.prepare()
    follower = FollowingDatabase(folder / "follower.db", source)
    try:
        yield source, follower, workload
    finally:
        follower.close()
        source.close()


def run_injection(
    folder: Path, *, seconds: float, seed: int, processes: int = 3
) -> InjectionReport:
    """Run for `seconds`; raises `AssertionError`, `BadSnapshot` or an error of SQLite."""
    report = InjectionReport(seed)
    dice = random.Random(seed)
    with open_pair(folder, dice) as (source, follower, workload):
        injection = Injection(source, follower, dice, report)
        readers = Readers(follower.path, processes=processes, seed=seed)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                kind, commit = workload.next_commit()
                report.done[kind] += 1
                injection.take(commit)
                injection.maybe_checkpoint()
                readers.check()
            report.readers = readers.stop()
        finally:
            readers.close()
        injection.drain()
        follower.guard.set_busy_timeout(5000)
        injection.compare_files()
    return report


def main() -> int:
    """Run what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.injection")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's choices")
    parser.add_argument("--readers", type=int, default=3, help="reader processes")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    with tempfile.TemporaryDirectory(prefix="d1-injection-") as folder:
        try:
            report = run_injection(
                Path(folder), seconds=options.seconds, seed=seed, processes=options.readers
            )
        except BaseException:
            print(f"injection failed with seed {seed}", file=sys.stderr, flush=True)
            raise
    print(report.line(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
