"""The log on a failing disk: no acknowledged commit is lost, none that failed comes back."""

from pathlib import Path
from random import Random

import pytest

from engine.errors import LogFailed
from engine.log import CommitLog
from proto.record import CommitPart
from proto.tokens import Bookmark, genesis
from tests.engine.commit_chain import UUID, make_commit
from tests.engine.power_disk import PowerDisk

GENESIS = genesis(UUID)


class Machine:
    """A log on a disk that fails, and what was promised about it.

    `history` is what may stand in the log: the acknowledged commits (trimmed ones included: a
    removal that was not synced may be undone), then those whose fate is open. A commit whose
    failure was reported, and erased, is no longer in it.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = Random(seed)
        self.disk = PowerDisk(self.random)
        self.folder = folder / "0"
        self.cuts = 0
        self.log = CommitLog.create(self.folder, UUID, self.disk, after=GENESIS, bytes_max=200_000)
        self.history: list[CommitPart] = []
        self.acknowledged: Bookmark = GENESIS
        self.trimmed: Bookmark = GENESIS

    def append(self) -> None:
        if self.log.has_failed:
            return
        for _ in range(self.random.randint(1, 6)):
            parts = make_commit(
                self.log.head,
                pages=self.random.choice((1, 1, 3, 20)),
                parts=self.random.choice((1, 1, 1, 1, 4)),
                durable_seq=self.log.durable.seq,
                seed=self.random.getrandbits(32),
                epoch=self.log.head.token.epoch + (self.random.random() < 0.1),
            )
            self.log.append(parts)
            self.history += parts

    def append_partial(self) -> None:
        """Begin a large commit that its sender never finishes."""
        if self.log.has_failed:
            return
        parts = make_commit(self.log.head, pages=30, parts=5, seed=self.random.getrandbits(32))
        for part in parts[: self.random.randint(1, 4)]:
            self.log.append([part])
            if not self.flush():
                return
        self.log.drop_partial()

    def flush(self) -> bool:
        try:
            position = self.log.flush()
        except LogFailed:
            return False
        self.log.mark_durable(position)
        assert position.seq >= self.acknowledged.seq
        self.acknowledged = position
        return True

    def erase_failed(self) -> None:
        """What the owner does after a failed flush; the disk may fail again."""
        if not self.log.has_failed:
            return
        try:
            self.log.drop_undurable()
        except LogFailed:
            return
        assert self.log.head == self.log.durable == self.acknowledged
        self.history = [part for part in self.history if part.token.seq <= self.log.head.seq]

    def prepare(self) -> None:
        if self.log.wants_next:
            self.log.prepare_next()

    def trim(self) -> None:
        try:
            self.log.trim(self.log.durable)
        except LogFailed:
            pass
        self.trimmed = self.log.tail

    def fault(self) -> None:
        operation = self.random.choice(
            ("write", "sync", "sync", "rename", "sync_folder", "truncate", "remove", "open")
        )
        self.disk.fail(operation, after=self.random.randint(0, 2))

    def close(self) -> None:
        failed = self.log.has_failed
        self.log.close()
        if not failed:  # what was appended and never flushed is forgotten
            self.history = [p for p in self.history if p.token.seq <= self.acknowledged.seq]
        self.start()

    def crash(self) -> None:
        """The process dies; the system's cache lives on."""
        self.disk.end_process()
        self.start()

    def cut_power(self) -> None:
        self.cuts += 1
        self.folder = self.folder.parent / str(self.cuts)
        self.disk.cut_power(self.folder)
        self.start()

    def open(self) -> CommitLog:
        """Open the log, now and then with a fault in the middle, and then again."""
        if self.random.random() < 0.3:
            operation = self.random.choice(("open", "write", "sync", "truncate", "sync_folder"))
            self.disk.fail(operation, after=self.random.randint(0, 1))
        for _ in range(2):
            try:
                return CommitLog.open(self.folder, UUID, self.disk, bytes_max=200_000)
            except LogFailed:
                assert self.disk.open_count == 0
        raise AssertionError("one fault, two failures")

    def start(self) -> None:
        """Open the log again and compare it with what was promised."""
        self.disk.faults.clear()
        self.log = log = self.open()
        self.disk.faults.clear()
        assert log.head.seq >= self.acknowledged.seq, "an acknowledged commit is lost"
        expected = [part for part in self.history if log.tail.seq < part.token.seq <= log.head.seq]
        reader = log.reader(log.tail)
        found: list[CommitPart] = []
        while got := reader.next(50_000):
            found += got
        assert [part.raw for part in found] == [part.raw for part in expected]
        assert log.tail.seq <= self.trimmed.seq
        assert log.verify() == log.head.seq - log.tail.seq
        self.history = [part for part in self.history if part.token.seq <= log.head.seq]
        self.acknowledged = log.head


STEPS = (
    (Machine.append, 40),
    (Machine.flush, 40),
    (Machine.append_partial, 4),
    (Machine.prepare, 20),
    (Machine.fault, 12),
    (Machine.erase_failed, 15),
    (Machine.trim, 3),
    (Machine.close, 3),
    (Machine.crash, 3),
    (Machine.cut_power, 4),
)


def run(folder: Path, seed: int, steps: int) -> Machine:
    machine = Machine(folder, seed)
    actions, weights = zip(*STEPS, strict=True)
    for action in machine.random.choices(actions, weights, k=steps):
        action(machine)
    machine.cut_power()
    return machine


@pytest.mark.parametrize("seed", range(60))
def test_promises_hold_on_a_failing_disk(tmp_path: Path, seed: int) -> None:
    """Random commits, faults, crashes and power cuts: what was acknowledged is there, whole.

    Method: a model of what may stand in the log is compared with every reopened one: all
    acknowledged commits, then a prefix of those whose fate is open, nothing else, no alarm.
    """
    run(tmp_path, seed, 120)


@pytest.mark.torture
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_promises_hold_for_long_on_a_failing_disk(tmp_path: Path, seed: int) -> None:
    """The same with more seeds and longer runs."""
    run(tmp_path, seed, 400)


def new_machine(tmp_path: Path, commits: int = 3) -> Machine:
    machine = Machine(tmp_path, 1)
    for _ in range(commits):
        machine.append()
        assert machine.flush()
    return machine


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_failed_flush_is_reported_and_erased(tmp_path: Path, operation: str) -> None:
    """After a failed write or sync nothing of it is found again, and the log goes on."""
    machine = new_machine(tmp_path)
    log, durable = machine.log, machine.log.durable
    failed = make_commit(log.head)
    log.append(failed)
    machine.disk.fail(operation)
    with pytest.raises(LogFailed, match="cannot be written"):
        log.flush()
    assert not machine.flush()  # never retried
    log.drop_undurable()
    assert log.head == log.durable == durable
    assert log.pending_bytes == 0
    assert log.digest_at(durable.seq + 1) is None
    assert log.recent_part(durable.seq + 1) is None
    assert log.parts_after(durable, bytes_max=1000) == []
    other = make_commit(log.head, seed=3)
    log.append(other)
    log.mark_durable(log.flush())
    assert other[0].digest != failed[0].digest
    machine.history += other
    machine.acknowledged = log.durable
    machine.crash()
    machine.cut_power()
    assert machine.log.head == other[0].bookmark


def test_what_was_erased_does_not_come_back_with_the_power(tmp_path: Path) -> None:
    """Before anything else is written the cut is on the disk, not in its cache only."""
    for seed in range(20):
        machine = Machine(tmp_path / str(seed), seed)
        machine.append()
        assert machine.flush()
        durable = machine.log.durable
        machine.append()
        machine.disk.fail("sync")
        assert not machine.flush()
        machine.erase_failed()
        machine.cut_power()
        assert machine.log.head == durable
        machine.log.close()


def test_a_disk_that_refuses_to_erase_keeps_the_log_stopped(tmp_path: Path) -> None:
    """If neither cutting nor superseding works, nothing is written until it does."""
    machine = new_machine(tmp_path)
    log = machine.log
    log.append(make_commit(log.head))
    machine.disk.fail("sync")
    assert not machine.flush()
    machine.disk.fail("truncate")
    machine.disk.fail("rename")
    with pytest.raises(LogFailed, match="cannot be erased"):
        log.drop_undurable()
    assert not machine.flush()
    log.drop_undurable()
    machine.history = [p for p in machine.history if p.token.seq <= log.head.seq]
    machine.append()
    assert machine.flush()
    machine.cut_power()


def test_what_cannot_be_cut_is_superseded(tmp_path: Path) -> None:
    """If the file refuses to be cut, an empty later segment makes its end void."""
    machine = new_machine(tmp_path)
    durable = machine.log.durable
    machine.log.append(make_commit(machine.log.head))
    machine.disk.fail("sync")
    assert not machine.flush()
    machine.disk.fail("truncate")
    machine.erase_failed()
    assert not machine.log.has_failed
    machine.crash()
    assert machine.log.head == durable
    machine.append()
    assert machine.flush()
    machine.cut_power()


def write_until_next_is_wanted(machine: Machine) -> None:
    while not machine.log.wants_next:
        machine.append()
        assert machine.flush()


def test_a_full_disk_stops_only_the_flush(tmp_path: Path) -> None:
    """Without room for the next segment commits go on until one does not fit."""
    machine = new_machine(tmp_path)
    log = machine.log
    write_until_next_is_wanted(machine)
    machine.disk.fail("write")
    log.prepare_next()
    assert not log.wants_next
    assert not list(machine.folder.glob("*.tmp")), "the room is the commits'"
    write_until_next_is_wanted(machine)
    log.prepare_next()
    machine.cut_power()


def test_a_log_found_after_a_crash_is_written_again_before_use(tmp_path: Path) -> None:
    """A commit that a failed sync left in the cache alone is not built upon.

    Method: fail a sync so that nothing reaches the platter, kill the process before it can
    erase, restart (the cache still shows the commit), acknowledge one more, cut the power.
    """
    for seed in range(20):
        machine = Machine(tmp_path / str(seed), seed)
        machine.append()
        assert machine.flush()
        machine.append()
        machine.disk.fail("sync")
        assert not machine.flush()
        machine.crash()
        machine.append()
        assert machine.flush()
        machine.cut_power()
        machine.log.close()


def test_descriptors_are_given_back_after_failures(tmp_path: Path) -> None:
    """However a log ended, closing it leaves nothing open."""
    for seed in range(10):
        machine = run(tmp_path / str(seed), seed + 500, 60)
        for _ in range(10):
            machine.append()
            machine.fault()
            machine.flush()
            machine.prepare()
            machine.erase_failed()
        machine.log.close()
        assert machine.disk.open_count == 0
