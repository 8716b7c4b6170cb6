"""A trim and a flush beside each other."""

from collections.abc import Callable
from pathlib import Path

from engine.files import Disk
from engine.log import CommitLog
from tests.engine.commit_chain import UUID, make_chain
from tests.engine.test_log_basics import GENESIS, drain, raws, store


class _FlushingDisk(Disk):
    """Runs `between` when the trim removes its first file: what a flush beside it would do."""

    def __init__(self) -> None:
        self.between: Callable[[], None] | None = None

    def remove(self, path: Path) -> None:
        if (between := self.between) is not None and path.suffix == ".idx":
            self.between = None
            between()
        super().remove(path)


def test_a_flush_beside_a_trim_costs_no_commit(tmp_path: Path) -> None:
    """The segment that was active when a trim began may be sealed before it ends.

    Method: seal it in the middle of the trim; nothing after `keep` may be missing then.
    """
    disk = _FlushingDisk()
    log = CommitLog.create(tmp_path / "log", UUID, disk, after=GENESIS, bytes_max=1)
    parts = make_chain(GENESIS, 900, pages=4)
    store(log, parts[:300], every=5)
    keep = parts[290].bookmark
    left = parts[300:]

    def seal_one() -> None:
        files = set((tmp_path / "log").glob("*.log"))
        while left and set((tmp_path / "log").glob("*.log")) == files:
            store(log, [left.pop(0)])

    disk.between = seal_one
    log.trim(keep)
    assert log.tail.seq <= keep.seq
    stored = len(parts) - len(left)
    assert raws(drain(log.reader(keep))) == raws(parts[291:stored])
    log.close()
