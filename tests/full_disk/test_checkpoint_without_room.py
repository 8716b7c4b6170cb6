"""A checkpoint that finds no room: nothing is lost by it, and nothing is begun anew."""

import logging
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

import primary.committer
from engine.errors import DiskFull
from primary.committer import CommitterState
from tests.full_disk.small_disk import MIB, small_disk
from tests.primary.opened_primary import opened_primary, turns
from tests.waiting import EVENT_S_MAX

DISK_MIB = 24
FRAMES = 500
ROWS = 16  # of 27 frames each


async def test_a_checkpoint_without_room_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The database stays open: the WAL has what the file cannot take.

    Method: when the checkpoint is nearly due, leave room for a few rows more, and not for all of
    them in the file; give the room back; write until the next one is due.
    """
    monkeypatch.setattr(primary.committer, "CHECKPOINT_FRAMES", FRAMES)
    with small_disk(tmp_path / "disk", DISK_MIB) as disk:
        async with opened_primary(disk.at / "db") as made:
            await made.close()
            shutil.move(made.folder / "log", tmp_path / "log")  # it has room
            (made.folder / "log").symlink_to(tmp_path / "log")
            opened = await made.open()
            for _ in range(ROWS):
                await made.write("INSERT INTO t VALUES (randomblob(100000))")
            disk.fill(leave=MIB)
            rows, ends = ROWS, time.monotonic() + EVENT_S_MAX
            with caplog.at_level(logging.WARNING):
                while "no room for a checkpoint" not in caplog.text:
                    assert time.monotonic() < ends, caplog.text
                    if opened.committer.state is CommitterState.READY:
                        with suppress(DiskFull):  # the checkpoint has taken what was left
                            await made.write("INSERT INTO t VALUES (randomblob(100000))")
                            rows += 1
                    await turns()
                assert await made.read("SELECT count(*) FROM t") == [(rows,)]
                disk.empty()
                file, without_room = made.folder / "db.sqlite", rows * 100_000
                while file.stat().st_size < without_room:
                    assert time.monotonic() < ends, caplog.text
                    await made.write("INSERT INTO t VALUES (randomblob(100000))")
                    rows += 1
                    await turns()
            assert await made.open() is opened
            assert "fenced" not in caplog.text
            await made.reopen()
            assert await made.read("SELECT count(*) FROM t") == [(rows,)]
