"""A log that fails again and again: writes are refused for a while, reads go on."""

import asyncio
import itertools
import time
from pathlib import Path

import pytest

import primary.database
from primary.database import PAUSE_S_MAX, PAUSE_S_MIN, next_pause
from primary.errors import WriteFenced, WriteUnknown
from tests.engine.gated_disk import GatedDisk
from tests.primary.opened_primary import PrimaryUnderTest, opened_primary, steps

PAUSE_S = 0.05


async def no_more_refused(made: PrimaryUnderTest) -> str:
    """Write until the pause is over."""
    came = "refused"
    while came == "refused":
        assert await made.read("SELECT count(*) > 0 FROM t") == [(1,)]
        await asyncio.sleep(0.002)
        came = await outcome(made)
    return came


async def outcome(made: PrimaryUnderTest, *, is_large: bool = False) -> str:
    """What a write comes to; a large one runs on a thread, which syncs by itself."""
    try:
        async with made.database.demand.used() as opened:
            await opened.committer.write(steps("INSERT INTO t VALUES (1)"), is_large=is_large)
    except WriteUnknown:
        return "failed"
    except WriteFenced:
        return "refused"
    return "done"


def test_pauses_grow_to_a_bound() -> None:
    pauses = [0.0]
    for _ in range(9):
        pauses.append(next_pause(pauses[-1]))
    assert pauses[1:4] == [PAUSE_S_MIN, 2 * PAUSE_S_MIN, 4 * PAUSE_S_MIN]
    assert pauses[-1] == PAUSE_S_MAX == max(pauses)


@pytest.mark.parametrize("is_large", [False, True])
async def test_a_log_that_goes_on_failing_is_not_tried_with_each_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    """Method: let every sync fail, and write until it has been tried five times.

    Between the tries there are ever longer times; all that is acknowledged is there at the end.
    """
    monkeypatch.setattr(primary.database, "PAUSE_S_MIN", PAUSE_S)
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        assert await outcome(made) == "done"
        disk.fail_syncs(5)
        failed_at: list[float] = []
        refused = 0
        while len(failed_at) < 5:
            came = await outcome(made, is_large=is_large)
            assert came != "done"
            refused += came == "refused"
            if came == "failed":
                failed_at.append(time.monotonic())
            assert await made.read("SELECT count(*) FROM t") == [(1,)]
            await asyncio.sleep(0.002)
        gaps = [later - earlier for earlier, later in itertools.pairwise(failed_at)]
        for times, gap in zip((1, 2, 4, 8), gaps, strict=True):
            assert gap >= 0.9 * times * PAUSE_S
        assert refused >= 4
        assert await no_more_refused(made) == "done"
        assert await made.read("SELECT count(*) FROM t") == [(2,)]
        disk.fail_syncs(1)
        assert await outcome(made) == "failed"
        assert made.database._pause_s == PAUSE_S  # the first one, once more
        assert await no_more_refused(made) == "done"
        await made.reopen()
        assert await made.read("SELECT count(*) FROM t") == [(3,)]
