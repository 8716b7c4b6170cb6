"""What is called durable has been asked of the operating system, not only of `Disk`.

Method: the system's own calls run, and the inodes of what they sync are noted.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.files import Disk
from tests.primary.opened_primary import opened_primary


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that the system was asked to sync, in order."""
    inodes: list[int] = []

    def noting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def sync_and_note(fd: int) -> None:
            sync(fd)
            inodes.append(os.fstat(fd).st_ino)

        return sync_and_note

    for name in ("fsync", "fdatasync"):
        if hasattr(os, name):  # macOS has no fdatasync
            monkeypatch.setattr(os, name, noting(getattr(os, name)))
    return inodes


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_syncs_reach_the_system(tmp_path: Path, synced: list[int]) -> None:
    disk, path = Disk(), tmp_path / "file"
    fd = disk.open(path, create=True)
    try:
        disk.fdatasync(fd)
        assert synced == [inode(path)]
        disk.fsync(fd)
        assert synced == [inode(path)] * 2
    finally:
        disk.close(fd)
    disk.sync_folder(tmp_path)
    assert synced[2:] == [inode(tmp_path)]


def test_a_folder_is_in_its_parent_for_good(tmp_path: Path, synced: list[int]) -> None:
    Disk().make_folder(tmp_path / "a" / "b")
    assert synced == [inode(tmp_path), inode(tmp_path / "a")]


def test_a_file_is_replaced_by_what_is_durable(tmp_path: Path, synced: list[int]) -> None:
    path = tmp_path / "file"
    Disk().replace_file(path, b"new")
    assert synced == [inode(path), inode(tmp_path)]


async def test_an_acknowledged_write_was_synced(tmp_path: Path, synced: list[int]) -> None:
    """The real disk of a primary: each write alone brings a sync of a file of the log."""
    async with opened_primary(tmp_path / "db") as made:
        for number in range(3):
            synced.clear()
            await made.write("INSERT INTO t VALUES (?)", number)
            assert set(synced) & {inode(path) for path in (made.folder / "log").iterdir()}
